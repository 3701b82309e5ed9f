"""The main views at three sizes, as text. `PODWIRE_SNAPSHOTS=write` writes them anew; look at them before a commit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tracer.tui.screen import EDGE, POD, Screen, run

SNAPSHOTS = Path(__file__).parent / "snapshots"
SIZES = ((80, 24), (140, 40), (250, 80))
STOPPED = ("space", "colon", *"at", "space", *"15:09:56.25", "enter", "i")
"""A replay that stands still while a shim is stopped."""
VIEWS: dict[str, tuple[Path, tuple[str, ...]]] = {
    "list": (EDGE, ("e", "m", "j")),
    "detail": (POD, ("ctrl+g", "1", "7", "enter", "enter", "x", "j", "j", "j")),
    "numbers": (POD, ("u",)),
    "pods": (EDGE, ("p", "enter")),
    "story": (POD, ("ctrl+g", "5", "enter", "y", "j")),
    "help": (POD, ("question_mark",)),
    "flight": (EDGE, STOPPED),
    "filter": (POD, ("slash", *"call.failed", "enter", "enter")),
}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("view", VIEWS)
def test_view_looks_as_it_did(view: str, size: tuple[int, int]) -> None:
    capture, pressed = VIEWS[view]
    seen = []

    async def look(screen: Screen) -> None:
        await screen.press(*pressed)
        seen.append(screen.text)

    run(look, capture, size=size, replay=1.0 if pressed is STOPPED else None)
    path = SNAPSHOTS / f"{view}-{size[0]}x{size[1]}.txt"
    if os.environ.get("PODWIRE_SNAPSHOTS") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(seen[0])
    assert seen[0] == path.read_text()
    assert all(len(line) <= size[0] for line in seen[0].splitlines())
    assert len(seen[0].splitlines()) == size[1]
