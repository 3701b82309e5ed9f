"""HTTP/2: cut one direction of a connection into frames (RFC 9113).

Comes in: bytes as they were read. Goes out: frames with their padding taken off and their header blocks joined, and
what is no frame. What a header block says, which streams there are and what DATA carries is not known here. The frames'
layouts are in `layouts`.

A capture may begin in the middle of a connection, and may have gaps: then the next sound frame is looked for. Where
frames or header blocks are missing, an item in their place says so: who decodes has to know in the right order.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import NamedTuple

from dissectors.cutting import Cutter
from dissectors.events import Direction, Malformed, Skipped
from dissectors.foreign import looks_like

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (§3.4)."""
HEADER = Struct(">BHHI")
"""The fast form of `layouts.HTTP2_HEADER`, in the groups that are looked at: length >> 16 and the rest of it,
type << 8 | flags, stream id with its reserved bit."""
HEADER_SIZE = 9
SETTING = Struct(">HI")
"""The fast form of one entry of `layouts.HTTP2_SETTINGS`."""
GOAWAY_HEAD = Struct(">II")
"""The fast form of what `layouts.HTTP2_GOAWAY` begins with."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
FRAME_NAMES = (
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
)
"""By type (§6)."""
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x1, 0x4, 0x8, 0x20
SETTINGS_HEADER_TABLE_SIZE, SETTINGS_MAX_FRAME_SIZE = 1, 5
ERROR_NAMES = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)
"""By code (§7)."""

DEFAULT_MAX_FRAME_SIZE = 1 << 14
LARGEST_FRAME_SIZE = (1 << 24) - 1
MAX_HEADER_BLOCK = 1 << 20
"""Of one block, its CONTINUATION frames joined. The largest seen is 300 bytes; some peers refuse more than 8 KiB."""
NO_FRAME = "no HTTP/2 frame"

_LENGTHS = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
_ON_STREAM_ZERO = frozenset((SETTINGS, PING, GOAWAY))
_ON_A_STREAM = frozenset((PRIORITY, RST_STREAM, PUSH_PROMISE, CONTINUATION))
_WITH_BLOCK = frozenset((HEADERS, PUSH_PROMISE))
_OF_NO_CALL = {WINDOW_UPDATE << 8: 4, PING << 8: 8, PING << 8 | ACK: 8}
"""type << 8 | flags of the frames that come most often and tell nothing of a call, and their length."""
_PLAIN = frozenset(
    (DATA << 8, DATA << 8 | END_STREAM, HEADERS << 8 | END_HEADERS, HEADERS << 8 | END_HEADERS | END_STREAM)
)
"""type << 8 | flags of the frames whose payload is to be taken as it is."""
_PADDABLE = frozenset((DATA, HEADERS, PUSH_PROMISE))
_ID_MASK = 0x7FFFFFFF


class Frame(NamedTuple):
    """A whole frame."""

    offset: int
    """Of its first byte, in this direction of the flow."""
    type: int
    flags: int
    stream_id: int
    payload: bytes
    """Without padding and priority; of HEADERS and PUSH_PROMISE the whole header block, CONTINUATION included."""


class PartialFrame(NamedTuple):
    """A frame with a gap in its payload."""

    offset: int
    type: int
    flags: int
    stream_id: int
    length: int
    """Of the whole payload, padding included."""
    head: bytes
    """The payload before the gap, padding length and priority included."""


class SyncLost(NamedTuple):
    """Frames are missing between the item before this and the one after it."""

    offset: int


class BlockLost(NamedTuple):
    """A header block is missing between the item before this and the one after it, or can't be read."""

    offset: int


Item = Frame | PartialFrame | SyncLost | BlockLost | Malformed | Skipped


def is_sound(header: bytes) -> bool:
    """Tell whether bytes very likely begin with a frame's header (at least nine of them; less is not enough)."""
    return _SOUND.match(header) is not None


def error_name(code: int) -> str:
    """Return the name of an error code, `0x…` if it has none."""
    return ERROR_NAMES[code] if code < len(ERROR_NAMES) else f"0x{code:x}"


class _Block(NamedTuple):
    """A header block whose CONTINUATION frames are still to come."""

    offset: int
    type: int
    flags: int
    stream_id: int
    parts: list[bytes]


