"""Calls: one RPC as one object, from its first frame on.

In: what a dissector tells of a connection, with the time of the read. Out: updates, each a call that opened, got a
message or ended, or a finding (a gap, malformed bytes, a notice). It knows no packet, no protobuf and no output.
A call without an end is not a special case: it stays open, and whoever shows calls can show its age.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NamedTuple

from dissectors.events import (
    CallEnded,
    CallHalfClosed,
    CallMessage,
    CallMetadata,
    CallOpened,
    Direction,
    Event,
    Malformed,
    Metadata,
    Skipped,
    Status,
)
from tracer.capture.bundle import Bundle
from tracer.capture.flows import Flow
from tracer.logs import Logged

if TYPE_CHECKING:
    from tracer.story.place import Place

KEPT_MESSAGES = 64
"""Messages kept of one call: the first 32 and the last 32 of a long stream; all of any call that is not one."""
KEPT_BYTES = 32 << 20
"""Payload bytes kept of one call. Two messages of the largest size that gRPC servers commonly take (16 MiB)."""

_new = tuple.__new__
"""Makes a NamedTuple in half the time that its own constructor takes."""

RST_CANCEL = 8
"""HTTP/2's error code CANCEL (RFC 9113 §7)."""
DEADLINE_EXCEEDED = 4
"""The gRPC status code."""


class State(StrEnum):
    """What became of a call."""

    OPEN = "open"
    ENDED = "ended"
    CANCELLED = "cancelled"
    """The client reset the stream with CANCEL. ttrpc has no such frame."""
    DEADLINE_EXCEEDED = "deadline_exceeded"
    """The server answered so. A client that gives up by itself cancels, which is all that the wire shows."""
    RESET = "reset"
    """Its stream was reset with another code than CANCEL, or by the server."""
    CUT = "cut"
    """Its connection ended before its answer."""


class Message(NamedTuple):
    """One message of a call, payload and all."""

    number: int
    """From 1, in both directions together; a jump is where messages were dropped."""
    time_ns: int
    direction: Direction
    offset: int
    length: int
    payload: bytes | None
    note: str


class Call:
    """One RPC. It changes until its end; whoever keeps one keeps its messages with it.

    No dataclass: what most calls never set stays an attribute of the class, which makes one in half the time.
    """

    number: int
    """From 1, in the order of first frames."""
    flow: Flow
    hop: str
    protocol: str
    stream_id: int
    service: str
    method: str
    start_ns: int
    offset: int
    timeout_ns: int | None
    metadata: Metadata
    seen_start: bool
    state: State = State.OPEN
    end_ns: int | None = None
    status: Status | None = None
    reset: int | None = None
    ended_by: Direction | None = None
    response_metadata: Metadata = ()
    trailers: Metadata = ()
    messages: list[Message]
    message_count: int = 0
    response_count: int = 0
    """Of those, how many the server sent."""
    dropped_messages: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    gap: bool = False
    """Bytes of its connection are missing from the time it was open: it may lack messages, or its end."""
    note: str = ""
    """What its state does not say: how it ended, or that its client is gone."""
    kept_bytes: int = 0
    bundles: tuple[Bundle, ...] = ()
    """Folders that it named, as they were then."""
    place: Place | None = None
    """Whom it is about and what caused it, where somebody correlates (tracer/story)."""

    def __init__(self, number: int, flow: Flow, protocol: str, start_ns: int, opened: CallOpened) -> None:
        self.number = number
        self.flow = flow
        self.hop = flow.hop
        self.protocol = protocol
        self.start_ns = start_ns
        (
            self.stream_id,
            self.offset,
            self.service,
            self.method,
            self.metadata,
            self.timeout_ns,
            self.seen_start,
        ) = opened
        self.messages = []

    @property
    def deadline_ns(self) -> int | None:
        """When the client stops waiting, or None: start and timeout as they were on the wire."""
        return None if self.timeout_ns is None else self.start_ns + self.timeout_ns

    def deadline_passed(self, now_ns: int) -> bool:
        """Whether the deadline was over at the call's end, or is at `now_ns` if it has none."""
        deadline = self.deadline_ns
        return deadline is not None and (self.end_ns or now_ns) >= deadline

    def failed(self) -> bool:
        """Whether it ended in anything but a status OK."""
        if self.status is not None:
            return self.status.code != 0
        return self.state is not State.OPEN

    def request(self) -> Message | None:
        """The first message of the client, if it is there."""
        return self._first(Direction.REQUEST)

    def response(self) -> Message | None:
        """The first message of the server, if it is there."""
        return self._first(Direction.RESPONSE)

    def _first(self, direction: Direction) -> Message | None:
        for message in self.messages:
            if message.direction == direction:
                return message
        return None


