"""Redact one direction of a connection: its bytes come in as they were, and what of them may stay comes out.

Each side tells `Kept` ranges: places in its stream, and the bytes that are to stand there where they change. What it
never tells of is what it could not read, which is for the caller to blank. Lengths never change. Frames are cut by the
readers of the dissectors; messages are masked by `masking`, header blocks by `masking_hpack`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dissectors import http2, hvsock, nri_mux, ttrpc
from dissectors.events import Direction
from dissectors.grpc_headers import read_request, read_response
from dissectors.grpc_messages import PREFIX_SIZE, Assembler, Message, decompress
from dissectors.hpack import Decoder, HpackError
from dissectors.masking import BadProtobuf, Masker, field_spans, is_secret_name, mask_unknown
from dissectors.masking_hpack import mask_block
from protos.registry import Registry

_OF_NO_CALL = {http2.PING: 8, http2.WINDOW_UPDATE: 4}
"""By type: the length."""
MAX_RAW = 2 * http2.LARGEST_FRAME_SIZE
"""Bytes of a direction kept in which no frame ended; what is older is not told of."""


class Kept(NamedTuple):
    """A range of the stream that is not to be blanked."""

    offset: int
    length: int
    data: bytes | None
    """What is to stand there; None: what stood there."""


class Connection(Protocol):
    """Both directions of one connection."""

    def feed(self, direction: Direction, data: bytes) -> list[Kept]:
        """Take the next bytes."""
        ...

    def lost(self, direction: Direction, count: int) -> list[Kept]:
        """Take note of a gap."""
        ...


class Messages:
    """Masks messages by the method that they are of."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.masker = Masker(registry)
        self.masked = self.blanked = 0
        """Messages that were changed, and those that became zeros, as they do not parse."""

    def mask(self, service: str, method: str, direction: Direction, payload: bytes) -> bytes:
        """Return a message as it may be passed on; of a method that no schema has, without its text and bytes."""
        found = self._registry.method(service, method)
        if found is None:
            masked = mask_unknown(payload)
        else:
            masked = self.masker.mask(found.output_type if direction else found.input_type, payload)
        if masked != payload:
            self.masked += any(masked)
            self.blanked += not any(masked)
        return masked


def open_redactor(protocol: str, messages: Messages) -> Connection | None:
    """Return what redacts a connection of this protocol; None: nothing can be read in it."""
    if protocol == "grpc":
        return _Grpc(messages)
    if protocol == "ttrpc":
        return _Ttrpc(messages)
    if protocol == "hvsock":
        return _Vsock(messages)
    return _Nri(messages) if protocol == "nri" else None


class _Ttrpc:
    """Both directions of a ttrpc connection."""

    def __init__(self, messages: Messages, starts: tuple[int, int] = (0, 0)) -> None:
        self._messages = messages
        self._readers = tuple(ttrpc.FrameReader(each, start=starts[each]) for each in Direction)
        self._methods: dict[int, tuple[str, str]] = {}

    def feed(self, direction: Direction, data: bytes) -> list[Kept]:
        return self._kept(direction, self._readers[direction].feed(data))

    def lost(self, direction: Direction, count: int) -> list[Kept]:
        return self._kept(direction, self._readers[direction].lost(count))

    def _kept(self, direction: Direction, items: Sequence[object]) -> list[Kept]:
        kept: list[Kept] = []
        for item in items:
            if isinstance(item, ttrpc.Frame):
                payload = item.payload
                try:
                    masked = self._frame(direction, item)
                except (BadProtobuf, ttrpc.BadMessage):
                    continue
                kept.append(Kept(item.offset, ttrpc.HEADER_SIZE, None))
                kept.append(Kept(item.offset + ttrpc.HEADER_SIZE, len(payload), None if masked == payload else masked))
        return kept

    def _frame(self, direction: Direction, frame: ttrpc.Frame) -> bytes:
        payload = bytearray(frame.payload)
        if frame.type == ttrpc.TYPE_REQUEST:
            request = ttrpc.parse_request(frame.payload)
            names = self._methods[frame.stream_id] = request.service, request.method
            for number, start, end in field_spans(payload):
                if number == 3:
                    payload[start:end] = self._messages.mask(*names, Direction.REQUEST, bytes(payload[start:end]))
                elif number == 5:
                    _mask_pair(payload, start, end)
        elif frame.type == ttrpc.TYPE_RESPONSE:
            names = self._methods.pop(frame.stream_id, ("", ""))
            for number, start, end in field_spans(payload):
                part = bytes(payload[start:end])
                if number == 1:
                    payload[start:end] = self._messages.masker.mask("google.rpc.Status", part)
                elif number == 2:
                    payload[start:end] = self._messages.mask(*names, Direction.RESPONSE, part)
        elif frame.type == ttrpc.TYPE_DATA:
            names = self._methods.get(frame.stream_id, ("", ""))
            return self._messages.mask(*names, direction, frame.payload)
        else:
            return bytes(len(payload))
        return bytes(payload)


