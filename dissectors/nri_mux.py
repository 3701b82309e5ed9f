"""Cut one direction of an NRI connection into the bytes of its channels.

Comes in: bytes as they were read. Goes out: bytes with the channel that they are of, and what is no frame. The header
is eight bytes, laid out in `layouts.NRI_MUX_HEADER`; there is no preface and no word of a channel's opening or end:
both are open from the start. A frame carries whatever one write of the ttrpc inside flushed, so its borders mean
nothing to that; only to find the next sound header does the reader look at how a payload begins.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import NamedTuple

from dissectors import ttrpc_frames
from dissectors.events import Direction, Malformed, Skipped

HEADER = Struct(">II")
"""channel, length: the fast form of `layouts.NRI_MUX_HEADER`."""
HEADER_SIZE = 8
MAX_PAYLOAD = 16 << 20
"""What NRI before 0.7 takes; since then a writer cuts at 4 MiB and ten bytes."""
_MAX_CHANNEL = 0xFFFF
"""Above this it is no header. Up to it, a channel that NRI does not have is believed, and passed over."""
PLUGIN_SERVICE, RUNTIME_SERVICE = 1, 2
ASKS = {PLUGIN_SERVICE: Direction.RESPONSE, RUNTIME_SERVICE: Direction.REQUEST}
"""Which way a channel's requests go: the runtime is the server of the socket, and calls the plugin on channel 1."""
NO_FRAME = "no frame of NRI's multiplexer"
ENOUGH = HEADER_SIZE + ttrpc_frames.HEADER_SIZE
"""Bytes that `is_sound` looks at."""

_SHORT = ttrpc_frames.HEADER_SIZE
"""A payload up to this length may be a piece of a ttrpc header (the Rust implementation writes it field by field): then
the next header tells whether it is a frame."""
_CANDIDATE = re.compile(rb"(?=\x00\x00\x00[\x01\x02]\x00[\x00-\x40]..)", re.DOTALL)


class Chunk(NamedTuple):
    """Bytes of a channel, the next ones."""

    offset: int
    """Of the first one, in this direction of the flow."""
    channel: int
    data: bytes


class Hole(NamedTuple):
    """Bytes of a channel that are missing."""

    channel: int
    count: int  # type: ignore[assignment]  # the word for it; tuple's method of this name is of no use here
    """0: it is not known how many."""


Item = Chunk | Hole | Malformed | Skipped


def may_begin(head: bytes) -> bool:
    """Tell whether bytes can be a frame's header (eight of them; less is not enough)."""
    return _CANDIDATE.match(head) is not None


def is_sound(direction: Direction, head: bytes) -> bool:
    """Tell whether bytes very likely begin with a frame that holds the beginning of ttrpc (`ENOUGH` of them)."""
    if not may_begin(head):
        return False
    channel, length = HEADER.unpack_from(head)
    inner = head[HEADER_SIZE:ENOUGH]
    if length < _SHORT or not ttrpc_frames.is_sound(inner_direction(channel, direction), inner):
        return False
    announced: int = ttrpc_frames.HEADER.unpack(inner)[0]
    return int(length) <= _SHORT + announced  # a write is one ttrpc frame, or a piece of one


def inner_direction(channel: int, direction: Direction) -> Direction:
    """Return which way bytes go in a channel that go this way in the connection."""
    return direction if ASKS[channel] == Direction.REQUEST else Direction(1 - direction)


def build_frame(channel: int, payload: bytes) -> bytes:
    """Return one frame as it goes on the wire."""
    return HEADER.pack(channel, len(payload)) + payload


