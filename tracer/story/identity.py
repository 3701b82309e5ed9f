"""Who a call is about: the ids and names in its first request and its first response, by a table of field paths.

In: a method's full name and a payload. Out: what it says, by role. It remembers nothing of what it has read but the
last short payloads of each method, since half of all messages are the very bytes of one before.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor

from protos.registry import Registry
from protos.schema_set import resolve

Said = dict[str, Any]
"""What a message says, by role: text, numbers, and under `each` a list of the same for every item of a list."""

_POD = "name={0}.name namespace={0}.namespace uid={0}.uid attempt={0}.attempt"
_CONFIG, _META = _POD.format("config.metadata"), _POD.format("metadata")
_CONTAINER = "container_name={0}.name container_attempt={0}.attempt"
_POD_ID, _CONTAINER_ID = "sandbox=pod_sandbox_id", "container=container_id"

_CRI = {
    "RunPodSandbox": f"{_CONFIG} runtime=runtime_handler → {_POD_ID}",
    "StopPodSandbox": _POD_ID,
    "RemovePodSandbox": _POD_ID,
    "PodSandboxStatus": f"{_POD_ID} → sandbox=status.id {_POD.format('status.metadata')} pod_state=status.state",
    "PodSandboxStats": _POD_ID,
    "PortForward": _POD_ID,
    "ListPodSandbox": f"sandbox=filter.id → each=items sandbox=id {_META} pod_state=state",
    "CreateContainer": f"{_POD_ID} {_CONTAINER.format('config.metadata')} image=config.image.image "
    f"{_POD.format('sandbox_config.metadata')} → {_CONTAINER_ID}",
    "StartContainer": _CONTAINER_ID,
    "StopContainer": _CONTAINER_ID,
    "RemoveContainer": _CONTAINER_ID,
    "ContainerStatus": f"{_CONTAINER_ID} → container=status.id {_CONTAINER.format('status.metadata')} "
    "image=status.image.image container_state=status.state exit=status.exit_code",
    "ListContainers": "container=filter.id sandbox=filter.pod_sandbox_id → each=containers container=id "
    f"{_POD_ID} {_CONTAINER.format('metadata')} image=image.image container_state=state",
    "UpdateContainerResources": _CONTAINER_ID,
    "ReopenContainerLog": _CONTAINER_ID,
    "ExecSync": _CONTAINER_ID,
    "Exec": _CONTAINER_ID,
    "Attach": _CONTAINER_ID,
    "ContainerStats": _CONTAINER_ID,
    "ListContainerStats": "container=filter.id sandbox=filter.pod_sandbox_id",
    "ListPodSandboxStats": "sandbox=filter.id",
    "CheckpointContainer": _CONTAINER_ID,
}
_IMAGES = {
    "PullImage": f"image=image.image {_POD.format('sandbox_config.metadata')}",
    "ImageStatus": "image=image.image",
    "RemoveImage": "image=image.image",
}
_TASK = {
    **dict.fromkeys(("Start", "Kill", "Exec", "ResizePty", "CloseIO"), "container=id exec=exec_id"),
    **dict.fromkeys(
        ("Pids", "Pause", "Resume", "Checkpoint", "Update", "Stats", "Connect", "Shutdown"), "container=id"
    ),
    "State": "container=id exec=exec_id",
    "Create": "container=id bundle=bundle",
    "Delete": "container=id exec=exec_id → exit=exit_status",
    "Wait": "container=id exec=exec_id → exit=exit_status",
}
_SANDBOX = dict.fromkeys(
    (
        "CreateSandbox", "StartSandbox", "Platform", "StopSandbox", "WaitSandbox", "SandboxStatus", "PingSandbox",
        "ShutdownSandbox", "SandboxMetrics",
    ),
    "sandbox=sandbox_id bundle=bundle_path",
)  # fmt: skip
_TASKS = {
    **dict.fromkeys(("Start", "Kill", "Get", "CloseIO", "ResizePty", "Wait"), "container=container_id exec=exec_id"),
    **dict.fromkeys(
        ("Create", "Delete", "DeleteProcess", "Exec", "ListPids", "Pause", "Resume", "Checkpoint", "Update"),
        "container=container_id exec=exec_id",
    ),
}
_AGENT = {
    **dict.fromkeys(
        (
            "StartContainer", "RemoveContainer", "ExecProcess", "SignalProcess", "WaitProcess", "UpdateContainer",
            "UpdateEphemeralMounts", "StatsContainer", "PauseContainer", "ResumeContainer", "WriteStdin", "ReadStdout",
            "ReadStderr", "CloseStdin", "TtyWinResize", "RemoveStaleVirtiofsShareMounts",
        ),
        "container=container_id exec=exec_id",
    ),
    "CreateContainer": "container=container_id exec=exec_id annotations=OCI.Annotations",
    "CreateSandbox": "sandbox=sandbox_id",
}  # fmt: skip
_NRI_POD = "sandbox=pod.id name=pod.name namespace=pod.namespace uid=pod.uid"
_NRI = dict.fromkeys(
    (
        "CreateContainer", "UpdateContainer", "StopContainer", "StateChange", "RunPodSandbox", "UpdatePodSandbox",
        "PostUpdatePodSandbox", "StopPodSandbox", "RemovePodSandbox", "PostCreateContainer", "StartContainer",
        "PostStartContainer", "PostUpdateContainer", "RemoveContainer",
    ),
    f"{_NRI_POD} container=container.id container_name=container.name",
)  # fmt: skip

IDENTITY: dict[str, dict[str, str]] = {
    "runtime.v1.RuntimeService": _CRI,
    "runtime.v1alpha2.RuntimeService": _CRI,
    "runtime.v1.ImageService": _IMAGES,
    "runtime.v1alpha2.ImageService": _IMAGES,
    "containerd.services.tasks.v1.Tasks": _TASKS,
    "containerd.task.v2.Task": _TASK,
    "containerd.task.v3.Task": _TASK,
    "containerd.runtime.sandbox.v1.Sandbox": _SANDBOX,
    "containerd.services.events.ttrpc.v1.Events": {"Forward": "topic=envelope.topic event=envelope.event"},
    "grpc.AgentService": _AGENT,
    "nri.pkg.api.v1alpha1.Plugin": _NRI,
}
"""By service and method: `role=path … → role=path …`, of the request and of the response. A path goes through
submessages by dots; paths that a schema lacks are left out. Behind `each=path` come the roles of a list's items."""

