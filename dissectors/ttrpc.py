"""ttrpc: a connection's calls, out of the frames of its two directions.

Comes in: both directions' bytes as they were read. Goes out: the events of calls. Frames are cut in `ttrpc_frames`,
their Request and Response parsed in `ttrpc_messages`; the names that other rooms use are importable from here. What the
messages of a method are is not known here.

A connection is a row of Requests with rising odd stream ids, answered in any order. There is no cancel: a client that
gives up sends nothing, and the answer that comes later is just the answer. (PROTOCOL.md of containerd/ttrpc; where
Go and Rust differ, both are taken as they are.)
"""

from __future__ import annotations

from enum import IntEnum

from dissectors.events import (
    CallEnded,
    CallHalfClosed,
    CallMessage,
    CallOpened,
    Direction,
    Event,
    Malformed,
    Skipped,
    Status,
)
from dissectors.ttrpc_frames import (
    FLAG_NO_DATA,
    FLAG_REMOTE_CLOSED,
    FLAG_REMOTE_OPEN,
    HEADER,
    HEADER_SIZE,
    MAX_PAYLOAD,
    TYPE_DATA,
    TYPE_NAMES,
    TYPE_REQUEST,
    TYPE_RESPONSE,
    Frame,
    FrameReader,
    Item,
    PartialFrame,
    build_frame,
)
from dissectors.ttrpc_messages import (
    BadMessage,
    Request,
    RequestHead,
    Response,
    build_request,
    build_response,
    parse_request,
    parse_request_head,
    parse_response,
    parse_response_head,
)

__all__ = [
    "FLAG_NO_DATA",
    "FLAG_REMOTE_CLOSED",
    "FLAG_REMOTE_OPEN",
    "HEADER",
    "HEADER_SIZE",
    "MAX_PAYLOAD",
    "TYPE_DATA",
    "TYPE_NAMES",
    "TYPE_REQUEST",
    "TYPE_RESPONSE",
    "BadMessage",
    "Frame",
    "FrameReader",
    "PartialFrame",
    "Request",
    "RequestHead",
    "Response",
    "TtrpcConnection",
    "build_frame",
    "build_request",
    "build_response",
    "parse_request",
    "parse_response",
]

_REQUEST, _RESPONSE = Direction.REQUEST, Direction.RESPONSE
_OK = Status(0, "", b"")


class State(IntEnum):
    """Of a call, by what may still come."""

    IDLE = 0
    """Not seen yet."""
    OPEN = 1
    """The client may send data."""
    HALF_CLOSED = 2
    """The client has said all; every unary call is born so."""
    ENDED = 3
    """The server has said all. Its stream id is not used again."""


class Input(IntEnum):
    """What a frame does to its call."""

    REQUEST = 0
    """A Request after which the client sends no more."""
    REQUEST_OPEN = 1
    """A Request after which the client sends data (flag remote_open)."""
    CLIENT_DATA = 2
    CLIENT_CLOSES = 3
    """Data with remote_closed."""
    SERVER_DATA = 4
    SERVER_CLOSES = 5
    """Data with remote_closed: a stream's end without an error."""
    RESPONSE = 6


_REUSED = "a request on the stream of an open call"
_AFTER_CLOSE = "data from the client after it had closed its side"
_AFTER_END = "a frame of a call that has ended"

TRANSITIONS: dict[tuple[State, Input], tuple[State, str]] = {
    (State.IDLE, Input.REQUEST): (State.HALF_CLOSED, ""),
    (State.IDLE, Input.REQUEST_OPEN): (State.OPEN, ""),
    # The start was not seen, so nothing is known that these could break.
    (State.IDLE, Input.CLIENT_DATA): (State.OPEN, ""),
    (State.IDLE, Input.CLIENT_CLOSES): (State.HALF_CLOSED, ""),
    (State.IDLE, Input.SERVER_DATA): (State.OPEN, ""),
    (State.IDLE, Input.SERVER_CLOSES): (State.ENDED, ""),
    (State.IDLE, Input.RESPONSE): (State.ENDED, ""),
    (State.OPEN, Input.REQUEST): (State.OPEN, _REUSED),
    (State.OPEN, Input.REQUEST_OPEN): (State.OPEN, _REUSED),
    (State.OPEN, Input.CLIENT_DATA): (State.OPEN, ""),
    (State.OPEN, Input.CLIENT_CLOSES): (State.HALF_CLOSED, ""),
    (State.OPEN, Input.SERVER_DATA): (State.OPEN, ""),
    (State.OPEN, Input.SERVER_CLOSES): (State.ENDED, ""),
    (State.OPEN, Input.RESPONSE): (State.ENDED, ""),
    (State.HALF_CLOSED, Input.REQUEST): (State.HALF_CLOSED, _REUSED),
    (State.HALF_CLOSED, Input.REQUEST_OPEN): (State.HALF_CLOSED, _REUSED),
    (State.HALF_CLOSED, Input.CLIENT_DATA): (State.HALF_CLOSED, _AFTER_CLOSE),
    (State.HALF_CLOSED, Input.CLIENT_CLOSES): (State.HALF_CLOSED, _AFTER_CLOSE),
    (State.HALF_CLOSED, Input.SERVER_DATA): (State.HALF_CLOSED, ""),
    (State.HALF_CLOSED, Input.SERVER_CLOSES): (State.ENDED, ""),
    (State.HALF_CLOSED, Input.RESPONSE): (State.ENDED, ""),
    # Servers before 1.2 and in Rust take a stream id again.
    (State.ENDED, Input.REQUEST): (State.HALF_CLOSED, ""),
    (State.ENDED, Input.REQUEST_OPEN): (State.OPEN, ""),
    (State.ENDED, Input.CLIENT_DATA): (State.ENDED, _AFTER_END),
    (State.ENDED, Input.CLIENT_CLOSES): (State.ENDED, _AFTER_END),
    (State.ENDED, Input.SERVER_DATA): (State.ENDED, _AFTER_END),
    (State.ENDED, Input.SERVER_CLOSES): (State.ENDED, _AFTER_END),
    (State.ENDED, Input.RESPONSE): (State.ENDED, _AFTER_END),
}


