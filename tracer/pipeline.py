"""The one reading path, live and afterwards: packets in, updates of calls and findings out.

It joins the stages (flows, dissectors, calls) and knows nothing of files, protobuf or output.
"""

from __future__ import annotations

from dissectors.detect import open_dissector

from dissectors.events import CallOpened, Dissector, Event
from protos.hops import hop_of_service
from tracer.calls import Call, CallTracker, Finding, Update
from tracer.capture.flows import Flow, FlowClosed, FlowData, FlowEvent, FlowGap, FlowTable
from tracer.capture.packets import Notice, Packet

EXPECTED = {"cri": "grpc", "task": "ttrpc", "events": "ttrpc", "agent": "ttrpc"}
"""The protocol of a hop; what speaks is detected all the same."""
NOT_DECODED = frozenset({"nri"})
"""Hops whose connections are counted only."""


class _Stream:
    """One flow's way through the stages."""

    __slots__ = ("closed", "dissector", "flow", "sent")

    def __init__(self, flow: Flow, dissector: Dissector | None) -> None:
        self.flow = flow
        self.dissector = dissector
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
        if item.time_ns > self.now_ns:
            self.now_ns = item.time_ns
        updates: list[Update] = []
        for event in self._flows.feed(item):
            self._take(event, updates)
        return updates

    def finish(self) -> list[Update]:
        """Tell that there are no more packets. What is open stays open: see `open_calls`."""
        updates: list[Update] = []
        for event in self._flows.finish(self.now_ns):
            self._take(event, updates)
        updates += [_counted(stream, self.now_ns) for stream in self._streams.values() if stream.dissector is None]
        return updates

    def open_calls(self) -> list[Call]:
        """What has no end yet, oldest first."""
        return self._tracker.open_calls()

    def _take(self, event: FlowEvent, updates: list[Update]) -> None:
        flow = event.flow
        stream = self._streams.get(flow.id)
        if stream is None:
            wanted = flow.hop not in NOT_DECODED
            stream = _Stream(flow, open_dissector(EXPECTED.get(flow.hop)) if wanted else None)
            self._streams[flow.id] = stream
            if not wanted:
                reason = f"hop {flow.hop} is not decoded yet; its bytes are only counted"
                updates.append(Finding("notice", event.time_ns, reason, flow))
        dissector = stream.dissector
        if isinstance(event, FlowData):
            stream.sent[event.direction] += len(event.data)
            if dissector is not None:
                told = dissector.feed(event.direction, event.data)
                if told:
                    self._tell(flow, dissector, event.time_ns, told, updates)
        elif isinstance(event, FlowGap):
            self._gap(event, stream, updates)
        elif isinstance(event, FlowClosed):
            if dissector is not None:
                self._tell(flow, dissector, event.time_ns, dissector.close(event.direction), updates)
            updates += self._tracker.closed(flow, event.time_ns, event.direction, event.reset)
            stream.closed[event.direction] = True
            if all(stream.closed):
                if dissector is None:
                    updates.append(_counted(stream, event.time_ns))
                del self._streams[flow.id]

    def _tell(self, flow: Flow, dissector: Dissector, time_ns: int, told: list[Event], updates: list[Update]) -> None:
        if not flow.hop:
            for event in told:
                if isinstance(event, CallOpened) and event.service:
                    flow.hop = hop_of_service(event.service) or ""
                    break
        updates += self._tracker.feed(flow, dissector.protocol, time_ns, told)

    def _gap(self, event: FlowGap, stream: _Stream, updates: list[Update]) -> None:
        offset = stream.sent[event.direction]
        stream.sent[event.direction] += event.count
        updates.append(Finding("gap", event.time_ns, "not captured", event.flow, event.direction, offset, event.count))
        self._tracker.gap(event.flow)
        if stream.dissector is not None:
            told = stream.dissector.lost(event.direction, event.count)
            self._tell(event.flow, stream.dissector, event.time_ns, told, updates)


def _counted(stream: _Stream, time_ns: int) -> Finding:
    sent, answered = stream.sent
    reason = f"not decoded: {sent} bytes to the server, {answered} bytes to the client"
    return Finding("notice", time_ns, reason, stream.flow)
