"""NRI: the ttrpc connections inside one connection of a plugin with its runtime.

Comes in: both directions' bytes as they were read. Goes out: the events of both channels' calls, as `Inner`, and what
of the multiplexer could not be read. Frames are cut in `nri_mux`, each channel is a `TtrpcConnection`. The plugin is
the client of the socket; on channel 1 the runtime calls it, on channel 2 it calls the runtime, and both count their
stream ids from 1.
"""

from __future__ import annotations

from bisect import bisect_right

from dissectors.events import CallEnded, CallMessage, CallOpened, Direction, Event, Inner, Malformed, Skipped
from dissectors.nri_mux import ASKS, Chunk, Hole, Item, MuxReader, inner_direction
from dissectors.ttrpc import TtrpcConnection

_MAX_PLACES = 4096
"""Frames of one channel whose places are kept: enough for the longest ttrpc frame in pieces of one kilobyte."""


class NriConnection:
    """Both directions of one plugin's connection."""

    def __init__(self) -> None:
        self.protocol = "nri"
        self._readers = MuxReader(Direction.REQUEST), MuxReader(Direction.RESPONSE)
        self._channels = {channel: _Channel(channel) for channel in ASKS}

    def feed(self, direction: Direction, data: bytes) -> list[Event]:
        """Take bytes as they came; return what they completed, in order."""
        return self._events(direction, self._readers[direction].feed(data))

    def lost(self, direction: Direction, count: int) -> list[Event]:
        """Take note of a gap; a count of 0 says that this is some place in the middle of the connection."""
        return self._events(direction, self._readers[direction].lost(count))

    def close(self, direction: Direction) -> list[Event]:
        """Take note of this direction's end; return what stayed incomplete."""
        events = self._events(direction, self._readers[direction].close())
        for channel in self._channels.values():
            events += channel.close(inner_direction(channel.number, direction))
        return events

    def _events(self, direction: Direction, items: list[Item]) -> list[Event]:
        events: list[Event] = []
        for item in items:
            if isinstance(item, Chunk):
                towards = inner_direction(item.channel, direction)
                events += self._channels[item.channel].feed(towards, item.offset, item.data)
            elif isinstance(item, Hole):
                events += self._channels[item.channel].lost(inner_direction(item.channel, direction), item.count)
            else:
                events.append(item)
        return events


class _Channel:
    """One ttrpc connection inside. Directions here are its own."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._inside = TtrpcConnection()
        self._places = _Places(), _Places()

    def feed(self, direction: Direction, offset: int, data: bytes) -> list[Event]:
        """Take bytes that begin at `offset` of the outer connection."""
        places = self._places[direction]
        places.add(offset, len(data))
        return self._told(direction, self._inside.feed(direction, data))

    def lost(self, direction: Direction, count: int) -> list[Event]:
        self._places[direction].skip(count)
        return self._told(direction, self._inside.lost(direction, count))

    def close(self, direction: Direction) -> list[Event]:
        return self._told(direction, self._inside.close(direction))

    def _told(self, direction: Direction, events: list[Event]) -> list[Event]:
        asks = ASKS[self.number]
        told: list[Event] = []
        for event in events:
            placed = event
            if isinstance(event, CallMessage | CallEnded | Malformed | Skipped):
                placed = event._replace(offset=self._places[event.direction].of(event.offset))
            elif isinstance(event, CallOpened) and event.seen:
                placed = event._replace(offset=self._places[Direction.REQUEST].of(event.offset))
            told.append(Inner(self.number, asks, placed))  # type: ignore[arg-type] # ttrpc has none inside
        self._places[direction].forget(self._inside.told(direction))
        return told


class _Places:
    """Where in the outer connection a channel's bytes stand, from the last frame boundary on."""

    def __init__(self) -> None:
        self._inner = [0]  # offsets in the channel at which a stretch begins …
        self._outer = [0]  # … and in the connection
        self._end = 0

    def add(self, outer: int, length: int) -> None:
        """Take note of the next bytes of the channel."""
        if outer - self._end != self._outer[-1] - self._inner[-1]:
            self._inner.append(self._end)
            self._outer.append(outer)
            if len(self._inner) > _MAX_PLACES:  # pieces of a few bytes: what begins among them is told too early
                del self._inner[1 : _MAX_PLACES // 2], self._outer[1 : _MAX_PLACES // 2]
        self._end += length

    def skip(self, length: int) -> None:
        """Take note of bytes that are missing, where the last ones stand."""
        self._end += length

    def of(self, inner: int) -> int:
        """Return the place of a byte of the channel."""
        at = max(bisect_right(self._inner, inner) - 1, 0)
        return self._outer[at] + inner - self._inner[at]

    def forget(self, before: int) -> None:
        """Drop what is needed for no byte from `before` on."""
        at = bisect_right(self._inner, before) - 1
        if at > 0:
            del self._inner[:at], self._outer[:at]
