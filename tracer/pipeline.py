"""The one reading path, live and afterwards: packets in, updates of calls and findings out.

It joins the stages (flows, dissectors, calls) and knows nothing of files, protobuf or output.
"""

from __future__ import annotations

import gc

from dissectors.detect import open_dissector, settled
from dissectors.events import (
    CallOpened,
    Direction,
    Dissector,
    Event,
    Inner,
    LogLine,
    Malformed,
    PortOpened,
    PortRefused,
    Skipped,
)
from dissectors.hvsock import AGENT_PORT, LOG_PORT, PORT_NAMES, HvsockConnection, port_name
from protos.hops import hop_of_service
from tracer.calls import Call, CallTracker, Finding, Update
from tracer.capture import vsock
from tracer.capture.bundle import Bundle
from tracer.capture.flows import Flow, FlowCarried, FlowClosed, FlowData, FlowEvent, FlowGap, FlowOpened, FlowTable
from tracer.capture.packets import Notice, Packet
from tracer.logs import logged
from tracer.refusals import Refusals

EXPECTED = {"cri": "grpc", "task": "ttrpc", "events": "ttrpc", "agent": "ttrpc", "nri": "nri"}
"""The protocol of a hop; what speaks is detected all the same."""

GARBAGE = 50_000
"""Objects made and not freed before cycles are looked for: some 10 MB."""

_OF_PORTS = frozenset({PortOpened, PortRefused, LogLine})


def collect_seldom() -> None:
    """Have the whole process look for garbage in cycles seldom: for one that decodes a capture and does little else.

    Hardly anything made here refers to itself, and most of it dies young: looking every 700 objects costs a tenth of
    the time and finds none. What was imported stays.
    """
    gc.freeze()
    gc.set_threshold(GARBAGE)


class _Stream:
    """One flow's way through the stages."""

    __slots__ = ("closed", "dissector", "flow", "inner", "protocol")

    def __init__(self, flow: Flow, dissector: Dissector) -> None:
        self.flow = flow
        self.dissector = dissector
        self.protocol = ""
        self.inner: dict[int, tuple[Flow, Direction]] | None = None
        """The connections inside of it, by channel; None: it is none that has such."""
        self.closed = [False, False]


