"""What a new file of a ring needs of a connection that began before it: both directions' bytes in, a beginning out.

A follower knows, at any moment, which calls are open, what HTTP/2's header compression remembers, and what has come of
the frame that is under way. `carried` gives bytes that bring another reader, ours or any other, to the same point:

    gRPC    preface and SETTINGS of both sides, a block of headers a direction that fills the dynamic table, the
            headers of open calls, what has come of their unfinished messages
    ttrpc   the Request of each open call
    NRI     the same for each of its channels, in frames of the multiplexer; a frame of that which is under way begins
            anew with what is left of it
    vsock   the first lines of both sides, then as the port speaks: of the log what has come of a line, else nothing
    all     the bytes since the last frame boundary

A place among the frames that is not known, as after a gap, is carried as a gap of one byte. Time is what the caller
says; packets and files are not known here.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple, Protocol

from dissectors import hpack_literals, http2, hvsock, nri_mux, ttrpc_frames
from dissectors.events import Direction
from dissectors.grpc_messages import PREFIX_SIZE
from dissectors.hpack import DEFAULT_TABLE_SIZE, Decoder, Header, HpackError

MAX_MESSAGE: Final = 4 << 20
"""Of an unfinished gRPC message, so much is kept; a longer one is carried as a gap."""

_REQUEST, _RESPONSE = Direction.REQUEST, Direction.RESPONSE
_MAX_FRAME: Final = http2.DEFAULT_MAX_FRAME_SIZE


class Carried(NamedTuple):
    """A piece of one direction."""

    direction: int
    piece: bytes | int
    """Bytes, or the size of a gap."""
    began_ns: int = 0
    """When the call began that these bytes are the beginning of; 0: they begin none."""


class _Protocol(Protocol):
    def feed(self, direction: Direction, data: bytes, time_ns: int) -> None: ...
    def lost(self, direction: Direction, count: int) -> None: ...
    def carried(self) -> list[Carried]: ...


class Follower:
    """Follows one connection."""

    def __init__(self) -> None:
        self._heads = [b"", b""]
        self._waiting: list[tuple[Direction, bytes | int, int]] = []
        self._inner: _Protocol | None = None
        self._unknown = False

    def feed(self, direction: int, data: bytes, time_ns: int) -> None:
        """Take bytes as they came."""
        if self._inner is not None:
            self._inner.feed(Direction(direction), data, time_ns)
        elif not self._unknown:
            self._waiting.append((Direction(direction), data, time_ns))
            self._heads[direction] += data
            self._choose(Direction(direction))

    def lost(self, direction: int, count: int) -> None:
        """Take note of a gap."""
        if self._inner is not None:
            self._inner.lost(Direction(direction), count)
        elif not self._unknown:
            self._waiting.append((Direction(direction), count, 0))

    def carried(self) -> list[Carried]:
        """Return what begins the connection anew."""
        if self._inner is not None:
            return [each for each in self._inner.carried() if each.piece]
        if self._unknown:
            return [Carried(_REQUEST, 1), Carried(_RESPONSE, 1)]
        return [Carried(direction, piece) for direction, piece, _ in self._waiting]

    def open_streams(self) -> Collection[int]:
        """The calls of a ttrpc connection that have no answer yet, by their streams; of others none is told."""
        return self._inner.open_streams() if isinstance(self._inner, _Ttrpc) else ()

    def _choose(self, direction: Direction) -> None:
        """Find out by the first bytes what is spoken; a preface may come in pieces."""
        head = self._heads[direction]
        vsock = direction == _REQUEST and hvsock.is_sound(head)
        if direction == _REQUEST and not vsock and hvsock.may_begin(head):
            return
        size = len(http2.PREFACE) if direction == _REQUEST and http2.PREFACE.startswith(head[:24]) else 10
        if len(head) < size and not vsock:
            return
        if vsock:
            self._inner = _Vsock()
        elif size > 10 or http2.is_sound(head):
            self._inner = _Http2()
        elif ttrpc_frames.is_sound(direction, head):
            self._inner = _Ttrpc()
        elif nri_mux.may_begin(head) and len(head) < nri_mux.ENOUGH:
            return
        elif nri_mux.is_sound(direction, head):
            self._inner = _Nri()
        else:
            self._unknown = True
        for towards, piece, time_ns in self._waiting:
            if isinstance(piece, int):
                self.lost(towards, piece)
            else:
                self.feed(towards, piece, time_ns)
        self._waiting.clear()
        self._heads = [b"", b""]


class _Ttrpc:
    def __init__(self) -> None:
        self._readers = ttrpc_frames.FrameReader(_REQUEST), ttrpc_frames.FrameReader(_RESPONSE)
        self._open: dict[int, Carried] = {}

    def feed(self, direction: Direction, data: bytes, time_ns: int) -> None:
        for item in self._readers[direction].feed(data):
            if not isinstance(item, ttrpc_frames.Frame | ttrpc_frames.PartialFrame):
                continue
            if direction == _REQUEST and item.type == ttrpc_frames.TYPE_REQUEST:
                if isinstance(item, ttrpc_frames.Frame):
                    frame = ttrpc_frames.build_frame(item.stream_id, item.type, item.flags, item.payload)
                    self._open[item.stream_id] = Carried(_REQUEST, frame, time_ns)
            elif direction == _RESPONSE:
                closes = item.flags & ttrpc_frames.FLAG_REMOTE_CLOSED
                if item.type == ttrpc_frames.TYPE_RESPONSE or closes:
                    self._open.pop(item.stream_id, None)

    def lost(self, direction: Direction, count: int) -> None:
        self._readers[direction].lost(count)

    def open_streams(self) -> Collection[int]:
        return self._open.keys()

    def carried(self) -> list[Carried]:
        return [*self._open.values(), *(_rest(each, self._readers[each].unfinished()) for each in Direction)]


class _Vsock:
    """A port of a VM's guest. Both sides' first lines are repeated as they were."""

    def __init__(self) -> None:
        self._heads = [b"", b""]
        self._speaks: str | None = None
        """None: the first lines are not whole."""
        self._inside = _Ttrpc()
        self._rests = [b"", b""]
        """Of an unfinished line of the log."""
        self._lost = [0, 0]
        """1: bytes of a first line are missing."""

    def feed(self, direction: Direction, data: bytes, time_ns: int) -> None:
        if self._speaks is None:
            self._heads[direction] += data
            self._shake_hands(time_ns)
        elif self._speaks == "ttrpc":
            self._inside.feed(direction, data, time_ns)
        elif self._speaks == "log":
            self._rests[direction] = (self._rests[direction] + data).rsplit(b"\n", 1)[-1][-hvsock.MAX_LOG_LINE :]

    def _shake_hands(self, time_ns: int) -> None:
        lines = hvsock.first_lines(*self._heads)
        if lines is None:
            return
        self._speaks = lines.speaks
        heads, self._heads = self._heads, [head[:end] for head, end in zip(self._heads, lines.ends, strict=True)]
        for direction, head, end in zip(Direction, heads, lines.ends, strict=True):
            if head[end:]:
                self.feed(direction, head[end:], time_ns)

    def lost(self, direction: Direction, count: int) -> None:
        if self._speaks is None:
            self._lost[direction], self._speaks = 1, ""
        elif self._speaks == "ttrpc":
            self._inside.lost(direction, count)
        self._rests[direction] = b""

    def carried(self) -> list[Carried]:
        pieces = [Carried(direction, self._heads[direction]) for direction in Direction]
        pieces += [Carried(direction, self._lost[direction]) for direction in Direction]
        pieces += [Carried(direction, self._rests[direction]) for direction in Direction]
        return pieces + (self._inside.carried() if self._speaks == "ttrpc" else [])


class _Nri:
    def __init__(self) -> None:
        self._readers = nri_mux.MuxReader(_REQUEST), nri_mux.MuxReader(_RESPONSE)
        self._channels = {channel: _Ttrpc() for channel in nri_mux.ASKS}

    def feed(self, direction: Direction, data: bytes, time_ns: int) -> None:
        self._take(direction, self._readers[direction].feed(data), time_ns)

    def lost(self, direction: Direction, count: int) -> None:
        self._take(direction, self._readers[direction].lost(count), 0)

    def _take(self, direction: Direction, items: list[nri_mux.Item], time_ns: int) -> None:
        for item in items:
            if isinstance(item, nri_mux.Chunk):
                towards = nri_mux.inner_direction(item.channel, direction)
                self._channels[item.channel].feed(towards, item.data, time_ns)
            elif isinstance(item, nri_mux.Hole):
                self._channels[item.channel].lost(nri_mux.inner_direction(item.channel, direction), item.count)

    def carried(self) -> list[Carried]:
        pieces: list[Carried] = []
        for direction in Direction:
            under_way = self._readers[direction].under_way()
            channel, left, header = under_way or (0, 0, b"")
            # The one whose frame is under way comes last: its bytes follow.
            for number in sorted(self._channels, key=lambda each: each == channel):
                inside = self._channels[number].carried()
                own = [each for each in inside if nri_mux.inner_direction(number, direction) == each.direction]
                for at, (_, piece, began_ns) in enumerate(own):
                    follows = left if number == channel and at == len(own) - 1 else 0
                    pieces += _framed(direction, number, piece, follows, began_ns)
            if under_way is not None and not channel and left:  # of an unknown channel
                pieces.append(Carried(direction, nri_mux.HEADER.pack(channel, left)))
            pieces.append(Carried(direction, 1 if under_way is None else header))
        return pieces


def _framed(direction: Direction, channel: int, piece: bytes | int, follows: int, began_ns: int) -> list[Carried]:
    """Return a channel's piece in a frame of which `follows` more bytes will come."""
    length = piece if isinstance(piece, int) else len(piece)
    if not length + follows:
        return []
    head = nri_mux.HEADER.pack(channel, length + follows)
    if isinstance(piece, int):
        return [Carried(direction, head), Carried(direction, piece)]
    return [Carried(direction, head + piece, began_ns)]


