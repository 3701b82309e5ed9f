"""Flows and events made by hand, for tests of what comes after the dissectors."""

from __future__ import annotations

from typing import Protocol

from dissectors.events import CallEnded, CallMessage, CallOpened, Direction, Event, Metadata, Status
from tracer.calls import CallTracker, Finding, Update
from tracer.capture.flows import Endpoint, Flow

REQUEST, RESPONSE = Direction.REQUEST, Direction.RESPONSE

RUNTIME = "runtime.v1.RuntimeService"
TASK = "containerd.task.v3.Task"
POD = "9f57c2b6405e106209b0c9f2e32d782d71f1a18ba8a758828bf8badf8831cb3e"
START = 1_795_445_881_000_000_000
MS = 1_000_000
SECOND = 1_000_000_000


class Printer(Protocol):
    """What the tests need of a printer."""

    def update(self, update: Update) -> None: ...


def made_flow(number: int = 1, hop: str = "cri", **changed: object) -> Flow:
    """A connection of kubelet to containerd."""
    client = Endpoint("198.18.0.2", 40001, "kubelet", 812, 0, "/usr/bin/kubelet", "kubelet.service")
    server = Endpoint("198.18.0.1", 8080, "containerd", 401, 0, "/usr/bin/containerd", "containerd.service")
    flow = Flow(number, hop, "/run/containerd/containerd.sock", client, server, {})
    for name, value in changed.items():
        setattr(flow, name, value)
    return flow


FLOW = made_flow()


class Told:
    """A tracker and a printer behind it: tells events at given times, as milliseconds after START."""

    def __init__(self, printer: Printer) -> None:
        self.tracker = CallTracker()
        self.printer = printer

    def at(self, after_ms: float, *events: Event, flow: Flow | None = None, protocol: str = "grpc") -> None:
        """Tell events of a connection."""
        time_ns = START + int(after_ms * MS)
        for update in self.tracker.feed(flow or FLOW, protocol, time_ns, list(events)):
            self.printer.update(update)

    def closed(self, after_ms: float, direction: Direction, flow: Flow | None = None) -> None:
        """Tell the end of one side."""
        for update in self.tracker.closed(flow or FLOW, START + int(after_ms * MS), direction, False):
            self.printer.update(update)


def opened(
    stream_id: int,
    method: str = "Version",
    service: str = RUNTIME,
    *,
    timeout_ns: int | None = None,
    metadata: Metadata = (),
    seen: bool = True,
) -> CallOpened:
    return CallOpened(stream_id, 0, service, method, metadata, timeout_ns, seen)


def message(stream_id: int, direction: Direction, payload: bytes | None = b"", note: str = "") -> CallMessage:
    return CallMessage(stream_id, direction, 0, len(payload or b""), payload, note)


def ended(stream_id: int, code: int = 0, text: str = "", details: bytes = b"") -> CallEnded:
    return CallEnded(stream_id, RESPONSE, 0, Status(code, text, details), None, ())


def reset(stream_id: int, code: int, direction: Direction = REQUEST) -> CallEnded:
    return CallEnded(stream_id, direction, 0, None, code, ())


def story(updates: list[Update]) -> list[str]:
    """Updates in short: `opened 1`, `message 1`, `ended 1 cut`, `notice`."""
    told = []
    for update in updates:
        if isinstance(update, Finding):
            told.append(update.kind)
        elif update.kind == "ended":
            told.append(f"ended {update.call.number} {update.call.state}")
        else:
            told.append(f"{update.kind} {update.call.number}")
    return told
