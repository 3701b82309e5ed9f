"""Connections as TCP conversations in a pcapng file: bytes of a connection come in, blocks go out.

`CaptureWriter` is told what a relay saw (opened, bytes of one direction, closed) and writes packets that any reader of
pcap follows as TCP: IPv4 over Ethernet, handshake, true sequence numbers, checksums. A lost piece of a stream is a jump
in its sequence numbers. The writer knows no file, no clock and no protocol inside the bytes; times must not go back.

Sequence numbers start at 0, so a byte's number is its place in the stream plus one (modulo 2³²).

The first packet of a conversation (its SYN) has a comment, one JSON object:

    podwire     1, the version of this object. A conversation that has it is in order: a jump in it is a gap.
    hop         cri, task, events, agent, nri or other
    socket      path of the socket
    connection  number of the connection, unique in the file
    client      who connected, as far as it is known: any of
                pid, uid, gid (numbers), name (what the address is called), exe (path of the executable),
                command (command line), unit (systemd unit); all strings
    server      who holds the listening socket: the same keys

A connection that was open before the file begins with packets that are made up, and whose comments begin with the line
`podwire: carried over` (`carry`); its SYN's object then has `from`, the places in both streams at which they begin.

`hop`, `socket` and `connection` are filled in here; the caller gives `client` and `server`. Strings longer than 1,024
characters end in `…`, so that the comment fits a pcapng option.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Final

from tracer import __version__
from tracer.capture import blocks
from tracer.capture.packets import CARRIED_OVER, HOP_PORTS, MAX_PAYLOAD
from tracer.capture.state import DONT_FRAGMENT, TTL_AND_TCP, WINDOW, Conversation, Interface, State, sides

ETHERNET_LINK_TYPE: Final = 1

# IANA's dynamic ports: of those, tshark 4.0 has a dissector for 57000 alone. A process with more connections than
# that has further addresses, so no pair of address and port comes twice (tshark would flag a reused port).
FIRST_PORT: Final = 49_152
LAST_PORT: Final = 65_535

ADDRESSES: Final = 2 * 256 * 254
"""Addresses of 198.18.0.0/15 (set aside for benchmarks, RFC 2544), without those that end in 0 and 255."""

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

# Segment size, window scale 14 and one no-operation to fill the word. A window of 65,535 << 14 bytes is never full.
_SYN_OPTIONS: Final = struct.pack(">BBHBBBB", 2, 4, MAX_PAYLOAD, 3, 3, 14, 1)
_UNACKNOWLEDGED: Final = 1 << 29
"""A direction with more bytes than this under way gets an empty ACK from the other side: half the scaled window."""
_LONGEST_JUMP: Final = 1 << 30
"""Sequence numbers can't tell a longer jump from a step back (RFC 9293 §3.4): it is made in several."""

_SUMMED_AT_ONCE: Final = 4_096
"""Bytes; an even number."""

_EPB = struct.Struct("<7I")
"""Enhanced Packet Block (§4.3): type, total length, interface, time high, time low, captured, original length."""
_HEADERS = struct.Struct(">16sHHHHH12sIIHHHH")
"""Ethernet to TCP (`headers.HEADERS`), what is constant in a direction taken together: Ethernet's header with the
first two bytes of IPv4's; total length; ident; flags; TTL and protocol; checksum; both addresses and both ports;
sequence number; acknowledgement; header length and flags; window; checksum; urgent pointer."""
_PADS = (b"", b"\0", b"\0\0", b"\0\0\0")
_U32 = struct.Struct("<I")


