"""Write a capture again with its secrets masked: the same packets, names and times, and every length as it was.

In: a capture file. Out: one, and an account of what was done. It is read twice. The first time each connection's bytes
are put in order and redacted (`dissectors.redact`), which gives ranges that may stay, some of them changed; the second
time every packet's payload is made of what its range says, so a segment that comes twice is redacted twice. What no
range covers could not be read, so it could not be masked either: it becomes zeros, and the account says how much.
"""

from __future__ import annotations

import gzip
import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from dissectors.detect import open_dissector
from dissectors.events import Direction
from dissectors.masking_text import mask_text
from dissectors.redact import Connection, Kept, Messages, open_redactor
from protos.errors import PodwireError
from protos.registry import Registry
from tracer.capture import bundle, journal
from tracer.capture.blocks import ByteOrder
from tracer.capture.flows import Flow, FlowCarried, FlowClosed, FlowData, FlowEvent, FlowGap, FlowTable, Place
from tracer.capture.holding import Start
from tracer.capture.link import located
from tracer.capture.packets import MAX_RECORD, Notice, Packet
from tracer.capture.reader import open_capture
from tracer.output.bundles import masked
from tracer.pipeline import EXPECTED

_GZIP: Final = b"\x1f\x8b"
_SECTION: Final = b"\n\r\r\n"
PACKETS: Final = {2: 28, 3: 12, 6: 28}
"""Types of pcapng's blocks that hold a packet, and where in the block it begins."""
_KNOWN: Final = frozenset({1, 4, 5, 0x0A0D0D0A})
"""Blocks that hold no traffic: interfaces, names, statistics, sections."""
_PCAP_HEADER: Final = 24
_PCAP_RECORD: Final = 16
_HEADERS: Final = 34
"""Bytes kept of a packet that is no TCP segment: Ethernet's header and IPv4's."""
_MERGE: Final = 4096
"""Ranges of a direction after which neighbours are joined."""


@dataclass(slots=True)
class Account:
    """What a redaction did."""

    packets: int = 0
    masked: int = 0
    """Messages with something masked in them."""
    unreadable: int = 0
    """Messages that do not parse, which became zeros."""
    logs: int = 0
    """Lines of logs, in which what can be told to be secret is masked."""
    blanked: Counter[str] = field(default_factory=Counter)
    """Other bytes that could not be read, and became zeros, by where they are."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Blocks of the file that are not copied, by what they are."""
    broken: str = ""
    """Why the file could not be read to its end."""


