"""Cut one direction of a ttrpc connection into frames.

Comes in: bytes as they were read. Goes out: frames, and what is no frame. The header is ten bytes, laid out in
`layouts.TTRPC_HEADER`; there is no preface, no flow control, no end mark. What a payload means, and which streams are
open, is not known here; only to find the next sound frame does the reader look at how a payload begins.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import NamedTuple

from dissectors.cutting import Cutter
from dissectors.events import Direction, Malformed, Skipped
from dissectors.foreign import looks_like
from dissectors.ttrpc_messages import sound_request, sound_response

HEADER = Struct(">IIBB")
"""length, stream_id, type, flags: the fast form of `layouts.TTRPC_HEADER`."""
HEADER_SIZE = 10
NO_FRAME = "no ttrpc frame"
MAX_PAYLOAD = 4 << 20
"""Both implementations refuse a longer payload (ttrpc `messageLengthMax`); containerd 1.6 was seen to send 7.8 MB."""

TYPE_REQUEST, TYPE_RESPONSE, TYPE_DATA = 1, 2, 3
TYPE_NAMES = {TYPE_REQUEST: "request", TYPE_RESPONSE: "response", TYPE_DATA: "data"}
FLAG_REMOTE_CLOSED, FLAG_REMOTE_OPEN, FLAG_NO_DATA = 1, 2, 4
_FLAGS = FLAG_REMOTE_CLOSED | FLAG_REMOTE_OPEN | FLAG_NO_DATA

_HEAD = 1024
"""Bytes of a payload that are kept when the rest is not to be had: enough for the names of service and method."""
_ID_AHEAD = 200_000
"""How far above the last stream id a sound one may be: what a long gap may have swallowed."""

_new = tuple.__new__  # makes a NamedTuple in half the time
_unpack = HEADER.unpack_from


class Frame(NamedTuple):
    """A whole frame."""

    offset: int
    """Of its first byte, in this direction of the flow."""
    stream_id: int
    type: int
    flags: int
    payload: bytes


class PartialFrame(NamedTuple):
    """A frame whose payload is not to be had: over the limit, or with a gap in it."""

    offset: int
    stream_id: int
    type: int
    flags: int
    length: int
    """Of the payload, as the header announced it."""
    head: bytes
    """The payload's first bytes, so far as they are known."""
    note: str
    """Why the payload is not to be had."""


def is_sound(direction: Direction, header: bytes) -> bool:
    """Tell whether bytes very likely begin with a frame's header (ten of them; less is not enough)."""
    return _CANDIDATES[direction].match(header) is not None


def build_frame(stream_id: int, type: int, flags: int, payload: bytes) -> bytes:
    """Return one frame as it goes on the wire."""
    return HEADER.pack(len(payload), stream_id, type, flags) + payload


