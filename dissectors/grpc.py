"""gRPC over HTTP/2: a connection's calls, out of the frames of its two directions.

Comes in: both directions' bytes as they were read. Goes out: the events of calls. Frames are cut in `http2`, header
lists read in `grpc_headers`, messages put together in `grpc_messages`; here is which stream is in which state. What the
messages of a method are is not known here. Source: RFC 9113, and PROTOCOL-HTTP2.md in grpc/grpc.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Generic, TypeVar

from dissectors.events import (
    CallEnded,
    CallHalfClosed,
    CallMessage,
    CallMetadata,
    CallOpened,
    Direction,
    Event,
    Malformed,
    Skipped,
)
from dissectors.grpc_headers import NO_REQUEST, NO_RESPONSE, ResponseHead, read_request, read_response
from dissectors.grpc_messages import PREFIX, PREFIX_SIZE, Assembler, Message, Unread, decompress
from dissectors.hpack import Decoder, Header, HpackError
from dissectors.http2 import (
    DATA,
    END_STREAM,
    GOAWAY,
    GOAWAY_HEAD,
    HEADER_SIZE,
    HEADERS,
    LARGEST_FRAME_SIZE,
    PADDED,
    PUSH_PROMISE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    SETTINGS_HEADER_TABLE_SIZE,
    SETTINGS_MAX_FRAME_SIZE,
    BlockLost,
    Frame,
    FrameReader,
    Item,
    PartialFrame,
    SyncLost,
)

_REQUEST, _RESPONSE = Direction.REQUEST, Direction.RESPONSE
_REFUSED_STREAM = 7


class State(IntEnum):
    """Of a call's stream."""

    IDLE = 0
    """Not seen yet."""
    OPEN = 1
    """The client may send; no answer yet."""
    SENT = 2
    """The client has ended its side; no answer yet."""
    ANSWERED = 3
    """The client may send; the answer's headers have come."""
    ANSWERED_SENT = 4
    """The client has ended its side; the answer's headers have come."""
    ENDED = 5
    """The answer has ended, or one side has reset the stream. What is still under way is passed over."""


class Input(IntEnum):
    """What a frame does to its stream."""

    REQUEST_HEADERS = 0
    REQUEST_DATA = 1
    REQUEST_END = 2
    """END_STREAM, on any frame of the client's."""
    RESPONSE_HEADERS = 3
    """HEADERS without END_STREAM."""
    RESPONSE_DATA = 4
    RESPONSE_END = 5
    """END_STREAM: on HEADERS, which are then the trailers, or on DATA."""
    RESET = 6
    """RST_STREAM from either side, or the server's GOAWAY says that it will never look at this stream."""


_HEADERS_AGAIN = "HEADERS again, without END_STREAM"
_AFTER_END = "a frame of the client's after its END_STREAM"
_NO_HEADERS = "DATA before HEADERS"
_REUSED = "a stream id that was used before"
_LATE = "HEADERS of a call of which later frames were read before"
_MAX_UNSEEN = 256