def _mask_pair(data: bytearray, start: int, end: int) -> None:
    """Mask the value of a KeyValue of ttrpc's metadata."""
    spans = field_spans(data, start, end)
    key = b"".join(bytes(data[at:stop]) for number, at, stop in spans if number == 1)
    for number, at, stop in spans:
        if number == 2 and is_secret_name(key.decode("utf-8", "replace")):
            data[at:stop] = b"*" * (stop - at)


class _Vsock:
    """A port of a VM's guest: the first lines stay, and the agent's calls. What else a guest says is not read."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._heads = [b"", b""]
        self._opened = False
        self._inside: _Ttrpc | None = None
        self._owed: list[Kept] = []
        """Of what the client said before it was answered."""

    def feed(self, direction: Direction, data: bytes) -> list[Kept]:
        kept: list[Kept] = []
        if direction == Direction.REQUEST:
            kept, self._owed = self._owed, []
        if self._opened:
            return kept + (self._inside.feed(direction, data) if self._inside is not None else [])
        whole = hvsock.is_sound(self._heads[Direction.REQUEST])
        self._heads[direction] += data
        if direction == Direction.REQUEST and not whole and hvsock.is_sound(self._heads[direction]):
            kept.append(Kept(0, self._heads[direction].index(b"\n") + 1, None))
        lines = hvsock.first_lines(*self._heads)
        if lines is None:
            return kept
        self._opened = True
        if lines.speaks == "ttrpc":
            self._inside = _Ttrpc(self._messages, lines.ends)
        rests = [head[end:] for head, end in zip(self._heads, lines.ends, strict=True)]
        self._heads = [b"", b""]
        told: list[list[Kept]] = [[], []]
        if self._inside is not None:
            told = [self._inside.feed(each, rests[each]) for each in Direction]
        if direction == Direction.REQUEST:
            return kept + told[direction]
        self._owed = told[Direction.REQUEST]
        return [*kept, Kept(0, lines.ends[direction], None), *told[direction]]

    def lost(self, direction: Direction, count: int) -> list[Kept]:
        if not self._opened and count:
            self._opened = True  # nothing more can be told of what follows
        return self._inside.lost(direction, count) if self._inside is not None else []


class _Nri:
    """Both directions of a plugin's connection: two ttrpc connections in a multiplexer."""

    def __init__(self, messages: Messages) -> None:
        self._readers = (nri_mux.MuxReader(Direction.REQUEST), nri_mux.MuxReader(Direction.RESPONSE))
        self._channels = {channel: _Ttrpc(messages) for channel in nri_mux.ASKS}
        self._places = {(channel, direction): _Places() for channel in nri_mux.ASKS for direction in Direction}

    def feed(self, direction: Direction, data: bytes) -> list[Kept]:
        return self._kept(direction, self._readers[direction].feed(data))

    def lost(self, direction: Direction, count: int) -> list[Kept]:
        return self._kept(direction, self._readers[direction].lost(count))

    def _kept(self, direction: Direction, items: list[nri_mux.Item]) -> list[Kept]:
        kept: list[Kept] = []
        for item in items:
            if isinstance(item, nri_mux.Chunk):
                if item.channel not in self._channels:
                    continue
                places = self._places[item.channel, direction]
                begins = places.add(item.offset, len(item.data))
                if begins:
                    kept.append(Kept(item.offset - nri_mux.HEADER_SIZE, nri_mux.HEADER_SIZE, None))
                inner = nri_mux.inner_direction(item.channel, direction)
                for each in self._channels[item.channel].feed(inner, item.data):
                    kept += places.outer(each)
            elif isinstance(item, nri_mux.Hole) and item.channel in self._channels:
                self._places[item.channel, direction].skip(item.count)
                inner = nri_mux.inner_direction(item.channel, direction)
                self._channels[item.channel].lost(inner, item.count)
        return kept


