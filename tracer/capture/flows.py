"""Flows: packets come in, each connection's two byte streams go out, in order and stamped, with its ends and its gaps.

Whose connection it is comes from the comment of its first packet, else from the capture's names and the server's port
(`peers`). How a direction is put in order is `streams`, what is out of order between both, `holding`. What the bytes
mean is not its matter.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

from dissectors.events import Direction
from tracer.capture import sockdump, vsock
from tracer.capture.holding import HELD, HELD_NS, Start, Unopened
from tracer.capture.link import ACK, ETHERNET, FAST, FAST_HEAD, FAST_SIZE, FIN, RST, SYN, Segment, located, segment
from tracer.capture.packets import CARRIED_OVER, HOP_PORTS, Packet
from tracer.capture.peers import Endpoint, client_of, read_comment, server_of, text_of
from tracer.capture.streams import Piece, Stream

__all__ = [
    "HOP_PORTS", "Direction", "Endpoint", "Flow", "FlowCarried", "FlowClosed", "FlowData", "FlowEvent", "FlowGap",
    "FlowOpened", "FlowTable", "Place",
]  # fmt: skip

CLOSED_FLOWS: Final = 4_096
"""How many flows are remembered after their end, so that what comes late (a last ACK, a segment again) is theirs."""

_HOP_OF_PORT = {port: hop for hop, port in HOP_PORTS.items()}
_new = tuple.__new__  # see `pcapng`
_unpack = FAST.unpack_from


class Flow:
    """One connection. No dataclass, whose import a short command would notice."""

    __slots__ = ("channel", "client", "comment", "hop", "id", "server", "socket")

    def __init__(
        self, id: int, hop: str, socket: str, client: Endpoint, server: Endpoint, comment: dict[str, object]
    ) -> None:
        self.id = id
        """Counted from 1 in the order of first packets."""
        self.hop = hop
        """Empty if the capture does not say."""
        self.socket = socket
        """Path of the socket; empty if the capture does not say."""
        self.client = client
        self.server = server
        self.comment = comment
        """The JSON object of the first packet's comment; empty if it has none."""
        self.channel = 0
        """Of several connections inside of it, which this is; 0: it is the connection itself."""

    def inner(self, channel: int, asks: Direction) -> Flow:
        """Return one of the connections that go inside of this one: its client is who makes the requests there."""
        client, server = (self.client, self.server) if asks == Direction.REQUEST else (self.server, self.client)
        flow = Flow(self.id, self.hop, self.socket, client, server, self.comment)
        flow.channel = channel
        return flow


class FlowOpened(NamedTuple):
    """The first packet of a flow."""

    flow: Flow
    time_ns: int
    seen: bool
    """False: its handshake is not in the capture, so bytes may be missing before its first."""


class FlowData(NamedTuple):
    """Bytes of one direction, the next ones."""

    flow: Flow
    direction: Direction
    time_ns: int
    """Of the packet that made them the next ones."""
    data: bytes


class FlowCarried(NamedTuple):
    """What a direction had said before the capture began, repeated at its beginning so that the rest can be read."""

    flow: Flow
    direction: Direction
    time_ns: int
    piece: Piece
    began_ns: int
    """When the call began whose beginning this is; 0: it is of none."""


class FlowGap(NamedTuple):
    """Bytes of one direction that are not in the capture."""

    flow: Flow
    direction: Direction
    time_ns: int
    count: int  # type: ignore[assignment]  # the word for it; tuple's method of this name is of no use here


class FlowClosed(NamedTuple):
    """One direction has ended; nothing more comes of it."""

    flow: Flow
    direction: Direction
    time_ns: int
    reset: bool
    """True: not by a FIN."""


class Place(NamedTuple):
    """Where the payload of a packet lies."""

    flow: Flow
    direction: Direction
    offset: int
    """In the direction's bytes; below 0 what came before the first that was seen."""
    header: int
    """Where in the packet TCP's header begins."""
    begin: int
    """Where in the packet the payload begins."""
    length: int


FlowEvent = FlowOpened | FlowCarried | FlowData | FlowGap | FlowClosed


