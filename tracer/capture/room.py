"""How much of its disk a capture leaves free (R9), and what of the records that came while it had to wait is kept.

A capture that may go on for days pauses well before the kubelet would evict pods for want of disk; one that somebody
watches, only before the disk is full. Nothing here writes.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Final

from tracer.capture.store import SLICE
from tracer.relay.shared import Kind, Record

KUBELET_CONFIG: Final = "/var/lib/kubelet/config.yaml"

MARGIN: Final = 4 * SLICE
"""A capture pauses with so much left above its limit: what is under way when it pauses still goes in."""
RESUME: Final = 1 << 20
"""It goes on with so much above that: at a limit it would pause and go on without end."""

_THRESHOLD = re.compile(r'^\s*(?:nodefs|imagefs)\.available:\s*["\']?([0-9.]+)(%|[KMGT]i?)?["\']?\s*(?:#.*)?$', re.M)
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True, slots=True)
class Floor:
    """What is to stay free: the largest, or the smallest, of several shares of the disk."""

    shares: tuple[tuple[float, int], ...] = ()
    """Each so many per cent of the disk and so many bytes together; none: nothing has to stay free."""
    smallest: bool = False

    def of(self, total: int) -> int:
        """Return the bytes that are to stay free on a disk of `total` bytes."""
        sizes = [int(total * percent / 100) + count for percent, count in self.shares]
        return (min if self.smallest else max)(sizes, default=0)


@dataclass(frozen=True, slots=True)
class Limits:
    """When the capture ends by itself, and when it pauses."""

    packets: int = 0
    bytes: int = 0
    """0 is never."""
    free: Floor = field(default_factory=Floor)
    """It pauses where the disk would have less."""


FOREGROUND: Final = Floor(((1, 0), (0, 64 << 20)), smallest=True)
"""Of a file that was asked for, or of a demo: somebody is there."""


def background(config: str = KUBELET_CONFIG) -> Floor:
    """Return what the spool, rings and detached traces leave free: 15 %, and 5 % more than the kubelet wants."""
    try:
        with open(config, encoding="utf-8", errors="replace") as file:
            text = file.read(1 << 20)
    except OSError:
        text = ""
    wanted = [_share(number, unit) for number, unit in _THRESHOLD.findall(text)]
    return Floor(((15, 0), *((percent + 5, count) for percent, count in wanted)))


def parse(text: str) -> Floor:
    """Read `10%`, `500M` or `2G` (powers of 1024), or bytes. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%|[KMGT](?:i?B?)?)?", text)
    if match is None or (match[2] == "%" and float(match[1]) >= 100):
        raise ValueError(text)
    return Floor((_share(match[1], match[2] or ""),))


def _share(number: str, unit: str) -> tuple[float, int]:
    value = float(number)
    return (value, 0) if unit == "%" else (0.0, int(value * _UNITS[unit[:1]]))


@dataclass(frozen=True, slots=True)
class Disk:
    """A file's disk, as it is now."""

    total: int
    free: int
    """To us."""

    @classmethod
    def of(cls, fd: int) -> Disk:
        """Look at the disk of an open file. Raises OSError."""
        found = os.fstatvfs(fd)
        return cls(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


@dataclass(slots=True)
class Pause:
    """While nothing is written: which records are to be written after all, and how much is not.

    Of a connection that came and went meanwhile nothing is kept but that there was one, so this grows with what is
    open and not with what passes.
    """

    since_ns: int
    bytes: int = 0
    """Of traffic, dropped."""
    connections: int = 0
    """That came and went."""
    lines: int = 0
    """Of logs, dropped."""
    kept: dict[int, list[Record]] = field(default_factory=dict)
    """By connection, its opening and its ends, as far as they came meanwhile; 0: what is of none."""
    packets: dict[int, int] = field(default_factory=dict)
    """By connection, how many were dropped."""

    def drop(self, record: Record) -> None:
        """Count one of traffic."""
        self.bytes += len(record.payload)
        self.packets[record.connection] = self.packets.get(record.connection, 0) + 1

    def keep(self, record: Record) -> None:
        """Keep one that is not of traffic; what lies in the ring is copied."""
        record = record._replace(payload=bytes(record.payload))
        number = record.connection
        of = self.kept.setdefault(number, [])
        of.append(record)
        if of[0].kind == Kind.OPEN and len({each.direction for each in of[1:]}) == 2:
            del self.kept[number]
            self.packets.pop(number, None)
            self.connections += 1

    def records(self) -> list[Record]:
        """Return what was kept, in the order in which it came."""
        return sorted((record for of in self.kept.values() for record in of), key=lambda each: each.time_ns)
