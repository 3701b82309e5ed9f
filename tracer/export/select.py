"""A part of a capture as a capture of its own: the connections that are wanted, in the time that is wanted.

In: packets and bundles. Out: what a `CaptureWriter` writes. A connection that was open before its time begins as in a
file of a ring (`capture.carry`): with what a reader needs to understand the rest. One pass, in memory bounded by what
is open. What is to be said of a call is a comment on the packet that tells of its beginning.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

from tracer.capture import bundle as bundles
from tracer.capture import journal
from tracer.capture.bundle import Bundle
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
from tracer.capture.journal import Entry
from tracer.capture.packets import HOP_PORTS, Notice, Packet

FOREVER = 1 << 63


class Window(NamedTuple):
    """A stretch of time, both ends of it in."""

    start_ns: int
    end_ns: int


class Told(Protocol):
    """What an earlier reading tells of calls (`survey`)."""

    def begun(self, flow: int, time_ns: int) -> Iterable[int]:
        """The calls that begin here, asked in the order of the capture."""
        ...

    def start_ns(self, row: int) -> int:
        """When one of them began."""
        ...

    def comment(self, rows: Iterable[int]) -> bytes:
        """What is to be said of calls."""
        ...


class _Connection:
    """What is known of one flow."""

    __slots__ = ("begun", "bundles", "closed", "ends", "follower", "new", "passed", "window", "written")

    def __init__(self, window: Window, new: bool) -> None:
        self.window = window
        self.new = new
        """Its beginning is in the capture, and nothing has been passed over yet."""
        self.ends = [0, 0]
        self.follower: Follower | None = Follower()
        """None once it is written: then nobody has to know what came before."""
        self.written = False
        self.closed = [False, False]
        self.passed = array("I")
        """Calls that began before its time."""
        self.begun: list[int] = []
        """Calls of which its next packet tells."""
        self.bundles: list[Bundle] = []
        """Of open calls that began before its time."""


class Selection:
    """Writes what is wanted. `window` says of each flow when, None: not at all; `has_logs`, whether lines of logs of a
    time are; `told` knows the calls."""

    def __init__(
        self,
        writer: CaptureWriter,
        comment: str,
        window: Callable[[Flow], Window | None],
        has_logs: Callable[[int], bool] = lambda _time_ns: False,
        told: Told | None = None,
    ) -> None:
        self._writer = writer
        self._comment = comment
        self._window = window
        self._has_logs = has_logs
        self._told = told
        self._flows = FlowTable()
        self._connections: dict[Flow, _Connection] = {}
        self._sockets: dict[tuple[str, str], int] = {}
        self._started = False
        self._now_ns = 0
        self._written_ns = 0

    def take(self, item: Packet | Notice) -> None:
        """Take what a capture has next: a packet, a bundle, a line of a log. What else it notes is not passed on."""
        if isinstance(item, Packet):
            self.feed(item)
        elif item.bundle is not None:
            self.bundle(item.bundle)
        elif item.entry is not None:
            self.log(item.entry)

    def feed(self, packet: Packet) -> None:
        """Take the next packet."""
        if packet.time_ns > self._now_ns:
            self._now_ns = packet.time_ns
        data = self._flows.steady(packet)
        if data is None:
            for event in self._flows.feed_other(packet):
                self._take(event)
        elif data.data:
            self._take(data)

    def bundle(self, bundle: Bundle) -> None:
        """Take what stands behind the packet that named it: it goes where its call goes."""
        for flow, connection in self._connections.items():
            if flow.comment.get("connection") == bundle.connection:
                named = bundle._replace(connection=flow.id)
                if connection.follower is not None:
                    streams = connection.follower.open_streams()
                    connection.bundles = [*(each for each in connection.bundles if each.stream in streams), named]
                elif self._now_ns <= connection.window.end_ns:
                    self._writer.keep(bundles.build_block(named))

    def log(self, entry: Entry) -> None:
        """Take a line of a log."""
        if (time_ns := entry.time_ns) is not None and self._has_logs(time_ns):
            self.start(time_ns)
            self._writer.keep(journal.build_block(entry.at(time_ns)))

    def start(self, time_ns: int) -> None:
        """Write the file's beginning, if it is not there yet."""
        if not self._started:
            self._started = True
            self._writer.start(time_ns, self._comment)

    def want(self, flow_id: int, start_ns: int) -> None:
        """Let a flow that is open be wanted from a time on; if that has passed, it begins now."""
        for flow, connection in self._connections.items():
            if flow.id == flow_id and not connection.written:
                connection.window = Window(start_ns, FOREVER)
                if start_ns <= self._now_ns:
                    self._begin(flow, connection, self._now_ns)

    def finish(self) -> None:
        """Write what begins and had no packet since, and the file's end."""
        for event in self._flows.finish(self._now_ns):
            self._take(event)
        for flow, connection in self._connections.items():
            window = connection.window
            if not connection.written and window.start_ns <= self._now_ns:
                self._begin(flow, connection, window.start_ns)
        self.start(self._now_ns)
        self._writer.finish(max(self._written_ns, min(self._now_ns, FOREVER)))

    def _take(self, event: FlowEvent) -> None:
        flow = event.flow
        begun: Iterable[int] = ()
        if self._told is not None:
            when = event.began_ns or event.time_ns if isinstance(event, FlowCarried) else event.time_ns
            begun = self._told.begun(flow.id, when)
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
            connection.passed.extend(begun)
            self._carried(connection, event)
            return
        start_ns, end_ns = connection.window
        if time_ns < start_ns and not connection.written:
            connection.passed.extend(begun)
            self._pass_over(connection, event)
        else:
            if not connection.written:  # also if it is quiet in its time: its calls are open
                self._begin(flow, connection, min(time_ns, end_ns))
            if time_ns <= end_ns:
                connection.begun += begun
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
            comment = b""
            if connection.begun and self._told is not None:
                comment = self._told.comment(connection.begun)
                connection.begun.clear()
            self._writer.data(flow.id, event.direction, at, time_ns, event.data, comment)
            connection.ends[event.direction] = at + len(event.data)
        elif isinstance(event, FlowGap):
            connection.ends[event.direction] += event.count
        elif isinstance(event, FlowClosed):
            at = connection.ends[event.direction]
            self._writer.close(flow.id, event.direction, at, time_ns, event.reset)

    def _begin(self, flow: Flow, connection: _Connection, time_ns: int) -> None:
        """Write the beginning of a connection: its handshake, or what it had said before."""
        time_ns = self._written_ns = max(time_ns, self._written_ns)
        self.start(time_ns)
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
            comments = self._comments(connection, {each.began_ns for each in pieces})
            self._writer.carry(
                flow.id, time_ns, [(int(each.direction), each.piece, each.began_ns) for each in pieces], comments
            )
            streams = connection.follower.open_streams()
            for bundle in connection.bundles:
                if bundle.stream in streams:
                    self._writer.keep(bundles.build_block(bundle))
        connection.written, connection.follower = True, None
        connection.bundles, connection.passed = [], array("I")

    def _comments(self, connection: _Connection, times: set[int]) -> dict[int, bytes]:
        """Return what is to be said of the calls that are carried over, by when they began."""
        told = self._told
        if told is None:
            return {}
        rows: dict[int, list[int]] = {}
        for row in connection.passed:
            if told.start_ns(row) in times:
                rows.setdefault(told.start_ns(row), []).append(row)
        comments = {start_ns: told.comment(each) for start_ns, each in rows.items()}
        return {start_ns: comment for start_ns, comment in comments.items() if comment}


def _about(end: Endpoint, comment: Mapping[str, object], which: str) -> dict[str, object]:
    """What the capture says of one end, in the form of our comments."""
    told = comment.get(which)
    if isinstance(told, dict):
        return told
    about = {"pid": end.pid, "uid": end.uid, "name": end.name, "command": end.command, "unit": end.unit}
    return {key: value for key, value in about.items() if value not in (None, "")}