class FrameReader(Cutter):
    """Cut one direction of a ttrpc connection into frames (ttrpc PROTOCOL.md, Message Frame).

    A payload over the limit is announced once its first bytes are there, and passed over by its length. After bytes
    that are no frame, the next sound one is looked for. Holds at most one frame and one read.
    """

    header_size, no_frame = HEADER_SIZE, NO_FRAME

    def __init__(self, direction: Direction, *, limit: int = MAX_PAYLOAD, start: int = 0) -> None:
        super().__init__(direction, start)
        self._limit = limit
        self._need = HEADER_SIZE
        self._highest_id = 0
        self._candidate = _CANDIDATES[direction]

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
        elif self._offset and self._unsound_since is None and len(data) >= HEADER_SIZE:
            # Exactly one frame, as most writers write and most readers read; else see below.
            length, stream_id, type_, flags = _unpack(data)
            if length + HEADER_SIZE == len(data) and length <= self._limit:
                frame: Frame = _new(Frame, (self._offset, stream_id, type_, flags, data[HEADER_SIZE:]))
                self._offset += len(data)
                if stream_id > self._highest_id:
                    self._highest_id = stream_id
                return [frame]
        return self._cut(data)

    @property
    def told(self) -> int:
        """The offset before which there is nothing more to tell."""
        return self._offset if self._unsound_since is None else self._unsound_since

    def unfinished(self) -> bytes | None:
        """Return the bytes after the last frame, with which another reader could go on; None where they are not
        known."""
        return None if self._unsound_since is not None or self._skip else bytes(self._buffer)

    def _begun(self, data: bytes, items: list[Item]) -> int:
        length, stream_id, type_, flags = _unpack(data)
        head = data[HEADER_SIZE : HEADER_SIZE + _HEAD]
        items.append(PartialFrame(self._offset, stream_id, type_, flags, length, head, "a part of it was lost"))
        return HEADER_SIZE + int(length) - len(data)

    def _lose_sync(self, offset: int, items: list[Item]) -> None:
        self._unsound_since = offset

    def _broken_off(self, rest: bytes, items: list[Item]) -> None:
        if len(rest) >= HEADER_SIZE:
            length, stream_id, type_, flags = HEADER.unpack_from(rest)
            head = rest[HEADER_SIZE : HEADER_SIZE + _HEAD]
            items.append(PartialFrame(self._offset, stream_id, type_, flags, length, head, "the stream ends within it"))
        elif rest or self._skip:
            items.append(Malformed(self._direction, self._offset, "the stream ends within a frame", rest, None))

    def _cut(self, data: bytes, final: bool = False) -> list[Item]:
        """Return the frames at the beginning of `data`; keep the rest in the buffer."""
        items: list[Item] = []
        limit, unpack, new, offset = self._limit, HEADER.unpack_from, tuple.__new__, self._offset
        position, size = 0, len(data)
        self._need = HEADER_SIZE
        if not offset and self._unsound_since is None and size >= HEADER_SIZE and not _may_start(data):
            reason = f"no ttrpc: {looks_like(data)}"
            items.append(Malformed(self._direction, 0, reason, data[:HEADER_SIZE], None))
            self._unsound_since = 0
        while size - position >= HEADER_SIZE:
            if self._unsound_since is not None:
                position = self._seek(data, position, final, items)
                if self._unsound_since is not None:
                    break
            length, stream_id, type_, flags = unpack(data, position)
            end = position + HEADER_SIZE + length
            if length <= limit:
                if end > size:
                    self._need = HEADER_SIZE + length
                    break
                payload = data[position + HEADER_SIZE : end]
                items.append(new(Frame, (offset + position, stream_id, type_, flags, payload)))
                position = end
            elif length > _LENGTH_MAX:
                evidence = data[position : position + HEADER_SIZE]
                items.append(Malformed(self._direction, offset + position, "no ttrpc header", evidence, None))
                self._unsound_since = offset + position
                continue
            else:
                start = position + HEADER_SIZE
                if size - start < _HEAD:
                    self._need = HEADER_SIZE + _HEAD
                    break
                note = f"over the limit of {limit} bytes"
                head = data[start : start + _HEAD]
                items.append(PartialFrame(offset + position, stream_id, type_, flags, length, head, note))
                position = min(end, size)
                self._skip = end - position
            if stream_id > self._highest_id:
                self._highest_id = stream_id
        self._offset = offset + position
        if position < size:
            self._buffer += data[position:]
        return items

    def _seek(self, data: bytes, position: int, final: bool, items: list[Item]) -> int:
        """Return where the next sound frame begins (in sync then), or the position up to which there is none."""
        for match in self._candidate.finditer(data, position):
            start = match.start()
            need = self._missing(data, start)
            if need == 0:
                since, found = self._unsound_since, self._offset + start
                if since is not None:
                    self._pass_over(since, found - since, items)
                self._unsound_since = None
                return start
            if need is not None and not final:
                self._need = need
                return start
        return max(position, len(data) - HEADER_SIZE + 1)

    def _missing(self, data: bytes, start: int) -> int | None:
        """Try a candidate: 0 if it is sound, None if it is not, else the bytes from its start on that would tell."""
        header: tuple[int, int, int, int] = HEADER.unpack_from(data, start)
        length, stream_id, type_, _ = header
        if length > self._limit or (self._highest_id and stream_id > self._highest_id + _ID_AHEAD):
            return None
        payload = start + HEADER_SIZE
        if type_ == TYPE_DATA:  # a bare message, which could be anything: the frame after it must look like one
            need = 2 * HEADER_SIZE + length
            if len(data) - start < need:
                return need
            return 0 if self._candidate.match(data, payload + length) else None
        need = HEADER_SIZE + min(length, _HEAD)
        if len(data) - start < need:
            return need
        sound = sound_request if type_ == TYPE_REQUEST else sound_response
        return 0 if sound(data[payload : start + need], length) else None


def _may_start(data: bytes) -> bool:
    """Tell whether a connection may begin so. Later on, a type or flag that is not known keeps sync by its length."""
    return not data[0] and data[8] in TYPE_NAMES and data[9] <= _FLAGS


Item = Frame | PartialFrame | Malformed | Skipped
_LENGTH_MAX = 0xFFFFFF
"""The specification keeps the header's first byte zero."""


def _candidate(own_type: int) -> re.Pattern[bytes]:
    """Zero byte, at most 4 MiB, odd id, a type that this side sends, known flags. Candidates overlap: a lookahead."""
    odd = b"".join(b"\\x%02x" % byte for byte in range(1, 256, 2))
    return re.compile(rb"(?=\x00[\x00-\x40].{5}[%s][\x%02x\x03][\x00-\x07])" % (odd, own_type), re.DOTALL)


_CANDIDATES = {Direction.REQUEST: _candidate(TYPE_REQUEST), Direction.RESPONSE: _candidate(TYPE_RESPONSE)}