TRANSITIONS: dict[tuple[State, Input], tuple[State, str]] = {
    (State.IDLE, Input.REQUEST_HEADERS): (State.OPEN, ""),
    # The start was not seen, so nothing is known that these could break.
    (State.IDLE, Input.REQUEST_DATA): (State.OPEN, ""),
    (State.IDLE, Input.REQUEST_END): (State.SENT, ""),
    (State.IDLE, Input.RESPONSE_HEADERS): (State.ANSWERED, ""),
    (State.IDLE, Input.RESPONSE_DATA): (State.ANSWERED, ""),
    (State.IDLE, Input.RESPONSE_END): (State.ENDED, ""),
    (State.IDLE, Input.RESET): (State.ENDED, ""),
    (State.OPEN, Input.REQUEST_HEADERS): (State.OPEN, _HEADERS_AGAIN),
    (State.OPEN, Input.REQUEST_DATA): (State.OPEN, ""),
    (State.OPEN, Input.REQUEST_END): (State.SENT, ""),
    (State.OPEN, Input.RESPONSE_HEADERS): (State.ANSWERED, ""),
    (State.OPEN, Input.RESPONSE_DATA): (State.ANSWERED, _NO_HEADERS),
    (State.OPEN, Input.RESPONSE_END): (State.ENDED, ""),
    (State.OPEN, Input.RESET): (State.ENDED, ""),
    (State.SENT, Input.REQUEST_HEADERS): (State.SENT, _AFTER_END),
    (State.SENT, Input.REQUEST_DATA): (State.SENT, _AFTER_END),
    (State.SENT, Input.REQUEST_END): (State.SENT, _AFTER_END),
    (State.SENT, Input.RESPONSE_HEADERS): (State.ANSWERED_SENT, ""),
    (State.SENT, Input.RESPONSE_DATA): (State.ANSWERED_SENT, _NO_HEADERS),
    (State.SENT, Input.RESPONSE_END): (State.ENDED, ""),
    (State.SENT, Input.RESET): (State.ENDED, ""),
    (State.ANSWERED, Input.REQUEST_HEADERS): (State.ANSWERED, _HEADERS_AGAIN),
    (State.ANSWERED, Input.REQUEST_DATA): (State.ANSWERED, ""),
    (State.ANSWERED, Input.REQUEST_END): (State.ANSWERED_SENT, ""),
    (State.ANSWERED, Input.RESPONSE_HEADERS): (State.ANSWERED, _HEADERS_AGAIN),
    (State.ANSWERED, Input.RESPONSE_DATA): (State.ANSWERED, ""),
    (State.ANSWERED, Input.RESPONSE_END): (State.ENDED, ""),
    (State.ANSWERED, Input.RESET): (State.ENDED, ""),
    (State.ANSWERED_SENT, Input.REQUEST_HEADERS): (State.ANSWERED_SENT, _AFTER_END),
    (State.ANSWERED_SENT, Input.REQUEST_DATA): (State.ANSWERED_SENT, _AFTER_END),
    (State.ANSWERED_SENT, Input.REQUEST_END): (State.ANSWERED_SENT, _AFTER_END),
    (State.ANSWERED_SENT, Input.RESPONSE_HEADERS): (State.ANSWERED_SENT, _HEADERS_AGAIN),
    (State.ANSWERED_SENT, Input.RESPONSE_DATA): (State.ANSWERED_SENT, ""),
    (State.ANSWERED_SENT, Input.RESPONSE_END): (State.ENDED, ""),
    (State.ANSWERED_SENT, Input.RESET): (State.ENDED, ""),
    # A reset or an early answer crosses with what the other side still sends: no fault.
    (State.ENDED, Input.REQUEST_HEADERS): (State.ENDED, _REUSED),
    (State.ENDED, Input.REQUEST_DATA): (State.ENDED, ""),
    (State.ENDED, Input.REQUEST_END): (State.ENDED, ""),
    (State.ENDED, Input.RESPONSE_HEADERS): (State.ENDED, ""),
    (State.ENDED, Input.RESPONSE_DATA): (State.ENDED, ""),
    (State.ENDED, Input.RESPONSE_END): (State.ENDED, ""),
    (State.ENDED, Input.RESET): (State.ENDED, ""),
}

_DATA = (Input.REQUEST_DATA, Input.RESPONSE_DATA)
"""By direction."""
_REQUEST_HEADERS, _REQUEST_END, _RESPONSE_HEADERS = Input.REQUEST_HEADERS, Input.REQUEST_END, Input.RESPONSE_HEADERS
_IDLE, _OPEN, _ENDED = State.IDLE, State.OPEN, State.ENDED
# An enumeration's member costs 0.1 µs to look up; a NamedTuple costs half by tuple.__new__. A call has dozens of both.
_new = tuple.__new__
_unpack_prefix = PREFIX.unpack_from

