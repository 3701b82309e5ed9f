"""Where batches come from: the indexer's process, read by a thread, so that the screen never waits for either."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, BinaryIO, Protocol

from tracer.tui.rows import Batch, Matched

BEHIND = 64
"""Batches that may lie unread: the indexer waits when the screen is so far behind."""


class Source(Protocol):
    """What the screen reads."""

    states: BinaryIO
    """States of the reader, by `Place`."""

    def batches(self) -> list[Batch]:
        """What came since the last look; never waits. Raises IndexerError once there will be nothing more, and why."""
        ...

    def end(self) -> None:
        """The capture grows no more: what it has is read to its end."""
        ...

    def close(self) -> None:
        """End all of it."""
        ...


class IndexerError(Exception):
    """The indexer has ended before the capture was read, and says why."""


class Child:
    """A process of ours that tells of a capture, and the thread that hears it."""

    def __init__(self, module: str, words: Sequence[str], *, follow: bool, descriptors: Sequence[int] = ()) -> None:
        command = [sys.executable, "-P", "-m", module, *words]
        if follow:
            command.append("--follow")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the screen is not its to write on
            pass_fds=descriptors,
            start_new_session=True,
        )
        self._told: deque[Any] = deque()
        self._room = threading.Semaphore(BEHIND)
        self._error = ""
        self._done = False
        self._thread = threading.Thread(target=self._read, name=module, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        complete = False
        try:
            while True:
                told = pickle.load(self.process.stdout)
                if isinstance(told, str):
                    self._error = told
                    return
                self._room.acquire()
                complete = told.complete
                self._told.append(told)
        except (EOFError, OSError, pickle.UnpicklingError, AttributeError):
            if not complete:
                self._error = "the process that reads the capture was killed: what it had read is shown"
        finally:
            self._done = True

    def take(self) -> list[Any]:
        """What it told since the last look; never waits. Raises IndexerError once it has ended before its time."""
        done = self._done  # before the look: what came by then is found
        found = []
        while self._told:
            found.append(self._told.popleft())
            self._room.release()
        if done and not found and self._error:
            error, self._error = self._error, ""
            raise IndexerError(error)
        return found

    def end(self) -> None:
        """Tell it that the capture grows no more."""
        if self.process.stdin is not None:
            self.process.stdin.close()

    def close(self) -> None:
        """End it."""
        self.end()
        self.process.kill()
        self._room.release(BEHIND)
        self._thread.join()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class ProcessSource:
    """A source that is a process."""

    def __init__(self, capture: str, *, follow: bool, options: Sequence[str] = ()) -> None:
        self.states: BinaryIO = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 # closed in `close`
        number = self.states.fileno()
        words = [capture, f"--states={number}", *options]
        self.child = Child("tracer.tui.indexer", words, follow=follow, descriptors=[number])

    def batches(self) -> list[Batch]:
        return self.child.take()

    def end(self) -> None:
        self.child.end()

    def close(self) -> None:
        self.child.close()
        self.states.close()


class WholeSource:
    """A source that reads a capture at once, in this process: for tests, and for what has no screen."""

    def __init__(self, capture: str) -> None:
        from protos.registry import Registry
        from tracer.capture.growing import open_recorded
        from tracer.tui.indexer import Indexer, batches

        self.states: BinaryIO = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 # closed in `close`
        with open_recorded(capture) as file:
            self._batches = list(batches(file, Indexer(Registry.bundled(), self.states)))

    def batches(self) -> list[Batch]:
        found, self._batches = self._batches, []
        return found

    def end(self) -> None:
        """It has ended."""

    def close(self) -> None:
        self.states.close()


def read_state(source: Source, offset: int, length: int) -> bytes:
    """Return a state, without moving where the indexer writes the next one."""
    return os.pread(source.states.fileno(), length, offset)


class Matches(Protocol):
    """Which rows a filter wants, as it is found out."""

    def take(self) -> list[Matched]:
        """What came since the last look; never waits."""
        ...

    def end(self) -> None:
        """The capture grows no more."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class WholeMatches:
    """All of it at once, in this process: for tests."""

    def __init__(self, capture: str, text: str) -> None:
        from protos.registry import Registry
        from tracer.capture.growing import open_recorded
        from tracer.filtering import Filter
        from tracer.tui.matcher import matched

        with open_recorded(capture) as file:
            self._found = list(matched(file, Filter(text, Registry.bundled())))

    def take(self) -> list[Matched]:
        found, self._found = self._found, []
        return found

    def end(self) -> None:
        """It has ended."""

    def close(self) -> None:
        """Nothing is held."""