class _Body:
    """The unfinished message of one direction of a call."""

    __slots__ = ("held", "too_long", "wanted")

    def __init__(self) -> None:
        self.held = bytearray()
        self.wanted = PREFIX_SIZE
        self.too_long = 0
        """Bytes still to come of a message that is not kept."""

    def clear(self) -> None:
        """Forget what has come, as something is missing of it."""
        self.held.clear()
        self.wanted, self.too_long = PREFIX_SIZE, 0

    def feed(self, data: bytes) -> None:
        passed = min(self.too_long, len(data))
        self.too_long -= passed
        self.held += data[passed:]
        at = 0
        while len(self.held) - at >= self.wanted:
            size = PREFIX_SIZE + int.from_bytes(self.held[at + 1 : at + PREFIX_SIZE], "big")
            if len(self.held) - at < size:
                self.wanted = size
                break
            at += size
            self.wanted = PREFIX_SIZE
        del self.held[:at]
        if self.wanted > MAX_MESSAGE:
            self.too_long = self.wanted - len(self.held)
            self.held.clear()
            self.wanted = PREFIX_SIZE


class _Stream:
    """An open call."""

    __slots__ = ("bodies", "ended", "headers", "time_ns")

    def __init__(self, request: list[Header], time_ns: int) -> None:
        self.headers: list[list[Header] | None] = [request, None]
        self.bodies = _Body(), _Body()
        self.ended = False
        """The client has said all."""
        self.time_ns = time_ns


