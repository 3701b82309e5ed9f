"""`podwire trace` on a private containerd, as a user runs it: a process, its output, its capture.

In: a running containerd. Out: the calls that the trace printed, what it said, the file. It reads nothing of podwire but
its output.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.e2e.containerd import Containerd, wait_until

PODWIRE = (sys.executable, "-P", "-m", "tracer.cli")


class Trace:
    """One `podwire trace --json -w FILE` of containerd's two sockets and of the shims' folder; a context manager."""

    def __init__(self, containerd: Containerd, capture: Path, *options: str) -> None:
        self.capture = capture
        self.out = b""
        self.said = ""
        self._sockets = (containerd.address, containerd.events_address)
        self._output = capture.with_suffix(".out")
        self._errors = capture.with_suffix(".err")
        sockets = [f"--socket=cri={containerd.address}", f"--socket=events={containerd.events_address}"]
        self._command = [*PODWIRE, "trace", "--json", "-w", str(capture), *sockets, *options]
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Trace:
        before = [os.stat(path).st_ino for path in self._sockets]
        with self._output.open("wb") as out, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors)

        def exchanged() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.errors()
            return all(os.stat(path).st_ino != inode for path, inode in zip(self._sockets, before, strict=True))

        try:
            assert wait_until(exchanged, 10), self.errors()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def stop(self) -> float:
        """Ctrl-C; wait for the end and read what it printed. Return how long the end took, in seconds."""
        assert self.process is not None
        start = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(20)
        taken = time.monotonic() - start
        self.out, self.said = self._output.read_bytes(), self.errors()
        assert status == 0, self.said
        return taken

    def errors(self) -> str:
        """What it said on stderr so far."""
        return self._errors.read_text()

    def calls(self) -> list[dict[str, Any]]:
        """What it printed so far: calls that ended, then, once it has ended, those still open; and findings."""
        return [json.loads(line) for line in self._output.read_bytes().splitlines()]

    def _end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            self.process.kill()
            self.process.wait()
