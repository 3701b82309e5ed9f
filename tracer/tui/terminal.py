"""Textual's driver for a terminal, for one that goes away.

Its thread that writes ends at the first error; whoever writes then waits for ever once thirty writes are queued, and
looks at no signal. So errors are passed over: that a terminal has gone is told by SIGHUP.
"""

from __future__ import annotations

from contextlib import suppress
from typing import IO

from textual.app import App
from textual.drivers.linux_driver import LinuxDriver


class _Output:
    """The terminal, as that thread uses it."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.fileno = file.fileno

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()


class TerminalDriver(LinuxDriver):
    """The driver."""

    def __init__(
        self,
        app: App[object],
        *,
        debug: bool = False,
        mouse: bool = True,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        assert self._file is not None
        self._file = _Output(self._file)  # type: ignore[assignment] # no more of it is used