class Ranges:
    """What may stay of one direction: `add` it, `finish`, then ask."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, int]] = []
        """Start and end of what stays or is changed."""
        self._changes: list[tuple[int, bytes]] = []

    def add(self, kept: Kept) -> None:
        offset, length, data = kept
        if data is not None:
            self._changes.append((offset, data))
        if self._kept and self._kept[-1][1] == offset:
            self._kept[-1] = self._kept[-1][0], offset + length
        elif length:
            self._kept.append((offset, offset + length))
            if len(self._kept) % _MERGE == 0:
                self.finish()

    def finish(self) -> None:
        """Bring all in order."""
        self._changes.sort(key=lambda change: change[0])
        self._kept.sort()
        joined: list[tuple[int, int]] = []
        for start, end in self._kept:
            if joined and joined[-1][1] >= start:
                joined[-1] = joined[-1][0], max(end, joined[-1][1])
            else:
                joined.append((start, end))
        self._kept = joined

    def covers(self, offset: int, end: int) -> bool:
        """Tell whether all bytes of a range are known of."""
        return any(start <= offset and end <= stop for start, stop in self._kept)

    @property
    def empty(self) -> bool:
        """There is nothing to be said of any place."""
        return not self._kept and not self._changes

    def forget(self, before: int) -> None:
        """What lies before a place is not asked for any more."""
        self._kept = [each for each in self._kept if each[1] > before]
        self._changes = [each for each in self._changes if each[0] + len(each[1]) > before]

    def apply(self, offset: int, payload: bytes) -> tuple[bytes, int]:
        """Return the bytes at a place as they may be passed on, and how many of them were blanked."""
        stop = offset + len(payload)
        at = max(bisect_right(self._kept, (offset, stop)) - 1, 0)
        shown, kept = bytearray(len(payload)), 0
        for start, end in self._kept[at:]:
            if start >= stop:
                break
            begin, finish = max(start, offset), min(end, stop)
            if begin < finish:
                shown[begin - offset : finish - offset] = payload[begin - offset : finish - offset]
                kept += finish - begin
        if kept == len(payload) and not self._changes:
            return payload, 0
        at = max(bisect_right(self._changes, offset, key=lambda change: change[0]) - 1, 0)
        for start, data in self._changes[at:]:
            if start >= stop:
                break
            begin, finish = max(start, offset), min(start + len(data), stop)
            if begin < finish:
                shown[begin - offset : finish - offset] = data[begin - start : finish - start]
        return bytes(shown), len(payload) - kept


RangesOf = dict[tuple[int, Direction], Ranges]
"""By flow and direction."""


class Watch:
    """Finds out what may stay of all connections."""

    def __init__(self, registry: Registry) -> None:
        self.messages = Messages(registry)
        self.ranges: RangesOf = {}
        self._connections: dict[int, _Watched] = {}
        self._closed: dict[int, Direction] = {}
        """Flows of which one direction has ended, and which."""

    def take(self, events: list[FlowEvent]) -> None:
        """Take what the packets told."""
        for event in events:
            if isinstance(event, FlowData):
                self._piece(event.flow, event.direction, event.data)
            elif isinstance(event, FlowGap):
                self._piece(event.flow, event.direction, event.count)
            elif isinstance(event, FlowCarried):
                self._piece(event.flow, event.direction, event.piece)
            elif isinstance(event, FlowClosed) and event.flow.id in self._connections:
                if self._closed.pop(event.flow.id, event.direction) != event.direction:
                    del self._connections[event.flow.id]
                else:
                    self._closed[event.flow.id] = event.direction

    def _piece(self, flow: Flow, direction: Direction, piece: bytes | int) -> None:
        connection = self._connections.get(flow.id)
        if connection is None:
            connection = self._connections[flow.id] = _Watched(flow, self.messages)
        for side, kept in connection.piece(direction, piece):
            ranges = self.ranges.get((flow.id, side))
            if ranges is None:
                ranges = self.ranges[flow.id, side] = Ranges()
            ranges.add(kept)


class _Watched:
    """One connection, whose protocol is to be found out first."""

    def __init__(self, flow: Flow, messages: Messages) -> None:
        self._messages = messages
        self._detector = open_dissector(EXPECTED.get(flow.hop))
        self._waiting: list[tuple[Direction, bytes | int]] = []
        self._inner: Connection | None = None
        self._decided = False

    def piece(self, direction: Direction, piece: bytes | int) -> list[tuple[Direction, Kept]]:
        if not self._decided:
            self._waiting.append((direction, piece))
            if isinstance(piece, int):
                self._detector.lost(direction, piece)
            else:
                self._detector.feed(direction, piece)
            if not self._detector.protocol:
                return []
            self._decided = True
            self._inner = open_redactor(self._detector.protocol, self._messages)
        else:
            self._waiting = [(direction, piece)]
        waiting, self._waiting = self._waiting, []
        told: list[tuple[Direction, Kept]] = []
        if self._inner is not None:
            for side, each in waiting:
                kept = self._inner.lost(side, each) if isinstance(each, int) else self._inner.feed(side, each)
                told += [(side, one) for one in kept]
        return told


def redact(source: str, target: BinaryIO, registry: Registry) -> Account:
    """Write the capture `source` to `target` with its secrets masked. Raises PodwireError."""
    first = Watch(registry)
    account = Account()
    flows = FlowTable()
    time_ns = 0
    with open_capture(source) as capture:
        for item in capture:
            if isinstance(item, Packet):
                time_ns = max(time_ns, item.time_ns)
                first.take(flows.feed(item))
            elif item.fatal:
                account.broken = f"{item.text} (at byte {item.offset}; what came before is redacted)"
    first.take(flows.finish(time_ns))
    for ranges in first.ranges.values():
        ranges.finish()
    account.masked, account.unreadable = first.messages.masked, first.messages.blanked
    with _open_raw(source) as raw, open_capture(source) as capture:
        _SecondReading(raw, capture, target, first.ranges, account, flows.starts).run()
    return account


def _open_raw(path: str) -> BinaryIO:
    """The bytes of a capture as they are once decompressed."""
    file = open(path, "rb")  # noqa: SIM115 # the caller closes what is returned
    if file.read(2) == _GZIP:
        file.close()
        return gzip.open(path, "rb")  # type: ignore[return-value] # it reads like one
    file.seek(0)
    return file


class _SecondReading:
    """Writes the file, block by block."""

    def __init__(
        self,
        raw: BinaryIO,
        items: Iterable[Packet | Notice],
        target: BinaryIO,
        ranges: RangesOf,
        account: Account,
        starts: Mapping[int, Start],
    ) -> None:
        self._raw, self._target, self._ranges, self._account = raw, target, ranges, account
        self._packets = (item for item in items if isinstance(item, Packet))
        self._flows = FlowTable(starts)

    def run(self) -> None:
        """Write all of it."""
        head = self._raw.read(4)
        if head == _SECTION:
            self._pcapng(head)
        else:
            self._target.write(head + self._raw.read(_PCAP_HEADER - 4))
            for packet in self._packets:
                self._target.write(
                    self._raw.read(_PCAP_RECORD) + self._redacted(packet, self._raw.read(len(packet.data)))
                )

    def _pcapng(self, head: bytes) -> None:
        order, offset = "<", 0
        packet = next(self._packets, None)
        while len(head := head + self._raw.read(12 - len(head))) == 12:
            if head.startswith(_SECTION):
                order = "<" if head[8:] == b"\x4d\x3c\x2b\x1a" else ">"
            kind, length = struct.unpack_from(order + "II", head)
            if not 12 <= length <= MAX_RECORD or length % 4:
                break
            block = head + self._raw.read(length - 12)
            if len(block) < length:
                break
            if packet is not None and packet.offset == offset:
                start = PACKETS[kind]
                end = start + len(packet.data)
                block = block[:start] + self._redacted(packet, block[start:end]) + block[end:]
                packet = next(self._packets, None)
            else:
                block = redact_block(kind, block, self._account)
            self._target.write(block)
            offset += length  # in the file that is read
            head = b""

    def _redacted(self, packet: Packet, data: bytes) -> bytes:
        """Return a packet's bytes as they may be passed on."""
        if data != packet.data:
            raise PodwireError(f"the capture changed while it was read (at byte {packet.offset})")
        self._account.packets += 1
        self._flows.feed(packet)
        return redact_packet(packet, self._flows.place(packet), self._ranges, self._account)


