"""Which protocol a connection speaks, from its first bytes; then that protocol's dissector.

Comes in: both directions' bytes as they were read. Goes out: the events of the dissector chosen, to which everything
that came before the choice is replayed in order. The bytes decide, whatever is expected: a shim's socket may speak gRPC
as well as ttrpc. What is expected helps where they can't tell, as in a capture that begins in the middle. What is
neither is told once, and its bytes are counted; nothing is made up of them.
"""

from __future__ import annotations

from dissectors import http2, hvsock, nri_mux, ttrpc_frames
from dissectors.events import Direction, Dissector, Event, Malformed, Skipped
from dissectors.foreign import LOOK, looks_like
from dissectors.grpc import GrpcConnection
from dissectors.hvsock import HvsockConnection
from dissectors.nri import NriConnection
from dissectors.ttrpc import TtrpcConnection

_ENOUGH = 64 << 10
"""Bytes of one direction after which it is settled that no frame of either protocol is in them."""
_NAMES = {"grpc": "HTTP/2", "ttrpc": "ttrpc", "nri": "NRI's multiplexer"}


def open_dissector(expected: str | None) -> Dissector:
    """Return a dissector for one connection; `expected` is `grpc`, `ttrpc`, `nri` or None."""
    return _Detector(expected)


def settled(dissector: Dissector) -> Dissector:
    """Return what may be fed from now on in place of `dissector`: once the protocol is known and is the one that was
    expected, its own dissector, since all that the detector still has to do is a word on a mistaken one."""
    if isinstance(dissector, _Detector) and dissector.inner is not None:
        expected = dissector.expected
        if expected not in _NAMES or dissector.protocol in (expected, "hvsock"):
            return dissector.inner
    return dissector


class _Detector:
    def __init__(self, expected: str | None) -> None:
        self.protocol = ""
        self.expected = expected
        self.inner: Dissector | None = None
        self._waiting: list[tuple[Direction, bytes | int]] = []  # what came before the choice; int: a gap
        self._heads = [b"", b""]
        self._silent = [True, True]
        self._next_search = [1024, 1024]

    def feed(self, direction: Direction, data: bytes) -> list[Event]:
        """Take bytes as they came; return what they completed, in order."""
        if self.inner is not None:
            self._silent[direction] = False
            return self.inner.feed(direction, data)
        if data:
            self._silent[direction] = False
            self._waiting.append((direction, data))
            self._heads[direction] += data
        protocol = self._decide(direction)
        return self._choose(protocol) if protocol else []

    def lost(self, direction: Direction, count: int) -> list[Event]:
        """Take note of a gap of `count` bytes; 0 says that this is some place in the middle of the connection."""
        if self.inner is not None:
            return self.inner.lost(direction, count)
        self._waiting.append((direction, count))
        return []

    def close(self, direction: Direction) -> list[Event]:
        """Take note of this direction's end; return what stayed incomplete."""
        events: list[Event] = []
        head = self._heads[direction]
        if self.inner is None and head:
            events = self._choose(_search(direction, head) or "unknown")
        if self.inner is None:
            return events
        events += self.inner.close(direction)
        mistaken = self.expected in _NAMES and self.protocol in _NAMES and self.protocol != self.expected
        if mistaken and direction == Direction.RESPONSE and self._silent[Direction.RESPONSE]:
            reason = f"{_NAMES[self.protocol]} where {_NAMES[self.expected or '']} is spoken: never answered"
            events.append(Malformed(Direction.REQUEST, 0, reason, self._heads[Direction.REQUEST][:LOOK], None))
        return events

    def _decide(self, direction: Direction) -> str:
        """Return the protocol that this direction's first bytes show; empty while they can't tell."""
        head = self._heads[direction]
        if direction == Direction.REQUEST and http2.PREFACE.startswith(head[:LOOK]):
            return "grpc" if len(head) >= LOOK else ""
        if direction == Direction.REQUEST and hvsock.is_sound(head):
            return "hvsock"
        if direction == Direction.REQUEST and hvsock.may_begin(head):
            return ""
        if len(head) < ttrpc_frames.HEADER_SIZE:
            return "grpc" if http2.is_sound(head) else ""
        # Nearly always no header of the one can be taken for one of the other: their types stand where the other has an
        # id's bytes. But a ttrpc Request of 257 bytes is HEADERS of one byte too: there, what is expected decides.
        is_ttrpc = ttrpc_frames.is_sound(direction, head)
        if http2.is_sound(head) and not (is_ttrpc and self.expected == "ttrpc"):
            return "grpc"
        if is_ttrpc:
            return "ttrpc"
        if nri_mux.may_begin(head):
            if self.expected == "nri" or nri_mux.is_sound(direction, head):
                return "nri"
            if len(head) < nri_mux.ENOUGH:
                return ""
        look = looks_like(head)
        if look in ("HTTP/1", "TLS"):
            return "unknown"
        if look == "binary data" and self.expected in _NAMES:
            return self.expected or ""
        # Looked at again at each doubling, whatever was read at once: how bytes are split must not change the choice.
        while len(head) >= self._next_search[direction]:
            size = self._next_search[direction]
            self._next_search[direction] *= 2
            if found := _search(direction, head[:size]):
                return found
            if size >= _ENOUGH:
                return "unknown"
        return ""

    def _choose(self, protocol: str) -> list[Event]:
        """Replay what has waited to the dissector of `protocol`."""
        self.protocol = protocol
        if protocol == "grpc":
            self.inner = GrpcConnection()
        elif protocol == "ttrpc":
            self.inner = TtrpcConnection()
        elif protocol == "nri":
            self.inner = NriConnection()
        elif protocol == "hvsock":
            self.inner = HvsockConnection()
        else:
            self.inner = _Unknown(self._heads)
        events: list[Event] = []
        for direction, what in self._waiting:
            events += self.inner.lost(direction, what) if isinstance(what, int) else self.inner.feed(direction, what)
        self._waiting.clear()
        self._heads = [head[:LOOK] for head in self._heads]
        return events


