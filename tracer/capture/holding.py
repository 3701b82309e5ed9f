"""What a capture has out of order between the two directions of a connection, and how long it is waited for.

A capture of several queues, or one that was merged, may have an answer before its question, or bytes before their
handshake. A segment's acknowledgement tells what its sender had received: one that acknowledges bytes that have not
come is held until they do, and a connection's first segments are held for a handshake that may follow. What has not
come within some packets is lost.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tracer.capture.link import ACK, Segment
from tracer.capture.packets import Packet
from tracer.capture.streams import EARLY_BYTES

HELD: Final = 32
"""Segments of a connection that are held at most."""
HELD_NS: Final = 100_000_000
"""How long a handshake is waited for."""

_MASK: Final = 0xFFFFFFFF


class Start(NamedTuple):
    """How a connection begins of which the first segment came before it was known."""

    found: Segment
    packet: Packet
    """Which tells who is who."""
    bases: dict[bytes, int]
    """By direction, the sequence number of the first byte."""


class Unopened:
    """A connection whose handshake has not been seen: its segments so far."""

    def __init__(self, number: int, since_ns: int) -> None:
        self.number = number
        self.segments: list[tuple[Segment, Packet]] = []
        self._since_ns = since_ns

    def due(self, now_ns: int) -> bool:
        """Whether there is no handshake to be waited for any longer."""
        return len(self.segments) > HELD or abs(now_ns - self._since_ns) >= HELD_NS  # packets may go back in time

    def begins(self, handshake: Segment) -> bool:
        """Whether a handshake is this connection's: its bytes come right behind it."""
        base = handshake.sequence + 1
        for found, _ in self.segments:
            if found.key == handshake.key:
                number = found.sequence
            elif found.flags & ACK:
                number = found.acknowledgement
            else:
                continue
            if number - base & _MASK > EARLY_BYTES:
                return False
        return True

    def start(self, handshake: tuple[Segment, Packet] | None) -> Start:
        """Return how it begins: by its handshake, else by the earliest bytes of each direction that are there."""
        found, packet = handshake or self.segments[0]
        bases: dict[bytes, int] = {}
        for each, _ in self.segments:
            _earlier(bases, each.key, each.sequence)
        if handshake is not None:
            others = [key for key in bases if key != found.key]
            for each, _ in self.segments if others else ():
                if each.key == found.key and each.flags & ACK:  # it had all before that
                    _earlier(bases, others[0], each.acknowledgement)
            bases[found.key] = found.sequence + 1 & _MASK
        return Start(found, packet, bases)


def _earlier(bases: dict[bytes, int], key: bytes, number: int) -> None:
    base = bases.setdefault(key, number)
    if number - base & _MASK > _MASK >> 1:
        bases[key] = number
