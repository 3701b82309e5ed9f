"""The stand-in shim, in Kata's place: serves Task v2 on its pod's own socket, forwards events to containerd's place,
and has the agent in its VM do the work.

In: the socket's path, the events socket's path, the VM's folder, methods it shall never answer. Out: the socket's
address on stdout, once it listens, as a shim's `start` says it. It runs nothing but the stand-in VMM; pids are made up.
It ends by Shutdown, or when its stdin closes: whoever started it has gone.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracer.demo import content
from tracer.demo.guest import Guest
from tracer.demo.rpc import NOT_FOUND, UNKNOWN, Method, Methods, Proto, RpcError, Schemas
from tracer.demo.ttrpc_wire import TtrpcClient, dial, serve

TASK = "containerd.task.v2.Task"
EVENTS = "containerd.services.events.ttrpc.v1.Events"
RUNNING, STOPPED = 2, 3
SIGTERM = 15
START_S = 0.05
"""A real shim's `start` takes so long to say where it listens."""


@dataclass
class Process:
    """A container's first process, or one that was exec'd into it."""

    pid: int
    spec: dict[str, Any]
    """Of the OCI's: a container's config.json, or the process of an exec."""
    exit_status: int = 0
    exited_at: int = 0
    """Nanoseconds since the epoch."""
    exited: threading.Event = field(default_factory=threading.Event)