_ENDED = State.ENDED  # an enumeration's member costs 0.1 µs to look up


class CallUpdate(NamedTuple):
    """A call opened, got a message, or ended."""

    kind: Literal["opened", "message", "ended"]
    time_ns: int
    call: Call
    message: Message | None


class Finding(NamedTuple):
    """What could not be read, and where: bytes missing or wrong, or a notice about a connection or the file."""

    kind: Literal["gap", "malformed", "notice"]
    time_ns: int
    reason: str
    flow: Flow | None = None
    """None: it is about the capture file, and `offset` is a place in it."""
    direction: Direction | None = None
    offset: int | None = None
    length: int = 0
    evidence: bytes = b""
    call: Call | None = None
    fatal: bool = False
    """The reading of the file ends here."""
    text: str = ""
    """What was said, where it is no call: a line of a log."""


Update = CallUpdate | Finding | Logged


class _Connection:
    """What is open on one flow."""

    __slots__ = ("calls", "closed", "first_closed", "how")

    def __init__(self) -> None:
        self.calls: dict[int, Call] = {}
        self.closed = [False, False]
        self.first_closed: Direction | None = None
        self.how = ""  # who closed first, in words


class CallTracker:
    """Make calls out of events. Memory is bounded by what is open."""

    def __init__(self) -> None:
        self._connections: dict[Flow, _Connection] = {}
        self._calls = 0

    def feed(self, flow: Flow, protocol: str, time_ns: int, events: list[Event]) -> list[Update]:
        """Take what a dissector told at `time_ns`; return what changed, in order."""
        connection = self._connections.get(flow)
        if connection is None:
            connection = self._connections[flow] = _Connection()
        calls = connection.calls
        updates: list[Update] = []
        for event in events:
            # Exact types, the frequent ones first: isinstance costs three times as much, and this is the hot path.
            kind = type(event)
            if kind is CallMessage:
                told: CallMessage = event  # type: ignore[assignment] # `kind` says so, here and below
                stream_id, direction, offset, length, payload, note = told
                call = calls.get(stream_id)
                if call is None:
                    continue  # legal: a client still sends, the server has ended the call already
                call.message_count = number = call.message_count + 1
                if direction:
                    call.response_bytes += length
                    call.response_count += 1
                else:
                    call.request_bytes += length
                message: Message = _new(Message, (number, time_ns, direction, offset, length, payload, note))
                call.messages.append(message)
                if payload is not None:
                    call.kept_bytes += len(payload)
                if number > KEPT_MESSAGES or call.kept_bytes > KEPT_BYTES:
                    _drop(call)
                updates.append(_new(CallUpdate, ("message", time_ns, call, message)))
            elif kind is CallOpened:
                self._opened(calls, flow, protocol, time_ns, event, updates)  # type: ignore[arg-type]
            elif kind is CallEnded:
                call = calls.pop(event.stream_id, None)  # type: ignore[union-attr, arg-type]
                if call is not None:  # None: a reset behind a regular end
                    updates.append(_end(call, time_ns, event, connection.how))  # type: ignore[arg-type]
            elif kind is CallMetadata:
                call = calls.get(event.stream_id)  # type: ignore[union-attr, arg-type]
                if call is not None:
                    call.response_metadata = event.metadata  # type: ignore[union-attr]
            elif kind is not CallHalfClosed:
                updates.append(_finding(flow, time_ns, event, calls))
        return updates

    def gap(self, flow: Flow) -> None:
        """Mark what is open on `flow`: bytes of its connection are missing."""
        connection = self._connections.get(flow)
        if connection is not None:
            for call in connection.calls.values():
                call.gap = True

    def closed(self, flow: Flow, time_ns: int, direction: Direction, reset: bool) -> list[Update]:
        """Tell that one side of `flow` has ended. What is open is cut when the server's has: a client that is gone
        may still be answered, and a server that hangs does not even see it go."""
        connection = self._connections.get(flow)
        if connection is None:
            return []
        connection.closed[direction] = True
        if connection.first_closed is None:
            who = "client" if direction is Direction.REQUEST else "server"
            connection.first_closed = direction
            connection.how = f"the {who} {'reset' if reset else 'closed'} the connection"
            for call in connection.calls.values():
                call.note = connection.how
        updates: list[Update] = []
        if connection.closed[Direction.RESPONSE]:
            for call in connection.calls.values():
                call.ended_by = connection.first_closed
                updates.append(_finish(call, time_ns, State.CUT))
            connection.calls.clear()
        if all(connection.closed):
            del self._connections[flow]
        return updates

    def open_calls(self) -> list[Call]:
        """What has no end yet, oldest first."""
        calls = [call for connection in self._connections.values() for call in connection.calls.values()]
        return sorted(calls, key=lambda call: call.number)

    def _opened(
        self,
        calls: dict[int, Call],
        flow: Flow,
        protocol: str,
        time_ns: int,
        event: CallOpened,
        updates: list[Update],
    ) -> None:
        before = calls.pop(event.stream_id, None)
        if before is not None:  # neither protocol allows it; a gap can look so
            before.note = "its stream id came again"
            updates.append(_finish(before, time_ns, State.CUT))
        self._calls += 1
        call = calls[event.stream_id] = Call(self._calls, flow, protocol, time_ns, event)
        updates.append(_new(CallUpdate, ("opened", time_ns, call, None)))