class _Side:
    """One direction of a flow; `other` is set right after both are made."""

    __slots__ = ("direction", "flow", "held", "key", "other", "since_ns", "stream")

    other: _Side

    def __init__(
        self,
        flow: Flow,
        direction: Direction,
        key: bytes,
        since_ns: int,
        held: list[tuple[_Side, Segment, Packet]],
    ) -> None:
        self.flow = flow
        self.direction = direction
        self.key = key
        self.stream = Stream()
        self.since_ns = since_ns
        """The time of the packet that tells who is who."""
        self.held = held
        """Segments of both directions that acknowledge what has not come yet."""

    def early(self, acknowledgement: int) -> bool:
        """Whether a segment that acknowledges so much is before bytes that its sender had received. A FIN, which takes
        a number too, may be missing for ever."""
        stream = self.other.stream
        ahead = acknowledgement - stream.base - stream.position & 0xFFFFFFFF
        return 1 < ahead < 0x80000000 and stream.started and not stream.closed


class FlowTable:
    """All flows of one capture. `starts`: as an earlier reading of the same capture had them at its end."""

    def __init__(self, starts: Mapping[int, Start] | None = None) -> None:
        self.starts: dict[int, Start] = {}
        """How connections begin whose first segment was no handshake, by their number."""
        self._known = starts
        self._unopened: dict[bytes, Unopened] = {}
        """By either direction."""
        self.passed_over: dict[str, int] = {}
        """Packets that are not decoded: how many, by the reason."""
        self._sides: dict[bytes, _Side] = {}
        self._ended: deque[_Side] = deque()
        self._flows = 0
        self._vsock = vsock.VsockTable()
        self._vsock_flows: dict[vsock.Connection, Flow] = {}
        self._dumped = sockdump.DumpTable()
        self._dumped_flows: dict[tuple[int, int], Flow] = {}
        """By the pids of client and server."""
        self._repeated: set[int] = set()
        """Flows that a further file of a ring carries over, which this table has from the file before."""

    def feed(self, packet: Packet) -> list[FlowEvent]:
        """Take the next packet; return what it tells, in order. Never raises on content."""
        next_one = self.steady(packet)
        if next_one is not None:
            return [next_one] if next_one.data else []
        return self.feed_other(packet)

    def steady(self, packet: Packet) -> FlowData | None:
        """Take the packet if it is the next segment of a known flow over plain Ethernet, IPv4 and TCP, as nearly all
        are; return its bytes, which may be none. None: it is not taken, `feed_other` is for it."""
        _, time_ns, _, link_type, data, comment, _, _, _ = packet
        size = len(data)
        if link_type != ETHERNET or size < FAST_SIZE or comment:
            return None
        head, total, fragment, protocol, key, sequence, acknowledgement, words = _unpack(data)
        side = self._sides.get(key)
        if side is None or head != FAST_HEAD or protocol != 6 or fragment & 0x3FFF or words & 7:
            return None
        stream = side.stream
        position = stream.position
        start = 34 + (words >> 12) * 4
        end = 14 + total
        if stream.steady and stream.base + position & 0xFFFFFFFF == sequence and FAST_SIZE <= start <= end <= size:
            if not stream.ordered and (side.held or self._unopened or (words & ACK and side.early(acknowledgement))):
                return None
            stream.position = position + end - start
            taken: FlowData = _new(FlowData, (side.flow, side.direction, time_ns, data[start:end]))
            return taken
        return None

    def feed_other(self, packet: Packet) -> list[FlowEvent]:
        """Take a packet that `steady` did not."""
        if packet.link_type == vsock.LINK_TYPE:
            told = self._vsock.feed(packet.data)
            if not isinstance(told, str):
                return [event for each in told for event in self._of_vsock(each, packet.time_ns)]
            found: Segment | str = told
        elif packet.link_type == sockdump.LINK_TYPE:
            written = self._dumped.feed(packet.data, packet.missing)
            if not isinstance(written, str):
                return self._of_sockdump(written, packet.time_ns)
            found = written
        else:
            found = segment(packet.link_type, packet.data)
        if isinstance(found, str):
            self.passed_over[found] = self.passed_over.get(found, 0) + 1
            return []
        return self._segment(found, packet)

    def place(self, packet: Packet) -> Place | None:
        """Tell where the payload of a packet that was just fed lies in its flow; None: it is of none."""
        found = located(packet.link_type, packet.data)
        if isinstance(found, str):
            return None
        taken, header, begin = found
        side = self._sides.get(taken.key)
        if side is None:
            return None
        sequence = taken.sequence + 1 if taken.flags & SYN else taken.sequence
        return Place(side.flow, side.direction, side.stream.place(sequence), header, begin, len(taken.payload))

    def finish(self, time_ns: int) -> list[FlowEvent]:
        """Tell that there are no more packets: what waited for earlier bytes is given out behind its gap. What is open
        stays open."""
        events: list[FlowEvent] = []
        while self._unopened:  # opening one may open others, whose time has come by then
            self._open_late(next(iter(self._unopened.values())), None, events)
        for side in list(self._sides.values()):
            self._let_go(side.held, 0, 0, events)
            stream = side.stream
            if not stream.closed:
                _tell(side, time_ns, stream.flush(), events)
                if stream.end is not None:  # its FIN had come, bytes before it had not
                    events.append(FlowClosed(side.flow, side.direction, time_ns, False))
        return events

    def _segment(self, found: Segment, packet: Packet) -> list[FlowEvent]:
        """Take a segment of any kind."""
        events: list[FlowEvent] = []
        while self._unopened and (oldest := next(iter(self._unopened.values()))).due(packet.time_ns):
            self._open_late(oldest, None, events)
        side = self._sides.get(found.key)
        if packet.comment.startswith(CARRIED_OVER) and side is not None:
            if found.flags & SYN and not found.flags & ACK and not (side.stream.closed and side.other.stream.closed):
                self._repeated.add(side.flow.id)
            if side.flow.id in self._repeated:
                return events
        if side is not None and found.flags & SYN and not found.flags & ACK and _begun(side, found, packet.time_ns):
            self._let_go(side.held, 0, 0, events)
            self._end(side, packet.time_ns, events)  # the same addresses and ports again: another connection
            self._end(side.other, packet.time_ns, events)
            side = None
        if side is None:
            side = self._opened(found, packet, events)
        if side is not None and (not side.held or side.stream.ordered) and not _is_early(side, found):
            self._take(side, found, packet, packet.time_ns, events)
        elif side is not None:
            side.held.append((side, found, packet))
            self._let_go(side.held, HELD, packet.time_ns, events)
        return events

    def _opened(self, found: Segment, packet: Packet, events: list[FlowEvent]) -> _Side | None:
        """Take the first segment of a flow, or one that waits with it; None: it is not to be taken now."""
        waiting = self._unopened.get(found.key)
        if found.flags & SYN:
            if waiting is not None and waiting.begins(found):
                self._open_late(waiting, (found, packet), events)
                return None
            if waiting is not None:  # what is left of an earlier connection
                self._open_late(waiting, None, events)
                for side in (self._sides[found.key], self._sides[found.key].other):
                    self._end(side, packet.time_ns, events)
        elif waiting is not None:
            waiting.segments.append((found, packet))
            if waiting.due(packet.time_ns):
                self._open_late(waiting, None, events)
            return None
        elif not found.payload and not found.missing:
            return None  # what is left of a connection that was not seen: an acknowledgement, an end
        elif self._known is None:
            self._flows += 1
            waiting = Unopened(self._flows, packet.time_ns)
            waiting.segments.append((found, packet))
            self._unopened[found.key] = self._unopened[_reversed(found.key)] = waiting
            return None
        self._flows += 1
        start = (self._known or {}).get(self._flows) or Start(found, packet, {})
        self._begin(self._flows, start, events)
        return self._sides[found.key]

    def _open_late(self, waiting: Unopened, handshake: tuple[Segment, Packet] | None, events: list[FlowEvent]) -> None:
        """Open a flow whose first segments were held, and take them."""
        key = waiting.segments[0][0].key
        del self._unopened[key], self._unopened[_reversed(key)]
        start = self.starts[waiting.number] = waiting.start(handshake)
        self._begin(waiting.number, start, events)
        for found, packet in [handshake, *waiting.segments] if handshake else waiting.segments:
            events += self._segment(found, packet)

    def _begin(self, number: int, start: Start, events: list[FlowEvent]) -> None:
        side = self._open(number, start.found, start.packet)
        for each in (side, side.other):
            if each.key in start.bases:
                each.stream.start(start.bases[each.key])
        events.append(FlowOpened(side.flow, start.packet.time_ns, bool(start.found.flags & SYN)))

    def _let_go(
        self, held: list[tuple[_Side, Segment, Packet]], most: int, time_ns: int, events: list[FlowEvent]
    ) -> None:
        """Take what was held and what it waited for has come, in order; and of the rest, what is more than `most`."""
        while held:
            at = next((at for at, (side, found, _) in enumerate(held) if not _is_early(side, found)), -1)
            if at < 0:
                if len(held) <= most:
                    break
                at = _earliest(held)
                (side, found, packet), time_ns = held[at], held[at][2].time_ns
                other, was_closed = side.other, side.other.stream.closed
                _tell(other, time_ns, other.stream.acknowledged(found.acknowledgement), events)
                if other.stream.closed and not was_closed:
                    self._closed(other, time_ns, False, events)
            side, found, packet = held.pop(at)
            time_ns = max(time_ns, packet.time_ns)
            self._take(side, found, packet, time_ns, events)

    def _take(self, side: _Side, found: Segment, packet: Packet, time_ns: int, events: list[FlowEvent]) -> None:
        """Take a segment of a known flow."""
        flags, sequence, stream = found.flags, found.sequence, side.stream
        if flags & SYN:
            sequence = sequence + 1 & 0xFFFFFFFF  # it takes a number itself
            if not stream.started:
                stream.start(sequence)
            if flags & ACK and not side.other.stream.started:
                side.other.stream.start(found.acknowledgement)
        was_closed = stream.closed
        pieces = stream.segment(sequence, found.payload, found.missing, bool(flags & FIN))
        if packet.comment.startswith(CARRIED_OVER):
            began = read_comment(packet.comment).get("began_ns")
            began_ns = began if isinstance(began, int) else 0
            events += [FlowCarried(side.flow, side.direction, time_ns, piece, began_ns) for piece in pieces]
        else:
            _tell(side, time_ns, pieces, events)
        if stream.closed and not was_closed:
            reset = "reset" in packet.comment and read_comment(packet.comment).get("reset") is True
            self._closed(side, time_ns, reset, events)
        if flags & RST:
            self._end(side, time_ns, events, sequence if stream.ordered else None)
            if not stream.ordered:  # ours ends the other direction by a packet of its own
                self._end(side.other, time_ns, events)

    def _open(self, number: int, found: Segment, packet: Packet) -> _Side:
        """Make the flow whose first packet this is; return the direction that it is of."""
        key = found.key
        width = (len(key) - 4) // 2
        source, destination, ports = key[:width], key[width:-4], key[-4:]
        source_port, destination_port = int.from_bytes(ports[:2], "big"), int.from_bytes(ports[2:], "big")
        from_client = _from_client(found.flags, source_port, destination_port)
        ends = (_address(source), source_port), (_address(destination), destination_port)
        client, server = ends if from_client else ends[::-1]

        comment = read_comment(packet.comment)
        names = packet.interface.names if packet.interface else {}
        hop, path = _interface_says(packet)
        hop = text_of(comment.get("hop")) or _HOP_OF_PORT.get(server[1]) or hop
        path = text_of(comment.get("socket")) or path
        flow = Flow(number, hop, path, client_of(comment, *client, names), server_of(comment, *server, names), comment)

        held: list[tuple[_Side, Segment, Packet]] = []
        side = _Side(flow, Direction.REQUEST if from_client else Direction.RESPONSE, key, packet.time_ns, held)
        other = _Side(flow, Direction(1 - side.direction), _reversed(key), packet.time_ns, held)
        side.other, other.other = other, side
        side.stream.ordered = other.stream.ordered = type(comment.get("podwire")) is int
        self._sides[side.key] = side
        self._sides[other.key] = other
        return side

    def _of_vsock(self, told: vsock.Event, time_ns: int) -> list[FlowEvent]:
        """Return what a connection of vsock tells, as of a flow."""
        if isinstance(told, vsock.Opened | vsock.Refused):
            self._flows += 1
            client, server = (_vsock_end(each) for each in (told.connection.client, told.connection.server))
            hop = "agent" if server.port in vsock.GUEST_PORTS else ""
            flow = Flow(self._flows, hop, vsock.url(told.connection.server), client, server, {})
            if isinstance(told, vsock.Opened):
                self._vsock_flows[told.connection] = flow
                return [FlowOpened(flow, time_ns, told.seen)]
            return [FlowOpened(flow, time_ns, True), *(FlowClosed(flow, each, time_ns, True) for each in Direction)]
        flow, direction = self._vsock_flows[told.connection], Direction(told.direction)
        if isinstance(told, vsock.Data):
            return [FlowData(flow, direction, time_ns, told.data)]
        if isinstance(told, vsock.Gap):
            return [FlowGap(flow, direction, time_ns, told.length)]
        if told.last:
            del self._vsock_flows[told.connection]
        return [FlowClosed(flow, direction, time_ns, told.reset)]

    def _of_sockdump(self, told: sockdump.Written, time_ns: int) -> list[FlowEvent]:
        """Return what a write to a unix socket tells, as of a flow."""
        events: list[FlowEvent] = []
        pids = told.client, told.server
        if told.begins:
            before = self._dumped_flows.pop(pids, None)
            if before is not None:
                events += [FlowClosed(before, each, time_ns, False) for each in Direction]
            self._flows += 1
            client, server = (Endpoint(f"pid:{pid}", 0, "", pid, None, "", "") for pid in pids)
            self._dumped_flows[pids] = Flow(self._flows, "", "", client, server, {})
            seen = told.data.startswith(sockdump.PREFACE)
            events.append(FlowOpened(self._dumped_flows[pids], time_ns, seen))
        flow, direction = self._dumped_flows[pids], Direction(told.direction)
        if told.data:
            events.append(FlowData(flow, direction, time_ns, told.data))
        if told.missing:
            events.append(FlowGap(flow, direction, time_ns, told.missing))
        return events

    def _end(self, side: _Side, time_ns: int, events: list[FlowEvent], until: int | None = None) -> None:
        """Give out what this direction has left, and end it without a FIN if it has not had one."""
        if not side.stream.closed:
            _tell(side, time_ns, side.stream.flush(until), events)
            self._closed(side, time_ns, side.stream.end is None, events)

    def _closed(self, side: _Side, time_ns: int, reset: bool, events: list[FlowEvent]) -> None:
        events.append(FlowClosed(side.flow, side.direction, time_ns, reset))
        if side.other.stream.closed:
            self._ended.append(side)
            if len(self._ended) > CLOSED_FLOWS:
                oldest = self._ended.popleft()
                for each in (oldest, oldest.other):
                    if self._sides.get(each.key) is each:
                        del self._sides[each.key]
                del oldest.other.other, oldest.other  # a cycle would stay until somebody looks for such


