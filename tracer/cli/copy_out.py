"""`-w -`: the files of a trace's ring, copied to a descriptor as they grow."""

from __future__ import annotations

import os
import select
import struct
import time
from io import FileIO
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from tracer.capture.ring import Ring

_CHUNK: Final = 1 << 16
_HEAD: Final = struct.Struct("<II")
_SMALLEST: Final = 12
"""Bytes of a block without a body."""


class Stage(Protocol):
    """What a capture goes through on its way: whole blocks come in, and go out."""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; none: time has passed."""
        ...

    def finish(self) -> bytes:
        """The capture is complete."""
        ...


class CopyOut:
    """Copies the files of a ring, one behind the other, to a descriptor that may be slow; never waits for it before the
    end. pcapng takes several sections behind each other, so this is one capture. Whole blocks are taken, since a
    recorder that goes on after another writes anew what was none yet."""

    def __init__(self, ring: Ring, fd: int, through: Stage | None = None) -> None:
        from tracer.capture.growing import Row

        number, path = ring.list()[0]
        self._row = Row(ring, number)
        self._file = FileIO(path)  # closed in `finish`
        self._fd = fd
        self._through = through
        self._rest = b""
        os.set_blocking(fd, False)
        self._gone = select.poll()
        self._gone.register(fd, 0)  # of a pipe that nobody reads any more the kernel says POLLERR

    @property
    def lost(self) -> int:
        """Bytes of files that were removed before it was their turn."""
        return self._row.lost

    def copy(self) -> bool:
        """Pass on what can be passed on; whether everything there is has gone. Raises BrokenPipeError if the reader has
        gone, also where there is nothing to pass on."""
        self._row.look()
        if self._gone.poll(0):
            self._file.close()
            raise BrokenPipeError
        while True:
            if not self._rest:
                data = self._read()
                self._rest = data if self._through is None else self._through.feed(data)
                if not data and not self._rest:
                    return True
            try:
                self._rest = self._rest[os.write(self._fd, self._rest) :]
            except BlockingIOError:
                return False

    def _read(self) -> bytes:
        """Take the next blocks, of the next file if this one has no more; nothing if there are none yet."""
        data = whole_blocks(self._file)
        while not data and (following := self._row.open_next(FileIO)) is not None:
            data = b"".join(iter(lambda: whole_blocks(self._file), b""))  # what came between that look and its end
            self._file.close()
            self._file = following
            data = data or whole_blocks(following)
        return data

    def finish(self, seconds: float) -> int:
        """Wait so long at most for the reader; returns the bytes that it has not taken."""
        until = time.monotonic() + seconds
        try:
            if self._copy_until(until) and self._through is not None:
                self._rest = self._through.finish()
                self._copy_until(until)
            here = len(self._rest) + os.fstat(self._file.fileno()).st_size - self._file.tell()
            return here + self._row.look() + self.lost
        finally:
            os.set_blocking(self._fd, True)
            self._file.close()

    def _copy_until(self, until: float) -> bool:
        while not (done := self.copy()) and time.monotonic() < until:
            select.select([], [self._fd], [], 0.05)
        return done


def whole_blocks(file: FileIO) -> bytes:
    """Read the next blocks of a pcapng file that are whole, some 64 KiB at most unless a block is longer."""
    data, at = file.read(_CHUNK), 0
    while len(data) - at >= _HEAD.size:
        length = _HEAD.unpack_from(data, at)[1]
        if at == 0 and length > len(data):
            data += file.read(length - len(data))
        if not _SMALLEST <= length <= len(data) - at:
            break
        at += length
    file.seek(at - len(data), os.SEEK_CUR)
    return data[:at]