class FrameReader(Cutter):
    """Cut one direction of an HTTP/2 connection into frames. Holds at most one frame, one header block and one read."""

    header_size, no_frame = HEADER_SIZE, NO_FRAME

    def __init__(self, direction: Direction) -> None:
        super().__init__(direction)
        self._started = self._middle = False
        self._max_frame = LARGEST_FRAME_SIZE  # what a capture that begins in the middle has to take
        self._allowed = DEFAULT_MAX_FRAME_SIZE  # by the other side, which may have spoken first
        self._block: _Block | None = None
        self._block_size = 0
        self._block_lost = False

    def allow_frame_size(self, size: int) -> None:
        """Take note of the other side's SETTINGS_MAX_FRAME_SIZE.

        A lower one does not count, as larger may be under way.
        """
        self._allowed = max(self._allowed, min(size, LARGEST_FRAME_SIZE))
        self._max_frame = max(self._max_frame, self._allowed)

    def feed(self, data: bytes) -> list[Item]:
        """Take bytes as they came; return what they completed, in order."""
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            self._offset += passed
            data = data[passed:]
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._need:
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
        return self._cut(data)

    def unfinished(self) -> bytes | None:
        """Return the bytes after the last item, with which another reader could go on; None where they are not known.

        A header block that is not whole is among them, without padding and priority.
        """
        if self._unsound_since is not None or self._skip:
            return None
        frames, block = b"", self._block
        if block is not None:
            for index, part in enumerate(block.parts):
                kind_flags = CONTINUATION << 8 if index else block.type << 8 | block.flags & END_STREAM
                frames += HEADER.pack(len(part) >> 16, len(part) & 0xFFFF, kind_flags, block.stream_id) + part
        return frames + self._buffer

    def lost(self, count: int) -> list[Item]:
        """Take note of a gap. One inside a payload keeps sync: that frame comes with what was before the gap.

        A count of 0 says that this is some place in the middle of a connection.
        """
        if not count and not self._started:
            self._middle = True  # unless it begins like a connection
            return []
        self._started = True
        return super().lost(count)

    def _begun(self, data: bytes, items: list[Item]) -> int:
        high, length, kind_flags, stream_id = HEADER.unpack_from(data)
        length, kind, head = high << 16 | length, kind_flags >> 8, data[HEADER_SIZE:]
        if kind in _WITH_BLOCK:
            self._miss_block(self._offset, items)
        items.append(PartialFrame(self._offset, kind, kind_flags & 0xFF, stream_id & _ID_MASK, length, head))
        return int(length) - len(head)

    def _broken_off(self, rest: bytes, items: list[Item]) -> None:
        if rest or self._skip:
            evidence = rest[:HEADER_SIZE]
            items.append(Malformed(self._direction, self._offset, "the stream ends within a frame", evidence, None))
        elif self._block is not None:
            reason, stream_id = "the stream ends within a header block", self._block.stream_id
            items.append(Malformed(self._direction, self._block.offset, reason, b"", stream_id))

    def _cut(self, data: bytes, final: bool = False) -> list[Item]:
        """Return the frames at the beginning of `data`; keep the rest in the buffer."""
        items: list[Item] = []
        position, size, offset = 0, len(data), self._offset
        self._need = HEADER_SIZE
        if not self._started and size:
            position = self._start(data, items)
        unpack, new, limit = HEADER.unpack_from, tuple.__new__, self._max_frame
        while self._started:
            if self._unsound_since is None and self._block is None:
                while size - position >= HEADER_SIZE:  # what nearly all frames are; on all others, go on below
                    high, length, kind_flags, stream_id = unpack(data, position)
                    start = position + HEADER_SIZE
                    end = start + length
                    if high or end > size:
                        break
                    if kind_flags in _PLAIN and 0 < stream_id <= _ID_MASK and length <= limit:
                        frame = (offset + position, kind_flags >> 8, kind_flags & 0xFF, stream_id, data[start:end])
                        items.append(new(Frame, frame))
                    elif _OF_NO_CALL.get(kind_flags) != length or (stream_id and length == 8):
                        break
                    position = end
            elif self._unsound_since is not None:
                position = self._seek(data, position, final, items)
                if self._unsound_since is not None:
                    break
            if size - position < HEADER_SIZE:
                break
            high, length, kind_flags, stream_id = unpack(data, position)
            length, kind, stream_id = high << 16 | length, kind_flags >> 8, stream_id & _ID_MASK
            start = position + HEADER_SIZE
            end = start + length
            if length > limit or _is_unsound(kind, length, stream_id):
                items.append(Malformed(self._direction, offset + position, NO_FRAME, data[position:start], None))
                self._lose_sync(offset + position, items)
                position += 1
                continue
            if end > size:
                self._need = end - position
                break
            self._other(offset + position, kind, kind_flags & 0xFF, stream_id, data[start:end], items)
            position = end
        self._offset = offset + position
        if position < size:
            self._buffer += data[position:]
        return items

    def _start(self, data: bytes, items: list[Item]) -> int:
        """Look at a direction's first bytes; return the position after a preface."""
        preface = PREFACE if self._direction == Direction.REQUEST else b""
        if preface.startswith(data[: len(preface)]) and len(data) < len(preface):
            self._need = 0  # look at the next byte, whatever it is
            return 0
        if len(data) < HEADER_SIZE:
            return 0
        self._started = True
        # A server's first frame is SETTINGS (§3.4), and not the acknowledgement of one.
        if data.startswith(preface) if preface else data[3:5] == b"\x04\x00" and is_sound(data):
            self._max_frame = self._allowed
            return len(preface)
        items.append(SyncLost(self._offset))
        if not is_sound(data) and not self._middle:
            reason = f"no HTTP/2: {looks_like(data)}"
            items.append(Malformed(self._direction, self._offset, reason, data[:HEADER_SIZE], None))
        if not is_sound(data) or self._middle:  # what looks like a frame may be the middle of one
            self._lose_sync(self._offset, items)
        return 0

    def _other(self, offset: int, kind: int, flags: int, stream_id: int, payload: bytes, items: list[Item]) -> None:
        """Take a frame with padding or priority, of a split header block, or of a rarer type."""
        if kind > CONTINUATION:
            length = HEADER_SIZE + len(payload)
            items.append(Skipped(self._direction, offset, length, f"HTTP/2 frame of unknown type 0x{kind:x}"))
            return
        block = self._block
        if kind == CONTINUATION:
            if block is not None and block.stream_id == stream_id:
                self._continue(block, flags, payload, items)
            else:
                if not self._block_lost:  # else it may be the end of that one
                    self._malformed(offset, kind, flags, stream_id, payload, "CONTINUATION without HEADERS", items)
                self._miss_block(offset, items)
            return
        if block is not None:
            reason = f"{FRAME_NAMES[kind]} within a header block"
            self._malformed(offset, kind, flags, stream_id, payload, reason, items)
            self._miss_block(offset, items)
        if flags & PADDED and kind in _PADDABLE:
            padding = payload[0] if payload else 0
            if padding >= len(payload):
                self._malformed(offset, kind, flags, stream_id, payload, "padding longer than the frame", items)
                if kind != DATA:
                    self._miss_block(offset, items)
                    items.append(PartialFrame(offset, kind, flags, stream_id, len(payload), b""))
                return
            payload = payload[1 : len(payload) - padding]
        if kind == HEADERS and flags & PRIORITIZED:
            payload = payload[5:]
        if kind in _WITH_BLOCK and not flags & END_HEADERS:
            self._block = _Block(offset, kind, flags, stream_id, [payload])
            self._block_size = len(payload)
        else:
            items.append(Frame(offset, kind, flags, stream_id, payload))

    def _continue(self, block: _Block, flags: int, fragment: bytes, items: list[Item]) -> None:
        """Add a CONTINUATION to its block. Over the limit the fragments are not kept, and their end is waited for."""
        self._block_size += len(fragment)
        if self._block_size > MAX_HEADER_BLOCK:
            block.parts.clear()
        elif fragment:
            block.parts.append(fragment)
        if not flags & END_HEADERS:
            return
        if self._block_size > MAX_HEADER_BLOCK:
            reason = f"a header block of {self._block_size} bytes, over the limit"
            items.append(Malformed(self._direction, block.offset, reason, b"", block.stream_id))
            self._miss_block(block.offset, items)
            return
        self._block = None
        flags = block.flags | END_HEADERS
        items.append(Frame(block.offset, block.type, flags, block.stream_id, b"".join(block.parts)))

    def _miss_block(self, offset: int, items: list[Item]) -> None:
        """Take note that (a part of) a header block is not to be had."""
        block, self._block, self._block_lost = self._block, None, True
        if block is not None:
            items.append(PartialFrame(block.offset, block.type, block.flags, block.stream_id, self._block_size, b""))
        items.append(BlockLost(offset))

    def _lose_sync(self, offset: int, items: list[Item]) -> None:
        self._unsound_since = offset
        if self._block is not None:
            self._miss_block(offset, items)
        self._block_lost = True
        items.append(SyncLost(offset))

    def _seek(self, data: bytes, position: int, final: bool, items: list[Item]) -> int:
        """Return where the next sound frame begins (in sync then), or the position up to which there is none.

        A header is believed if another one stands where it says that its frame ends. DATA's is little but zeros, which
        many bytes are, and may end at a frame's end by chance: there the other one has to be of the same stream.
        """
        for match in _SOUND.finditer(data, position):
            start = match.start()
            high, length, kind_flags, stream_id = HEADER.unpack_from(data, start)
            end = start + HEADER_SIZE + length
            if high or length > DEFAULT_MAX_FRAME_SIZE:
                continue
            sound = _SOUND.match(data, end) is not None
            if sound and kind_flags >> 8 == DATA:
                _, _, following, other = HEADER.unpack_from(data, end)
                sound = following >> 8 <= HEADERS and other == stream_id
            elif kind_flags >> 8 == HEADERS and not kind_flags & END_HEADERS:
                continue  # a long block: few have any, and contents that look like one are as many
            if sound or (final and end == len(data)):
                since, found = self._unsound_since, self._offset + start
                if since is not None:
                    self._pass_over(since, found - since, items)
                self._unsound_since = None
                return start
            if end + HEADER_SIZE > len(data) and not final:
                self._need = end + HEADER_SIZE - start
                return start
        return max(position, len(data) - HEADER_SIZE + 1)

    def _malformed(
        self, offset: int, kind: int, flags: int, stream_id: int, payload: bytes, reason: str, items: list[Item]
    ) -> None:
        length = len(payload)
        evidence = HEADER.pack(length >> 16, length & 0xFFFF, kind << 8 | flags, stream_id)
        items.append(Malformed(self._direction, offset, reason, evidence, stream_id or None))


