"""What a recorder leaves to the one that comes after it if it is killed, in memory that outlives both.

A successor then reads no more of the file than what was written since, and a pause (R9) goes on as it was. There are
two places, used in turn: one that was killed in the midst of writing leaves the other one whole. Where neither is, the
file alone says how to go on. What is read here was written by a process of the same relay.
"""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from dataclasses import dataclass, field
from typing import Final

from tracer.capture.carry import Follower
from tracer.capture.resume import Found
from tracer.capture.room import Pause
from tracer.capture.who import Socket

_HEADER = struct.Struct("<QQI")
"""Which one it is, counted from 1; the length of what follows; a CRC-32 of what follows, begun with that count."""
_PLACES: Final = 0, 1 << 40
"""The memory between them is never touched, so it is not there."""


@dataclass(slots=True)
class Saved:
    """What a recorder knows, for the one after it."""

    file: int = 1
    """The number of the file, as far as it goes in `found`."""
    found: Found = field(default_factory=Found)
    packets_before: int = 0
    bytes_before: int = 0
    sockets: dict[int, Socket] = field(default_factory=dict)
    followers: dict[int, Follower] = field(default_factory=dict)
    pause: Pause | None = None
    """In it, nothing is written: what is in the file behind `found` was not meant to stay."""
    pending: bytes = b""
    begun: bytes = b""
    dropped: int = 0
    """Bytes in all, by then."""


class Checkpoint:
    """The two places, in the memory behind `fd`, which stays its owner's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._count = max(count for count, _ in map(self._read, _PLACES))

    def save(self, what: object) -> None:
        """Keep this instead of what was kept before; where there is no memory for it, nothing."""
        data = pickle.dumps(what, pickle.HIGHEST_PROTOCOL)
        self._count += 1
        header = _HEADER.pack(self._count, len(data), zlib.crc32(data, self._count & 0xFFFFFFFF))
        try:
            os.pwritev(self._fd, [header, data], _PLACES[self._count % 2])
        except OSError:
            self.clear()

    def load(self) -> object:
        """Return what was kept last; None if there is nothing."""
        _, data = max(map(self._read, _PLACES))
        return pickle.loads(data) if data else None

    def clear(self) -> None:
        """Keep nothing, and give the memory back."""
        os.ftruncate(self._fd, 0)

    def _read(self, place: int) -> tuple[int, bytes]:
        header = os.pread(self._fd, _HEADER.size, place)
        if len(header) < _HEADER.size:
            return 0, b""
        count, length, check = _HEADER.unpack(header)
        data = os.pread(self._fd, length, place + _HEADER.size)
        return (count, data) if count and zlib.crc32(data, count & 0xFFFFFFFF) == check else (0, b"")
