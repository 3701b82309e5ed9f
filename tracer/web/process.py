"""The process behind one page. Its driver is Textual's for the web, which talks in packets over stdin and stdout.

A packet is a letter (`D`: what a terminal gets or sends, `M`: JSON about it), four bytes of length, and so many bytes.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

DRIVER = "textual.drivers.web_driver:WebDriver"
_BEGIN = b"__GANGLION__\n"
_END_S = 1.0
"""A screen has so long to end by itself, then after SIGTERM."""
_SAID = 2000
"""So many bytes of what it said last are told."""


@dataclass(frozen=True, slots=True)
class ScreenProcess:
    """One screen that runs. `end` has to be awaited, and `stderr` closed, in the end."""

    process: Process
    stderr: BinaryIO

    async def output(self) -> AsyncIterator[bytes]:
        """What its terminal gets, until it ends."""
        out = self.process.stdout
        assert out is not None
        with suppress(asyncio.IncompleteReadError):
            await out.readuntil(_BEGIN)
            while True:
                kind = await out.readexactly(1)
                payload = await out.readexactly(int.from_bytes(await out.readexactly(4), "big"))
                if kind == b"D":
                    yield payload
                elif kind == b"M" and json.loads(payload)["type"] == "exit":
                    return

    async def type(self, text: str) -> None:
        """Give it keys."""
        await self._send(b"D", text.encode("utf-8", "replace"))

    async def tell(self, kind: str, **about: int) -> None:
        """Tell its driver something: `resize`, `focus`, `blur`, `quit`."""
        await self._send(b"M", json.dumps({"type": kind, **about}).encode())

    async def _send(self, kind: bytes, payload: bytes) -> None:
        into = self.process.stdin
        assert into is not None
        with suppress(ConnectionError):  # it has ended, which its output says
            into.write(kind + len(payload).to_bytes(4, "big") + payload)
            await into.drain()

    async def end(self) -> None:
        """End it, however it is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await self.tell("quit")
                await self.process.wait()
        for stop in (self.process.terminate, self.process.kill):
            if self.process.returncode is None:
                with suppress(ProcessLookupError):
                    stop()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.process.wait(), _END_S)

    def said(self) -> list[str]:
        """The last lines that it said beside its screen, if it ended with a status that is not 0."""
        if (self.process.returncode or 0) <= 0:
            return []
        size = self.stderr.seek(0, os.SEEK_END)
        self.stderr.seek(max(0, size - _SAID))
        return self.stderr.read().decode("utf-8", "replace").splitlines()


async def start_screen(command: Sequence[str], columns: int, rows: int) -> ScreenProcess:
    """Start a command of ours that shows its screen through the web driver. Raises OSError."""
    environment = {
        **os.environ,
        "TEXTUAL_DRIVER": DRIVER,
        "TEXTUAL_COLOR_SYSTEM": "truecolor",
        "PYTHONIOENCODING": "utf-8",  # a browser has it whatever the locale here
        "COLUMNS": str(columns),
        "ROWS": str(rows),
    }
    stderr = tempfile.TemporaryFile()  # noqa: SIM115 # closed by who ends it
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=stderr, env=environment
        )
    except BaseException:
        stderr.close()
        raise
    return ScreenProcess(process, stderr)