EVENTS: dict[str, str] = {
    "containerd.events.TaskCreate": "container=container_id bundle=bundle",
    "containerd.events.TaskStart": "container=container_id",
    "containerd.events.TaskExit": "container=container_id exec=id exit=exit_status",
    "containerd.events.TaskDelete": "container=container_id exec=id exit=exit_status",
    "containerd.events.TaskExecAdded": "container=container_id exec=exec_id",
    "containerd.events.TaskExecStarted": "container=container_id exec=exec_id",
    "containerd.events.TaskOOM": "container=container_id",
    "containerd.events.TaskPaused": "container=container_id",
    "containerd.events.TaskResumed": "container=container_id",
    "containerd.events.TaskCheckpointed": "container=container_id",
}
"""The same of the events that a shim forwards."""

ANNOTATIONS: dict[str, str] = {
    "io.kubernetes.cri.sandbox-id": "sandbox",
    "io.kubernetes.cri.sandbox-name": "name",
    "io.kubernetes.cri.sandbox-namespace": "namespace",
    "io.kubernetes.cri.sandbox-uid": "uid",
    "io.kubernetes.cri.container-name": "container_name",
    "io.kubernetes.cri.image-name": "image",
    "io.kubernetes.cri-o.SandboxID": "sandbox",
    "io.kubernetes.pod.name": "name",
    "io.kubernetes.pod.namespace": "namespace",
    "io.kubernetes.pod.uid": "uid",
    "io.kubernetes.container.name": "container_name",
    "io.kubernetes.cri-o.ImageName": "image",
}
"""The annotations of an OCI spec that say who a container is: CRI-containerd's and CRI-O's."""