_NOTHING: Final = Ranges()


def redact_block(kind: int, block: bytes, account: Account) -> bytes:
    """Return a block of pcapng that holds no packet as it may be passed on; nothing, if it is not known."""
    if kind == bundle.BLOCK_TYPE and (kept := bundle.parse_block(block[8:-4])) is not None:
        return bundle.build_block(kept._replace(files=tuple(masked(file) for file in kept.files)))
    if kind == journal.BLOCK_TYPE and (entry := journal.parse_block(block[8:-4])) is not None:
        account.logs += 1
        message = mask_text(entry.fields["MESSAGE"])
        order: ByteOrder = "big" if block.startswith(b"\0") else "little"
        return journal.build_block(journal.Entry({**entry.fields, "MESSAGE": message}), order)
    if kind in _KNOWN:
        return block
    account.dropped["packets that cannot be read" if kind in PACKETS else f"blocks of type 0x{kind:x}"] += 1
    return b""


def redact_packet(packet: Packet, place: Place | None, ranges_of: RangesOf, account: Account) -> bytes:
    """Return a packet's bytes as they may be passed on, if it lies there in its flow."""
    data = packet.data
    if place is None:
        if not isinstance(located(packet.link_type, data), str):
            return data  # what is left of a connection that was not seen: it has no payload
        account.blanked["packets that are no TCP segments"] += max(0, len(data) - _HEADERS)
        return data[:_HEADERS] + bytes(max(0, len(data) - _HEADERS))
    begin, end = place.begin, place.begin + place.length
    if begin == end:
        return data
    ranges = ranges_of.get((place.flow.id, place.direction), _NOTHING)
    payload, blanked = ranges.apply(place.offset, data[begin:end])
    if blanked:
        side = "server" if place.direction else "client"
        account.blanked[f"connection {place.flow.id}, from the {side}"] += blanked
    if payload == data[begin:end]:
        return data
    return _with_payload(data, place.header, begin, payload)


def _with_payload(data: bytes, header: int, begin: int, payload: bytes) -> bytes:
    """Return a packet with another payload of the same length, its checksum as right or wrong as it was (RFC 1624)."""
    at = header + 16
    before = data[begin : begin + len(payload)]
    odd = len(payload) % 2
    words = (0xFFFF ^ int.from_bytes(data[at : at + 2])) + (int.from_bytes(payload) - int.from_bytes(before) << 8 * odd)
    checksum = (0xFFFF ^ words % 0xFFFF).to_bytes(2)
    return data[:at] + checksum + data[at + 2 : begin] + payload + data[begin + len(payload) :]
