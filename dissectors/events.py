"""What a dissector tells of one connection: the events of its calls, and what it could not decode.

These flow by the hundred thousand, so they are NamedTuples: a frozen dataclass costs three times as much to make.
An event carries no time; the flow layer stamps it with the time of the read that completed it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, Protocol


class Direction(IntEnum):
    """Which way bytes went: REQUEST is from the client of the socket to its server."""

    REQUEST = 0
    RESPONSE = 1


Metadata = tuple[tuple[str, str | bytes], ...]
"""Metadata in wire order, pseudo-headers left out; a value is bytes only under a `-bin` key (decoded from base64)."""


class Status(NamedTuple):
    """How a call ended, in gRPC's codes (both protocols use them)."""

    code: int
    message: str
    details: bytes
    """A serialised google.rpc.Status (grpc-status-details-bin, or ttrpc's own status); empty if there was none."""


class CallOpened(NamedTuple):
    """The first frame of a call. Without it (a capture that starts in the middle) service and method are empty."""

    stream_id: int
    offset: int
    """Of the frame's first byte in the REQUEST direction's byte stream."""
    service: str
    """Full name, `runtime.v1.RuntimeService`; empty when it was not seen."""
    method: str
    metadata: Metadata
    timeout_ns: int | None
    """The deadline on the wire (`grpc-timeout`, ttrpc `timeout_nano`), None if there was none."""
    seen: bool
    """False: the call's start was not seen; the rest of it is."""


class CallMetadata(NamedTuple):
    """gRPC's response headers (initial metadata)."""

    stream_id: int
    offset: int
    metadata: Metadata


class CallMessage(NamedTuple):
    """One protobuf message."""

    stream_id: int
    direction: Direction
    offset: int
    """Of the message's frame (its gRPC prefix, its ttrpc header) in this direction's byte stream."""
    length: int
    """Bytes of the message on the wire (compressed, if it was), without its frame's header."""
    payload: bytes | None
    """Decompressed; None where it is not to be had (over the limit, a gap, an unknown compression): `note` says why."""
    note: str
    """Empty, or why the payload is missing."""


class CallHalfClosed(NamedTuple):
    """This side sends no more messages; the call goes on."""

    stream_id: int
    direction: Direction


class CallEnded(NamedTuple):
    """The last frame of a call."""

    stream_id: int
    direction: Direction
    """Who ended it: RESPONSE with a status; either side by a reset."""
    offset: int
    status: Status | None
    """None: ended by a reset, or by a stream end without a status."""
    reset: int | None
    """HTTP/2 error code of RST_STREAM (RFC 9113 §7), or None. CANCEL (8) from the client is a cancelled call."""
    metadata: Metadata
    """gRPC trailers, those that make up the status left out."""


class Malformed(NamedTuple):
    """Bytes that are not what the protocol says. Decoding goes on where the protocol lets it."""

    direction: Direction
    offset: int
    reason: str
    evidence: bytes
    """The first bytes in question, 32 at most."""
    stream_id: int | None


class Skipped(NamedTuple):
    """Bytes passed over without decoding: while looking for the next sound frame, or lost in a gap."""

    direction: Direction
    offset: int
    length: int
    reason: str


class PortOpened(NamedTuple):
    """A VMM opened a port of its guest; what follows is what the port speaks."""

    port: int
    """0: it is not known which."""
    passed: bool
    """A descriptor was handed over for the port: its bytes do not go through this connection."""


class PortRefused(NamedTuple):
    """A VMM closed a connection without an answer, as it does until its guest listens."""

    port: int


class LogLine(NamedTuple):
    """One line of a guest's log."""

    direction: Direction
    offset: int
    line: bytes
    """Without its end."""


class Inner(NamedTuple):
    """An event of one of the connections that go inside of this one.

    Its direction is that of the call; its offset is in the bytes of this connection that went that way.
    """

    channel: int
    """Which one, as the wire numbers them."""
    asks: Direction
    """Which way its requests go in this connection."""
    event: CallOpened | CallMetadata | CallMessage | CallHalfClosed | CallEnded | Malformed | Skipped


Event = (
    CallOpened | CallMetadata | CallMessage | CallHalfClosed | CallEnded | Malformed | Skipped | Inner | PortOpened
    | PortRefused | LogLine
)  # fmt: skip


class Dissector(Protocol):
    """One connection, both directions. No call of it raises on content or waits for anything."""

    protocol: str
    """`grpc`, `ttrpc`, `nri` (ttrpc in NRI's multiplexer), `hvsock` (what a guest's port speaks, behind a VMM's
    handshake), `unknown`, or empty while it is not known yet."""

    def feed(self, direction: Direction, data: bytes) -> list[Event]:
        """Take bytes as they came; return what they completed, in order."""
        ...

    def lost(self, direction: Direction, count: int) -> list[Event]:
        """Tell of `count` bytes that are known to be missing at this point of the stream."""
        ...

    def close(self, direction: Direction) -> list[Event]:
        """Tell that this direction has ended; return what stayed incomplete. Open calls are the caller's to end."""
        ...