KEPT = 256
KEPT_LENGTH = 512
"""Bytes of a message whose reading is kept, at most."""
_NOTHING: Said = {}


class _Side(NamedTuple):
    type: str
    items: tuple[tuple[str, Callable[[Any], Any], str], ...]
    each: Callable[[Any], Any] | None
    each_items: tuple[tuple[str, Callable[[Any], Any], str], ...]
    known: dict[bytes, Said]


class Reader:
    """Read identities with the schemas of one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._sides: dict[tuple[str, str], tuple[_Side | None, _Side | None]] = {}
        self._events: dict[str, _Side] = {}

    def read(self, service: str, method: str, direction: int, payload: bytes | None) -> Said:
        """Return what a first message says; nothing if it has no payload, does not parse, or no table names it."""
        sides = self._sides.get((service, method))
        if sides is None:
            sides = self._sides[service, method] = self._plan(service, method)
        side = sides[direction]
        if side is None or payload is None:
            return _NOTHING
        said = side.known.get(payload)
        if said is None:
            message = self._registry.parse(side.type, payload).message
            said = _NOTHING if message is None else self._take(side, message)
            if len(payload) <= KEPT_LENGTH:
                if len(side.known) >= KEPT:
                    side.known.clear()
                side.known[payload] = said
        return said

    def _take(self, side: _Side, message: Any) -> Said:  # noqa: ANN401 # made at run time from the schema
        said = _said(side.items, message)
        if side.each is not None:
            said["each"] = [_said(side.each_items, item) for item in side.each(message)]
        event = said.pop("event", None)
        if event is not None:
            said.update(self._event(event))
        annotations = said.pop("annotations", None)
        for key in annotations or ():
            role = ANNOTATIONS.get(_text(key))
            if role is not None:
                said.setdefault(role, _text(annotations[key]))
        if "exec" in said and said["exec"] == said.get("container"):
            del said["exec"]  # the container's own process, in events and to the agent
        return said

    def _event(self, packed: Any) -> Said:  # noqa: ANN401 # an Any of a private pool
        name = self._registry.resolve_any(_text(packed.type_url))
        if name is None or name not in EVENTS:
            return _NOTHING
        side = self._events.get(name)
        if side is None:
            side = self._events[name] = _side(EVENTS[name], name, self._registry)
        message = self._registry.parse(name, packed.value).message
        if message is None:
            return _NOTHING
        return _said(side.items, message)

    def _plan(self, service: str, method: str) -> tuple[_Side | None, _Side | None]:
        words = IDENTITY.get(service, {}).get(method)
        found = self._registry.method(service, method) if words is not None else None
        if words is None or found is None:
            return None, None
        request, _, response = words.partition("→")
        return _or_none(request, found.input_type, self._registry), _or_none(
            response, found.output_type, self._registry
        )


def _or_none(words: str, type_name: str, registry: Registry) -> _Side | None:
    return _side(words, type_name, registry) if words.strip() else None


def _side(words: str, type_name: str, registry: Registry) -> _Side:
    descriptor: Any = registry.message_class(type_name).DESCRIPTOR
    items: list[tuple[str, Callable[[Any], Any], str]] = []
    each_items: list[tuple[str, Callable[[Any], Any], str]] = []
    each, into = None, items
    for word in words.split():
        role, _, path = word.partition("=")
        field = resolve(path, descriptor)
        if field is None:
            continue  # an older schema, or a user's own
        if role == "each":
            each, into, descriptor = attrgetter(path), each_items, field.message_type
        else:
            into.append((role, attrgetter(path), _kind(field)))
    return _Side(type_name, tuple(items), each, tuple(each_items), {})


def _kind(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return "enum"
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return "text"
    return "message" if field.message_type is not None else "number"


def _said(items: tuple[tuple[str, Callable[[Any], Any], str], ...], message: Any) -> Said:  # noqa: ANN401 # as above
    said: Said = {}
    for role, get, kind in items:
        value = get(message)
        if kind == "text":
            if value:
                said[role] = value if type(value) is str else _text(value)
        else:
            said[role] = value
    return said


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="backslashreplace")
