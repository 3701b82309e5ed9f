"""gRPC's messages: one side's DATA of one stream in, length-prefixed messages out, decompressed.

A message may be split over any number of DATA frames, and one frame may hold several. What is over a limit, was lost or
can't be decompressed comes out without its payload and with a note. What a message means is not known here.
"""

from __future__ import annotations

import zlib
from struct import Struct
from typing import NamedTuple

PREFIX = Struct(">BI")
"""compressed, length: the fast form of `layouts.GRPC_PREFIX`."""
PREFIX_SIZE = 5
MAX_MESSAGE = 64 << 20
"""CRI clients and servers agree on 16 MiB; grpc has no limit of its own. Also of what a message decompresses to."""

_WINDOW_BITS = {"gzip": 31, "deflate": 15}
"""zlib's argument for each grpc-encoding; `deflate` means the zlib format (RFC 9110 §8.4.1.2)."""


class Message(NamedTuple):
    """One message, or what is known of it."""

    offset: int
    """Of its prefix's first byte."""
    length: int
    compressed: bool
    payload: bytes | None
    """As on the wire: still compressed, if it is."""
    note: str


class Unread(NamedTuple):
    """Bytes in which no message could be found."""

    offset: int
    length: int
    reason: str
    malformed: bool
    """True where they break the protocol, False where only their beginning is missing."""


class Assembler:
    """Put the messages of one direction of one stream together. Holds at most one message."""

    __slots__ = (
        "_buffer", "_compressed", "_guessed", "_in_message", "_left", "_length", "_limit", "_middle", "_note", "offset"
    )  # fmt: skip

    def __init__(self, *, middle: bool = False, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._middle = middle  # True: where the next message begins is not known
        self._buffer = bytearray()  # the prefix, while it is incomplete; then the message
        self.offset = 0
        """Of the prefix of the message that is under way."""
        self._in_message = False
        self._guessed = False  # True: that the message under way began there was guessed, and its end has to show it
        self._compressed = False
        self._length = self._left = 0
        self._note = ""

    @property
    def idle(self) -> bool:
        """True between two messages."""
        return not (self._buffer or self._in_message or self._middle)

    def feed(self, offset: int, data: bytes) -> list[Message | Unread]:
        """Take one DATA frame's bytes; return what they completed."""
        items: list[Message | Unread] = []
        position, size = 0, len(data)
        if self._middle:
            begins = _may_begin(data)
            if begins is None:
                return [Unread(offset, size, _MIDDLE, False)] if data else []
            self._middle, self._guessed = False, not begins
        while True:
            if self._in_message:
                taken = min(self._left, size - position)
                if not self._note:
                    self._buffer += data[position : position + taken]
                position += taken
                self._left -= taken
                if self._left:
                    return items
                if self._guessed and position != size:  # a sender ends messages where frames end
                    return [*items, self._wrong(offset + size)]
                self._guessed = False
                items.append(self._finish())
            if position == size:
                return items
            if not self._buffer:
                self.offset = offset + position
            missing = PREFIX_SIZE - len(self._buffer)
            self._buffer += data[position : position + missing]
            position = min(size, position + missing)
            if len(self._buffer) < PREFIX_SIZE:
                return items
            compressed, length = PREFIX.unpack(self._buffer)
            self._buffer.clear()
            if compressed > 1:
                self._middle = True
                items.append(Unread(self.offset, PREFIX_SIZE + size - position, "no gRPC message prefix", True))
                return items
            self._in_message = True
            self._compressed = compressed == 1
            self._length = self._left = length
            if length > self._limit:
                self._note = f"over the limit of {self._limit} bytes"

    def lose(self, count: int | None = None) -> list[Message | Unread]:
        """Take note of lost bytes, of None an unknown number. The message they were in comes out with a note, once it
        has ended; where the loss goes beyond it, at once, and the next message is looked for."""
        if self._guessed:
            return [self._wrong(self.offset + PREFIX_SIZE + self._length - self._left)]
        if self._in_message:
            self._note = self._note or "a part of it was lost"
            self._buffer.clear()
            if count is not None and count <= self._left:
                self._left -= count
                return [] if self._left else [self._finish()]
        items: list[Message | Unread] = [self._finish()] if self._in_message else []
        self._buffer.clear()
        self._middle = True
        return items

    def unfinished(self) -> str:
        """Return what is still missing, as text; empty if nothing is."""
        if self._guessed:
            return ""  # what there was may have been anything
        if self._in_message:
            return f"a message of {self._length} bytes ends {self._left} bytes short"
        return "a message ends within its prefix" if self._buffer else ""

    def _wrong(self, end: int) -> Unread:
        """Take back that a message began where that was guessed: up to `end` it is not known what it was."""
        self._guessed = self._in_message = False
        self._middle = True
        self._buffer, self._left, self._note = bytearray(), 0, ""
        return Unread(self.offset, end - self.offset, _MIDDLE, False)

    def _finish(self) -> Message:
        payload = None if self._note else bytes(self._buffer)
        message = Message(self.offset, self._length, self._compressed, payload, self._note)
        self._buffer = bytearray()
        self._in_message = False
        self._left = 0
        self._note = ""
        return message


def decompress(payload: bytes, encoding: str, limit: int = MAX_MESSAGE) -> tuple[bytes | None, str]:
    """Return what a message decompresses to, or None and the reason."""
    window_bits = _WINDOW_BITS.get(encoding)
    if window_bits is None:
        return None, f"compressed by {encoding}" if encoding else "compressed, and by what was not seen"
    decompressor = zlib.decompressobj(window_bits)
    try:
        data = decompressor.decompress(payload, limit + 1)
    except zlib.error:
        return None, f"broken {encoding} data"
    if len(data) > limit:
        return None, f"decompresses to more than {limit} bytes"
    return (data, "") if decompressor.eof else (None, f"cut {encoding} data")


def _may_begin(data: bytes) -> bool | None:
    """Tell whether messages begin here: True if they fill the frame exactly, False if one may, that goes beyond a large
    one, None if none does."""
    position, size = 0, len(data)
    while position + PREFIX_SIZE <= size:
        compressed, length = PREFIX.unpack_from(data, position)
        if compressed > 1 or length > MAX_MESSAGE:
            return None
        position += PREFIX_SIZE + length
    if position == size > 0:
        return True
    return False if position > size >= _LARGE else None


_MIDDLE = "within a message whose start was not seen"
_LARGE = 8192
"""Of a frame that may be but a part of a message; a sender fills its frames."""
