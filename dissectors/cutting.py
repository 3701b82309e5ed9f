"""How a reader that cuts bytes into frames takes a gap and the end: what ttrpc's and HTTP/2's have in common.

A gap inside a payload whose length is known keeps sync; after any other, the next sound frame has to be looked for.
"""

from __future__ import annotations

from typing import Any

from dissectors.events import Direction, Skipped


class Cutter:
    """One direction of a connection. Its children say what a frame is, by the methods that raise here."""

    header_size: int
    no_frame: str
    """Why bytes are passed over in which there is no frame."""

    def __init__(self, direction: Direction, start: int = 0) -> None:
        self._direction = direction
        self._buffer = bytearray()
        self._offset = start  # in the flow, of the buffer's first byte
        self._need = 0  # below this size the buffer completes nothing
        self._skip = 0  # bytes of a payload that are still to be passed over; the buffer is empty then
        self._unsound_since: int | None = None  # the offset at which sync was lost; None: in sync

    def lost(self, count: int) -> list[Any]:
        """Take note of a gap; return what it makes of what came before. One inside a payload keeps sync.

        A count of 0 says that this is some place in the middle of a connection.
        """
        items: list[Any] = []
        if self._unsound_since is None and len(self._buffer) >= self.header_size:
            self._skip = self._begun(bytes(self._buffer), items)
            self._forget()
        keeps_sync = self._unsound_since is None and 0 < count <= self._skip
        if not keeps_sync:
            start = self._offset if self._unsound_since is None else self._unsound_since
            self._forget()
            self._pass_over(start, self._offset - start, items)
        if count:
            items.append(Skipped(self._direction, self._offset, count, "lost"))
        self._offset += count
        if keeps_sync:
            self._skip -= count
        else:
            self._skip = 0
            self._lose_sync(self._offset, items)
        return items

    def close(self) -> list[Any]:
        """Take note of the end; return what stayed incomplete."""
        data = bytes(self._buffer)
        self._buffer.clear()
        items = self._cut(data, final=True)
        rest = bytes(self._buffer)
        if self._unsound_since is None:
            self._broken_off(rest, items)
        else:
            self._pass_over(self._unsound_since, self._offset + len(rest) - self._unsound_since, items)
        return items

    def _forget(self) -> None:
        self._offset += len(self._buffer)
        self._buffer.clear()

    def _pass_over(self, start: int, length: int, items: list[Any]) -> None:
        if length:
            items.append(Skipped(self._direction, start, length, self.no_frame))

    def _begun(self, data: bytes, items: list[Any]) -> int:
        """Tell of a frame whose payload has a gap; return how many bytes of it are still to come, the gap's too."""
        raise NotImplementedError

    def _lose_sync(self, offset: int, items: list[Any]) -> None:
        """Look for the next sound frame from now on."""
        raise NotImplementedError

    def _cut(self, data: bytes, final: bool = False) -> list[Any]:
        """Return the frames at the beginning of `data`; keep the rest in the buffer."""
        raise NotImplementedError

    def _broken_off(self, rest: bytes, items: list[Any]) -> None:
        """Tell what the end cuts off."""
        raise NotImplementedError
