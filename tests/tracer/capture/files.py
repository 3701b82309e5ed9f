"""Capture files made by hand, and readers of whole byte strings, for the tests of this folder."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from tracer.capture.blocks import ByteOrder, Item, build_block, items
from tracer.capture.conversation import CaptureWriter
from tracer.capture.flows import FlowClosed, FlowData, FlowEvent, FlowGap, FlowOpened, FlowTable
from tracer.capture.packets import Interface, Notice, Packet
from tracer.capture.pcapng import PcapngReader

START = 1_795_445_881_000_000_000


class Reader(Protocol):
    """What both readers are."""

    def feed(self, data: bytes) -> list[Packet | Notice]: ...
    def close(self) -> list[Notice]: ...


def read(reader: Reader, data: bytes, cuts: Iterable[int] = ()) -> list[Packet | Notice]:
    """Return all that the reader finds in `data`, which is fed in pieces cut at `cuts`."""
    found: list[Packet | Notice] = []
    at = 0
    for cut in sorted(cuts):
        found += reader.feed(data[at:cut])
        at = cut
    return [*found, *reader.feed(data[at:]), *reader.close()]


def read_pcapng(data: bytes, cuts: Iterable[int] = ()) -> list[Packet | Notice]:
    return read(PcapngReader(), data, cuts)


def packets(data: bytes) -> list[Packet]:
    """Return the packets of a pcapng file that must be free of notices."""
    found = read_pcapng(data)
    assert [item for item in found if isinstance(item, Notice)] == []
    return [item for item in found if isinstance(item, Packet)]


def flow_events(data: bytes) -> list[FlowEvent]:
    """Return what the flow layer makes of a pcapng file that must be free of notices."""
    table = FlowTable()
    events = [event for packet in packets(data) for event in table.feed(packet)]
    return events + table.finish(0)


def streams(events: Iterable[FlowEvent], flow_id: int = 1) -> tuple[list[bytes | int], list[bytes | int]]:
    """Return both directions of a flow: its bytes, neighbours joined, and its gaps as numbers."""
    sides: tuple[list[bytes | int], list[bytes | int]] = ([], [])
    for event in events:
        if event.flow.id != flow_id or isinstance(event, FlowOpened | FlowClosed):
            continue
        side = sides[event.direction]
        piece = event.data if isinstance(event, FlowData) else event.count
        if side and isinstance(side[-1], bytes) and isinstance(piece, bytes):
            side[-1] += piece
        else:
            side.append(piece)
    return sides


def gaps(events: Iterable[FlowEvent]) -> list[int]:
    return [event.count for event in events if isinstance(event, FlowGap)]


class Capture:
    """A capture in memory, written by `CaptureWriter`: one socket, one client, one server, unless told otherwise."""

    def __init__(self, hop: str = "cri") -> None:
        self.bytes = bytearray()
        self.writer = CaptureWriter(self.bytes.extend)
        self.writer.start(START, "a test")
        self.hop = hop
        self.socket = self.writer.interface("/run/test.sock", f"{hop} /run/test.sock")
        self.client = self.writer.endpoint(("pid", 812), "kubelet")
        self.server = self.writer.endpoint(("pid", 401), "containerd")

    def open(self, conn: int = 1, **comment: object) -> Capture:
        self.writer.open(conn, self.socket, self.hop, self.client, self.server, START, comment)
        return self

    def data(self, direction: int, offset: int, payload: bytes, conn: int = 1, after_ns: int = 0) -> Capture:
        self.writer.data(conn, direction, offset, START + after_ns, memoryview(payload))
        return self

    def close(self, direction: int, offset: int, reset: bool = False, conn: int = 1) -> Capture:
        self.writer.close(conn, direction, offset, START, reset)
        return self

    def finish(self) -> bytes:
        self.writer.finish(START + 1_000_000_000)
        return bytes(self.bytes)


def small_capture() -> bytes:
    """One connection with a few bytes each way, opened and closed: every block that the writer writes."""
    capture = Capture().open(client={"pid": 812, "name": "kubelet"}, server={"pid": 401})
    capture.data(0, 0, b"ping").data(1, 0, b"answer").data(0, 4, b"x" * 41)
    return capture.close(0, 45).close(1, 6).finish()


# Blocks, in either byte order.


def section(order: ByteOrder = "little", **body: Any) -> bytes:
    return build_block(0x0A0D0D0A, {"major": 1, "minor": 0, "section_length": -1, "options": [], **body}, order)


def interface(
    order: ByteOrder = "little", link_type: int = 1, snap_length: int = 0, options: Sequence[Item] = ()
) -> bytes:
    body = {"link_type": link_type, "snap_length": snap_length, "options": items(*options) if options else []}
    return build_block(1, body, order)


NANOSECONDS: Item = (9, b"\x09")


def enhanced(
    data: bytes, ticks: int = 0, order: ByteOrder = "little", which: int = 0, options: Sequence[Item] = ()
) -> bytes:
    body = {
        "interface": which,
        "time_high": ticks >> 32,
        "time_low": ticks & 0xFFFFFFFF,
        "captured": len(data),
        "original": len(data),
        "data": data,
        "options": items(*options) if options else [],
    }
    return build_block(6, body, order)


def old(data: bytes, ticks: int, drops: int, order: ByteOrder = "little") -> bytes:
    body = {
        "interface": 0,
        "drops": drops,
        "time_high": ticks >> 32,
        "time_low": ticks & 0xFFFFFFFF,
        "captured": len(data),
        "original": len(data),
        "data": data,
        "options": [],
    }
    return build_block(2, body, order)


def raw_block(kind: int, body: bytes, order: ByteOrder = "little") -> bytes:
    """A block of any type and content; `body` is filled up to 32 bits."""
    body += bytes(-len(body) % 4)
    mark = "<" if order == "little" else ">"
    length = struct.pack(mark + "I", 12 + len(body))
    return struct.pack(mark + "I", kind) + length + body + length


# Packets.

CLIENT, SERVER = b"\xc6\x12\0\1", b"\xc6\x12\0\2"
ANY_INTERFACE = Interface(0, "", "", 1, {})
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


PORTS = (50_000, 8080)


def tcp(
    sequence: int,
    payload: bytes = b"",
    flags: int = ACK,
    reverse: bool = False,
    ports: tuple[int, int] = PORTS,
    acknowledgement: int = 0,
) -> bytes:
    """A TCP segment with its IPv4 header; checksums are zero, as on a machine whose network card fills them in."""
    ends = (SERVER, CLIENT) if reverse else (CLIENT, SERVER)
    ports = ports[::-1] if reverse else ports
    ipv4 = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40 + len(payload), 0, 0x4000, 64, 6, 0, *ends)
    head = struct.pack(">HHIIBBHHH", *ports, sequence & 0xFFFFFFFF, acknowledgement, 0x50, flags, 65_535, 0, 0)
    return ipv4 + head + payload


def ethernet(payload: bytes, kind: int = 0x0800, tags: bytes = b"") -> bytes:
    return b"\2\0\0\0\0\2\2\0\0\0\0\1" + tags + kind.to_bytes(2, "big") + payload


def packet(
    data: bytes, time_ns: int = START, link_type: int = 1, comment: str = "", described: Interface = ANY_INTERFACE
) -> Packet:
    return Packet(1, time_ns, described._replace(link_type=link_type), link_type, data, comment, 0, 0)
