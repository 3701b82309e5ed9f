"""Messages that carry their own checksum and place, and an account of those that one end has seen.

A message is 20 B to 300 KB: a digest of the rest, then which connection, which kind of call and which number it has in
it, then random bytes. So an altered, repeated, lost or misplaced one is found by whoever looks: client, server, or the
reader of a capture.
"""

from __future__ import annotations

import hashlib
import math
import random
import struct
import threading
from typing import Any

_DIGEST = 12
_place = struct.Struct(">HHI")  # connection, kind, number
SMALLEST = _DIGEST + _place.size
LARGEST = 300_000

UNARY, STREAM = 0, 1
REQUEST, RESPONSE = "request", "response"

Entry = tuple[int, int, str]
"""Number, length and digest of a message."""


class Altered(Exception):
    """A message is not what its digest says."""


class Source:
    """Makes messages, most of them small as in life: half under 30 bytes, one in a hundred over 180 KB."""

    def __init__(self, seed: int, largest: int = LARGEST) -> None:
        self._random = random.Random(seed)
        self._pool = self._random.randbytes(1 << 20)
        self._spread = math.log(largest + 1) - math.log(SMALLEST)

    def message(self, connection: int, kind: int, number: int) -> bytes:
        size = int(SMALLEST * math.exp(self._spread * self._random.random() ** 5))
        start = self._random.randrange(len(self._pool) - size)
        rest = _place.pack(connection, kind, number) + self._pool[start : start + size - SMALLEST]
        return hashlib.sha256(rest).digest()[:_DIGEST] + rest


class Account:
    """What one end saw, in order, and what went wrong. Safe to use from several threads."""

    def __init__(self) -> None:
        self.messages: dict[str, list[Entry]] = {}
        """By connection, kind and way, such as `3 0 request`."""
        self.errors: list[str] = []
        self.wires: dict[str, Any] = {}
        """By connection: exact counts and digests of its bytes, where this end knows them."""
        self._lock = threading.Lock()

    def add(self, message: bytes, way: str) -> tuple[int, int, int]:
        """Check a message and enter it; returns its connection, kind and number. Raises Altered."""
        digest = hashlib.sha256(message[_DIGEST:]).digest()[:_DIGEST]
        if len(message) < SMALLEST or digest != message[:_DIGEST]:
            raise Altered(f"a {way} of {len(message)} bytes is not what was sent: {message[:32].hex()}")
        connection, kind, number = _place.unpack_from(message, _DIGEST)
        with self._lock:
            entries = self.messages.setdefault(f"{connection} {kind} {way}", [])
            entries.append((number, len(message), digest.hex()))
        return connection, kind, number

    def fail(self, what: str, error: BaseException | str) -> None:
        """A call did not go as it should have."""
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        with self._lock:
            self.errors.append(f"{what}: {text}")

    def as_json(self) -> dict[str, Any]:
        return {"messages": self.messages, "errors": self.errors, "wires": self.wires}
