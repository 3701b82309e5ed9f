"""What the writer, the readers and the flow layer of captures agree on: packets, notices and the ports of the hops.

No bytes are parsed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from protos.hops import HOPS
from tracer.capture.bundle import Bundle
from tracer.capture.journal import Entry

HOP_PORTS: Final[Mapping[str, int]] = dict(zip(HOPS, (8080, 8088, 3132, 11371, 3128, 5985), strict=True))
"""The server port a hop has in a capture. All are in tshark's `http` port table: on 8080 it hands over to HTTP/2 on
the preface; on any free port its SMPP heuristic takes the first ttrpc calls for malformed SMPP."""

CARRIED_OVER: Final = "podwire: carried over"
"""How comments of packets begin that repeat, at the beginning of a file, what a connection had said before it."""

MAX_PAYLOAD: Final = 65_495
"""Payload bytes of the largest packet written: an IPv4 packet (65,535) less its header (20) and TCP's (20)."""

MAX_RECORD: Final = 16 << 20
"""The longest block or record that is read. libpcap and Wireshark refuse longer ones too, and at the same number."""


class Interface(NamedTuple):
    """Where packets were captured: an Interface Description Block, or the one interface of a plain pcap file."""

    id: int
    """Counted from 0 over the whole file, its sections included."""
    name: str
    """Of ours: the socket's path."""
    description: str
    """Of ours: `HOP PATH`."""
    link_type: int
    names: Mapping[str, str]
    """Address to name, from the section's Name Resolution Blocks. It is filled as they are read."""


class Packet(NamedTuple):
    """One packet of a capture."""

    number: int
    """Counted from 1 over the whole file."""
    time_ns: int
    """UTC, nanoseconds since 1970; 0 where the file has no time for it (a Simple Packet Block)."""
    interface: Interface | None
    """None: the file has packets of an interface that it never described."""
    link_type: int
    data: bytes
    """From the link layer's header on, as far as it was captured."""
    comment: str
    """Several comments are joined by a line feed."""
    dropped: int
    """Packets lost on this interface between the one before and this one (epb_dropcount)."""
    offset: int
    """Of the block in the file (in the decompressed file, where it is gzip)."""
    missing: int = 0
    """Bytes that it had behind `data`, which were not captured."""


class Notice(NamedTuple):
    """Something in a capture file that could not be read, or that its recorder noted."""

    offset: int
    text: str
    fatal: bool
    """True: the reading ends here. False: it goes on behind the block in question."""
    bundle: Bundle | None = None
    """It is none of these, but a bundle that the capture keeps; `text` says so."""
    entry: Entry | None = None
    """The same of a line of a log."""
