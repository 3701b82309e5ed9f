"""A command on a terminal: a pseudo-terminal whose output is kept, and searched for words."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from pathlib import Path

from tests.tracer.cli.live import COMMAND

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[PX^_].*?\x1b\\|.)", re.DOTALL)


class Terminal:
    """The command and its terminal."""

    """`own`: it is the command's controlling terminal, so that a signal tells of its end."""

    def __init__(self, *words: str, size: tuple[int, int] = (100, 30), own: bool = False, **environment: str) -> None:
        self._here, there = pty.openpty()
        fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self.before = termios.tcgetattr(there)
        self.raw = b""
        more = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **environment}
        self.process = subprocess.Popen(
            [*COMMAND, *words],
            stdin=there,
            stdout=there,
            stderr=there,
            env={**os.environ, **more},
            start_new_session=own,
            preexec_fn=(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if own else None,
        )
        self._there = there

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._here, text.encode())

    @property
    def text(self) -> str:
        """All that was written so far, without what moves the cursor."""
        while select.select([self._here], [], [], 0)[0]:
            self.raw += os.read(self._here, 65536)
        return shown_text(self.raw)

    def wait_for(self, words: str, seconds: float = 20.0) -> None:
        """Wait until words were written."""
        until = time.monotonic() + seconds
        while words not in self.text:
            assert self.process.poll() is None or words in self.text, f"ended: {self.text[-2000:]}"
            assert time.monotonic() < until, f"no {words!r} within {seconds} s: {self.text[-2000:]}"
            time.sleep(0.01)

    def wait(self, seconds: float = 20.0) -> int:
        """Return the exit status; what it writes meanwhile is taken."""
        until = time.monotonic() + seconds
        while self.process.poll() is None:
            text = self.text  # else it waits for us
            assert time.monotonic() < until, f"does not end: {text[-2000:]}"
            time.sleep(0.01)
        return self.process.returncode

    @property
    def restored(self) -> bool:
        """The terminal is as it was."""
        return termios.tcgetattr(self._there) == self.before

    def hang_up(self) -> None:
        """Close the terminal, as its window does: the kernel tells the foreground by SIGHUP."""
        os.close(self._there)
        os.close(self._here)
        self._here = self._there = -1

    def close(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self._here >= 0:
            os.close(self._here)
            os.close(self._there)


def shown_text(raw: bytes) -> str:
    """What was written, without what moves the cursor or sets colours."""
    return _ESCAPE.sub("", raw.decode("utf-8", "replace"))


def sockets(folder: Path, server: Path) -> tuple[str, ...]:
    """What a trace of a test traces."""
    return ("--socket", f"cri={server}", "--socket", f"task={folder}/s")