class CaptureWriter:
    """Write one capture file's blocks through `write`, which gets whole blocks only.

    A direction is 0 from client to server, 1 from server to client. Times are nanoseconds since 1970, UTC.
    """

    def __init__(self, write: Callable[[bytes], object], state: State | None = None) -> None:
        self.state = state or State()
        self._write = write
        self._earlier_names: dict[str, str] = {}
        """Those of the file before."""

    @property
    def packets(self) -> int:
        """In this file so far."""
        return self.state.packets

    def start(self, time_ns: int, comment: str) -> None:
        """Write the Section Header Block: what wrote the file and where, with `comment` unless it is empty."""
        self.state.start_ns = time_ns
        system = os.uname()
        options = [(blocks.COMMENT, comment.encode())] if comment else []
        options += [
            (blocks.SHB_HARDWARE, system.machine.encode()),
            (blocks.SHB_OS, f"{system.sysname} {system.release}".encode()),
            (blocks.SHB_USERAPPL, f"podwire {__version__}".encode()),
        ]
        self._block(blocks.SECTION_HEADER, major=1, minor=0, section_length=-1, options=blocks.items(*options))

    def interface(self, name: str, description: str, comment: str = "") -> int:
        """Describe a socket: its path, and `HOP PATH`. Return the number that `open` takes."""
        interface = Interface(len(self.state.interfaces), name, description, comment)
        self.state.interfaces.append(interface)
        self._describe(interface)
        return interface.number

    def _describe(self, interface: Interface) -> None:
        options = [(blocks.COMMENT, _utf8(interface.comment))] if interface.comment else []
        options += [
            (blocks.IF_NAME, _utf8(interface.name)),
            (blocks.IF_DESCRIPTION, _utf8(interface.description)),
            (blocks.IF_TSRESOL, b"\x09"),
        ]
        self._block(
            blocks.INTERFACE_DESCRIPTION,
            link_type=ETHERNET_LINK_TYPE,
            snap_length=0,
            options=blocks.items(*options),
        )

    def endpoint(self, key: tuple[str, int] | str, name: str) -> str:
        """Return the IPv4 address of the process `key`; a new one is named by a Name Resolution Block."""
        address = self.state.endpoints.get(key)
        if address is None:
            address = self.state.endpoints[key] = self._new_address(name)
        self._name(address, name)
        return address

    def open(
        self,
        conn: int,
        interface: int,
        hop: str,
        client_address: str,
        server_address: str,
        time_ns: int,
        comment: Mapping[str, object],
    ) -> None:
        """Write the handshake of connection `conn`, all of it at the time of its accept; see above for `comment`."""
        talk = self._enter(conn, interface, hop, client_address, server_address, comment)
        self._send(talk, 0, time_ns, SYN, 0, comment=_comment(talk.about))
        self.shake_hands(talk, 1, time_ns)

    def join(
        self,
        conn: int,
        interface: int,
        hop: str,
        client_address: str,
        server_address: str,
        comment: Mapping[str, object],
        ends: Sequence[int],
        closed: Sequence[bool],
    ) -> None:
        """Take up a connection that was open before this file: it had so many bytes each way, and sides that had
        closed. `carry` is to begin it."""
        talk = self._enter(conn, interface, hop, client_address, server_address, comment)
        for side, end, is_closed in zip(talk.sides, ends, closed, strict=True):
            side.end, side.closed, side.fin = end, is_closed, int(is_closed)

    def _enter(
        self,
        conn: int,
        interface: int,
        hop: str,
        client_address: str,
        server_address: str,
        comment: Mapping[str, object],
    ) -> Conversation:
        name = self.state.names[client_address]
        client_address, port = self._client_port(client_address)
        self._name(client_address, name)
        client = _address_bytes(client_address)
        server = _address_bytes(server_address)
        server_port = HOP_PORTS[hop]
        pair = sides(client, server, port, server_port)
        at = self.state.interfaces[interface]
        about = _shortened({"podwire": 1, "hop": hop, "socket": at.name, "connection": conn, **comment})
        talk = self.state.conversations[conn] = Conversation(at, pair, about)
        return talk

    def shake_hands(self, talk: Conversation, done: int, time_ns: int, comment: bytes = b"") -> None:
        """Write what is missing of a handshake after its first `done` packets."""
        first, second = talk.sides
        if done < 2:
            self._send(talk, 1, time_ns, SYN | ACK, second.end, comment=comment)
        self._send(talk, 0, time_ns, ACK, first.end + 1, comment=comment)

    def next_file(self, time_ns: int, comment: str, sockets: Set[int]) -> None:
        """Begin another file with what is open, and describe in it the interfaces of these numbers, and of all
        connections. They get new numbers. Each open connection is then to be carried over."""
        state = self.state
        in_use = {talk.interface.number for talk in state.conversations.values()}
        earlier = state.interfaces
        state.interfaces = [each for each in earlier if each.number in sockets or each.number in in_use]
        for interface in earlier:
            interface.number = -1
        self._earlier_names, state.names = state.names, {}
        state.endpoints = {key: each for key, each in state.endpoints.items() if each in self._earlier_names}
        first = set(state.endpoints.values())
        state.further = {each: after for each, after in state.further.items() if each in first}
        kept = first | set(state.further.values())
        state.ports = {each: port for each, port in state.ports.items() if each in kept}
        state.packets = state.bytes = 0
        self.start(time_ns, comment)
        for number, interface in enumerate(state.interfaces):
            interface.number, interface.received, interface.dropped = number, 0, 0
            self._describe(interface)

    def carry(
        self,
        conn: int,
        time_ns: int,
        pieces: Sequence[tuple[int, bytes | int, int]],
        comments: Mapping[int, bytes] = MappingProxyType({}),
    ) -> None:
        """Begin a connection that was open before this file, so that its sequence numbers go on as they were.

        `pieces` is what its beginning consists of: direction, bytes or the size of a gap, and when the call began that
        they are of (0: none). `comments` is what to say beside the first piece of the calls that began at a time.
        """
        left = dict(comments)
        talk = self.state.conversations[conn]
        ends = [(side.closed, side.reset, side.fin) for side in talk.sides]
        for direction, side in enumerate(talk.sides):
            address = ".".join(map(str, side.pairs[:4]))
            self._name(address, self._earlier_names.get(address, address))
            sizes = (piece if isinstance(piece, int) else len(piece) for each, piece, _ in pieces if each == direction)
            side.end -= sum(sizes)
            side.closed, side.reset, side.fin = False, False, 0
            side.acknowledged, side.window = side.end, MAX_PAYLOAD
        mark = CARRIED_OVER.encode()
        about = {**talk.about, "from": [side.end for side in talk.sides]}
        self._send(talk, 0, time_ns, SYN, talk.sides[0].end, comment=mark + b"\n" + _comment(about))
        self.shake_hands(talk, 1, time_ns, mark)
        for direction, piece, began_ns in pieces:
            comment = mark + b"\n" + _comment({"began_ns": began_ns}) if began_ns else mark
            if began_ns in left:
                comment += b"\n" + left.pop(began_ns)
            side = talk.sides[direction]
            if isinstance(piece, int):
                side.end += piece
                self._send(talk, direction, time_ns, ACK, side.end + 1, comment=comment)
                continue
            for at in range(0, len(piece), MAX_PAYLOAD):
                if side.end > side.acknowledged:
                    self._acknowledge(talk, direction, time_ns, mark)
                part = piece[at : at + MAX_PAYLOAD]
                begin, side.end = side.end, side.end + len(part)
                self._send(talk, direction, time_ns, PSH | ACK, begin + 1, part, comment)
        for direction, (closed, reset, fin) in enumerate(ends):
            if closed:
                side = talk.sides[direction]
                self._send(talk, direction, time_ns, (RST if reset else FIN) | ACK, side.end + 1, comment=mark)
                side.closed, side.reset, side.fin = closed, reset, fin

    def data(
        self,
        conn: int,
        direction: int,
        offset: int,
        time_ns: int,
        payload: memoryview | bytes,
        comment: bytes = b"",
    ) -> None:
        """Write bytes of one direction, which stand at `offset` of its stream, in as many packets as it takes; the
        first one has the comment."""
        length = len(payload)
        if not length:
            return
        if length > MAX_PAYLOAD:
            whole = memoryview(payload)
            for start in range(0, length, MAX_PAYLOAD):
                self.data(conn, direction, offset + start, time_ns, whole[start : start + MAX_PAYLOAD], comment)
                comment = b""
            return
        talk = self.state.conversations[conn]
        side = talk.sides[direction]
        peer = talk.sides[1 - direction]
        if offset < side.end:  # a record that comes again after somebody has died
            payload = memoryview(payload)[side.end - offset :]
            length -= side.end - offset
            offset = side.end
            if length <= 0:
                return
        if offset + length - side.acknowledged > peer.window and side.end > side.acknowledged:
            self._acknowledge(talk, direction, time_ns)
        if offset != side.end:
            self._gap(talk, direction, offset, time_ns)
        side.end = offset + length
        self._send(talk, direction, time_ns, PSH | ACK, offset + 1, payload, comment)

    def drop(self, conn: int, count: int) -> None:
        """Count `count` packets of this connection that are lost. A gap that nobody counted is counted as one."""
        interface = self.state.conversations[conn].interface
        interface.pending += count
        interface.dropped += count
        interface.received += count

    def close(self, conn: int, direction: int, offset: int, time_ns: int, reset: bool) -> None:
        """Write the end of one direction, `offset` bytes long: FIN, or RST if that side was reset.

        Once both have ended, the connection is forgotten. A direction goes on after a reset of the other one until it
        is closed too: what was sent before the reset may still be read. An end that is known is passed over.
        """
        talk = self.state.conversations[conn]
        side, peer = talk.sides[direction], talk.sides[1 - direction]
        if side.closed:
            return
        if offset > side.end:
            self._gap(talk, direction, offset, time_ns)
        side.closed, side.reset = True, reset
        self._send(talk, direction, time_ns, (RST if reset else FIN) | ACK, side.end + 1)
        side.fin = 0 if reset else 1
        if peer.closed:
            del self.state.conversations[conn]
            if side.fin and peer.fin:
                self.last_word(talk, 1 - direction, time_ns)

    def last_word(self, talk: Conversation, direction: int, time_ns: int) -> None:
        """Acknowledge the other side's FIN, which came last."""
        self._send(talk, direction, time_ns, ACK, talk.sides[direction].end + 2)

    def note(self, time_ns: int, about: Mapping[str, object]) -> None:
        """Write a fact about the whole capture, as a comment (JSON) on a block of statistics, which needs a socket."""
        if self.state.interfaces:
            options = blocks.items((blocks.COMMENT, _comment(about)))
            high, low = time_ns >> 32, time_ns & 0xFFFFFFFF
            self._block(blocks.INTERFACE_STATISTICS, interface=0, time_high=high, time_low=low, options=options)

    def keep(self, block: bytes) -> None:
        """Write a block that holds no packet: a bundle, behind the packet that named it; a line of a log."""
        self._write(block)
        self.state.bytes += len(block)

    def finish(self, time_ns: int, done: int = 0) -> None:
        """Write each interface's statistics, but for the first `done`. Conversations that are open stay so: their
        streams have no end here."""
        for interface in self.state.interfaces[done:]:
            options = blocks.items(
                (blocks.ISB_STARTTIME, _timestamp(self.state.start_ns)),
                (blocks.ISB_ENDTIME, _timestamp(time_ns)),
                (blocks.ISB_IFRECV, interface.received.to_bytes(8, "little")),
                (blocks.ISB_IFDROP, interface.dropped.to_bytes(8, "little")),
            )
            high, low = time_ns >> 32, time_ns & 0xFFFFFFFF
            number = interface.number
            self._block(blocks.INTERFACE_STATISTICS, interface=number, time_high=high, time_low=low, options=options)

    def _send(
        self,
        talk: Conversation,
        direction: int,
        time_ns: int,
        flags: int,
        sequence: int,
        payload: memoryview | bytes = b"",
        comment: bytes = b"",
    ) -> None:
        """Write one packet. A SYN carries TCP options, an ACK acknowledges all that the other side has sent."""
        interface, both, _ = talk
        side, peer = both[direction], both[1 - direction]
        length = len(payload)
        extra = b""
        acknowledgement = 0
        flags |= 0x5000
        if flags & SYN:
            extra = _SYN_OPTIONS
            length += len(extra)
            flags += 0x2000
        if flags & ACK:
            acknowledgement = peer.end + peer.fin + 1 & 0xFFFFFFFF
            peer.acknowledged = peer.end
            if not flags & SYN:
                side.window = _UNACKNOWLEDGED
        sequence &= 0xFFFFFFFF
        ident = side.ident = side.ident + 1 & 0xFFFF
        total = _sum(payload) << (8 if length & 1 else 0)
        if extra:
            total += int.from_bytes(extra, "big")
        captured = 54 + length
        pad = -captured & 3
        size = 32 + captured + pad
        options = b""
        if comment or interface.pending:
            options = _packet_options(comment, interface.pending)
            interface.pending = 0
            size += len(options)
        self._write(
            b"".join(
                (
                    _EPB.pack(6, size, interface.number, time_ns >> 32, time_ns & 0xFFFFFFFF, captured, captured),
                    _HEADERS.pack(
                        side.prefix,
                        40 + length,
                        ident,
                        DONT_FRAGMENT,
                        TTL_AND_TCP,
                        -(side.ip_sum + length + ident) % 65_535,
                        side.pairs,
                        sequence,
                        acknowledgement,
                        flags,
                        WINDOW,
                        -(side.tcp_sum + length + sequence + acknowledgement + flags + total) % 65_535,
                        0,
                    ),
                    extra,
                    payload,
                    _PADS[pad],
                    options,
                    _U32.pack(size),
                )
            )
        )
        interface.received += 1
        self.state.packets += 1
        self.state.bytes += size

    def _gap(self, talk: Conversation, direction: int, offset: int, time_ns: int) -> None:
        """Make the stream go on at `offset`, and the packet that comes next say that some were dropped."""
        side, interface = talk.sides[direction], talk.interface
        if not interface.pending:
            interface.pending = 1
            interface.dropped += 1
            interface.received += 1
        while offset - side.end > _LONGEST_JUMP:
            side.end += _LONGEST_JUMP
            self._send(talk, direction, time_ns, ACK, side.end + 1)
            self._acknowledge(talk, direction, time_ns)
        side.end = offset

    def _acknowledge(self, talk: Conversation, direction: int, time_ns: int, comment: bytes = b"") -> None:
        """Let the other side acknowledge what this direction has sent, in a packet without bytes."""
        peer = talk.sides[1 - direction]
        if not peer.reset:
            self._send(talk, 1 - direction, time_ns, ACK, peer.end + peer.fin + 1, comment=comment)

    def _new_address(self, name: str) -> str:
        """Return the next address. The 130,049th is the first again, under its old name: its ports go on, though."""
        subnet, host = divmod(self.state.addresses % ADDRESSES, 254)
        address = f"198.{18 + (subnet >> 8)}.{subnet & 255}.{host + 1}"
        self.state.addresses += 1
        self._name(address, name)
        return address

    def _name(self, address: str, name: str) -> None:
        """Write what an address is called, unless the file has it."""
        if address not in self.state.names:
            self.state.names[address] = name
            record = (blocks.NRB_IPV4, _address_bytes(address) + _utf8(name).replace(b"\0", b"") + b"\0")
            self._block(blocks.NAME_RESOLUTION, records=blocks.items(record), options=[])

    def _client_port(self, address: str) -> tuple[str, int]:
        """Return a pair of address and port that was not given before: of this address, or of its process' next one."""
        use = self.state.further.get(address, address)
        port = self.state.ports.get(use, FIRST_PORT)
        while port > LAST_PORT:
            use = self.state.further[address] = self._new_address(self.state.names[address])
            port = self.state.ports.get(use, FIRST_PORT)
        self.state.ports[use] = port + 1
        return use, port

    def _block(self, block_type: int, **body: object) -> None:
        self.keep(blocks.build_block(block_type, body))


