"""What a recorder that was killed had written: a capture file comes in, the state of its writer comes out.

Whoever goes on with the file learns all from the file itself: sockets and names, which addresses and ports are given,
each open connection with its next sequence numbers. A last block that is not whole is told by `size`. Only files that
`conversation` has written are read; of a packet, nothing but its headers is looked at.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tracer.capture import blocks, journal
from tracer.capture.conversation import ACK, FIN, RST, SYN
from tracer.capture.journal_source import LogsAt
from tracer.capture.peers import number_of, read_comment
from tracer.capture.state import Conversation, Interface, State, sides

_BLOCK = struct.Struct("<II")
_PACKET = struct.Struct("<5I")  # interface, time high, time low, captured, original
_HEADERS = struct.Struct(">18xH6x12sIIH6x")
"""Ethernet to TCP: IPv4's ident; addresses and ports; sequence and acknowledgement number; header length and flags."""
_HEADERS_SIZE: Final = 54
_OPTION = struct.Struct("<HH")
_MASK: Final = 0xFFFFFFFF
FIRST_GUEST: Final = 1 << 48
"""Connections of AF_VSOCK are numbered from here, those of the relay from 1."""
_MISSING: Final = 4096
"""How many numbers of connections that have not come are remembered: after a worker's death they may come later."""

Payload = Callable[[int, int, int, bytes, int], None]
"""Told of each packet with bytes, or after a gap: connection, direction, bytes missing before it, its own, and its
time, or that of the beginning of the call that it carries over."""


class Known:
    """Which connections have come, without a list of all of them."""

    def __init__(self) -> None:
        self._highest = 0
        self._missing: dict[int, None] = {}

    @property
    def highest(self) -> int:
        """The highest number of all."""
        return self._highest

    def begin(self, highest: int) -> None:
        """All up to this number were before the file."""
        self._highest = highest

    def add(self, number: int) -> bool:
        """Take note of one; False: it was there."""
        if number in self._missing:
            del self._missing[number]
            return True
        if number <= self._highest:
            return False
        for each in range(max(self._highest + 1, number - _MISSING), number):
            self._missing[each] = None
        while len(self._missing) > _MISSING:
            del self._missing[next(iter(self._missing))]
        self._highest = number
        return True


@dataclass(slots=True)
class Found:
    """What a file says."""

    size: int = 0
    """Bytes of its whole blocks."""
    about: dict[str, object] = field(default_factory=dict)
    """The object of the section's comment."""
    state: State = field(default_factory=State)
    last_ns: int = 0
    """Time of the last packet or note."""
    known: Known = field(default_factory=Known)
    """All connections of the relay that the file has, and those of the files before it."""
    last_guest: int = FIRST_GUEST - 1
    """The highest number of a connection of AF_VSOCK."""
    logs_at: LogsAt = field(default_factory=LogsAt)
    """How far the log was read, as far as the file tells."""
    statistics: int = 0
    """Interfaces that have their statistics at the end of the file."""
    shaken: tuple[Conversation, int] | None = None
    """The last connection, if its handshake breaks off at the end of the file, and how many packets of it are there."""
    unheard: tuple[Conversation, int] | None = None
    """A connection whose last FIN is the file's last packet, and the direction that has to acknowledge it."""


def read_state(data: memoryview, payload: Payload | None, found: Found) -> Found:
    """Read a file as far as its blocks are whole, on from where `found` is, which may be its beginning."""
    return _Reader(data, payload, found).read()