_Head = TypeVar("_Head")


class _Heads(Generic[_Head]):
    """Read header blocks of one direction. A block that is repeated while the table stays the same is read once."""

    def __init__(self, decoder: Decoder, read: Callable[[Sequence[Header]], _Head], unreadable: _Head) -> None:
        self._decoder = decoder
        self._read = read
        self._unreadable = unreadable
        self._version = 0
        self._known: dict[bytes, _Head] = {}

    def read(self, block: bytes) -> tuple[_Head, str]:
        """Return what the block says, and the reason why it can't be read (empty if it can)."""
        decoder = self._decoder
        if self._version == decoder.version:
            head = self._known.get(block)
            if head is not None:
                return head, ""
        else:
            self._known.clear()
            self._version = decoder.version
        try:
            head = self._read(decoder.decode(block))
        except HpackError as error:
            decoder.forget()
            return self._unreadable, f"header block: {error}"
        if self._version == decoder.version and len(block) < 512 and len(self._known) < 256:
            self._known[block] = head
        return head, ""


class _Stream:
    """One open call. What is seldom set is a class attribute until it is."""

    encodings = ("", "")
    """By direction."""
    assemblers: tuple[Assembler | None, Assembler | None] = (None, None)
    """By direction; None: between two messages."""
    opaque = (False, False)
    """By direction; True: what this side sends is no gRPC."""

    def __init__(self, state: State) -> None:
        self.state = state

    def set_assembler(self, direction: Direction, assembler: Assembler | None) -> None:
        """Set one side's."""
        request, response = self.assemblers
        self.assemblers = (request, assembler) if direction else (assembler, response)


