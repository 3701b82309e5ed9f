"""A capture that is being written: one file, or those of a ring one after another. Packets and notices go out.

A file is read to its end once the next one is there, for by then it is complete. Files that go before they are read
are counted; what they held is a gap in the flows that go on, and unknown of those that came and went.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from protos.errors import PodwireError
from tracer.capture.packets import Notice, Packet
from tracer.capture.reader import CaptureFile, open_capture
from tracer.capture.ring import Ring

_File = TypeVar("_File")


class Row:
    """The files of a ring, from one of them on."""

    def __init__(self, ring: Ring, number: int) -> None:
        self._ring = ring
        self._number = number
        self._sizes: dict[int, int] = {}
        self.lost = 0
        """Bytes of files that were gone before it was their turn, as far as they were seen growing."""

    def open_next(self, open_file: Callable[[str], _File]) -> _File | None:
        """Go on to the next file that is still there, and open it; None if there is none yet.

        Files that were removed before they could be opened count as lost. Raises what `open_file` does of others.
        """
        while (path := self.next()) is not None:
            try:
                return open_file(path)
            except (PodwireError, FileNotFoundError):
                if os.path.exists(path):
                    raise
                self.lost += self._sizes.get(self._number, 0)
        return None

    def next(self) -> str | None:
        """Go on to the file after this one; None if there is none yet."""
        files = self._look()
        after = min((number for number in files if number > self._number), default=None)
        if after is None:
            return None
        self.lost += sum(size for number, size in self._sizes.items() if self._number < number < after)
        self._number = after
        return files[after]

    def look(self) -> int:
        """Take note of how large the files are; return the bytes of those that are still to come."""
        self._look()
        return sum(size for number, size in self._sizes.items() if number > self._number)

    def _look(self) -> dict[int, str]:
        files = dict(self._ring.list())
        for number, path in files.items():
            try:
                self._sizes[number] = os.stat(path).st_size
            except FileNotFoundError:
                continue
        return files


class GrowingCapture:
    """Reads a capture as it grows. `at` is the path to begin with: the capture's own, or that of a file of `ring`."""

    def __init__(self, at: str, ring: Ring | None = None) -> None:
        self.row = None if ring is None else Row(ring, ring.number_of(at))
        self._file = open_capture(at, follow=True)
        self._before = 0

    @property
    def file(self) -> CaptureFile:
        """The one that is being read."""
        return self._file

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return self._before + self._file.position

    @property
    def size(self) -> int:
        """Bytes that there were to be read when this was asked."""
        return self._before + self._file.size + (0 if self.row is None else self.row.look())

    @property
    def at_end(self) -> bool:
        """The last look found nothing more for now."""
        return self._file.at_end

    def read_available(self) -> list[Packet | Notice]:
        """Return what a look gives now; never waits."""
        batch = self._file.read_available()
        if batch or self.row is None or not self._file.at_end:
            return batch
        following = self.row.open_next(partial(open_capture, follow=True))
        if following is None:
            return batch
        rest: list[Packet | Notice] = []
        while batch := self._file.read_available():  # what came between that look and the end of the file
            rest += batch
        rest += self._file.finish()
        self._before += self._file.position
        self._file.close()
        self._file = following
        return rest

    def __iter__(self) -> Iterator[Packet | Notice]:
        """Read all that there is now."""
        while (batch := self.read_available()) or not self.at_end:
            yield from batch
        yield from self.finish()

    def finish(self) -> list[Notice]:
        """Tell that no more will be read; return notices of what is cut."""
        return self._file.finish()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()


def open_growing(path: str, *, oldest: bool = False) -> GrowingCapture:
    """Open the capture of a session, where it is a ring its newest file, in which what is open is carried over, or its
    oldest one."""
    at = newest(path)
    if at == path:
        return GrowingCapture(path)
    return GrowingCapture(Ring(path).list()[0][1] if oldest else at, Ring(path))


def open_recorded(path: str) -> CaptureFile | GrowingCapture:
    """Open a capture for reading what it has: a file, `-`, or a ring by the name that was given to `-w`."""
    if path != "-" and not os.path.exists(path) and Ring(path).list():
        return open_growing(path, oldest=True)
    return open_capture(path)


def newest(path: str) -> str:
    """Return the file of a capture, where it is a ring the newest one."""
    paths = [each for _, each in Ring(path).list()]
    if os.path.exists(path) or not paths:
        paths.append(path)
    return max(paths, key=_changed_ns)


def _changed_ns(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0


def watched(path: str) -> str:
    """What to watch for changes of a capture: the file, or the folder of its ring."""
    return path if newest(path) == path else os.path.dirname(path)
