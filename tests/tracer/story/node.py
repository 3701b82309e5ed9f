"""A node's traffic told call by call to a correlator."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from dissectors.events import CallEnded, CallOpened, Direction, Status
from protos.registry import Registry
from tests.tracer.made import MS, RUNTIME, START, TASK, made_flow, message
from tracer.calls import Call, CallTracker, CallUpdate, Update
from tracer.capture.flows import Flow
from tracer.story.correlate import Correlator
from tracer.story.place import Place

AGENT = "grpc.AgentService"
IMAGES = "runtime.v1.ImageService"
EVENTS = "containerd.services.events.ttrpc.v1.Events"
HOPS = {RUNTIME: "cri", TASK: "task", AGENT: "agent", EVENTS: "events"}
SOCKET = "/run/containerd/s/" + "a" * 64


class Node:
    """Calls, each by name; times are milliseconds, one later for every step unless said otherwise."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.correlator = Correlator(registry)
        self.tracker = CallTracker()
        self.updates: list[Update] = []
        self.flows: dict[str, Flow] = {}
        self.calls: dict[str, Call] = {}
        self.streams: dict[str, tuple[Flow, int, str]] = {}
        self.ms = 0

    def ask(
        self, name: str, method: str, service: str = "", *, socket: str = "", ms: int | None = None, **told: Any
    ) -> Place:
        """A call begins, under a name of the test's own. `timeout_ms`, `trace`; the rest are its request's fields."""
        service = service or (RUNTIME if method in self.methods(RUNTIME) else TASK)
        hop = HOPS.get(service, "cri")
        socket = socket or {"task": SOCKET, "cri": "/run/containerd/containerd.sock"}.get(hop, "/run/x")
        flow = self.flows.setdefault(socket, made_flow(len(self.flows) + 1, hop, socket=socket))
        stream = 2 * len(self.streams) + 1
        timeout, trace = told.pop("timeout_ms", None), told.pop("trace", "")
        metadata = (("traceparent", f"00-{trace * 32}-{'b' * 16}-01"),) if trace else ()
        found = self.registry.method(service, method)
        assert found is not None, method
        payload = json_format.ParseDict(told, self.registry.message_class(found.input_type)()).SerializeToString()
        self.streams[name] = flow, stream, found.output_type
        opened = CallOpened(stream, 0, service, method, metadata, None if timeout is None else timeout * MS, True)
        updates = self.tell(flow, ms, opened, message(stream, Direction.REQUEST, payload))
        call = next(each.call for each in updates if isinstance(each, CallUpdate))
        self.calls[name] = call
        assert call.place is not None
        return call.place

    def answer(self, name: str, code: int = 0, text: str = "", ms: int | None = None, **fields: Any) -> None:
        """The call ends, with the fields of its response."""
        flow, stream, type_name = self.streams[name]
        payload = json_format.ParseDict(fields, self.registry.message_class(type_name)()).SerializeToString()
        ended = CallEnded(stream, Direction.RESPONSE, 0, Status(code, text, b""), None, ())
        self.tell(flow, ms, *([] if code else [message(stream, Direction.RESPONSE, payload)]), ended)

    def event(self, name: str, topic: str, **fields: Any) -> Place:
        """A shim forwards an event, and gets its answer."""
        type_name = {
            "/tasks/create": "TaskCreate", "/tasks/start": "TaskStart", "/tasks/exit": "TaskExit",
            "/tasks/delete": "TaskDelete", "/tasks/exec-added": "TaskExecAdded",
            "/tasks/exec-started": "TaskExecStarted",
        }[topic]  # fmt: skip
        body = json_format.ParseDict(fields, self.registry.message_class(f"containerd.events.{type_name}")())
        flow = self.flows.setdefault("events", made_flow(len(self.flows) + 1, "events", socket="/run/events.sock"))
        stream = 2 * len(self.streams) + 1
        found = self.registry.method(EVENTS, "Forward")
        assert found is not None
        request: Any = self.registry.message_class(found.input_type)()
        request.envelope.topic = topic
        request.envelope.event.type_url = f"containerd.events.{type_name}"
        request.envelope.event.value = body.SerializeToString()
        self.streams[name] = flow, stream, found.output_type
        opened = CallOpened(stream, 0, EVENTS, "Forward", (), None, True)
        updates = self.tell(flow, None, opened, message(stream, Direction.REQUEST, request.SerializeToString()))
        call = next(each.call for each in updates if isinstance(each, CallUpdate))
        self.answer(name)
        assert call.place is not None
        return call.place

    def do(self, name: str, method: str, **fields: Any) -> Place:
        """A call that is answered at once, with OK and nothing else."""
        place = self.ask(name, method, **fields)
        self.answer(name)
        return place

    def tell(self, flow: Flow, ms: int | None, *events: Any) -> list[Update]:
        self.ms = self.ms + 1 if ms is None else ms
        protocol = "grpc" if flow.hop == "cri" else "ttrpc"
        updates = self.tracker.feed(flow, protocol, START + self.ms * MS, list(events))
        for update in updates:
            self.correlator.update(update)
        self.updates += updates
        return updates

    def methods(self, service: str) -> list[str]:
        return [method for method in (*_CRI, "PullImage") if self.registry.method(service, method) is not None]


_CRI = (
    "RunPodSandbox", "StopPodSandbox", "RemovePodSandbox", "PodSandboxStatus", "ListPodSandbox", "CreateContainer",
    "StartContainer", "StopContainer", "RemoveContainer", "ExecSync", "ListContainers", "ListContainerStats",
    "ContainerStats", "ContainerStatus", "Version",
)  # fmt: skip
