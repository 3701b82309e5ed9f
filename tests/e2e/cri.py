"""A CRI client of our own, by grpcio, and a pod's life told through it.

In: a socket and the bundled schemas. Out: answers, and the client's own account of each call it made (an oracle that
nothing of podwire has touched but its schemas). It knows nothing of traces.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message

from protos.registry import Registry
from tests.e2e.images import BUSYBOX_IMAGE

EVENTS = "containerd.services.events.v1.Events"
NODE = 2
"""NamespaceMode of a pod that uses the machine's own network: no CNI plugin is asked."""

SPIN = "trap 'exit 0' TERM; echo started; while :; do sleep 0.1; done"


_REGISTRY_LOCK = threading.Lock()
"""A registry is for one thread at a time; clients in several threads share one."""


class ClientCall(NamedTuple):
    """One call as the client saw it."""

    service: str
    method: str
    code: str
    """As in containerd's metrics: OK, NotFound, DeadlineExceeded …"""
    start: float
    end: float
    """time.time(), seconds."""


class CriClient:
    """One connection to a socket that serves CRI. Close it, or use it as a context manager."""

    def __init__(self, address: str, registry: Registry) -> None:
        self.calls: list[ClientCall] = []
        """Ended calls, in the order of their ends."""
        self._registry = registry
        # A pool of its own: grpcio would otherwise share one connection among all channels to the same address.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 32 << 20)]
        self._channel = grpc.insecure_channel(f"unix:{address}", options=options)

    def __enter__(self) -> CriClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def call(
        self,
        service: str,
        method: str,
        *,
        deadline: float = 60,
        metadata: tuple[tuple[str, str | bytes], ...] = (),
        **fields: Any,
    ) -> Any:
        """Make a unary call; return its answer. Raises grpc.RpcError; either way the call is recorded."""
        start, code = time.time(), "OK"
        path, request, answer = self._method(service, method)
        try:
            rpc = self._channel.unary_unary(path, request.SerializeToString, answer.FromString)
            return rpc(request(**fields), timeout=deadline, metadata=metadata)
        except grpc.RpcError as error:
            code = code_name(error.code())
            raise
        finally:
            self.calls.append(ClientCall(service, method, code, start, time.time()))

    def stream(self, service: str, method: str, **fields: object) -> ServerStream:
        """Open a server-streaming call that is read in a thread of its own until it is cancelled."""
        path, request, answer = self._method(service, method)
        rpc = self._channel.unary_stream(path, request.SerializeToString, answer.FromString)
        start = time.time()

        def ended(code: str) -> None:
            self.calls.append(ClientCall(service, method, code, start, time.time()))

        return ServerStream(rpc(request(**fields)), ended)

    def _method(self, service: str, name: str) -> tuple[str, type[Message], type[Message]]:
        with _REGISTRY_LOCK:
            method = self._registry.method(service, name)
            assert method is not None, f"no schema of {service}/{name}"
            message_class = self._registry.message_class
            return f"/{service}/{name}", message_class(method.input_type), message_class(method.output_type)


class ServerStream:
    """An open server-streaming call and what it has brought so far."""

    def __init__(self, rpc: Any, ended: Callable[[str], None]) -> None:
        self.messages: list[Any] = []
        self._rpc, self._ended = rpc, ended
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for message in self._rpc:
                self.messages.append(message)
            self._ended("OK")
        except grpc.RpcError as error:
            self._ended(code_name(error.code()))

    def cancel(self) -> None:
        """Cancel the call and wait for its end."""
        self._rpc.cancel()
        self._thread.join()


def code_name(code: grpc.StatusCode) -> str:
    """grpc.StatusCode.NOT_FOUND → NotFound, the way containerd's metrics and Go write it."""
    go_names = {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}
    return go_names.get(code) or "".join(word.capitalize() for word in code.name.split("_"))


