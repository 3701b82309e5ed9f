"""The capture program as Wireshark runs it: with a fifo for the capture, and two for the toolbar."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tracer.wireshark.controls import Command, Message, MessageReader

COMMAND = (sys.executable, "-P", "-m", "tracer.wireshark.extcap", "--capture", "--extcap-interface", "podwire")


class Extcap:
    """One run of it; a context manager that ends it. What comes out of the fifo is read, unless `read` is False."""

    def __init__(self, folder: Path, *words: str, toolbar: bool = True, read: bool = True) -> None:
        self.capture = bytearray()
        self.messages: list[Message] = []
        self._errors = folder / "extcap.err"
        fifo, self._out, into = (folder / name for name in ("capture.fifo", "to-wireshark.fifo", "to-extcap.fifo"))
        for path in (fifo, self._out, into):
            os.mkfifo(path, 0o600)
        more = ["--extcap-control-in", str(into), "--extcap-control-out", str(self._out)] if toolbar else []
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*COMMAND, "--fifo", str(fifo), *more, *words], stdin=subprocess.DEVNULL, stderr=errors
            )
        self.reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        self._into = os.open(into, os.O_RDWR | os.O_NONBLOCK)
        self._from = os.open(self._out, os.O_RDWR | os.O_NONBLOCK)
        self._reading = read
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def __enter__(self) -> Extcap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._over.set()
        self._thread.join()
        for fd in (self.reader, self._into, self._from):
            if fd >= 0:
                os.close(fd)

    def press(self, control: int) -> None:
        """Press a button, as Wireshark tells of it."""
        os.write(self._into, Message(control, Command.SET).build())

    def write(self, data: bytes) -> None:
        """Say anything at all."""
        os.write(self._into, data)

    def go_away(self) -> None:
        """Close the fifo's end, as Wireshark does without a word when it is killed."""
        fd, self.reader = self.reader, -1
        self._reading = False
        time.sleep(0.05)  # the thread may be about to read
        os.close(fd)

    def texts(self, control: int, command: Command) -> str:
        """What was said of a control, in one text."""
        wanted = (each for each in self.messages if (each.control, each.command) == (control, command))
        return "".join(each.payload.decode() for each in wanted)

    def said(self) -> list[str]:
        return self._errors.read_text().splitlines()

    def wait_for(self, condition: Callable[[], bool], seconds: float = 15) -> None:
        """Wait until it holds. Raises AssertionError, with what the program said."""
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, (self.said(), self.messages[-5:])
            time.sleep(0.02)

    def _read(self) -> None:
        reader = MessageReader()
        while not self._over.wait(0.01):
            with suppress(OSError):  # nothing there, or closed
                if self._reading:
                    self.capture += os.read(self.reader, 1 << 20)
            with suppress(BlockingIOError):
                self.messages += reader.feed(os.read(self._from, 1 << 16))
