"""One direction of a TCP conversation: segments come in as they were captured, its bytes go out in order.

What comes twice is dropped, what comes early is kept, within bounds, until what is before it has come; what does not
come is a gap of known size. A byte is given out once, at its place, or counted in a gap: never a wrong one. The stream
knows nothing of packets, addresses or times.
"""

from __future__ import annotations

from bisect import insort
from typing import Final

EARLY_BYTES: Final = 1 << 20
EARLY_SEGMENTS: Final = 256
"""What is kept of one direction while bytes before it are missing. TCP sends a lost segment again within about a round
trip, on one machine after a few segments; a capture that lost one never gets it again."""

_MASK = 0xFFFFFFFF

Piece = bytes | int
"""Bytes of the stream, or the size of a gap."""


class Stream:
    """One direction. `ordered`: its segments are known to come in order, so whatever is left out is a gap at once."""

    __slots__ = ("_early_bytes", "base", "closed", "early", "end", "ordered", "position", "started", "steady")

    def __init__(self) -> None:
        self.ordered = False
        self.started = False
        self.closed = False
        self.steady = False
        """Started, its end not seen, and nothing came early: the next segment, if its sequence number is that of the
        position, may be taken as it is by whoever moves the position on (see `flows`)."""
        self.base = 0
        """Sequence number of the stream's first byte."""
        self.position = 0
        """Bytes given out or counted in gaps: the stream's place that comes next."""
        self.end: int | None = None
        """Where the FIN says that the stream ends."""
        self.early: list[tuple[int, bytes, int]] = []
        """What came early: place, payload and bytes of it that were not captured, by place."""
        self._early_bytes = 0

    def start(self, sequence: int) -> None:
        """Take the sequence number of the first byte."""
        self.base = sequence & _MASK
        self.started = True
        self.steady = not self.closed

    def segment(self, sequence: int, payload: bytes, missing: int, fin: bool) -> list[Piece]:
        """Take one segment (`missing` bytes of its payload were not captured); return what can be given out now."""
        if self.closed:
            return []
        if not self.started:
            self.start(sequence)
        place = self.place(sequence)
        if fin and self.end is None:
            self.end = place + len(payload) + missing
        pieces: list[Piece] = []
        if place <= self.position:
            self._give(place, payload, missing, pieces)
        elif payload or missing or self.ordered:
            insort(self.early, (place, payload, missing))
            self._early_bytes += len(payload)
        if self.early:
            self._drain(pieces)
            while (self.ordered and self.early) or self._over():
                self._skip(self.early[0][0], pieces)
                self._drain(pieces)
        if self.end is not None:
            if self.ordered:
                self._skip(self.end, pieces)
            self.closed = self.position >= self.end
        self.steady = not self.early and self.end is None
        return pieces

    def acknowledged(self, sequence: int) -> list[Piece]:
        """Take note that the other side has received all before this number: what of it has not come will not."""
        pieces: list[Piece] = []
        place = self.place(sequence) if self.end is None else min(self.place(sequence), self.end)
        while self.position < place and not self.closed:
            self._skip(min(place, self.early[0][0] if self.early else place), pieces)
            self._drain(pieces)
        self.closed = self.closed or (self.end is not None and self.position >= self.end)
        self.steady = self.started and not self.early and self.end is None
        return pieces

    def flush(self, until: int | None = None) -> list[Piece]:
        """Give out all that is kept, with its gaps, and close: nothing more will come. `until`: a sequence number to
        go on to."""
        pieces: list[Piece] = []
        while self.early:
            self._skip(self.early[0][0], pieces)
            self._drain(pieces)
        if self.end is not None:
            self._skip(self.end, pieces)
        elif until is not None and self.started:
            self._skip(self.place(until), pieces)
        self.closed, self.steady = True, False
        return pieces

    def place(self, sequence: int) -> int:
        """Return the place that this sequence number means: the one within 2 GiB of the position (RFC 9293 §3.4)."""
        ahead = (sequence - self.base - self.position) & _MASK
        return self.position + (ahead if ahead < 0x80000000 else ahead - 0x100000000)

    def _over(self) -> bool:
        return self._early_bytes > EARLY_BYTES or len(self.early) > EARLY_SEGMENTS

    def _give(self, place: int, payload: bytes, missing: int, pieces: list[Piece]) -> None:
        """Give out what of a segment, at or before the position, is new."""
        known = self.position - place
        if known < len(payload):
            fresh = payload[known:] if known else payload
            self.position += len(fresh)
            pieces.append(fresh)
        if missing:
            self._skip(place + len(payload) + missing, pieces)

    def _skip(self, place: int, pieces: list[Piece]) -> None:
        if place > self.position:
            pieces.append(place - self.position)
            self.position = place

    def _drain(self, pieces: list[Piece]) -> None:
        """Give out what is kept and has become next."""
        done = 0
        for place, payload, missing in self.early:
            if place > self.position:
                break
            self._give(place, payload, missing, pieces)
            self._early_bytes -= len(payload)
            done += 1
        del self.early[:done]
