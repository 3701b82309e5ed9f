"""A call as a command that makes it again: crictl where it has one, else grpcurl. In: a call. Out: a line for a shell.

Nothing but printable characters comes out: it is made to be pasted.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

from dissectors.json_value import JSONValue
from dissectors.render import Renderer
from protos.errors import PodwireError
from protos.registry import Registry
from tracer.calls import Call

_CRICTL = {
    "Version": "version",
    "Status": "info",
    "ListPodSandbox": "pods",
    "ListContainers": "ps -a",
    "ListImages": "images",
    "ImageFsInfo": "imagefsinfo",
    "PodSandboxStatus": "inspectp {pod_sandbox_id}",
    "StopPodSandbox": "stopp {pod_sandbox_id}",
    "RemovePodSandbox": "rmp {pod_sandbox_id}",
    "ContainerStatus": "inspect {container_id}",
    "StartContainer": "start {container_id}",
    "StopContainer": "stop --timeout {timeout} {container_id}",
    "RemoveContainer": "rm {container_id}",
    "ExecSync": "exec --sync {container_id} {cmd}",
    "ImageStatus": "inspecti {image.image}",
    "PullImage": "pull {image.image}",
    "RemoveImage": "rmi {image.image}",
}
"""What crictl does by one call and no more than its request says."""


def call_command(call: Call, registry: Registry, renderer: Renderer) -> str:
    """Return the command. Raises PodwireError where there is none."""
    if call.protocol != "grpc":
        raise PodwireError(f"no client speaks {call.protocol}: the call as JSON is what can be copied")
    found = registry.method(call.service, call.method)
    request = call.request()
    if found is None or request is None or request.payload is None:
        raise PodwireError("its request cannot be written down: no schema has its method, or its bytes are not there")
    socket = call.flow.socket or "/run/containerd/containerd.sock"
    parsed = registry.parse(found.input_type, request.payload)
    words = _crictl(call, parsed.message)
    if words is not None:
        return shlex.join(["crictl", "-r", f"unix://{socket}", *words])
    data = renderer.to_json(found.input_type, request.payload)
    if _ours(data):
        raise PodwireError("its request has fields that no JSON for grpcurl can carry")
    text = json.dumps(data, separators=(",", ":"))
    line = ["grpcurl", "-plaintext", "-unix", "-d", text, socket, f"{call.service}/{call.method}"]
    if not all(word.isprintable() for word in line):
        raise PodwireError("its names have control characters, which are not for pasting")
    return shlex.join(line)


def _crictl(call: Call, message: Any) -> list[str] | None:  # noqa: ANN401 # made at run time from the schema
    form = _CRICTL.get(call.method) if call.service.startswith("runtime.v1.") else None
    if form is None or message is None:
        return None
    words: list[str] = []
    for word in form.split():
        if not word.startswith("{"):
            words.append(word)
            continue
        value = message
        for name in word.strip("{}").split("."):
            value = getattr(value, name)
        words += [str(each) for each in value] if word == "{cmd}" else [str(value)]
    return words if all(word and word.isprintable() for word in words) else None


def _ours(value: JSONValue) -> bool:
    """Whether a key in it is one that protobuf's JSON does not know."""
    if isinstance(value, dict):
        return any((key.startswith("@") and key != "@type") or _ours(item) for key, item in value.items())
    return isinstance(value, list) and any(map(_ours, value))
