"""What a writer of conversations knows of its file: sockets, connections that are open, which addresses are given.

`conversation` writes by it, and `resume` makes it out of the file itself.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tracer.capture.packets import MAX_PAYLOAD

WINDOW: Final = 65_535
DONT_FRAGMENT, TTL_AND_TCP = 0x4000, 0x4006
"""Words of IPv4's header that are the same in every packet."""


@dataclass(slots=True)
class Interface:
    """A socket, as a file describes it."""

    number: int
    name: str
    description: str
    comment: str
    received: int = 0
    """Packets written and packets dropped."""
    dropped: int = 0
    pending: int = 0
    """Packets dropped since the last one written."""

    def described(self) -> tuple[str, str, str]:
        """What `CaptureWriter.interface` takes."""
        return self.name, self.description, self.comment


@dataclass(slots=True)
class Side:
    """One direction of a conversation."""

    prefix: bytes
    """Ethernet header, and IPv4's version, length and TOS."""
    pairs: bytes
    """Source and destination address, source and destination port."""
    ip_sum: int
    """Of the constant words under IPv4's checksum, and of the length of both headers."""
    tcp_sum: int
    """Of the constant words under TCP's checksum, its pseudo header's among them, and of its header's length."""
    ident: int = 0
    end: int = 0
    """Bytes of the stream so far."""
    fin: int = 0
    """1 once the FIN is sent, which takes a sequence number too."""
    acknowledged: int = 0
    """Bytes of it that the other side has acknowledged."""
    window: int = MAX_PAYLOAD
    """Bytes that may be under way to this side. What SYN and SYN-ACK announce is not scaled yet."""
    closed: bool = False
    reset: bool = False


class Conversation(NamedTuple):
    """A connection that is open."""

    interface: Interface
    sides: tuple[Side, Side]
    about: Mapping[str, object]
    """The object of its first packet's comment."""


Key = tuple[str, int] | str
"""Tells processes apart."""


@dataclass(slots=True)
class State:
    """All that a writer knows of its file."""

    packets: int = 0
    bytes: int = 0
    start_ns: int = 0
    interfaces: list[Interface] = field(default_factory=list)
    conversations: dict[int, Conversation] = field(default_factory=dict)
    endpoints: dict[Key, str] = field(default_factory=dict)
    """Addresses of processes."""
    names: dict[str, str] = field(default_factory=dict)
    """Names of addresses, as far as the file has them."""
    ports: dict[str, int] = field(default_factory=dict)
    """By client address, the next port."""
    further: dict[str, str] = field(default_factory=dict)
    """By a process' first address, the one that is in use since its ports are used up."""
    addresses: int = 0
    """Given so far."""


def sides(client: bytes, server: bytes, port: int, server_port: int) -> tuple[Side, Side]:
    """Return both directions' constants, from the client first."""
    return _side(client, server, port, server_port), _side(server, client, server_port, port)


def _side(source: bytes, destination: bytes, source_port: int, destination_port: int) -> Side:
    """Return one direction's constants. Hardware addresses are 02:00 (locally administered) and the IPv4 address."""
    ethernet = b"\2\0" + destination + b"\2\0" + source + b"\x08\x00"
    pairs = source + destination + struct.pack(">HH", source_port, destination_port)
    addresses = int.from_bytes(source + destination, "big")
    ip_sum = addresses + 0x4500 + 40 + DONT_FRAGMENT + TTL_AND_TCP
    tcp_sum = int.from_bytes(pairs, "big") + 6 + 20 + WINDOW
    return Side(ethernet + b"\x45\0", pairs, ip_sum % 65_535, tcp_sum % 65_535)