class MuxReader:
    """Cut one direction of an NRI connection into the bytes of its channels. Holds less than two headers of each layer.

    A frame of a channel that NRI does not have is passed over by its length, as NRI does. After bytes that are no
    frame, the next sound one is looked for.
    """

    def __init__(self, direction: Direction) -> None:
        self._direction = direction
        self._buffer = b""
        self._offset = 0  # in the flow, of the buffer's first byte
        self._channel = 0  # of the frame that is under way; 0: of none that is known
        self._left = 0  # bytes of its payload still to come
        self._unsound_since: int | None = None  # the offset at which sync was lost; None: in sync

    def feed(self, data: bytes) -> list[Item]:
        """Take bytes as they came; return what they completed, in order."""
        items: list[Item] = []
        if self._buffer:
            data = self._buffer + data
        position, size = 0, len(data)
        while position < size:
            if self._left:
                taken = min(self._left, size - position)
                if self._channel:
                    part = data[position : position + taken]
                    items.append(Chunk(self._offset + position, self._channel, part))
                self._left -= taken
                position += taken
                continue
            if self._unsound_since is not None:
                position = self._seek(data, position, items)
            if self._unsound_since is not None or size - position < HEADER_SIZE:
                break
            position = self._header(data, position, items)
        self._offset += position
        self._buffer = data[position:]
        return items

    def under_way(self) -> tuple[int, int, bytes] | None:
        """Return channel and missing bytes of the frame that is under way, and the bytes after the last frame.

        With these another reader could go on; None where they are not known.
        """
        return None if self._unsound_since is not None else (self._channel, self._left, self._buffer)

    def lost(self, count: int) -> list[Item]:
        """Take note of a gap. One inside a payload keeps sync.

        A count of 0 says that this is some place in the middle of a connection.
        """
        if self._unsound_since is None and 0 < count <= self._left:
            self._offset += count
            self._left -= count
            if self._channel:
                return [Hole(self._channel, count)]
            return [Skipped(self._direction, self._offset - count, count, "lost")]
        items: list[Item] = [Hole(channel, 0) for channel in ASKS]
        start = self._offset if self._unsound_since is None else self._unsound_since
        self._offset += len(self._buffer)
        self._buffer = b""
        if self._offset > start:
            items.append(Skipped(self._direction, start, self._offset - start, NO_FRAME))
        if count:
            items.append(Skipped(self._direction, self._offset, count, "lost"))
        self._offset += count
        self._left = 0
        self._unsound_since = self._offset
        return items

    def close(self) -> list[Item]:
        """Take note of the end; return what stayed incomplete."""
        end = self._offset + len(self._buffer)
        if self._unsound_since is not None:
            length = end - self._unsound_since
            return [Skipped(self._direction, self._unsound_since, length, NO_FRAME)] if length else []
        if self._left:
            reason = f"the stream ends within a frame of the multiplexer, {self._left} bytes early"
            return [Malformed(self._direction, end, reason, b"", None)]
        if self._buffer:
            reason = "the stream ends within a header of the multiplexer"
            return [Malformed(self._direction, self._offset, reason, self._buffer, None)]
        return []

    def _header(self, data: bytes, position: int, items: list[Item]) -> int:
        """Take the header at `position`; return the position after it, or this one where it is none."""
        channel, length = HEADER.unpack_from(data, position)
        offset, evidence = self._offset + position, data[position : position + HEADER_SIZE]
        if length > MAX_PAYLOAD or channel > _MAX_CHANNEL:
            reason = f"a frame of {length} bytes on channel {channel} of the multiplexer: over the limit"
            items.append(Malformed(self._direction, offset, reason, evidence, None))
            items += [Hole(each, 0) for each in ASKS]
            self._unsound_since = offset
            return position
        if channel not in ASKS:
            reason = f"a frame on channel {channel} of the multiplexer, which NRI does not have"
            items.append(Malformed(self._direction, offset, reason, evidence, None))
            items.append(Skipped(self._direction, offset, HEADER_SIZE + length, "of an unknown channel"))
            channel = 0
        self._channel = channel
        self._left = length
        return position + HEADER_SIZE

    def _seek(self, data: bytes, position: int, items: list[Item]) -> int:
        """Return where the next sound frame begins (in sync then), or the position up to which there is none."""
        for match in _CANDIDATE.finditer(data, position):
            start = match.start()
            _, length = HEADER.unpack_from(data, start)
            short = length < _SHORT
            if len(data) - start < HEADER_SIZE + (length + HEADER_SIZE if short else _SHORT):
                return start
            after = start + HEADER_SIZE + length
            if may_begin(data[after : after + HEADER_SIZE]) if short else is_sound(self._direction, data[start:]):
                since, found = self._unsound_since, self._offset + start
                if since is not None and found > since:
                    items.append(Skipped(self._direction, since, found - since, NO_FRAME))
                self._unsound_since = None
                return start
        return max(position, len(data) - HEADER_SIZE + 1)
