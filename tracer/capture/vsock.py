"""AF_VSOCK as a `vsockmon` interface shows it (DLT_VSOCK): packets come in, each connection's bytes go out.

Layouts: Linux's `af_vsockmon_hdr`, and virtio's `virtio_vsock_hdr` behind it. vsock loses nothing and keeps order, so
it has no sequence numbers. A packet for which the other side's queue was full is shown again, as it was, when it is
sent again: one that is the same as the one before of its direction, header and all, is taken for that. What each side
says that it has taken (`fwd_cnt`) tells whether bytes are missing: not captured, or wrongly taken for repeated ones.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

LINK_TYPE: Final = 271
ARPHRD_VSOCKMON: Final = 826

HEADER: Final = struct.Struct("<QQIIHHH2x")
"""Source and destination cid, source and destination port, operation, transport, length of the transport's header."""
VIRTIO: Final = struct.Struct("<QQIIIHHIII")
"""The same four, payload length, socket type, operation, flags, and of the sender's buffer the size, and how much of
this connection it has taken so far."""
PAYLOAD: Final = 4
"""The operation of a packet with bytes of a stream; the others are virtio's to tell."""
TRANSPORT_VIRTIO: Final = 2
STREAM: Final = 1
REQUEST, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST = range(1, 8)
NO_MORE_RECEIVED, NO_MORE_SENT = 1, 2
"""Flags of SHUTDOWN."""

HOST: Final = 2
"""The host's cid."""
GUEST_PORTS: Final = frozenset({1024, 1025, 1026, 1027})
"""On which Kata's guests listen: which end is the server, where the request was not seen."""
_MASK: Final = 0xFFFFFFFF

Address = tuple[int, int]
"""A cid and a port."""


class Opened(NamedTuple):
    """A connection was made; `seen` False: before the capture."""

    connection: Connection
    seen: bool


class Refused(NamedTuple):
    """A request was answered by a reset: nobody listens."""

    connection: Connection


class Data(NamedTuple):
    """Bytes of one direction: 0 is from the client."""

    connection: Connection
    direction: int
    data: bytes


class Gap(NamedTuple):
    """Bytes of one direction that are not in the capture."""

    connection: Connection
    direction: int
    length: int


class Closed(NamedTuple):
    """One direction has ended."""

    connection: Connection
    direction: int
    reset: bool
    last: bool
    """Both have."""


Event = Opened | Refused | Data | Gap | Closed


class Connection:
    """One connection, named by its two ends."""

    __slots__ = ("accepted", "client", "closed", "last", "seen", "server", "taken")

    def __init__(self, client: Address, server: Address, *, seen: bool) -> None:
        self.client, self.server = client, server
        self.seen = seen
        """From its request on, so that both sides' counts begin at 0."""
        self.accepted = False
        self.closed = [False, False]
        self.last = [b"", b""]
        """The packet before, by direction."""
        self.taken = [0, 0]
        """Bytes of each direction, gaps too."""


class VsockTable:
    """All connections of one capture."""

    def __init__(self) -> None:
        self._connections: dict[tuple[Address, Address], Connection] = {}
        """By source and destination, both ways."""

    def feed(self, packet: bytes) -> list[Event] | str:
        """Take one packet; return what it tells, or why it is passed over. Never raises on content."""
        try:
            from_cid, to_cid, from_port, to_port, kind, transport, size = HEADER.unpack_from(packet)
            if transport != TRANSPORT_VIRTIO or size < VIRTIO.size:
                return "vsock without virtio's header"
            _, _, _, _, length, socket_type, operation, flags, _, taken = VIRTIO.unpack_from(packet, HEADER.size)
        except struct.error:
            return "cut short"
        if socket_type != STREAM:
            return "vsock, no stream"
        source, destination = (from_cid, from_port), (to_cid, to_port)
        connection = self._connections.get((source, destination))
        events: list[Event] = []
        if operation == REQUEST:
            if connection is not None and connection.last[0] == packet and connection.client == source:
                return []
            if connection is not None:
                self._reset(connection, events)
            connection = self._add(source, destination, seen=True)
            connection.last[0] = packet
            return events
        if connection is None:
            if kind != PAYLOAD and operation != RW:
                return []  # of one that has ended, or of which nothing more comes
            client, server = _ends(source, destination)
            connection = self._add(client, server, seen=False)
        direction = 0 if source == connection.client else 1
        if packet == connection.last[direction] or (all(connection.closed) and operation != RST):
            return []
        connection.last[direction] = packet
        if operation != RST and not connection.accepted:
            connection.accepted = True
            events.append(Opened(connection, connection.seen))
        if connection.accepted:
            self._peer_has(connection, 1 - direction, taken, events)
        if operation == RW and not connection.closed[direction]:
            data = packet[HEADER.size + size : HEADER.size + size + length]
            if data:
                events.append(Data(connection, direction, data))
            if len(data) < length:
                events.append(Gap(connection, direction, length - len(data)))
            connection.taken[direction] += length
        elif operation == SHUTDOWN and flags & NO_MORE_SENT:
            self._close(connection, direction, False, events)
        elif operation == RST:
            self._reset(connection, events)
        return events

    def _add(self, client: Address, server: Address, *, seen: bool) -> Connection:
        connection = Connection(client, server, seen=seen)
        self._connections[client, server] = self._connections[server, client] = connection
        return connection

    def _peer_has(self, connection: Connection, direction: int, taken: int, events: list[Event]) -> None:
        """Compare with what the receiver of a direction says that it has taken: it cannot be more than was sent."""
        ahead = (taken - connection.taken[direction]) & _MASK
        if connection.seen and not connection.closed[direction] and 0 < ahead < 1 << 31:
            connection.taken[direction] += ahead
            events.append(Gap(connection, direction, ahead))

    def _close(self, connection: Connection, direction: int, reset: bool, events: list[Event]) -> None:
        if not connection.closed[direction]:
            connection.closed[direction] = True
            events.append(Closed(connection, direction, reset, all(connection.closed)))

    def _reset(self, connection: Connection, events: list[Event]) -> None:
        """End both directions: in order, if either had said that it sends no more."""
        in_order = any(connection.closed)
        for key in ((connection.client, connection.server), (connection.server, connection.client)):
            self._connections.pop(key, None)
        if not connection.accepted:
            events.append(Refused(connection))
            return
        for direction in (0, 1):
            self._close(connection, direction, not in_order, events)


def _ends(source: Address, destination: Address) -> tuple[Address, Address]:
    """Return client and server, by a known port or the lower one."""
    source_known, destination_known = source[1] in GUEST_PORTS, destination[1] in GUEST_PORTS
    if source_known != destination_known:
        return (destination, source) if source_known else (source, destination)
    return (source, destination) if source[1] >= destination[1] else (destination, source)


def url(server: Address) -> str:
    """Return what stands for the socket's path: `vsock://3:1024`."""
    return f"vsock://{server[0]}:{server[1]}"


def port_of(socket: str) -> int | None:
    """Return the port of such a name; None: it is a path."""
    if not socket.startswith("vsock://"):
        return None
    port = socket.rpartition(":")[2]
    return int(port) if port.isdecimal() else None


def name_of(cid: int) -> str:
    """Return what to call the machine of this cid."""
    return "host" if cid == HOST else f"guest-{cid}"
