"""A screen without a terminal: keys go in, the text that would be seen comes out. Nothing here waits for a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from textual.events import Key
from textual.keys import _character_to_key
from textual.pilot import Pilot
from textual.worker import WorkerFailed

from protos.registry import Registry
from tracer.tui.app import PodwireApp
from tracer.tui.session import Behind, NothingBehind
from tracer.tui.setup import Setup
from tracer.tui.source import Source, WholeMatches, WholeSource

CAPTURES = Path(__file__).parents[3] / "captures"
POD = CAPTURES / "own16-pod.pcapng.gz"
EDGE = CAPTURES / "ctrd2-edge.pcapng.gz"


KEYS_OF = {"space": " "}
"""What a key with a name writes."""


class Screen:
    """An app that runs, and what it shows."""

    def __init__(self, app: PodwireApp, pilot: Pilot[str]) -> None:
        self.app, self.pilot = app, pilot

    async def press(self, *keys: str) -> None:
        """Press keys; wait until all that they set off is done."""
        for key in keys:
            name = _character_to_key(key) if len(key) == 1 and not key.isalnum() else key
            self.app.post_message(Key(name, key if len(key) == 1 else KEYS_OF.get(key)))
            await self.settle()

    async def settle(self) -> None:
        """Wait until all that is under way is done, and drawn. Pilot would wait for an idle processor, far longer."""
        for _ in range(2):
            if self.app._exit:
                return
            heard = asyncio.Event()
            self.app.call_later(heard.set)
            await heard.wait()
            await self.pilot._wait_for_screen()
            with suppress(WorkerFailed):  # the screen says why
                await self.app.workers.wait_for_complete()
        await self.pilot._wait_for_screen()
        self.app.screen._on_timer_update()

    async def type(self, text: str) -> None:
        """Type words, and enter."""
        await self.press(*text, "enter")

    @property
    def lines(self) -> list[str]:
        """The screen, a line each."""
        strips = self.app.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip).rstrip() for strip in strips]

    @property
    def text(self) -> str:
        """The screen."""
        return "\n".join(self.lines) + "\n"

    @property
    def status(self) -> str:
        """The line above the last."""
        return self.lines[-2]

    @property
    def footer(self) -> str:
        """The last line."""
        return self.lines[-1]

    @property
    def row(self) -> int | None:
        """The row under the cursor."""
        return self.app.view.current


def run(
    play: Callable[[Screen], Awaitable[None]],
    capture: Path = POD,
    *,
    size: tuple[int, int] = (100, 30),
    source: Source | None = None,
    behind: Behind | None = None,
    path: str = "",
    **setup: Any,
) -> PodwireApp:
    """Open a capture, let `play` use it, close it. Where `path` is given, what is read again is read there."""
    source = source or WholeSource(str(capture))
    path = path or str(capture)
    setup = {"utc": True, "match": lambda text: WholeMatches(path, text), **setup}
    app = PodwireApp(Setup(source, behind or NothingBehind(path), Registry.bundled(), path, **setup))

    async def runs() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await play(Screen(app, pilot))

    try:
        asyncio.run(runs())
    finally:
        source.close()
    return app