def _begun(side: _Side, found: Segment, time_ns: int) -> bool:
    """Tell whether a SYN begins another connection, and is not that of this one sent or shown again."""
    stream = side.stream
    if stream.closed or (stream.started and stream.base != found.sequence + 1 & 0xFFFFFFFF):
        return True
    return stream.position > 0 and (stream.ordered or time_ns - side.since_ns > HELD_NS)


def _is_early(side: _Side, found: Segment) -> bool:
    """Tell whether a segment acknowledges bytes that have not come. In order, as ours are, none does."""
    return bool(found.flags & ACK) and not side.stream.ordered and side.early(found.acknowledgement)


def _earliest(held: list[tuple[_Side, Segment, Packet]]) -> int:
    """Which of the segments that are held was sent first: none of the others has bytes that it acknowledges."""
    for at, (side, found, _) in enumerate(held):
        stream = side.other.stream
        until = stream.place(found.acknowledgement)
        if not any(
            each is side.other and other.payload and stream.place(other.sequence) < until for each, other, _ in held
        ):
            return at
    return 0


def _reversed(key: bytes) -> bytes:
    """The other direction's key."""
    width = (len(key) - 4) // 2
    return key[width:-4] + key[:width] + key[-2:] + key[-4:-2]


def _from_client(flags: int, source_port: int, destination_port: int) -> bool:
    """Tell whether a flow's first packet is from the client: by the handshake, a known port, or the higher port."""
    if flags & SYN:
        return not flags & ACK
    if (source_port in _HOP_OF_PORT) != (destination_port in _HOP_OF_PORT):
        return destination_port in _HOP_OF_PORT
    return source_port >= destination_port


def _interface_says(packet: Packet) -> tuple[str, str]:
    """Return hop and socket path from an interface called `hop:path`, or described as `HOP PATH`; empty if neither."""
    if packet.interface is not None:
        for text, separator in ((packet.interface.name, ":"), (packet.interface.description, " ")):
            hop, _, path = text.partition(separator)
            if hop in HOP_PORTS:
                return hop, path
    return "", ""


def _vsock_end(address: vsock.Address) -> Endpoint:
    cid, port = address
    return Endpoint(f"vsock:{cid}", port, vsock.name_of(cid), None, None, "", "")


def _address(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _tell(side: _Side, time_ns: int, pieces: list[Piece], events: list[FlowEvent]) -> None:
    for piece in pieces:
        if isinstance(piece, int):
            events.append(FlowGap(side.flow, side.direction, time_ns, piece))
        else:
            events.append(FlowData(side.flow, side.direction, time_ns, piece))