class Decoder:
    """Decode one capture. `now_ns` is capture time: that of the newest packet."""

    def __init__(self) -> None:
        self._flows = FlowTable()
        self._tracker = CallTracker()
        self._streams: dict[int, _Stream] = {}
        self._refusals = Refusals()
        self.now_ns = 0
        self.packets = 0

    def feed(self, item: Packet | Notice) -> list[Update]:
        """Take what a capture file gave next; return what it changed. Never raises on content."""
        if isinstance(item, Notice):
            if item.entry is not None:
                return [logged(item.entry)]
            if item.bundle is not None and self._attach(item.bundle):
                return []
            return [Finding("notice", self.now_ns, item.text, offset=item.offset, fatal=item.fatal)]
        self.packets += 1
        data = self._flows.steady(item)
        if data is None:
            if item.time_ns > self.now_ns:
                self.now_ns = item.time_ns
            return self._take(self._flows.feed_other(item))
        # As `_take` does it, without the detours: nearly all packets are these.
        flow, direction, time_ns, content = data
        if time_ns > self.now_ns:
            self.now_ns = time_ns
        if not content:
            return []
        stream = self._streams[flow.id]
        told = stream.dissector.feed(direction, content)
        return self._tell(stream, time_ns, told) if told else []

    def finish(self) -> list[Update]:
        """Tell that there are no more packets. What is open stays open: see `open_calls`."""
        updates = self._take(self._flows.finish(self.now_ns)) + self._refusals.finish(self.now_ns)
        if self._flows.passed_over:
            reasons = sorted(self._flows.passed_over.items(), key=lambda each: -each[1])
            what = ", ".join(f"{count} ({reason})" for reason, count in reasons)
            updates.append(Finding("notice", self.now_ns, f"packets that are not decoded: {what}"))
        return updates

    def open_calls(self) -> list[Call]:
        """What has no end yet, oldest first."""
        return self._tracker.open_calls()

    def _attach(self, bundle: Bundle) -> bool:
        """Give a bundle to the call that named it; False: that is not here."""
        for call in self._tracker.open_calls():
            if call.stream_id == bundle.stream and call.flow.comment.get("connection") == bundle.connection:
                call.bundles += (bundle,)
                return True
        return False

    def _take(self, events: list[FlowEvent]) -> list[Update]:
        updates: list[Update] = []
        if self._refusals:
            updates += self._refusals.over(self.now_ns)
        for event in events:
            flow = event.flow
            stream = self._streams.get(flow.id)
            if stream is None:
                stream = self._streams[flow.id] = _Stream(flow, _dissector(flow))
            if isinstance(event, FlowData):
                told = stream.dissector.feed(event.direction, event.data)
                if told:
                    updates += self._tell(stream, event.time_ns, told)
            elif isinstance(event, FlowOpened):
                if not event.seen and vsock.port_of(flow.socket) is None:
                    for direction in Direction:
                        stream.dissector.lost(direction, 0)  # it may be anywhere in the middle
            elif isinstance(event, FlowCarried):
                updates += self._carried(stream, event)
            elif isinstance(event, FlowGap):
                updates += self._gap(stream, event)
            elif isinstance(event, FlowClosed):
                updates += self._closed(stream, event)
        return updates

    def _tell(self, stream: _Stream, time_ns: int, told: list[Event]) -> list[Update]:
        flow, dissector = stream.flow, stream.dissector
        if not told:
            return []
        if not stream.protocol:
            stream.protocol = dissector.protocol
            stream.dissector = settled(dissector)
            if stream.protocol == "nri":
                stream.inner = {}
                flow.hop = flow.hop or "nri"
            elif stream.protocol == "hvsock":
                flow.hop = flow.hop or "agent"
            if self._refusals and (port := vsock.port_of(flow.socket)) is not None:
                return self._refusals.opened(flow, port, time_ns) + self._tell(stream, time_ns, told)
        if stream.inner is not None:
            return self._tell_inner(stream, stream.inner, time_ns, told)
        if stream.protocol == "hvsock":
            return self._tell_vsock(flow, time_ns, told)
        if not flow.hop:
            for event in told:
                if isinstance(event, CallOpened) and event.service:
                    flow.hop = hop_of_service(event.service) or ""
                    break
        return self._tracker.feed(flow, stream.protocol, time_ns, told)

    def _tell_inner(
        self, stream: _Stream, inner: dict[int, tuple[Flow, Direction]], time_ns: int, told: list[Event]
    ) -> list[Update]:
        """Take what was told of the connections inside: each has calls of its own."""
        updates: list[Update] = []
        for event in told:
            flow = stream.flow
            if isinstance(event, Inner):
                channel, asks, event = event
                if channel not in inner:
                    inner[channel] = flow.inner(channel, asks), asks
                flow, _ = inner[channel]
            updates += self._tracker.feed(flow, "ttrpc", time_ns, [event])
        return updates

    def _tell_vsock(self, flow: Flow, time_ns: int, told: list[Event]) -> list[Update]:
        """Take what was told of a guest's port."""
        if _OF_PORTS.isdisjoint(map(type, told)):
            return self._tracker.feed(flow, "ttrpc", time_ns, told)
        updates: list[Update] = []
        for event in told:
            if isinstance(event, PortOpened):
                updates += self._refusals.opened(flow, event.port, time_ns)
                updates += _port_opened(flow, time_ns, event)
            elif isinstance(event, PortRefused):
                self._refusals.refused(flow, event.port, time_ns)
            elif isinstance(event, LogLine):
                text = event.line.decode(errors="backslashreplace")
                length = len(event.line)
                updates.append(
                    Finding("notice", time_ns, "log", flow, event.direction, event.offset, length, text=text)
                )
            else:
                updates += self._tracker.feed(flow, "ttrpc", time_ns, [event])
        return updates

    def _carried(self, stream: _Stream, event: FlowCarried) -> list[Update]:
        """Take what was before the capture: it makes no calls but those that are open, and no findings."""
        _, direction, _, piece, began_ns = event
        if isinstance(piece, int):
            told = stream.dissector.lost(direction, piece)
        else:
            told = stream.dissector.feed(direction, piece)
        if not began_ns:
            return []
        return self._tell(stream, began_ns, [each for each in map(_as_carried, told) if each is not None])

    def _gap(self, stream: _Stream, event: FlowGap) -> list[Update]:
        _, direction, time_ns, count = event
        self._mark_gap(stream)
        updates = self._tell(stream, time_ns, stream.dissector.lost(direction, count))  # a Skipped of the gap is there
        self._mark_gap(stream)  # a frame with a hole may have opened a call
        return updates

    def _mark_gap(self, stream: _Stream) -> None:
        self._tracker.gap(stream.flow)
        for flow, _ in (stream.inner or {}).values():
            self._tracker.gap(flow)

    def _closed(self, stream: _Stream, event: FlowClosed) -> list[Update]:
        flow, direction, time_ns, reset = event
        updates = self._tell(stream, time_ns, stream.dissector.close(direction))
        updates += self._tracker.closed(flow, time_ns, direction, reset)
        for inside, asks in (stream.inner or {}).values():
            towards = direction if asks == Direction.REQUEST else Direction(1 - direction)
            updates += self._tracker.closed(inside, time_ns, towards, reset)
        stream.closed[direction] = True
        if reset and all(stream.closed) and not stream.protocol:
            port = vsock.port_of(flow.socket)
            if port is not None:
                self._refusals.refused(flow, port, time_ns)
        if all(stream.closed):
            del self._streams[flow.id]
        return updates


def _dissector(flow: Flow) -> Dissector:
    port = vsock.port_of(flow.socket)
    if port in PORT_NAMES and port != AGENT_PORT:
        return HvsockConnection(port)
    return open_dissector(EXPECTED.get(flow.hop))


def _port_opened(flow: Flow, time_ns: int, opened: PortOpened) -> list[Finding]:
    """What is said of a port, if what it speaks does not show it."""
    if opened.passed:
        what = f"a descriptor was passed to {port_name(opened.port)}, whose bytes go through it"
    elif opened.port in (AGENT_PORT, LOG_PORT):
        return []
    else:
        what = f"{port_name(opened.port)} opened; its bytes are counted, not decoded"
    return [Finding("notice", time_ns, what, flow)]


def _as_carried(event: Event) -> Event | None:
    """What is to be told of an event that was before the capture, if anything."""
    if isinstance(event, Inner):
        inside = _as_carried(event.event)
        return None if inside is None else event._replace(event=inside)  # type: ignore[arg-type] # none is inside of one
    if isinstance(event, Malformed | Skipped):
        return None
    return event._replace(seen=False) if isinstance(event, CallOpened) else event
