"""A part of a capture that is still being written: the connections on which a call matched, from that call on.

Whether a call matches is known when it is under way, or only at its end. So what is written runs `BEHIND_S` behind what
is read: a connection begins with the matching call if that took no longer, else with what `capture.carry` keeps of an
open call. It then goes on to its end, whatever else passes on it: bytes of a connection cannot be left out.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from tracer.capture.conversation import CaptureWriter
from tracer.capture.flows import Flow
from tracer.capture.packets import Notice, Packet
from tracer.capture.pcapng import PcapngReader
from tracer.export.select import FOREVER, Selection, Window

BEHIND_S: Final = 1.0
"""How far what is written is behind what is read."""
MAX_WAITING: Final = 64 << 20
"""Bytes of packets that wait; beyond that the oldest do not."""

Matching = Callable[[Packet | Notice], Iterable[tuple[int, int]]]
"""Takes what the capture gives, in order; tells of which flows a call matches now, and when that call began (ns)."""


class LiveSelection:
    """`feed` it a capture as it grows, `finish` it at its end; both return what is to be written."""

    def __init__(
        self,
        comment: str,
        matching: Matching,
        *,
        behind_s: float = BEHIND_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out = bytearray()
        self._reader = PcapngReader()
        self._matching = matching
        self._behind_s = behind_s
        self._clock = clock
        self._waiting: deque[tuple[float, Packet | Notice]] = deque()
        self._waiting_bytes = 0
        self._starts: dict[int, int] = {}
        """When the first matching call began, by the number of its flow."""
        self._selection = Selection(CaptureWriter(self._out.extend), comment, self._window)
        self._selection.start(time.time_ns())

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes, which may be none; return those of the part."""
        for item in self._reader.feed(data):
            self._match(item)
            self._waiting.append((self._clock(), item))
            self._waiting_bytes += _size(item)
        self._pass_on(self._clock() - self._behind_s, MAX_WAITING)
        return self._taken()

    def finish(self) -> bytes:
        """Take note of the end; return all the rest."""
        self._pass_on(float("inf"), 0)
        self._selection.finish()
        return self._taken()

    def _match(self, item: Packet | Notice) -> None:
        for flow_id, start_ns in self._matching(item):
            if flow_id not in self._starts:
                self._starts[flow_id] = start_ns
                self._selection.want(flow_id, start_ns)

    def _window(self, flow: Flow) -> Window:
        """Of a flow that is new there: from when on it is wanted, as far as is known by now."""
        return Window(self._starts.get(flow.id, FOREVER), FOREVER)

    def _pass_on(self, until: float, most: int) -> None:
        while self._waiting and (self._waiting[0][0] <= until or self._waiting_bytes > most):
            _, item = self._waiting.popleft()
            self._waiting_bytes -= _size(item)
            self._selection.take(item)

    def _taken(self) -> bytes:
        taken = bytes(self._out)
        self._out.clear()
        return taken


def _size(item: Packet | Notice) -> int:
    return len(item.data) if isinstance(item, Packet) else 0