def _sum(payload: memoryview | bytes) -> int:
    """Return the sum of its 16-bit words modulo 65,535 (RFC 1071); an odd length is as if a zero byte stood before it.

    Modulo 65,535 a number of any width is the sum of its words. To make one of many bytes takes longer than to add
    several up.
    """
    length = len(payload)
    if length <= _SUMMED_AT_ONCE:
        return int.from_bytes(payload, "big") % 65_535
    first = length % _SUMMED_AT_ONCE
    total = int.from_bytes(payload[:first], "big")
    for at in range(first, length, _SUMMED_AT_ONCE):
        total += int.from_bytes(payload[at : at + _SUMMED_AT_ONCE], "big")
    return total % 65_535


def _packet_options(comment: bytes, dropped: int) -> bytes:
    """Return an Enhanced Packet Block's options (§3.5, §4.3): the comment and the drop count, as far as there are."""
    options = b""
    if comment:
        options += struct.pack("<HH", blocks.COMMENT, len(comment)) + comment + _PADS[-len(comment) & 3]
    if dropped:
        options += struct.pack("<HHQ", blocks.EPB_DROPCOUNT, 8, dropped)
    return options + bytes(4)


def _comment(about: Mapping[str, object]) -> bytes:
    return _utf8(json.dumps(about, ensure_ascii=False, separators=(",", ":")))


def _shortened(about: Mapping[str, object]) -> dict[str, object]:
    return {key: _short(value) for key, value in about.items()}


def _short(value: object) -> object:
    if isinstance(value, str) and len(value) > 1_024:
        return value[:1_023] + "…"
    return _shortened(value) if isinstance(value, Mapping) else value


def _timestamp(time_ns: int) -> bytes:
    return struct.pack("<II", time_ns >> 32, time_ns & 0xFFFFFFFF)


def _address_bytes(address: str) -> bytes:
    return bytes(map(int, address.split(".")))


def _utf8(text: str) -> bytes:
    """Paths and command lines may hold bytes that are not UTF-8 (surrogates, PEP 383); pcapng's strings may not."""
    return text.encode("utf-8", "replace")