class _Unknown:
    """Neither protocol: say so once, count the bytes."""

    def __init__(self, heads: list[bytes]) -> None:
        self.protocol = "unknown"
        self._heads = [head[:LOOK] for head in heads]
        self._counts = [0, 0]
        self._told = False

    def feed(self, direction: Direction, data: bytes) -> list[Event]:
        """Count."""
        self._counts[direction] += len(data)
        if self._told:
            return []
        self._told = True
        head = self._heads[direction]
        return [Malformed(direction, 0, f"neither gRPC nor ttrpc: {looks_like(head)}", head, None)]

    def lost(self, direction: Direction, count: int) -> list[Event]:
        """Count."""
        self._counts[direction] += count
        return []

    def close(self, direction: Direction) -> list[Event]:
        """Return the count."""
        count, self._counts[direction] = self._counts[direction], 0
        return [Skipped(direction, 0, count, "unknown protocol")] if count else []


def _search(direction: Direction, data: bytes) -> str:
    """Return the protocol of which a frame is found in the middle of `data`; empty if there is none."""
    mux_reader = nri_mux.MuxReader(direction)
    mux_reader.lost(0)
    if any(isinstance(item, nri_mux.Chunk) for item in mux_reader.feed(data)):  # first, since it has ttrpc inside
        return "nri"
    ttrpc_reader, http2_reader = ttrpc_frames.FrameReader(direction), http2.FrameReader(direction)
    ttrpc_reader.lost(0)
    http2_reader.lost(0)
    if any(isinstance(item, ttrpc_frames.Frame) for item in ttrpc_reader.feed(data)):
        return "ttrpc"
    return "grpc" if any(isinstance(item, http2.Frame) for item in http2_reader.feed(data)) else ""
