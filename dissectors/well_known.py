"""Protobuf's well-known scalars as text, as the proto JSON mapping writes them, for any values the wire may hold."""

from __future__ import annotations

import struct
from datetime import datetime, timedelta

_EPOCH = datetime(1970, 1, 1)
_NANOS = 1_000_000_000


def timestamp_text(seconds: int, nanos: int) -> str | None:
    """Return RFC 3339 in UTC with 0, 3, 6 or 9 digits of fraction; None outside of the years 1 to 9999."""
    if not (-62_135_596_800 <= seconds <= 253_402_300_799 and 0 <= nanos < _NANOS):
        return None
    return f"{(_EPOCH + timedelta(seconds=seconds)).isoformat()}{_fraction(nanos)}Z"


def duration_text(seconds: int, nanos: int) -> str | None:
    """Return seconds with 0, 3, 6 or 9 digits of fraction and an `s`; None for mixed signs or above 10,000 years."""
    if abs(seconds) > 315_576_000_000 or abs(nanos) >= _NANOS or seconds * nanos < 0:
        return None
    sign = "-" if seconds < 0 or nanos < 0 else ""
    return f"{sign}{abs(seconds)}{_fraction(abs(nanos))}s"


def _fraction(nanos: int) -> str:
    if not nanos:
        return ""
    digits = f"{nanos:09}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return "." + digits


def shortest_float(value: float) -> float:
    """Return the double with the fewest digits that is the same 32-bit float: 0.1, not 0.10000000149011612."""
    for digits in (6, 7, 8):
        short = float(f"{value:.{digits}g}")
        try:
            if struct.pack("f", short) == struct.pack("f", value):
                return short
        except OverflowError:  # rounded up past the largest float
            continue
    return value