def _is_unsound(kind: int, length: int, stream_id: int) -> bool:
    """Tell whether a header breaks a rule of its type's section in §6."""
    if kind <= HEADERS:
        return not stream_id
    if _LENGTHS.get(kind, length) != length:
        return True
    if kind in _ON_STREAM_ZERO:
        return stream_id != 0 or (kind == SETTINGS and length % 6 != 0) or (kind == GOAWAY and length < 8)
    return not stream_id and kind in _ON_A_STREAM


_SOUND = re.compile(
    rb"""(?=
    ( ...\x00[\x00\x01\x08\x09]                # DATA
    | ...\x01[\x00\x01\x04\x05\x08\x09\x0c\x0d\x20\x21\x24\x25\x28\x29\x2c\x2d]  # HEADERS
    ) [\x00-\x7f]..[%(odd)s]
    | \x00\x00\x05\x02.[\x00-\x7f]...           # PRIORITY
    | \x00\x00\x04\x03.[\x00-\x7f]..[%(odd)s]   # RST_STREAM
    | ( \x00\x00[%(six)s]\x04\x00               # SETTINGS
      | \x00\x00\x00\x04\x01
      | \x00\x00\x08\x06[\x00\x01]              # PING
      | \x00..\x07.                            # GOAWAY
      ) [\x00\x80]\x00\x00\x00
    | \x00\x00\x04\x08.[\x00-\x7f]...           # WINDOW_UPDATE
    )"""
    % {
        b"odd": b"".join(b"\\x%02x" % byte for byte in range(1, 256, 2)),
        b"six": b"".join(b"\\x%02x" % byte for byte in range(0, 256, 6)),
    },
    re.DOTALL | re.VERBOSE,
)
"""A header that is very likely one. Narrower than the rules, since it is for bytes whose place is not known: streams
that a client opened, no CONTINUATION (a block can't be read from its middle), no unknown types. Matches overlap."""