class _Http2:
    def __init__(self) -> None:
        self._readers = http2.FrameReader(_REQUEST), http2.FrameReader(_RESPONSE)
        self._decoders = Decoder(), Decoder()
        self._settings: list[dict[int, int] | None] = [None, None]
        self._streams: dict[int, _Stream] = {}
        self._highest = 0
        self._asked = 0
        """Bytes of the client's; a server may greet first."""

    def feed(self, direction: Direction, data: bytes, time_ns: int) -> None:
        if direction == _REQUEST:
            self._asked += len(data)
        self._take(direction, self._readers[direction].feed(data), time_ns)

    def lost(self, direction: Direction, count: int) -> None:
        self._take(direction, self._readers[direction].lost(count), 0)

    def _take(self, direction: Direction, items: list[http2.Item], time_ns: int) -> None:
        for item in items:
            if isinstance(item, http2.SyncLost | http2.BlockLost):
                self._decoders[direction].forget()
                if isinstance(item, http2.SyncLost):
                    for stream in self._streams.values():
                        stream.bodies[direction].clear()
            elif isinstance(item, http2.Frame):
                self._frame(direction, item, time_ns)

    def _frame(self, direction: Direction, frame: http2.Frame, time_ns: int) -> None:
        kind, payload, number = frame.type, frame.payload, frame.stream_id
        stream = self._streams.get(number)
        if kind == http2.DATA:
            if stream is not None:
                stream.bodies[direction].feed(payload)
        elif kind == http2.HEADERS:
            headers = self._headers(direction, payload)
            if stream is not None and direction == _RESPONSE:
                stream.headers[1] = headers
            elif stream is None and direction == _REQUEST:
                stream = self._streams[number] = _Stream(headers, time_ns)
                self._highest = max(self._highest, number)
        elif kind == http2.PUSH_PROMISE:
            self._headers(direction, payload[4:])
        elif kind == http2.SETTINGS and not frame.flags & http2.ACK:
            self._set(direction, payload)
        elif kind == http2.RST_STREAM:
            self._streams.pop(number, None)
        if kind in (http2.DATA, http2.HEADERS) and frame.flags & http2.END_STREAM and stream is not None:
            if direction == _RESPONSE:
                self._streams.pop(number, None)
            stream.ended = True

    def _headers(self, direction: Direction, block: bytes) -> list[Header]:
        try:
            return self._decoders[direction].decode(block)
        except HpackError:
            self._decoders[direction].forget()
            return []

    def _set(self, direction: Direction, payload: bytes) -> None:
        other = 1 - direction
        settings = self._settings[direction] = self._settings[direction] or {}
        for setting, value in http2.SETTING.iter_unpack(payload):
            if setting == http2.SETTINGS_HEADER_TABLE_SIZE:
                self._decoders[other].allow_table_size(value)
                value = max(value, settings.get(setting, 0))
            elif setting == http2.SETTINGS_MAX_FRAME_SIZE:
                self._readers[other].allow_frame_size(value)
                value = max(value, settings.get(setting, 0))
            settings[setting] = value

    def carried(self) -> list[Carried]:
        pieces: list[Carried] = []
        for side in Direction:
            settings = self._settings[side]
            greeting = http2.PREFACE if side == _REQUEST and self._asked >= len(http2.PREFACE) else b""
            if settings is not None:
                values = b"".join(http2.SETTING.pack(*each) for each in settings.items())
                greeting += _frame(http2.SETTINGS, 0, 0, values)
            pieces.append(Carried(side, greeting))
        if None not in self._settings:
            pieces += [Carried(side, _frame(http2.SETTINGS, http2.ACK, 0, b"")) for side in Direction]
        used = next((each for each in range(1, self._highest, 2) if each not in self._streams), 2)
        for side in Direction:
            decoder = self._decoders[side]
            pieces.append(Carried(side, 0 if decoder.complete else 1))
            size, entries = decoder.table()
            if self._settings[side] is not None and (entries or size != DEFAULT_TABLE_SIZE):
                block = hpack_literals.table(size, entries)
                if not entries:  # tshark 4.0 asserts that a block has a header
                    block += hpack_literals.header_list([("podwire", "carried over")])
                pieces.append(Carried(side, _headers(used, http2.END_STREAM, block)))
        for number, stream in self._streams.items():
            ended = stream.ended and not stream.bodies[0].held
            for side in Direction:
                headers = stream.headers[side]
                if headers is not None:
                    flags = http2.END_STREAM if ended and side == _REQUEST else 0
                    block = hpack_literals.header_list(headers)
                    pieces.append(Carried(side, _headers(number, flags, block), stream.time_ns))
        for side in Direction:
            for number, stream in self._streams.items():
                body = stream.bodies[side]
                pieces.append(Carried(side, _data(number, bytes(body.held)), stream.time_ns))
            known = not any(stream.bodies[side].too_long for stream in self._streams.values())
            pieces.append(_rest(side, self._readers[side].unfinished() if known else None))
        return pieces


def _rest(direction: Direction, unfinished: bytes | None) -> Carried:
    return Carried(direction, 1 if unfinished is None else unfinished)


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    length = len(payload)
    return http2.HEADER.pack(length >> 16, length & 0xFFFF, kind << 8 | flags, stream_id) + payload


def _headers(stream_id: int, flags: int, block: bytes) -> bytes:
    parts = [block[at : at + _MAX_FRAME] for at in range(0, len(block), _MAX_FRAME)] or [b""]
    frames = b""
    for index, part in enumerate(parts):
        last = http2.END_HEADERS if index == len(parts) - 1 else 0
        frames += _frame(
            http2.CONTINUATION if index else http2.HEADERS, (0 if index else flags) | last, stream_id, part
        )
    return frames


def _data(stream_id: int, body: bytes) -> bytes:
    return b"".join(
        _frame(http2.DATA, 0, stream_id, body[at : at + _MAX_FRAME]) for at in range(0, len(body), _MAX_FRAME)
    )
