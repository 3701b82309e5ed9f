"""The one reading path, live and afterwards: packets in, updates of calls and findings out.

It joins the stages (flows, dissectors, calls) and knows nothing of files, protobuf or output.
"""

from __future__ import annotations

from dissectors.detect import open_dissector, settled
from dissectors.events import CallOpened, Dissector, Event, Malformed, Skipped
from protos.hops import hop_of_service
from tracer.calls import Call, CallTracker, Finding, Update
from tracer.capture.flows import Flow, FlowCarried, FlowClosed, FlowData, FlowEvent, FlowGap, FlowTable
from tracer.capture.packets import Notice, Packet

EXPECTED = {"cri": "grpc", "task": "ttrpc", "events": "ttrpc", "agent": "ttrpc"}
"""The protocol of a hop; what speaks is detected all the same."""
NOT_DECODED = frozenset({"nri"})
"""Hops whose connections are counted only."""


class _Stream:
    """One flow's way through the stages. `sent` counts the bytes of one that is not decoded."""

    __slots__ = ("closed", "dissector", "flow", "protocol", "sent")

    def __init__(self, flow: Flow, dissector: Dissector | None) -> None:
        self.flow = flow
        self.dissector = dissector
        self.protocol = ""
        self.sent = [0, 0]
        self.closed = [False, False]


class Decoder:
    """Decode one capture. `now_ns` is capture time: that of the newest packet."""

    def __init__(self) -> None:
        self._flows = FlowTable()
        self._tracker = CallTracker()
        self._streams: dict[int, _Stream] = {}
        self.now_ns = 0
        self.packets = 0

    def feed(self, item: Packet | Notice) -> list[Update]:
        """Take what a capture file gave next; return what it changed. Never raises on content."""
        if isinstance(item, Notice):
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
        dissector = stream.dissector
        if dissector is None:
            stream.sent[direction] += len(content)
            return []
        told = dissector.feed(direction, content)
        return self._tell(stream, time_ns, told) if told else []

    def finish(self) -> list[Update]:
        """Tell that there are no more packets. What is open stays open: see `open_calls`."""
        updates = self._take(self._flows.finish(self.now_ns))
        updates += [_counted(stream, self.now_ns) for stream in self._streams.values() if stream.dissector is None]
        return updates

    def open_calls(self) -> list[Call]:
        """What has no end yet, oldest first."""
        return self._tracker.open_calls()

    def _take(self, events: list[FlowEvent]) -> list[Update]:
        updates: list[Update] = []
        for event in events:
            flow = event.flow
            stream = self._streams.get(flow.id)
            if stream is None:
                stream = self._open(flow, event.time_ns, updates)
            if isinstance(event, FlowData):
                if stream.dissector is None:
                    stream.sent[event.direction] += len(event.data)
                    continue
                told = stream.dissector.feed(event.direction, event.data)
                if told:
                    updates += self._tell(stream, event.time_ns, told)
            elif isinstance(event, FlowCarried):
                updates += self._carried(stream, event)
            elif isinstance(event, FlowGap):
                updates += self._gap(stream, event)
            elif isinstance(event, FlowClosed):
                updates += self._closed(stream, event)
        return updates

    def _open(self, flow: Flow, time_ns: int, updates: list[Update]) -> _Stream:
        if flow.hop in NOT_DECODED:
            reason = f"hop {flow.hop} is not decoded yet; its bytes are only counted"
            updates.append(Finding("notice", time_ns, reason, flow))
            dissector = None
        else:
            dissector = open_dissector(EXPECTED.get(flow.hop))
        stream = self._streams[flow.id] = _Stream(flow, dissector)
        return stream

    def _tell(self, stream: _Stream, time_ns: int, told: list[Event]) -> list[Update]:
        flow, dissector = stream.flow, stream.dissector
        if not stream.protocol and dissector is not None:
            stream.protocol = dissector.protocol
            stream.dissector = settled(dissector)
        if not flow.hop:
            for event in told:
                if isinstance(event, CallOpened) and event.service:
                    flow.hop = hop_of_service(event.service) or ""
                    break
        return self._tracker.feed(flow, stream.protocol, time_ns, told)

    def _carried(self, stream: _Stream, event: FlowCarried) -> list[Update]:
        """Take what was before the capture: it makes no calls but those that are open, and no findings."""
        _, direction, _, piece, began_ns = event
        if stream.dissector is None:
            return []
        if isinstance(piece, int):
            told = stream.dissector.lost(direction, piece)
        else:
            told = stream.dissector.feed(direction, piece)
        if not began_ns:
            return []
        events = [each._replace(seen=False) if isinstance(each, CallOpened) else each for each in told]
        return self._tell(stream, began_ns, [each for each in events if not isinstance(each, Malformed | Skipped)])

    def _gap(self, stream: _Stream, event: FlowGap) -> list[Update]:
        flow, direction, time_ns, count = event
        dissector = stream.dissector
        if dissector is None:
            offset = stream.sent[direction]
            stream.sent[direction] += count
            return [Finding("gap", time_ns, "lost", flow, direction, offset, count)]
        self._tracker.gap(flow)
        updates = self._tell(stream, time_ns, dissector.lost(direction, count))  # a Skipped of the gap is among them
        self._tracker.gap(flow)  # a frame with a hole may have opened a call
        return updates

    def _closed(self, stream: _Stream, event: FlowClosed) -> list[Update]:
        flow, direction, time_ns, reset = event
        updates: list[Update] = []
        if stream.dissector is not None:
            updates += self._tell(stream, time_ns, stream.dissector.close(direction))
        updates += self._tracker.closed(flow, time_ns, direction, reset)
        stream.closed[direction] = True
        if all(stream.closed):
            if stream.dissector is None:
                updates.append(_counted(stream, time_ns))
            del self._streams[flow.id]
        return updates


def _counted(stream: _Stream, time_ns: int) -> Finding:
    sent, answered = stream.sent
    reason = f"not decoded: {sent} bytes to the server, {answered} bytes to the client"
    return Finding("notice", time_ns, reason, stream.flow)
