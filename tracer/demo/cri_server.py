"""The stand-in CRI server, in containerd's place: serves CRI v1, has a shim a pod, calls its Task, takes its events.

In: a folder for its sockets, methods that shall never be answered. Out: `ready` on stdout once both sockets listen.
It ends when its stdin closes, and its shims with it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from tracer.demo import content, grpc_wire, ttrpc_wire
from tracer.demo.rpc import NOT_FOUND, OK, Method, Methods, Proto, RpcError, Schemas
from tracer.demo.shim import EVENTS, SIGTERM, TASK

RUNTIME_SERVICE, IMAGE_SERVICE = "runtime.v1.RuntimeService", "runtime.v1.ImageService"
CREATED, RUNNING, EXITED = 0, 1, 2
EVENT_CREATED, EVENT_STARTED, EVENT_STOPPED, EVENT_DELETED = 0, 1, 2, 3
SIGKILL = 9
PULL_S = 0.4
RUNTIME_METHODS = (
    "Version", "Status", "RunPodSandbox", "StopPodSandbox", "RemovePodSandbox", "PodSandboxStatus", "ListPodSandbox",
    "CreateContainer", "StartContainer", "StopContainer", "RemoveContainer", "ContainerStatus", "ListContainers",
    "ExecSync", "ContainerStats", "ListContainerStats", "GetContainerEvents",
)  # fmt: skip


@dataclass
class Sandbox:
    """A pod and its shim."""

    id: str
    config: Proto
    shim: subprocess.Popen[bytes]
    address: str
    created_at: int = field(default_factory=time.time_ns)


@dataclass
class Container:
    """A container, and its connection to its pod's shim; the pod's own (pause) is one too."""

    id: str
    sandbox: Sandbox
    config: Proto
    task: ttrpc_wire.TtrpcClient | None = None
    state: int = CREATED
    exit_code: int = 0
    created_at: int = field(default_factory=time.time_ns)
    started_at: int = 0
    finished_at: int = 0
    exited: threading.Event = field(default_factory=threading.Event)


class Runtime:
    """The state of all pods, and the methods over it."""

    def __init__(self, schemas: Schemas, folder: Path, mute: Collection[str]) -> None:
        self._schemas, self._folder, self._mute = schemas, folder, mute
        self._sandboxes: dict[str, Sandbox] = {}
        self._containers: dict[str, Container] = {}
        self._images: set[str] = set()
        self._watchers: list[SimpleQueue[Proto]] = []

    def runtime_methods(self) -> dict[str, Method]:
        return {name: getattr(self, name) for name in RUNTIME_METHODS}

    # The methods below have the names of the API's own.

    def Version(self, request: Proto) -> Proto:
        versions = {"runtime_version": "0", "runtime_api_version": "v1"}
        return self._cri("VersionResponse", version="0.1.0", runtime_name=content.RUNTIME_NAME, **versions)

    def Status(self, request: Proto) -> Proto:
        conditions = [{"type": "RuntimeReady", "status": True}, {"type": "NetworkReady", "status": True}]
        return self._cri("StatusResponse", status={"conditions": conditions})

    def ListPodSandbox(self, request: Proto) -> Proto:
        items = [{"id": each.id, "metadata": each.config.metadata} for each in self._sandboxes.values()]
        return self._cri("ListPodSandboxResponse", items=items)

    def RunPodSandbox(self, request: Proto) -> Proto:
        sandbox_id = secrets.token_hex(32)
        sandbox = self._start_shim(sandbox_id, request.config)
        pause = Container(sandbox_id, sandbox, request.config)
        self._sandboxes[sandbox_id] = sandbox
        self._containers[sandbox_id] = pause
        self._create_task(pause, ["/pause"], "sandbox")
        self._start_task(pause)
        return self._cri("RunPodSandboxResponse", pod_sandbox_id=sandbox_id)

    def PodSandboxStatus(self, request: Proto) -> Proto:
        sandbox = self._sandbox(request.pod_sandbox_id)
        return self._cri("PodSandboxStatusResponse", status=self._sandbox_status(sandbox))

    def CreateContainer(self, request: Proto) -> Proto:
        sandbox = self._sandbox(request.pod_sandbox_id)
        container = Container(secrets.token_hex(32), sandbox, request.config)
        self._containers[container.id] = container
        self._tell(container, EVENT_CREATED)
        return self._cri("CreateContainerResponse", container_id=container.id)

    def StartContainer(self, request: Proto) -> Proto:
        container = self._container(request.container_id)
        try:
            self._create_task(container, list(container.config.command), "container")
        except RpcError as error:
            container.state, container.exit_code, container.finished_at = EXITED, 128, time.time_ns()
            container.exited.set()
            raise RpcError(error.code, f"failed to create containerd task: {error.message}") from error
        self._start_task(container)
        self._tell(container, EVENT_STARTED)
        return self._cri("StartContainerResponse")

    def ContainerStatus(self, request: Proto) -> Proto:
        return self._cri("ContainerStatusResponse", status=self._status(self._container(request.container_id)))

    def ListContainers(self, request: Proto) -> Proto:
        containers = [
            {"id": each.id, "pod_sandbox_id": each.sandbox.id, "metadata": each.config.metadata, "state": each.state}
            for each in self._of_pods()
        ]
        return self._cri("ListContainersResponse", containers=containers)

    def ExecSync(self, request: Proto) -> Proto:
        container, exec_id = self._container(request.container_id), secrets.token_hex(32)
        spec = json.dumps(content.process_spec(list(request.cmd))).encode()
        # runtime-spec's types are no protobuf: containerd carries them as JSON under this type URL.
        any_spec = {"type_url": "types.containerd.io/opencontainers/runtime-spec/1/Process", "value": spec}
        io = self._folder / "io" / container.id / exec_id
        names = {"id": container.id, "exec_id": exec_id}
        self._task(container, "Exec", 0, spec=any_spec, stdout=f"{io}-stdout", stderr=f"{io}-stderr", **names)
        self._task(container, "Start", 0, **names)
        ended = self._task(container, "Wait", 0, **names)
        self._task(container, "Delete", 60, **names)
        ran = content.run(tuple(request.cmd))
        return self._cri("ExecSyncResponse", stdout=ran.stdout, stderr=ran.stderr, exit_code=ended.exit_status)

    def ContainerStats(self, request: Proto) -> Proto:
        return self._cri("ContainerStatsResponse", stats=self._stats(self._container(request.container_id)))

    def ListContainerStats(self, request: Proto) -> Proto:
        running = [each for each in self._of_pods() if each.state == RUNNING]
        return self._cri("ListContainerStatsResponse", stats=[self._stats(each) for each in running])

    def StopContainer(self, request: Proto) -> Proto:
        self._stop(self._container(request.container_id), SIGTERM, request.timeout)
        return self._cri("StopContainerResponse")

    def RemoveContainer(self, request: Proto) -> Proto:
        container = self._containers.pop(request.container_id, None)
        if container is not None:
            self._tell(container, EVENT_DELETED)
            if container.task is not None:
                container.task.close()
        return self._cri("RemoveContainerResponse")

    def StopPodSandbox(self, request: Proto) -> Proto:
        for container in list(self._containers.values()):
            if container.sandbox.id == request.pod_sandbox_id:
                self._stop(container, SIGKILL, 10)
        return self._cri("StopPodSandboxResponse")

    def RemovePodSandbox(self, request: Proto) -> Proto:
        sandbox = self._sandbox(request.pod_sandbox_id)
        pause = self._containers.pop(sandbox.id)
        self._task(pause, "Shutdown", 3, id=sandbox.id)
        sandbox.shim.wait()
        for pipe in (sandbox.shim.stdin, sandbox.shim.stdout):
            assert pipe is not None  # both were asked for
            pipe.close()
        del self._sandboxes[sandbox.id]
        return self._cri("RemovePodSandboxResponse")

    def GetContainerEvents(self, request: Proto) -> Iterator[Proto]:
        events: SimpleQueue[Proto] = SimpleQueue()
        self._watchers.append(events)
        while True:
            yield events.get()

    def ImageStatus(self, request: Proto) -> Proto:
        if request.image.image not in self._images:
            return self._cri("ImageStatusResponse")
        image = {"id": content.IMAGE_ID, "repo_tags": [request.image.image], "size": 31_457_280, "username": "web"}
        return self._cri("ImageStatusResponse", image=image)

    def PullImage(self, request: Proto) -> Proto:
        time.sleep(PULL_S)
        self._images.add(request.image.image)
        return self._cri("PullImageResponse", image_ref=content.IMAGE_ID)

    def Forward(self, request: Proto) -> Proto:
        return self._schemas.make("google.protobuf.Empty")

    def _start_shim(self, sandbox_id: str, config: Proto) -> Sandbox:
        """Start the pod's shim, which keeps its VM's sockets below `vm`, as Kata's does below `/run/vc/vm`."""
        digest = hashlib.sha256(f"{self._folder}/containerd.sock/k8s.io/{sandbox_id}".encode()).hexdigest()
        command = [sys.executable, "-P", "-m", "tracer.demo.shim", "--socket", str(self._folder / "s" / digest)]
        command += ["--vm", str(self._folder / "vm" / sandbox_id)]
        command += ["--events", f"{self._folder}/containerd.sock.ttrpc", *(f"--mute={name}" for name in self._mute)]
        shim = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert shim.stdout is not None  # it was asked for
        address = shim.stdout.readline().decode().strip()
        return Sandbox(sandbox_id, config, shim, address.removeprefix("unix://"))

    def _create_task(self, container: Container, arguments: list[str], kind: str) -> None:
        bundle = self._folder / "state/io.containerd.runtime.v2.task/k8s.io" / container.id
        bundle.mkdir(parents=True)
        annotations = {"io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": container.sandbox.id}
        (bundle / "config.json").write_text(json.dumps(content.oci_spec(arguments, annotations)))
        (bundle / "address").write_text(f"unix://{container.sandbox.address}")
        container.task = ttrpc_wire.TtrpcClient(ttrpc_wire.dial(container.sandbox.address))
        layers = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
        options = [f"workdir={layers}/12/work", f"upperdir={layers}/12/fs", f"lowerdir={layers}/11/fs"]
        rootfs = [{"type": "overlay", "source": "overlay", "options": options}]
        name = "runtimeoptions.v1.Options"
        kata = self._schemas.any(name, self._schemas.make(name, config_path=content.KATA_CONFIG))
        self._task(container, "Create", 60, id=container.id, bundle=str(bundle), rootfs=rootfs, options=kata)
        self._task(container, "Connect", 60, id=container.id)

    def _start_task(self, container: Container) -> None:
        threading.Thread(target=self._await_exit, args=(container,), daemon=True).start()
        self._task(container, "Start", 60, id=container.id)
        container.state, container.started_at = RUNNING, time.time_ns()

    def _await_exit(self, container: Container) -> None:
        try:
            ended = self._task(container, "Wait", 0, id=container.id)
            self._task(container, "Delete", 10, id=container.id)
        except RpcError:
            return  # its shim has gone
        container.state, container.exit_code, container.finished_at = EXITED, ended.exit_status, time.time_ns()
        if container.id != container.sandbox.id:
            self._tell(container, EVENT_STOPPED)
        container.exited.set()

    def _stop(self, container: Container, signal: int, timeout_s: float) -> None:
        if container.state == RUNNING:
            self._task(container, "Kill", 10, id=container.id, signal=signal)
            container.exited.wait(timeout_s)

    def _task(self, container: Container, method: str, timeout_s: float, /, **fields: object) -> Proto:
        """Call the container's task on its shim."""
        assert container.task is not None, "a task is created first"
        input_type, output_type = self._schemas.types(TASK, method)
        request = self._schemas.make(input_type, **fields)
        answer = self._schemas.make(output_type)
        answer.ParseFromString(container.task.call(TASK, method, request.SerializeToString(), timeout_s))
        return answer

    def _stats(self, container: Container) -> Proto:
        metrics = self._schemas.make("io.containerd.cgroups.v2.Metrics")
        metrics.ParseFromString(self._task(container, "Stats", 10, id=container.id).stats.value)
        now = time.time_ns()
        cpu = {"timestamp": now, "usage_core_nano_seconds": {"value": metrics.cpu.usage_usec * 1000}}
        memory = {"timestamp": now, "working_set_bytes": {"value": metrics.memory.usage}}
        attributes = {
            "id": container.id,
            "metadata": container.config.metadata,
            "labels": dict(container.config.labels),
        }
        return self._cri("ContainerStats", attributes=attributes, cpu=cpu, memory=memory)

    def _status(self, container: Container) -> Proto:
        times = {name: getattr(container, name) for name in ("created_at", "started_at", "finished_at")}
        reason = "" if container.state != EXITED else "Error" if container.exit_code else "Completed"
        return self._cri(
            "ContainerStatus",
            id=container.id,
            metadata=container.config.metadata,
            state=container.state,
            exit_code=container.exit_code,
            reason=reason,
            image=container.config.image,
            image_ref=content.IMAGE_ID,
            labels=dict(container.config.labels),
            log_path=f"{container.sandbox.config.log_directory}/{container.config.log_path}",
            **times,
        )

    def _sandbox_status(self, sandbox: Sandbox) -> Proto:
        return self._cri(
            "PodSandboxStatus",
            id=sandbox.id,
            metadata=sandbox.config.metadata,
            created_at=sandbox.created_at,
            network={"ip": "10.244.1.17"},
            labels=dict(sandbox.config.labels),
            annotations=dict(sandbox.config.annotations),
        )

    def _tell(self, container: Container, kind: int) -> None:
        """Send a container event to whoever watches."""
        event = self._cri(
            "ContainerEventResponse",
            container_id=container.id,
            container_event_type=kind,
            created_at=time.time_ns(),
            pod_sandbox_status=self._sandbox_status(container.sandbox),
            containers_statuses=[self._status(container)],
        )
        for events in self._watchers:
            events.put(event)

    def _of_pods(self) -> list[Container]:
        """Containers without the pods' own."""
        return [each for each in self._containers.values() if each.id != each.sandbox.id]

    def _container(self, container_id: str) -> Container:
        container = self._containers.get(container_id)
        if container is None:
            raise RpcError(NOT_FOUND, f'an error occurred when try to find container "{container_id}": not found')
        return container

    def _sandbox(self, sandbox_id: str) -> Sandbox:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            raise RpcError(NOT_FOUND, f'an error occurred when try to find sandbox "{sandbox_id}": not found')
        return sandbox

    def _cri(self, name: str, **fields: object) -> Proto:
        return self._schemas.make(f"runtime.v1.{name}", **fields)


def main() -> None:
    """Listen on both sockets, say so, serve until stdin closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mute", action="append", default=[])
    args = parser.parse_args()
    schemas = Schemas()
    runtime = Runtime(schemas, args.folder, args.mute)
    methods = Methods(schemas, args.mute)
    methods.add(RUNTIME_SERVICE, runtime.runtime_methods())
    methods.add(IMAGE_SERVICE, {"ImageStatus": runtime.ImageStatus, "PullImage": runtime.PullImage})
    methods.add(EVENTS, {"Forward": runtime.Forward})
    for name in ("s", "vm"):
        (args.folder / name).mkdir(mode=0o700)
    for name, serve in (("containerd.sock", grpc_wire.serve), ("containerd.sock.ttrpc", ttrpc_wire.serve)):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(args.folder / name))
        os.chmod(args.folder / name, 0o660)
        listener.listen()
        threading.Thread(target=serve, args=(listener, methods.answer), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(OK)  # its shims see their stdin close; threads may wait in a read


if __name__ == "__main__":
    main()