class _Places:
    """Where the bytes of one direction of a channel lie in the connection."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[int, int, int]] = deque()
        """Place in the channel, place in the connection, length."""
        self._end = 0
        self._last = -1

    def add(self, outer: int, length: int) -> bool:
        """Take the next bytes; tell whether a frame of the multiplexer begins with them."""
        begins = outer != self._last
        self._pieces.append((self._end, outer, length))
        self._end += length
        self._last = outer + length
        return begins

    def skip(self, length: int) -> None:
        self._end += length

    def outer(self, kept: Kept) -> list[Kept]:
        """Return a range of the channel in the connection. They come in order, so what lies before is dropped."""
        pieces, found = self._pieces, []
        while pieces and pieces[0][0] + pieces[0][2] <= kept.offset:
            pieces.popleft()
        for inner, outer, length in pieces:
            start, end = max(inner, kept.offset), min(inner + length, kept.offset + kept.length)
            if start >= end:
                break
            data = None if kept.data is None else kept.data[start - kept.offset : end - kept.offset]
            found.append(Kept(outer + start - inner, end - start, data))
        return found


class _Stream:
    """One call of an HTTP/2 connection."""

    def __init__(self, *, middle: bool) -> None:
        self.service = self.method = ""
        self.encodings = ["", ""]
        self.assemblers = (Assembler(middle=middle), Assembler(middle=middle))
        self.chunks: tuple[deque[tuple[int, int]], deque[tuple[int, int]]] = (deque(), deque())
        """Where the DATA lies that belongs to no message yet: place and length, by direction."""


class _Grpc:
    """Both directions of an HTTP/2 connection that carries gRPC."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._readers = (http2.FrameReader(Direction.REQUEST), http2.FrameReader(Direction.RESPONSE))
        self._decoders = (Decoder(), Decoder())
        self._streams: dict[int, _Stream] = {}
        self._raw = (bytearray(), bytearray())
        """What came since the last whole frame: header blocks lie in it as they were sent."""
        self._base = [0, 0]

    def feed(self, direction: Direction, data: bytes) -> list[Kept]:
        kept: list[Kept] = []
        raw = self._raw[direction]
        raw += data
        if not self._base[direction] and not direction and raw.startswith(http2.PREFACE):
            kept.append(Kept(0, len(http2.PREFACE), None))
            self._base[direction] = len(http2.PREFACE)
            del raw[: len(http2.PREFACE)]
        kept += self._kept(direction, self._readers[direction].feed(data))
        self._between(direction, len(raw), kept)
        if len(raw) > MAX_RAW:
            self._base[direction] += len(raw) - MAX_RAW // 2
            del raw[: len(raw) - MAX_RAW // 2]
        return kept

    def lost(self, direction: Direction, count: int) -> list[Kept]:
        self._readers[1 - direction].allow_frame_size(http2.LARGEST_FRAME_SIZE)
        kept = self._kept(direction, self._readers[direction].lost(count))
        self._base[direction] += len(self._raw[direction]) + count
        self._raw[direction].clear()
        return kept

    def _kept(self, direction: Direction, items: list[http2.Item]) -> list[Kept]:
        kept: list[Kept] = []
        for item in items:
            if isinstance(item, http2.Frame):
                self._frame(direction, item, kept)
            elif isinstance(item, http2.PartialFrame):
                stream = self._streams.get(item.stream_id)
                if item.type == http2.DATA and stream is not None:
                    stream.assemblers[direction].lose()
                    stream.chunks[direction].clear()
            elif isinstance(item, http2.SyncLost | http2.BlockLost):
                self._decoders[direction].forget()
                if isinstance(item, http2.SyncLost):
                    self._middle(direction)
        return kept

    def _between(self, direction: Direction, until: int, kept: list[Kept]) -> None:
        """Take the frames that the reader does not tell of, as they are of no call: PING and WINDOW_UPDATE."""
        raw, at = self._raw[direction], 0
        while until - at >= http2.HEADER_SIZE:
            high, low, kind_flags, stream_id = http2.HEADER.unpack_from(raw, at)
            length = _OF_NO_CALL.get(kind_flags >> 8)
            end = at + http2.HEADER_SIZE + low
            if high or length != low or end > until or (length == 8 and stream_id):
                break
            at = end
        if at:
            kept.append(Kept(self._base[direction], at, None))
            self._base[direction] += at
            del raw[:at]

    def _middle(self, direction: Direction) -> None:
        """Frames are missing, of any stream."""
        for stream in self._streams.values():
            stream.assemblers[direction].lose()
            stream.chunks[direction].clear()

    def _frame(self, direction: Direction, frame: http2.Frame, kept: list[Kept]) -> None:
        self._between(direction, frame.offset - self._base[direction], kept)
        kind, base = frame.type, self._base[direction]
        raw = self._raw[direction]
        heads, spans, end = _layout(raw, frame.offset - base)
        if kind == http2.DATA:
            kept += [Kept(base + start, length, None) for start, length in heads]
            self._data(direction, frame, base + spans[0][0], kept)
        elif kind in (http2.HEADERS, http2.PUSH_PROMISE):
            self._block(direction, frame, heads, spans, kept)
        else:
            kept += [Kept(base + start, length, None) for start, length in heads + spans]
            if kind == http2.SETTINGS:
                for setting, value in http2.SETTING.iter_unpack(frame.payload):
                    if setting == http2.SETTINGS_HEADER_TABLE_SIZE:
                        self._decoders[1 - direction].allow_table_size(value)
                    elif setting == http2.SETTINGS_MAX_FRAME_SIZE:
                        self._readers[1 - direction].allow_frame_size(value)
        if kind == http2.RST_STREAM or (direction and frame.flags & http2.END_STREAM and kind <= http2.HEADERS):
            self._streams.pop(frame.stream_id, None)
        self._base[direction] += end
        del raw[:end]

    def _block(
        self,
        direction: Direction,
        frame: http2.Frame,
        heads: list[tuple[int, int]],
        spans: list[tuple[int, int]],
        kept: list[Kept],
    ) -> None:
        """Take a header block."""
        base, raw, decoder = self._base[direction], self._raw[direction], self._decoders[direction]
        promised = 4 if frame.type == http2.PUSH_PROMISE else 0
        block = frame.payload[promised:]
        try:
            headers = decoder.decode(block)
        except HpackError:
            decoder.forget()
            return
        if frame.type == http2.HEADERS and not direction:
            stream = self._streams.get(frame.stream_id)
            if stream is None:
                stream = self._streams[frame.stream_id] = _Stream(middle=False)
                request = read_request(headers)
                stream.service, stream.method, stream.encodings[0] = request.service, request.method, request.encoding
        elif frame.type == http2.HEADERS:
            stream = self._streams.get(frame.stream_id)
            if stream is not None:
                stream.encodings[1] = read_response(headers).encoding or stream.encodings[1]
        masked = frame.payload[:promised] + mask_block(block, headers, is_secret_name)
        if b"".join(bytes(raw[start : start + length]) for start, length in spans) != frame.payload:
            return  # frames of it lie elsewhere than is known
        kept += [Kept(base + start, length, None) for start, length in heads]
        kept += _spread(masked, frame.payload, [(base + start, length) for start, length in spans])

    def _data(self, direction: Direction, frame: http2.Frame, at: int, kept: list[Kept]) -> None:
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            stream = self._streams[frame.stream_id] = _Stream(middle=True)
        chunks = stream.chunks[direction]
        chunks.append((at, len(frame.payload)))
        for item in stream.assemblers[direction].feed(at, frame.payload):
            if isinstance(item, Message):
                spans = _take(chunks, item.offset, PREFIX_SIZE + item.length)
                if item.payload is not None:
                    self._message(direction, stream, item, item.payload, spans, kept)
            else:
                _take(chunks, item.offset, item.length)

    def _message(
        self,
        direction: Direction,
        stream: _Stream,
        item: Message,
        payload: bytes,
        spans: list[tuple[int, int]],
        kept: list[Kept],
    ) -> None:
        plain: bytes | None = payload
        if item.compressed:
            plain, _ = decompress(payload, stream.encodings[direction])
        masked = None if plain is None else self._messages.mask(stream.service, stream.method, direction, plain)
        if item.compressed and (masked is None or masked != plain):
            # It would not be as long again: zeros, and no word of compression.
            masked, compressed = bytes(len(payload)), 0
        else:
            masked, compressed = masked if not item.compressed else payload, item.compressed
        length = item.length.to_bytes(4)
        kept += _spread(
            bytes((compressed,)) + length + (masked or b""), bytes((item.compressed,)) + length + payload, spans
        )


def _take(chunks: deque[tuple[int, int]], offset: int, length: int) -> list[tuple[int, int]]:
    """Take so many bytes from a place on out of what lies there; what is before it is dropped."""
    taken: list[tuple[int, int]] = []
    while chunks and length:
        start, size = chunks.popleft()
        skipped = min(max(0, offset - start), size)
        part = min(size - skipped, length)
        if part:
            taken.append((start + skipped, part))
            length -= part
        if skipped + part < size:
            chunks.appendleft((start + skipped + part, size - skipped - part))
    return taken


def _spread(data: bytes, before: bytes, spans: list[tuple[int, int]]) -> list[Kept]:
    """Lay bytes over the places that they lie at; `before` is what lay there."""
    kept: list[Kept] = []
    position = 0
    for start, length in spans:
        part = data[position : position + length]
        kept.append(Kept(start, length, None if part == before[position : position + length] else part))
        position += length
    return kept


def _layout(raw: bytearray, at: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]], int]:
    """Return where the headers (with padding and priority) and the payloads lie of the frame at a place and of its
    CONTINUATION frames, and where the last one ends."""
    heads: list[tuple[int, int]] = []
    spans: list[tuple[int, int]] = []
    kind = flags = 0
    while not spans or (kind in (http2.HEADERS, http2.PUSH_PROMISE) and not flags & http2.END_HEADERS):
        high, low, kind_flags, _ = http2.HEADER.unpack_from(raw, at)
        length, size = high << 16 | low, http2.HEADER_SIZE
        if not spans:
            kind = kind_flags >> 8
        flags = kind_flags & 0xFF
        end = at + size + length
        padding = 0
        if not spans and kind in (http2.DATA, http2.HEADERS, http2.PUSH_PROMISE):
            if flags & http2.PADDED:
                padding, size = raw[at + size], size + 1
            if kind == http2.HEADERS and flags & http2.PRIORITIZED:
                size += 5
        heads.append((at, size))
        spans.append((at + size, end - padding - at - size))
        if padding:
            heads.append((end - padding, padding))
        at = end
    return heads, spans, at