class _Reader:
    def __init__(self, data: memoryview, payload: Payload | None, found: Found) -> None:
        self._data, self._payload = data, payload
        self._found = found
        self._ends = {
            side.pairs: (number, direction, talk)
            for number, talk in found.state.conversations.items()
            for direction, side in enumerate(talk.sides)
        }
        """By addresses and ports: connection and direction."""

    def read(self) -> Found:
        data, found = self._data, self._found
        at, size = found.size, len(data)
        while size - at >= 12:
            kind, length = _BLOCK.unpack_from(data, at)
            if length < 12 or length % 4 or length > size - at:
                break
            start, end = at + 8, at + length - 4
            if _BLOCK.unpack_from(data, end - 4)[1] != length:
                break
            if kind == blocks.ENHANCED_PACKET:
                self._packet(start, end)
            elif kind == blocks.SECTION_HEADER:
                found.about = read_comment(_text(self._options(start + 16, end).get(blocks.COMMENT)))
                found.logs_at = _logs_at(found.about.get("log")) or found.logs_at
                found.known.begin(number_of(found.about.get("connections")) or 0)
            elif kind == blocks.INTERFACE_DESCRIPTION:
                self._interface(start, end)
            elif kind == blocks.NAME_RESOLUTION:
                self._name(start)
            elif kind == journal.BLOCK_TYPE:
                self._log(start, end)
            elif kind == blocks.INTERFACE_STATISTICS:
                self._statistics(start, end)
            at += length
        found.size = found.state.bytes = at
        return found

    def _interface(self, start: int, end: int) -> None:
        options = self._options(start + 8, end)
        name, description = _text(options.get(blocks.IF_NAME)), _text(options.get(blocks.IF_DESCRIPTION))
        number = len(self._found.state.interfaces)
        comment = _text(options.get(blocks.COMMENT))
        self._found.state.interfaces.append(Interface(number, name, description, comment))

    def _name(self, start: int) -> None:
        """One record, of one IPv4 address."""
        length = _OPTION.unpack_from(self._data, start)[1]
        value = bytes(self._data[start + 4 : start + 4 + length])
        state = self._found.state
        state.names[_address(value[:4])] = _text(value[4:-1])
        number = (value[1] - 18 << 8 | value[2]) * 254 + value[3]
        state.addresses = max(state.addresses, number)

    def _log(self, start: int, end: int) -> None:
        entry = journal.parse_block(bytes(self._data[start:end]))
        if entry is not None:
            self._found.logs_at = LogsAt(entry.text("__CURSOR"), entry.number(journal.PLACE) or 0)

    def _statistics(self, start: int, end: int) -> None:
        """A note has a comment, the statistics at the end have none."""
        if blocks.COMMENT in self._options(start + 12, end):
            _, high, low = struct.unpack_from("<3I", self._data, start)
            self._found.last_ns = max(self._found.last_ns, high << 32 | low)
        else:
            self._found.statistics += 1

    def _packet(self, start: int, end: int) -> None:
        found, state = self._found, self._found.state
        number, high, low, captured, _ = _PACKET.unpack_from(self._data, start)
        at = start + 20
        options = self._options(at + (captured + 3 & ~3), end) if end - at > captured + 3 else {}
        ident, pairs, sequence, _, flags = _HEADERS.unpack_from(self._data, at)
        if not state.packets:
            state.start_ns = high << 32 | low
        state.packets += 1
        found.last_ns = high << 32 | low
        interface = state.interfaces[number]
        dropped = int.from_bytes(options.get(blocks.EPB_DROPCOUNT, b""), "little")
        interface.received += 1 + dropped
        interface.dropped += dropped
        comment = _text(options.get(blocks.COMMENT))
        found.unheard = None
        found.statistics = 0
        if flags & SYN and not flags & ACK:
            self._opened(interface, pairs, ident, comment)
            return
        if pairs not in self._ends:
            return
        conn, direction, talk = self._ends[pairs]
        side, peer = talk.sides[direction], talk.sides[1 - direction]
        side.ident = ident
        if flags & ACK:
            peer.acknowledged = peer.end
        if flags & SYN:
            found.shaken = talk, 2
            return
        found.shaken = None
        side.window = 1 << 29
        if side.closed:
            return
        place = side.end + _signed(sequence - 1 - side.end)
        length = captured - _HEADERS_SIZE
        lost = place - side.end
        side.end = max(side.end, place + length)
        if self._payload is not None and (length or lost):
            begin = at + _HEADERS_SIZE
            began = read_comment(comment).get("began_ns") if comment else None
            time_ns = began if isinstance(began, int) else found.last_ns
            self._payload(conn, direction, lost, bytes(self._data[begin : begin + length]), time_ns)
        if flags & (FIN | RST):
            self._closed(conn, direction, talk, reset=bool(flags & RST))

    def _opened(self, interface: Interface, pairs: bytes, ident: int, comment: str) -> None:
        state = self._found.state
        about = read_comment(comment)
        begin = about.pop("from", [0, 0])
        conn = int(str(about["connection"]))
        client, server = pairs[:4], pairs[4:8]
        port, server_port = struct.unpack(">HH", pairs[8:])
        both = sides(client, server, port, server_port)
        both[0].ident = ident
        if isinstance(begin, list):
            both[0].end, both[1].end = begin
        talk = Conversation(interface, both, about)
        state.conversations[conn] = talk
        if conn < FIRST_GUEST:
            self._found.known.add(conn)
        else:
            self._found.last_guest = max(conn, self._found.last_guest)
        self._ends[pairs] = conn, 0, talk
        self._ends[server + client + pairs[10:] + pairs[8:10]] = conn, 1, talk
        self._found.shaken = talk, 1
        self._whose(about.get("client"), _address(client))
        self._whose(about.get("server"), _address(server))
        state.ports[_address(client)] = max(port + 1, state.ports.get(_address(client), 0))

    def _whose(self, about: object, address: str) -> None:
        """Learn whose address this is."""
        key = process_key(about, self._found.state.names.get(address, ""))
        first = self._found.state.endpoints.setdefault(key, address)
        if first != address:
            self._found.state.further[first] = address

    def _closed(self, conn: int, direction: int, talk: Conversation, reset: bool) -> None:
        side, peer = talk.sides[direction], talk.sides[1 - direction]
        side.closed, side.reset, side.fin = True, reset, 0 if reset else 1
        if peer.closed:
            self._found.state.conversations.pop(conn, None)
            if side.fin and peer.fin:
                self._found.unheard = talk, 1 - direction

    def _options(self, start: int, end: int) -> dict[int, bytes]:
        options: dict[int, bytes] = {}
        while end - start >= 4:
            code, length = _OPTION.unpack_from(self._data, start)
            if code == 0:
                break
            options[code] = bytes(self._data[start + 4 : start + 4 + length])
            start += 4 + (length + 3 & ~3)
        return options