class Shim:
    """The state of one pod's tasks, and the methods over it."""

    def __init__(self, schemas: Schemas, events_path: str, guest: Guest) -> None:
        self._schemas, self._events_path, self._guest = schemas, events_path, guest
        self._events: TtrpcClient | None = None
        self._lock = threading.Lock()
        self._processes: dict[tuple[str, str], Process] = {}
        self._bundles: dict[str, str] = {}
        self._next_pid = os.getpid() + 21
        self.shut_down = threading.Event()

    def methods(self) -> dict[str, Method]:
        names = ("Connect", "Create", "Start", "Wait", "State", "Stats", "Exec", "Kill", "Delete", "Shutdown")
        return {name: getattr(self, f"_{name.lower()}") for name in names}

    def _create(self, request: Proto) -> Proto:
        spec = json.loads(Path(request.bundle, "config.json").read_text())
        if spec["annotations"]["io.kubernetes.cri.container-type"] == "sandbox":
            self._guest.boot(request.id, spec["hostname"])
        try:
            self._guest.create(request.id, spec)
        except RpcError as error:
            raise RpcError(UNKNOWN, f"rpc status: {error.message}") from error
        process = self._add(request.id, "", spec)
        self._bundles[request.id] = request.bundle
        self._publish("/tasks/create", "TaskCreate", container_id=request.id, bundle=request.bundle, pid=process.pid)
        return self._answer("CreateTaskResponse", pid=process.pid)

    def _connect(self, request: Proto) -> Proto:
        process = self._find(request.id, "")
        return self._answer("ConnectResponse", shim_pid=os.getpid(), task_pid=process.pid, version="2.1.0")

    def _exec(self, request: Proto) -> Proto:
        self._find(request.id, "")
        self._add(request.id, request.exec_id, json.loads(request.spec.value))
        self._publish("/tasks/exec-added", "TaskExecAdded", container_id=request.id, exec_id=request.exec_id)
        return self._schemas.make("google.protobuf.Empty")

    def _start(self, request: Proto) -> Proto:
        process = self._find(request.id, request.exec_id)
        if request.exec_id:
            names = {"container_id": request.id, "exec_id": request.exec_id}
            self._guest.run(request.id, request.exec_id, process.spec)
            self._publish("/tasks/exec-started", "TaskExecStarted", pid=process.pid, **names)
        else:
            self._guest.start(request.id)
            self._publish("/tasks/start", "TaskStart", container_id=request.id, pid=process.pid)
        threading.Thread(target=self._await_exit, args=(request.id, request.exec_id), daemon=True).start()
        return self._answer("StartResponse", pid=process.pid)

    def _wait(self, request: Proto) -> Proto:
        process = self._find(request.id, request.exec_id)
        process.exited.wait()
        return self._ended("WaitResponse", process)

    def _state(self, request: Proto) -> Proto:
        process = self._find(request.id, request.exec_id)
        status = STOPPED if process.exited.is_set() else RUNNING
        names = {"id": request.exec_id or request.id, "bundle": self._bundles[request.id]}
        return self._answer("StateResponse", pid=process.pid, status=status, **names)

    def _stats(self, request: Proto) -> Proto:
        self._find(request.id, "")
        self._guest.stats(request.id)
        name = "io.containerd.cgroups.v2.Metrics"
        return self._answer(
            "StatsResponse", stats=self._schemas.any(name, self._schemas.make(name, **content.CGROUP_METRICS))
        )

    def _kill(self, request: Proto) -> Proto:
        process = self._find(request.id, request.exec_id)
        if process.exited.is_set():
            raise RpcError(NOT_FOUND, "process already finished: not found")
        self._guest.signal(request.id, request.exec_id, request.signal)
        return self._schemas.make("google.protobuf.Empty")

    def _delete(self, request: Proto) -> Proto:
        process = self._find(request.id, request.exec_id, "container not created: not found")
        with self._lock:
            del self._processes[request.id, request.exec_id]
        if not request.exec_id:
            self._guest.remove(request.id)
            ended = {"exit_status": process.exit_status, "pid": process.pid, "exited_at": _timestamp(process.exited_at)}
            self._publish("/tasks/delete", "TaskDelete", container_id=request.id, **ended)
        return self._ended("DeleteResponse", process, pid=process.pid)

    def _shutdown(self, request: Proto) -> Proto:
        self._guest.stop()
        # The answer may or may not get out before the process ends; with the real one too.
        threading.Timer(0.01, self.shut_down.set).start()
        return self._schemas.make("google.protobuf.Empty")

    def _add(self, task_id: str, exec_id: str, spec: dict[str, Any]) -> Process:
        with self._lock:
            self._next_pid += 1
            process = self._processes[task_id, exec_id] = Process(self._next_pid, spec)
        return process

    def _find(self, task_id: str, exec_id: str, otherwise: str = "no such task: not found") -> Process:
        with self._lock:
            process = self._processes.get((task_id, exec_id))
        if process is None:
            raise RpcError(NOT_FOUND, otherwise)
        return process

    def _await_exit(self, task_id: str, exec_id: str) -> None:
        with suppress(RpcError):  # its guest has gone
            self._exit(task_id, exec_id, self._guest.wait(task_id, exec_id))

    def _exit(self, task_id: str, exec_id: str, status: int) -> None:
        process = self._find(task_id, exec_id)
        process.exit_status, process.exited_at = status, time.time_ns()
        names = {"container_id": task_id, "id": exec_id or task_id}
        ended = {"pid": process.pid, "exit_status": status, "exited_at": _timestamp(process.exited_at)}
        process.exited.set()
        self._publish("/tasks/exit", "TaskExit", **names, **ended)

    def _publish(self, topic: str, name: str, **fields: object) -> None:
        """Forward one event; the connection is opened at the first, as shims do."""
        full_name = f"containerd.events.{name}"
        event = self._schemas.any(full_name, self._schemas.make(full_name, **fields))
        envelope = {"timestamp": _timestamp(time.time_ns()), "namespace": "k8s.io", "topic": topic, "event": event}
        request = self._schemas.make("containerd.services.events.ttrpc.v1.ForwardRequest", envelope=envelope)
        with self._lock:
            self._events = self._events or TtrpcClient(dial(self._events_path))
        with suppress(TimeoutError, RpcError):  # an event that nobody takes is lost, and the task goes on
            self._events.call(EVENTS, "Forward", request.SerializeToString(), timeout_s=5)

    def _answer(self, name: str, **fields: object) -> Proto:
        return self._schemas.make(f"containerd.task.v2.{name}", **fields)

    def _ended(self, name: str, process: Process, **fields: object) -> Proto:
        ended = {"exit_status": process.exit_status, "exited_at": _timestamp(process.exited_at)}
        return self._answer(name, **ended, **fields)


def _timestamp(time_ns: int) -> dict[str, int]:
    return {"seconds": time_ns // 10**9, "nanos": time_ns % 10**9}


def _await_starter(shim: Shim) -> None:
    sys.stdin.read()
    shim.shut_down.set()


def main() -> None:
    """Listen, say so, serve until Shutdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    parser.add_argument("--events", required=True)
    parser.add_argument("--vm", type=Path, required=True)
    parser.add_argument("--mute", action="append", default=[])
    args = parser.parse_args()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(args.socket)
    os.chmod(args.socket, 0o600)
    listener.listen()
    time.sleep(START_S)
    schemas = Schemas()
    guest = Guest(schemas, args.vm, args.mute)
    shim, methods = Shim(schemas, args.events, guest), Methods(schemas, args.mute)
    methods.add(TASK, shim.methods())
    threading.Thread(target=serve, args=(listener, methods.answer), daemon=True).start()
    threading.Thread(target=_await_starter, args=(shim,), daemon=True).start()
    print(f"unix://{args.socket}", flush=True)
    shim.shut_down.wait()
    with suppress(FileNotFoundError):
        os.unlink(args.socket)
    os._exit(0)  # threads may wait in a read or a Wait; there is nothing left to finish


if __name__ == "__main__":
    main()