def _drop(call: Call) -> None:
    """Drop messages from the middle until the rest fits: so the first half of the limit stays, and the newest ones."""
    messages = call.messages
    while len(messages) > 2 and (len(messages) > KEPT_MESSAGES or call.kept_bytes > KEPT_BYTES):
        middle = messages.pop(len(messages) // 2)
        call.dropped_messages += 1
        call.kept_bytes -= len(middle.payload or b"")


def _end(call: Call, time_ns: int, event: CallEnded, how_closed: str) -> CallUpdate:
    _, call.ended_by, _, status, reset, call.trailers = event
    call.status, call.reset = status, reset
    state = _ENDED
    if status is not None:
        if how_closed:
            call.note = f"answered after {how_closed}"
        if status.code == DEADLINE_EXCEEDED:
            state = State.DEADLINE_EXCEEDED
    elif reset is not None:
        by_client = call.ended_by == Direction.REQUEST
        state = State.CANCELLED if by_client and reset == RST_CANCEL else State.RESET
    else:
        call.note = "ended without a status"
    return _finish(call, time_ns, state)


def _finish(call: Call, time_ns: int, state: State) -> CallUpdate:
    call.state = state
    call.end_ns = time_ns
    update: CallUpdate = _new(CallUpdate, ("ended", time_ns, call, None))
    return update


def _finding(flow: Flow, time_ns: int, event: Event, calls: dict[int, Call]) -> Finding:
    if isinstance(event, Malformed):
        call = None if event.stream_id is None else calls.get(event.stream_id)
        evidence = event.evidence
        return Finding(
            "malformed", time_ns, event.reason, flow, event.direction, event.offset, len(evidence), evidence, call
        )
    assert isinstance(event, Skipped)  # the one kind that is left
    return Finding("gap", time_ns, event.reason, flow, event.direction, event.offset, event.length)