def process_key(about: object, name: str) -> tuple[str, int]:
    """Tell a process by what a comment says of it: its pid and when it started; by its name where it is gone."""
    if not isinstance(about, dict):
        about = {}
    start, pid = about.get("start"), about.get("pid")
    return name if start is None else str(start), pid if isinstance(pid, int) else 0


class Listener(NamedTuple):
    """What a recorder has to know of a socket, kept in the comment of its interface."""

    number: int
    file: tuple[int, int]
    """Inode and device of the server's socket."""

    def comment(self) -> str:
        """Return it as JSON."""
        return json.dumps({"listener": self.number, "file": self.file})

    @classmethod
    def of(cls, interface: Interface) -> Listener:
        """Read it from an interface."""
        about = json.loads(interface.comment)
        inode, device = about["file"]
        return cls(about["listener"], (inode, device))


def _logs_at(about: object) -> LogsAt | None:
    """What a section's comment has of it."""
    match about:
        case [str(cursor), int(place)]:
            return LogsAt(cursor, place)
    return None


def _signed(number: int) -> int:
    """The step that a difference of sequence numbers means (RFC 9293 §3.4)."""
    number &= _MASK
    return number if number < 0x80000000 else number - 0x100000000


def _address(packed: bytes) -> str:
    return ".".join(map(str, packed))


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