@dataclass
class Pod:
    """One pod with one container, made and ended step by step over CRI."""

    client: CriClient
    name: str
    cgroup_parent: str
    api: str = "runtime.v1"
    """Or `runtime.v1alpha2`."""
    sandbox_id: str = ""
    container_id: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config = {
            "metadata": {"name": self.name, "uid": f"uid-{self.name}", "namespace": "default", "attempt": 0},
            "hostname": "",
            "log_directory": "",
            "labels": {"app": self.name, "io.kubernetes.pod.name": self.name},
            "annotations": {"podwire.test/purpose": "a pod's life"},
            "linux": {
                "cgroup_parent": self.cgroup_parent,
                "security_context": {"namespace_options": {"network": NODE, "pid": 1}},
            },
        }

    def runtime(self, method: str, **fields: Any) -> Any:
        return self.client.call(f"{self.api}.RuntimeService", method, **fields)

    def run(self) -> str:
        """RunPodSandbox; return the sandbox's id."""
        self.sandbox_id = self.runtime("RunPodSandbox", config=self.config).pod_sandbox_id
        return self.sandbox_id

    def start_container(self, command: tuple[str, ...] = ("sh", "-c", SPIN), name: str = "main") -> str:
        """CreateContainer and StartContainer; return the container's id."""
        config = {
            "metadata": {"name": name, "attempt": 0},
            "image": {"image": BUSYBOX_IMAGE},
            "command": command,
            # KeyValue.value is bytes in v1 and a string in v1alpha2; the same on the wire.
            "envs": [{"key": "PURPOSE", "value": b"podwire" if self.api == "runtime.v1" else "podwire"}],
            "labels": {"io.kubernetes.container.name": name},
            "linux": {"resources": {"cpu_shares": 512, "memory_limit_in_bytes": 64 << 20}},
        }
        created = self.runtime(
            "CreateContainer", pod_sandbox_id=self.sandbox_id, config=config, sandbox_config=self.config
        )
        self.container_id = created.container_id
        self.runtime("StartContainer", container_id=self.container_id)
        return self.container_id

    def exec(self, *command: str, timeout: int = 20) -> tuple[int, bytes, bytes]:
        """ExecSync; return exit code, stdout, stderr."""
        answer = self.runtime("ExecSync", container_id=self.container_id, cmd=command, timeout=timeout)
        return answer.exit_code, answer.stdout, answer.stderr

    def remove_container(self) -> None:
        self.runtime("StopContainer", container_id=self.container_id, timeout=10)
        self.runtime("RemoveContainer", container_id=self.container_id)
        self.container_id = ""

    def remove(self) -> None:
        """StopPodSandbox and RemovePodSandbox: the shim ends with it."""
        self.runtime("StopPodSandbox", pod_sandbox_id=self.sandbox_id)
        self.runtime("RemovePodSandbox", pod_sandbox_id=self.sandbox_id)
        self.sandbox_id = ""


def pod_life(client: CriClient, name: str, cgroup_parent: str, api: str = "runtime.v1") -> Pod:
    """Run a pod from RunPodSandbox to RemovePodSandbox: a container, two execs, stats, lists, a stopped container."""
    pod = Pod(client, name, cgroup_parent, api)
    image_service = f"{api}.ImageService"
    pod.runtime("Version")
    pod.runtime("Status", verbose=True)
    client.call(image_service, "ImageStatus", image={"image": BUSYBOX_IMAGE})
    sandbox_id = pod.run()
    container_id = pod.start_container()
    assert pod.exec("echo", "hello") == (0, b"hello\n", b"")
    assert pod.exec("sh", "-c", "echo wrong >&2; exit 3") == (3, b"", b"wrong\n")
    pod.runtime("ContainerStatus", container_id=container_id, verbose=True)
    pod.runtime("PodSandboxStatus", pod_sandbox_id=sandbox_id)
    pod.runtime("ContainerStats", container_id=container_id)
    pod.runtime("ListContainerStats")
    if api == "runtime.v1":
        pod.runtime("PodSandboxStats", pod_sandbox_id=sandbox_id)
    assert [each.id for each in pod.runtime("ListContainers").containers if each.id == container_id]
    pod.runtime("UpdateContainerResources", container_id=container_id, linux={"cpu_shares": 256})
    try:
        pod.runtime("ContainerStatus", container_id="no-such-container")
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.NOT_FOUND, error  # noqa: PT017  the call must fail, and in this way
    pod.remove_container()
    pod.remove()
    return Pod(client, name, cgroup_parent, api, sandbox_id, container_id)


def topics(stream: ServerStream) -> Iterator[str]:
    """The topics of the events that containerd's Events/Subscribe has brought so far."""
    return (envelope.topic for envelope in stream.messages)