class GrpcConnection:
    """Both directions of one HTTP/2 connection that carries gRPC."""

    def __init__(self) -> None:
        self.protocol = "grpc"
        self._readers = (FrameReader(_REQUEST), FrameReader(_RESPONSE))
        self._decoders = (Decoder(), Decoder())
        self._requests = _Heads(self._decoders[0], read_request, NO_REQUEST)
        self._responses = _Heads(self._decoders[1], read_response, NO_RESPONSE)
        self._streams: dict[int, _Stream] = {}  # those that have not ended
        self._seen_from: int | None = None  # from this stream id to the highest, every HEADERS was seen
        self._highest_id = 0
        self._unseen: dict[int, None] = {}
        """Streams that were opened without their HEADERS, the newest ones: those may still come, where the direction
        that they are in was out of step for longer than the other."""
        self._last_id = (1 << 31) - 1  # of the server's GOAWAY

    def feed(self, direction: Direction, data: bytes) -> list[Event]:
        """Take bytes as they came; return what they completed, in order."""
        items = self._readers[direction].feed(data)
        return self._events(direction, items) if items else []  # a window update, half of a frame

    def lost(self, direction: Direction, count: int) -> list[Event]:
        """Take note of a gap; a count of 0 says that this is some place in the middle of the connection."""
        # A SETTINGS that allows the other side larger frames may be among what is missing.
        self._readers[1 - direction].allow_frame_size(LARGEST_FRAME_SIZE)
        return self._events(direction, self._readers[direction].lost(count))

    def close(self, direction: Direction) -> list[Event]:
        """Take note of this direction's end; return what stayed incomplete."""
        events = self._events(direction, self._readers[direction].close())
        for stream_id, stream in self._streams.items():
            self._check_unfinished(stream_id, stream, direction, events)
        return events

    def _events(self, direction: Direction, items: list[Item]) -> list[Event]:
        events: list[Event] = []
        for item in items:
            if isinstance(item, Frame):
                kind = item.type
                if kind == DATA:
                    self._data(direction, item, events)
                elif kind == HEADERS:
                    if direction:
                        self._response_headers(item, events)
                    else:
                        self._request_headers(item, events)
                else:
                    self._control(direction, item, events)
            elif isinstance(item, SyncLost):
                self._decoders[direction].forget()
                self._lose_sync(direction, events)
            elif isinstance(item, BlockLost):
                self._decoders[direction].forget()
            elif isinstance(item, PartialFrame):
                self._partial(direction, item, events)
            else:
                events.append(item)
        return events

    def _request_headers(self, frame: Frame | PartialFrame, events: list[Event]) -> None:
        stream_id, offset, ends = frame.stream_id, frame.offset, frame.flags & END_STREAM
        head = NO_REQUEST
        if isinstance(frame, Frame):
            head, error = self._requests.read(frame.payload)
            if error:
                events.append(Malformed(_REQUEST, offset, error, frame.payload[:32], stream_id))
        stream = self._streams.get(stream_id)
        if stream_id in self._unseen and (stream is None or head.method):  # else they may be its trailers
            length = len(frame.payload if isinstance(frame, Frame) else frame.head)
            events.append(Skipped(_REQUEST, offset, HEADER_SIZE + length, _LATE))
            return
        if stream is not None and ends:
            self._end_request(stream_id, stream, offset, events)  # trailers of the client's: HTTP/2 has them, gRPC not
            return
        before = stream.state if stream is not None else self._missing_state(stream_id)
        state, complaint = TRANSITIONS[before, _REQUEST_HEADERS]
        if complaint:
            events.append(Malformed(_REQUEST, offset, complaint, b"", stream_id))
            return
        stream = self._streams[stream_id] = _Stream(state)
        if self._seen_from is None:
            self._seen_from = stream_id
        if stream_id > self._highest_id:
            self._highest_id = stream_id
        service, method, metadata, timeout_ns, encoding, problem = head
        events.append(_new(CallOpened, (stream_id, offset, service, method, metadata, timeout_ns, True)))
        if encoding:
            stream.encodings = (encoding, "")
        if problem:
            stream.opaque = (True, False)
            events.append(Malformed(_REQUEST, offset, problem, b"", stream_id))
        if ends:
            self._end_request(stream_id, stream, offset, events)
        if stream_id > self._last_id:
            self._reset(stream_id, _RESPONSE, 0, _REFUSED_STREAM, events)

    def _response_headers(self, frame: Frame | PartialFrame, events: list[Event]) -> None:
        stream_id, offset = frame.stream_id, frame.offset
        head = NO_RESPONSE
        if isinstance(frame, Frame):
            head, error = self._responses.read(frame.payload)
            if error:
                events.append(Malformed(_RESPONSE, offset, error, frame.payload[:32], stream_id))
        stream = self._streams.get(stream_id) or self._stream(_RESPONSE, frame, events)
        if stream is None:
            return
        if head.problem:
            events.append(Malformed(_RESPONSE, offset, head.problem, b"", stream_id))
        if frame.flags & END_STREAM:
            self._end_response(stream_id, stream, offset, head, events)
            return
        if head.informational:
            stream.state = max(stream.state, _OPEN)
        else:
            state, complaint = TRANSITIONS[stream.state, _RESPONSE_HEADERS]
            if complaint:
                events.append(Malformed(_RESPONSE, offset, complaint, b"", stream_id))
                return
            stream.state = state
            if head.encoding:
                stream.encodings = (stream.encodings[0], head.encoding)
            if head.problem:
                stream.opaque = (stream.opaque[0], True)
        events.append(_new(CallMetadata, (stream_id, offset, head.metadata)))

    def _data(self, direction: Direction, frame: Frame, events: list[Event]) -> None:
        frame_offset, _, flags, stream_id, payload = frame
        stream = self._streams.get(stream_id) or self._stream(direction, frame, events)
        if stream is None:
            return
        state, complaint = TRANSITIONS[stream.state, _DATA[direction]]
        # An assembler before the answer's first DATA was put there by a gap: its HEADERS may be among what is missing.
        if complaint and not (complaint is _NO_HEADERS and stream.assemblers[direction] is not None):
            events.append(Malformed(direction, frame_offset, complaint, payload[:32], stream_id))
            if state is stream.state:
                return
        stream.state = state
        size = len(payload)
        if size:
            offset = frame_offset + HEADER_SIZE + (1 if flags & PADDED else 0)
            length = size - PREFIX_SIZE
            whole = length >= 0 and _unpack_prefix(payload) == (0, length)
            if whole and stream.assemblers[direction] is None and not stream.opaque[direction]:
                message = (stream_id, direction, offset, length, payload[PREFIX_SIZE:], "")
                events.append(_new(CallMessage, message))
            else:
                self._assemble(direction, stream_id, stream, offset, payload, events)
        if flags & END_STREAM:
            if direction:
                self._end_response(stream_id, stream, frame_offset, NO_RESPONSE, events)
            else:
                self._end_request(stream_id, stream, frame_offset, events)

    def _assemble(
        self, direction: Direction, stream_id: int, stream: _Stream, offset: int, data: bytes, events: list[Event]
    ) -> None:
        """Take DATA that is not exactly one message."""
        if stream.opaque[direction]:
            events.append(Skipped(direction, offset, len(data), "a body that is no gRPC"))
            return
        assembler = stream.assemblers[direction] or Assembler()
        self._deliver(direction, stream_id, stream, assembler.feed(offset, data), events)
        stream.set_assembler(direction, None if assembler.idle else assembler)

    def _deliver(
        self, direction: Direction, stream_id: int, stream: _Stream, items: list[Message | Unread], events: list[Event]
    ) -> None:
        for item in items:
            if isinstance(item, Message):
                offset, length, compressed, payload, note = item
                if compressed and payload is not None:
                    payload, note = decompress(payload, stream.encodings[direction])
                events.append(CallMessage(stream_id, direction, offset, length, payload, note))
            elif item.malformed:
                events.append(Malformed(direction, item.offset, item.reason, b"", stream_id))
            else:
                events.append(Skipped(direction, item.offset, item.length, item.reason))

    def _end_request(self, stream_id: int, stream: _Stream, offset: int, events: list[Event]) -> None:
        state, complaint = TRANSITIONS[stream.state, _REQUEST_END]
        if complaint:
            events.append(Malformed(_REQUEST, offset, complaint, b"", stream_id))
            return
        if stream.assemblers[0] is not None:
            self._check_unfinished(stream_id, stream, _REQUEST, events)
        stream.state = state
        events.append(_new(CallHalfClosed, (stream_id, _REQUEST)))

    def _end_response(
        self, stream_id: int, stream: _Stream, offset: int, head: ResponseHead, events: list[Event]
    ) -> None:
        if stream.assemblers[1] is not None:
            self._check_unfinished(stream_id, stream, _RESPONSE, events)
        del self._streams[stream_id]
        events.append(_new(CallEnded, (stream_id, _RESPONSE, offset, head.status, None, head.metadata)))

    def _reset(self, stream_id: int, direction: Direction, offset: int, code: int, events: list[Event]) -> None:
        del self._streams[stream_id]
        events.append(CallEnded(stream_id, direction, offset, None, code, ()))

    def _check_unfinished(self, stream_id: int, stream: _Stream, direction: Direction, events: list[Event]) -> None:
        assembler = stream.assemblers[direction]
        reason = assembler.unfinished() if assembler is not None else ""
        if assembler is not None and reason:
            events.append(Malformed(direction, assembler.offset, reason, b"", stream_id))

    def _missing_state(self, stream_id: int) -> State:
        """Return the state of a stream that is not open: ids rise, so one that was seen to be passed has ended."""
        seen = self._seen_from is not None and self._seen_from <= stream_id <= self._highest_id
        return _ENDED if seen or stream_id in self._unseen else _IDLE

    def _stream(self, direction: Direction, frame: Frame | PartialFrame, events: list[Event]) -> _Stream | None:
        """Return a frame's stream, opened as not seen where that is so; None if it has ended."""
        stream_id = frame.stream_id
        stream = self._streams.get(stream_id)
        if stream is not None or self._missing_state(stream_id) is _ENDED:
            return stream
        if not stream_id & 1:
            events.append(Skipped(direction, frame.offset, HEADER_SIZE, "a frame of a stream that the server opened"))
            return None
        stream = self._streams[stream_id] = _Stream(_IDLE)
        stream.assemblers = (Assembler(middle=True), Assembler(middle=True))
        self._unseen[stream_id] = None
        if len(self._unseen) > _MAX_UNSEEN:
            del self._unseen[next(iter(self._unseen))]
        offset = 0 if direction else frame.offset
        events.append(CallOpened(stream_id, offset, "", "", (), None, False))
        return stream

    def _control(self, direction: Direction, frame: Frame, events: list[Event]) -> None:
        """Take a frame that carries neither headers nor data."""
        kind, payload = frame.type, frame.payload
        if kind == RST_STREAM:
            if self._stream(direction, frame, events) is not None:
                self._reset(frame.stream_id, direction, frame.offset, int.from_bytes(payload, "big"), events)
        elif kind == SETTINGS:
            other = 1 - direction  # the side that keeps to them
            for setting, value in SETTING.iter_unpack(payload):
                if setting == SETTINGS_HEADER_TABLE_SIZE:
                    self._decoders[other].allow_table_size(value)
                elif setting == SETTINGS_MAX_FRAME_SIZE:
                    self._readers[other].allow_frame_size(value)
        elif kind == GOAWAY and direction:
            self._last_id = GOAWAY_HEAD.unpack_from(payload)[0] & 0x7FFFFFFF
            for stream_id in [stream_id for stream_id in self._streams if stream_id > self._last_id]:
                self._reset(stream_id, _RESPONSE, frame.offset, _REFUSED_STREAM, events)
        elif kind == PUSH_PROMISE:
            _, error = self._responses.read(payload[4:])  # gRPC has no use for it, the table has
            if error:
                events.append(Malformed(direction, frame.offset, error, payload[:32], frame.stream_id))

    def _partial(self, direction: Direction, frame: PartialFrame, events: list[Event]) -> None:
        """Take a frame with a gap in it; the gap itself is told by a Skipped."""
        if frame.type == HEADERS:
            if direction:
                self._response_headers(frame, events)
            else:
                self._request_headers(frame, events)
        elif frame.type == DATA:
            stream = self._stream(direction, frame, events)
            if stream is None:
                return
            stream.state, _ = TRANSITIONS[stream.state, _DATA[direction]]
            offset, length, head, padding = frame.offset + HEADER_SIZE, frame.length, frame.head, 0
            if frame.flags & PADDED:
                padding = head[0] if head else 0
                offset, length, head = offset + 1, length - 1 - padding, head[1:]
            assembler = stream.assemblers[direction] or Assembler()
            stream.set_assembler(direction, assembler)
            head = head[: max(0, length)]
            self._deliver(direction, stream_id := frame.stream_id, stream, assembler.feed(offset, head), events)
            lost = length - len(head)
            self._deliver(direction, stream_id, stream, assembler.lose(lost if lost >= 0 else None), events)
            if frame.flags & END_STREAM and direction:
                self._end_response(stream_id, stream, frame.offset, NO_RESPONSE, events)
            elif frame.flags & END_STREAM:
                self._end_request(stream_id, stream, frame.offset, events)

    def _lose_sync(self, direction: Direction, events: list[Event]) -> None:
        """Frames are missing: of the open streams, and of streams that were not seen."""
        if direction == _REQUEST:
            self._seen_from = None
        for stream_id, stream in self._streams.items():
            assembler = stream.assemblers[direction]
            if assembler is None:
                stream.set_assembler(direction, Assembler(middle=True))
            else:
                self._deliver(direction, stream_id, stream, assembler.lose(), events)