_REQUEST_WHOLE, _REQUEST_OPEN, _RESPONSE_WHOLE = Input.REQUEST, Input.REQUEST_OPEN, Input.RESPONSE
_IDLE, _HALF_CLOSED, _ENDED = State.IDLE, State.HALF_CLOSED, State.ENDED
# An enumeration's member costs 0.1 µs to look up; a NamedTuple costs half by tuple.__new__. A call has a dozen of both.
_new = tuple.__new__


class TtrpcConnection:
    """Both directions of one ttrpc connection."""

    def __init__(self, starts: tuple[int, int] = (0, 0)) -> None:
        """`starts`: where each direction begins in its flow, if something else came before."""
        self.protocol = "ttrpc"
        self._readers = FrameReader(_REQUEST, start=starts[0]), FrameReader(_RESPONSE, start=starts[1])
        self._states: dict[int, State] = {}  # of the calls that are OPEN or HALF_CLOSED
        self._seen_from: int | None = None  # from this stream id to the highest, every request was seen
        self._highest_id = 0

    def feed(self, direction: Direction, data: bytes) -> list[Event]:
        """Take bytes as they came; return what they completed, in order."""
        return self._events(direction, self._readers[direction].feed(data))

    def lost(self, direction: Direction, count: int) -> list[Event]:
        """Take note of a gap; a count of 0 says that this is some place in the middle of the connection."""
        return self._events(direction, self._readers[direction].lost(count))

    def told(self, direction: Direction) -> int:
        """Return the offset of this direction before which there is nothing more to tell."""
        return self._readers[direction].told

    def close(self, direction: Direction) -> list[Event]:
        """Take note of this direction's end; return what stayed incomplete."""
        return self._events(direction, self._readers[direction].close())

    def _events(self, direction: Direction, items: list[Item]) -> list[Event]:
        events: list[Event] = []
        for item in items:
            if type(item) is Frame:  # most are these; else see below
                kind = item.type
                if kind == TYPE_RESPONSE and direction:
                    self._response(item, events)
                    continue
                if kind == TYPE_REQUEST and not direction:
                    self._request(item, events)
                    continue
            if not isinstance(item, Frame) and not isinstance(item, PartialFrame):
                if direction == _REQUEST:
                    self._seen_from = None  # a request may have been among those bytes
                events.append(item)
            elif item.type == TYPE_RESPONSE and direction:
                self._response(item, events)
            elif item.type == TYPE_REQUEST and not direction:
                self._request(item, events)
            elif item.type == TYPE_DATA:
                self._data(direction, item, events)
            else:
                known = item.type in TYPE_NAMES
                reason = f"a {TYPE_NAMES[item.type]} from the wrong side" if known else f"frame of type {item.type}"
                self._malformed(direction, item, reason, events)
        return events

    def _request(self, frame: Frame | PartialFrame, events: list[Event]) -> None:
        stream_id, offset = frame.stream_id, frame.offset
        input_ = _REQUEST_OPEN if frame.flags & FLAG_REMOTE_OPEN else _REQUEST_WHOLE
        state, complaint = TRANSITIONS[self._state(stream_id), input_]
        if complaint:
            self._malformed(_REQUEST, frame, complaint, events)
            return
        self._states[stream_id] = state
        if self._seen_from is None:
            self._seen_from = stream_id
        if stream_id > self._highest_id:
            self._highest_id = stream_id
        if isinstance(frame, Frame):
            try:
                service, method, payload, timeout, metadata = parse_request(frame.payload)
            except BadMessage as error:
                events.append(CallOpened(stream_id, offset, "", "", (), None, True))
                self._malformed(_REQUEST, frame, f"no ttrpc request: {error}", events)
            else:
                events.append(_new(CallOpened, (stream_id, offset, service, method, metadata, timeout or None, True)))
                if payload or state is _HALF_CLOSED:
                    events.append(_new(CallMessage, (stream_id, _REQUEST, offset, len(payload), payload, "")))
        else:
            head = parse_request_head(frame.head)
            length = frame.length if head.payload_length is None else head.payload_length
            events.append(CallOpened(stream_id, offset, head.service, head.method, (), None, True))
            events.append(CallMessage(stream_id, _REQUEST, offset, length, None, frame.note))
        if state is _HALF_CLOSED:
            events.append(_new(CallHalfClosed, (stream_id, _REQUEST)))

    def _response(self, frame: Frame | PartialFrame, events: list[Event]) -> None:
        stream_id, offset = frame.stream_id, frame.offset
        # An answer ends any open call, whatever its state; `_move` says the same, at a cost.
        if self._states.pop(stream_id, None) is None and not self._move(_RESPONSE, frame, _RESPONSE_WHOLE, events):
            return
        status: Status | None = None
        if isinstance(frame, Frame):
            try:
                code, message, details, payload = parse_response(frame.payload)
            except BadMessage as error:
                self._malformed(_RESPONSE, frame, f"no ttrpc response: {error}", events)
            else:
                status = Status(code, message, details) if code or details else _OK
                if payload or not code:
                    events.append(_new(CallMessage, (stream_id, _RESPONSE, offset, len(payload), payload, "")))
        else:
            response = parse_response_head(frame.head)
            if response is not None:
                status = Status(response.code, response.message, response.status)
            events.append(CallMessage(stream_id, _RESPONSE, offset, frame.length, None, frame.note))
        events.append(_new(CallEnded, (stream_id, _RESPONSE, offset, status, None, ())))

    def _data(self, direction: Direction, frame: Frame | PartialFrame, events: list[Event]) -> None:
        closes = frame.flags & FLAG_REMOTE_CLOSED
        if direction == _REQUEST:
            input_ = Input.CLIENT_CLOSES if closes else Input.CLIENT_DATA
        else:
            input_ = Input.SERVER_CLOSES if closes else Input.SERVER_DATA
        if not self._move(direction, frame, input_, events):
            return
        stream_id, offset = frame.stream_id, frame.offset
        if isinstance(frame, PartialFrame):
            events.append(CallMessage(stream_id, direction, offset, frame.length, None, frame.note))
        elif not frame.flags & FLAG_NO_DATA:
            events.append(CallMessage(stream_id, direction, offset, len(frame.payload), frame.payload, ""))
        elif frame.payload:
            self._malformed(direction, frame, "flag no_data on a frame with data", events)
        if input_ is Input.CLIENT_CLOSES:
            events.append(CallHalfClosed(stream_id, _REQUEST))
        elif input_ is Input.SERVER_CLOSES:
            events.append(CallEnded(stream_id, _RESPONSE, offset, _OK, None, ()))

    def _state(self, stream_id: int) -> State:
        state = self._states.get(stream_id)
        if state is None:
            seen = self._seen_from is not None and self._seen_from <= stream_id <= self._highest_id
            return _ENDED if seen else _IDLE
        return state

    def _move(self, direction: Direction, frame: Frame | PartialFrame, input_: Input, events: list[Event]) -> bool:
        """Take a call to its next state; False: the frame has no place in it, and the events say so."""
        stream_id = frame.stream_id
        before = self._state(stream_id)
        state, complaint = TRANSITIONS[before, input_]
        if complaint and before is _ENDED:
            length = frame.length if isinstance(frame, PartialFrame) else len(frame.payload)
            events.append(Skipped(direction, frame.offset, HEADER_SIZE + length, complaint))
            return False
        if complaint:
            self._malformed(direction, frame, complaint, events)
            return False
        if before is _IDLE:
            offset = frame.offset if direction == _REQUEST else 0
            events.append(CallOpened(stream_id, offset, "", "", (), None, False))
        if state is _ENDED:
            self._states.pop(stream_id, None)
        else:
            self._states[stream_id] = state
        return True

    def _malformed(self, direction: Direction, frame: Frame | PartialFrame, reason: str, events: list[Event]) -> None:
        length = frame.length if isinstance(frame, PartialFrame) else len(frame.payload)
        evidence = HEADER.pack(length, frame.stream_id, frame.type, frame.flags)
        events.append(Malformed(direction, frame.offset, reason, evidence, frame.stream_id))
