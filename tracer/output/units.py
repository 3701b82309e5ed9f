"""Times, durations, sizes and ids as people read them."""

from __future__ import annotations

import time

SHORT_ID = 13
"""Characters of an id, as crictl shows them."""


class Clock:
    """Wall times as `HH:MM:SS.ffffff`, local or UTC. The part down to the second is kept: formatting it is slow."""

    def __init__(self, *, utc: bool = False) -> None:
        self._break_down = time.gmtime if utc else time.localtime
        self._second = -1
        self._prefix = ""

    def text(self, time_ns: int) -> str:
        """The time of day of `time_ns` (since the epoch), to the microsecond."""
        second, rest = divmod(time_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%H:%M:%S", self._break_down(second))
        return f"{self._prefix}.{rest // 1000:06d}"


class Stamps:
    """Times as RFC 3339 in UTC with nanoseconds, for programs."""

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""

    def text(self, time_ns: int) -> str:
        """`2026-11-23T14:18:01.102696234Z` for a time since the epoch."""
        second, rest = divmod(time_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._prefix}.{rest:09d}Z"


def duration(length_ns: int) -> str:
    """`87µs`, `1.234ms`, `2.500s`, `3m07s`, `2h05m`, `4d03h`: a length of time, never rounded up."""
    if length_ns < 1_000_000:
        return f"{length_ns // 1000}µs"
    if length_ns < 1_000_000_000:
        return f"{length_ns // 1_000_000}.{length_ns // 1000 % 1000:03d}ms"
    if length_ns < 60_000_000_000:
        return f"{length_ns // 1_000_000_000}.{length_ns // 1_000_000 % 1000:03d}s"
    seconds = length_ns // 1_000_000_000
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds // 60 % 60:02d}m"
    return f"{seconds // 86400}d{seconds // 3600 % 24:02d}h"


def size(count: int) -> str:
    """`12 B`, `3.4 kB`, `5.0 MB` (powers of 1000)."""
    if count < 1000:
        return f"{count} B"
    for unit in ("kB", "MB"):
        count_in = count / (1000 if unit == "kB" else 1_000_000)
        if count_in < 999.95:
            return f"{count_in:.1f} {unit}"
    return f"{count / 1e9:.1f} GB"


def quantity(count: int) -> str:
    """`100 B`, `244 KiB`, `1.1 MiB`, `64 MiB` (powers of 1024): memory, which comes in pages, and its limits."""
    if -1024 < count < 1024:
        return f"{count} B"
    amount, units = count / 1024, ["KiB", "MiB", "GiB", "TiB"]
    while abs(amount) >= 1023.95 and len(units) > 1:
        amount /= 1024
        del units[0]
    return f"{amount:.1f}".removesuffix(".0") + f" {units[0]}"


def counted(count: int, what: str) -> str:
    """`1 connection`, `2 connections`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def short_id(text: str) -> str:
    """The first 13 characters of a 64-digit id; another name whole if it fits, else cut with a mark."""
    if len(text) <= SHORT_ID:
        return text
    if len(text) == 64:
        return text[:SHORT_ID]
    return text[: SHORT_ID - 1] + "…"
