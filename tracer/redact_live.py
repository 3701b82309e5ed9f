"""Mask the secrets of a capture while it is being written: its bytes come in as they are read, and go out masked.

What may stay of a packet is often known only once the message is whole that it is a part of. So packets are held back,
in their order, until that is so, for `HOLD_S` at most: what could not be read by then becomes zeros, and the account
says how much. Everything else is as in `redact`.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from protos.registry import Registry
from tracer.capture.flows import FlowTable, Place
from tracer.capture.packets import CARRIED_OVER, MAX_RECORD, Packet
from tracer.capture.pcapng import PcapngReader
from tracer.redact import PACKETS, Account, Watch, redact_block, redact_packet

HOLD_S: Final = 1.0
"""How long a packet waits for the rest of its message."""
MAX_HELD: Final = 64 << 20
"""Bytes held back; beyond that none waits."""
_HEAD: Final = struct.Struct("<II")


class _Held(NamedTuple):
    """A block that waits, or stands behind one that does."""

    since: float
    kind: int
    block: bytes
    packet: Packet | None
    place: Place | None


class LiveRedactor:
    """`feed` it a capture of the recorder's as it grows, `finish` it at its end; both return what may go on."""

    def __init__(
        self, registry: Registry, *, hold_s: float = HOLD_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.account = Account()
        self._watch = Watch(registry)
        self._reader = PcapngReader()
        self._flows = FlowTable()
        self._hold_s = hold_s
        self._clock = clock
        self._rest = b""
        self._held: deque[_Held] = deque()
        self._held_bytes = 0
        self._time_ns = 0

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes, which may be none; return what is known to be fit by now."""
        data, at = self._rest + data, 0
        while len(data) - at >= _HEAD.size:
            kind, length = _HEAD.unpack_from(data, at)
            if not 12 <= length <= MAX_RECORD or length % 4:
                raise ValueError(f"a block of {length} bytes")  # ours has none
            if len(data) - at < length:
                break
            self._block(kind, data[at : at + length])
            at += length
        self._rest = data[at:]
        return self._released(self._clock())

    def finish(self) -> bytes:
        """Take note of the end; return all the rest."""
        self._watch.take(self._flows.finish(self._time_ns))
        self._rest = b""
        return self._released(float("inf"))

    def _block(self, kind: int, block: bytes) -> None:
        packet = next((item for item in self._reader.feed(block) if isinstance(item, Packet)), None)
        place = None
        if packet is not None:
            self._time_ns = max(self._time_ns, packet.time_ns)
            events = self._flows.feed(packet)
            if not events and packet.comment.startswith(CARRIED_OVER):
                return  # a further file of the ring says again what went on from the one before
            self._watch.take(events)
            place = self._flows.place(packet)
        self._held.append(_Held(self._clock(), kind, block, packet, place))
        self._held_bytes += len(block)

    def _released(self, now: float) -> bytes:
        """Return what need not wait any longer."""
        out = bytearray()
        held = self._held
        while held:
            first = held[0]
            if now - first.since < self._hold_s and self._held_bytes <= MAX_HELD and self._waits(first.place):
                break
            held.popleft()
            self._held_bytes -= len(first.block)
            out += self._redacted(first)
        messages = self._watch.messages
        self.account.masked, self.account.unreadable = messages.masked, messages.blanked
        return bytes(out)

    def _waits(self, place: Place | None) -> bool:
        """Tell whether a packet has bytes of which it is not known yet whether they may stay."""
        if place is None or not place.length:
            return False
        ranges = self._watch.ranges.get((place.flow.id, place.direction))
        if ranges is None:
            return True
        ranges.finish()
        return not ranges.covers(place.offset, place.offset + place.length)

    def _redacted(self, held: _Held) -> bytes:
        packet, place, block = held.packet, held.place, held.block
        account, ranges_of = self.account, self._watch.ranges
        if packet is None:
            return redact_block(held.kind, block, account)
        account.packets += 1
        start = PACKETS[held.kind]
        data = redact_packet(packet, place, ranges_of, account)
        if place is not None and (ranges := ranges_of.get((place.flow.id, place.direction))) is not None:
            ranges.forget(place.offset + place.length)
            if ranges.empty:
                del ranges_of[place.flow.id, place.direction]
        return block[:start] + data + block[start + len(data) :]
