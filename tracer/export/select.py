"""A part of a capture as a capture of its own: the connections that are wanted, in the time that is wanted.

In: packets. Out: what a `CaptureWriter` writes. A connection that was open before its time begins as in a file of a
ring (`capture.carry`): with what a reader needs to understand the rest. One pass, in memory bounded by what is open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from tracer.capture.carry import Follower
from tracer.capture.conversation import CaptureWriter
from tracer.capture.flows import (
    Endpoint,
    Flow,
    FlowCarried,
    FlowClosed,
    FlowData,
    FlowEvent,
    FlowGap,
    FlowOpened,
    FlowTable,
)
from tracer.capture.packets import HOP_PORTS, Notice, Packet

FOREVER = 1 << 63


class Window(NamedTuple):
    """A stretch of time, both ends of it in."""

    start_ns: int
    end_ns: int


class _Connection:
    """What is known of one flow."""

    __slots__ = ("closed", "ends", "follower", "new", "window", "written")

    def __init__(self, window: Window, new: bool) -> None:
        self.window = window
        self.new = new
        """Its beginning is in the capture, and nothing has been passed over yet."""
        self.ends = [0, 0]
        self.follower: Follower | None = Follower()
        """None once it is written: then nobody has to know what came before."""
        self.written = False
        self.closed = [False, False]


class Selection:
    """Writes what is wanted. `window` says of each flow when, None: not at all; `has_logs`, whether lines of logs of a
    time are."""

    def __init__(
        self,
        writer: CaptureWriter,
        comment: str,
        window: Callable[[Flow], Window | None],
        has_logs: Callable[[int], bool] = lambda _time_ns: False,
    ) -> None:
        self._writer = writer
        self._comment = comment
        self._window = window
        self._has_logs = has_logs
        self._flows = FlowTable()
        self._connections: dict[Flow, _Connection] = {}
        self._sockets: dict[tuple[str, str], int] = {}
        self._started = False
        self._now_ns = 0
        self._written_ns = 0
        self.notices: list[Notice] = []

    def feed(self, item: Packet | Notice) -> None:
        """Take what the capture gave next."""
        if isinstance(item, Notice):
            if item.entry is None:
                self.notices.append(item)
            elif (time_ns := item.entry.time_ns) is not None and self._has_logs(time_ns):
                self._start(time_ns)
                self._writer.log(item.entry.at(time_ns))
            return
        self._now_ns = max(self._now_ns, item.time_ns)
        for event in self._flows.feed(item):
            self._take(event)

    def finish(self) -> None:
        """Write what begins and had no packet since, and the file's end."""
        for event in self._flows.finish(self._now_ns):
            self._take(event)
        for flow, connection in self._connections.items():
            window = connection.window
            if not connection.written and window.start_ns <= self._now_ns:
                self._begin(flow, connection, window.start_ns)
        self._start(self._now_ns)
        self._writer.finish(max(self._written_ns, min(self._now_ns, FOREVER)))

    def _take(self, event: FlowEvent) -> None:
        flow = event.flow
        connection = self._connections.get(flow)
        if connection is None:
            if not isinstance(event, FlowOpened):
                return  # it is not wanted, or has ended
            window = self._window(flow)
            if window is None or event.time_ns > window.end_ns:
                return
            connection = self._connections[flow] = _Connection(window, event.seen)
            if not event.seen:
                self._unknown(connection)
            return
        time_ns = event.time_ns
        if isinstance(event, FlowCarried):
            self._carried(connection, event)
            return
        start_ns, end_ns = connection.window
        if time_ns < start_ns and not connection.written:
            self._pass_over(connection, event)
        else:
            if not connection.written:  # also if it is quiet in its time: its calls are open
                self._begin(flow, connection, min(time_ns, end_ns))
            if time_ns <= end_ns:
                self._write(flow, connection, event, time_ns)
        if isinstance(event, FlowClosed):
            connection.closed[event.direction] = True
        if all(connection.closed):
            del self._connections[flow]

    def _unknown(self, connection: _Connection) -> None:
        """The capture began in the middle of it: that is said by a gap of a byte each way."""
        connection.new = False
        connection.ends = [1, 1]
        if connection.follower is not None:
            connection.follower.lost(0, 1)
            connection.follower.lost(1, 1)

    def _carried(self, connection: _Connection, event: FlowCarried) -> None:
        """Take what a file of a ring repeats of the files before it."""
        connection.new = False
        follower = connection.follower
        if follower is None:
            return
        if isinstance(event.piece, int):
            follower.lost(event.direction, event.piece)
            connection.ends[event.direction] += event.piece
        else:
            follower.feed(event.direction, event.piece, event.began_ns or event.time_ns)
            connection.ends[event.direction] += len(event.piece)

    def _pass_over(self, connection: _Connection, event: FlowEvent) -> None:
        connection.new = False
        assert connection.follower is not None  # it is not written yet
        if isinstance(event, FlowData):
            connection.follower.feed(event.direction, event.data, event.time_ns)
            connection.ends[event.direction] += len(event.data)
        elif isinstance(event, FlowGap):
            connection.follower.lost(event.direction, event.count)
            connection.ends[event.direction] += event.count

    def _write(self, flow: Flow, connection: _Connection, event: FlowEvent, time_ns: int) -> None:
        time_ns = self._written_ns = max(time_ns, self._written_ns)
        if isinstance(event, FlowData):
            at = connection.ends[event.direction]
            self._writer.data(flow.id, event.direction, at, time_ns, event.data)
            connection.ends[event.direction] = at + len(event.data)
        elif isinstance(event, FlowGap):
            connection.ends[event.direction] += event.count
        elif isinstance(event, FlowClosed):
            at = connection.ends[event.direction]
            self._writer.close(flow.id, event.direction, at, time_ns, event.reset)

    def _start(self, time_ns: int) -> None:
        if not self._started:
            self._started = True
            self._writer.start(time_ns, self._comment)

    def _begin(self, flow: Flow, connection: _Connection, time_ns: int) -> None:
        """Write the beginning of a connection: its handshake, or what it had said before."""
        time_ns = self._written_ns = max(time_ns, self._written_ns)
        self._start(time_ns)
        hop = flow.hop if flow.hop in HOP_PORTS else "other"
        name = flow.socket or f"{flow.server.address}:{flow.server.port}"
        interface = self._sockets.get((hop, name))
        if interface is None:
            interface = self._sockets[hop, name] = self._writer.interface(name, f"{hop} {name}")
        client, server = (
            self._writer.endpoint(end.address, end.name or end.address) for end in (flow.client, flow.server)
        )
        about = {
            "client": _about(flow.client, flow.comment, "client"),
            "server": _about(flow.server, flow.comment, "server"),
        }
        if connection.new:
            self._writer.open(flow.id, interface, hop, client, server, time_ns, about)
        else:
            self._writer.join(flow.id, interface, hop, client, server, about, connection.ends, connection.closed)
            assert connection.follower is not None
            pieces = connection.follower.carried()
            self._writer.carry(flow.id, time_ns, [(int(each.direction), each.piece, each.began_ns) for each in pieces])
        connection.written, connection.follower = True, None


def _about(end: Endpoint, comment: Mapping[str, object], which: str) -> dict[str, object]:
    """What the capture says of one end, in the form of our comments."""
    told = comment.get(which)
    if isinstance(told, dict):
        return told
    about = {"pid": end.pid, "uid": end.uid, "name": end.name, "command": end.command, "unit": end.unit}
    return {key: value for key, value in about.items() if value not in (None, "")}
