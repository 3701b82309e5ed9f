"""The stand-in VMM, in Cloud Hypervisor's place, with the stand-in kata-agent in its guest.

In: the VM's folder, methods it shall never answer. Out: `ready` on stdout once its hybrid vsock socket is there. Its
guest takes a moment to boot; until then the VMM closes what connects, without an answer. It runs nothing. It ends when
its stdin closes.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tracer.demo import content
from tracer.demo.rpc import INTERNAL, NOT_FOUND, OK, Method, Methods, Proto, RpcError, Schemas
from tracer.demo.ttrpc_wire import serve_connection

AGENT, HEALTH = "grpc.AgentService", "grpc.Health"
AGENT_PORT = 1024
VSOCK_NAME, API_NAME = "clh.sock", "clh-api.sock"
BOOT_S = 0.25
HOST_PORT = 1 << 30
"""Cloud Hypervisor counts the host's ports from here."""
SIGTERM = 15
METHODS = (
    "CreateSandbox", "CreateContainer", "StartContainer", "ExecProcess", "WaitProcess", "ReadStdout", "ReadStderr",
    "SignalProcess", "StatsContainer", "RemoveContainer", "DestroySandbox",
)  # fmt: skip
_CONNECT = re.compile(rb"connect (\d+)\n", re.IGNORECASE)


@dataclass
class Process:
    """A container's first process, or one that was exec'd into it."""

    output: dict[str, bytes]
    """What is left to read, by the name of the stream."""
    status: int = 0
    exited: threading.Event = field(default_factory=threading.Event)


class Agent:
    """The state of one guest, and the agent's methods over it."""

    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas
        self._processes: dict[tuple[str, str], Process] = {}

    def methods(self) -> dict[str, Method]:
        return {name: getattr(self, name) for name in METHODS}

    # The methods below have the names of the API's own.

    def Check(self, request: Proto) -> Proto:
        return self._schemas.make("grpc.HealthCheckResponse", status=1)

    def CreateSandbox(self, request: Proto) -> Proto:
        return self._empty()

    def CreateContainer(self, request: Proto) -> Proto:
        program = request.OCI.Process.Args[0]
        if program == content.MISSING_PROGRAM:
            raise RpcError(INTERNAL, f"failed to create container: {program}: ENOENT: No such file or directory")
        self._processes[request.container_id, request.exec_id] = Process({})
        return self._empty()

    def StartContainer(self, request: Proto) -> Proto:
        self._find(request.container_id, request.container_id)
        return self._empty()

    def ExecProcess(self, request: Proto) -> Proto:
        ran = content.run(tuple(request.process.Args))
        process = Process({"stdout": ran.stdout, "stderr": ran.stderr})
        self._processes[request.container_id, request.exec_id] = process
        self._exit(process, ran.seconds, ran.exit_code)
        return self._empty()

    def WaitProcess(self, request: Proto) -> Proto:
        process = self._find(request.container_id, request.exec_id)
        process.exited.wait()
        return self._schemas.make("grpc.WaitProcessResponse", status=process.status)

    def ReadStdout(self, request: Proto) -> Proto:
        return self._read(request, "stdout")

    def ReadStderr(self, request: Proto) -> Proto:
        return self._read(request, "stderr")

    def SignalProcess(self, request: Proto) -> Proto:
        process = self._find(request.container_id, request.exec_id)
        # This program takes its 20 ms to end well after SIGTERM; the pause container is killed at once.
        seconds, status = (0.02, 0) if request.signal == SIGTERM else (0.001, 128 + request.signal)
        self._exit(process, seconds, status)
        return self._empty()

    def StatsContainer(self, request: Proto) -> Proto:
        self._find(request.container_id, request.container_id)
        return self._schemas.make("grpc.StatsContainerResponse", cgroup_stats=content.AGENT_METRICS)

    def RemoveContainer(self, request: Proto) -> Proto:
        self._find(request.container_id, request.container_id)
        for key in [key for key in self._processes if key[0] == request.container_id]:
            del self._processes[key]
        return self._empty()

    def DestroySandbox(self, request: Proto) -> Proto:
        return self._empty()

    def _read(self, request: Proto, stream: str) -> Proto:
        """Answer with what a process has printed; once it has ended and all is read, with an error, as the real one."""
        process = self._find(request.container_id, request.exec_id)
        if not process.output.get(stream):
            process.exited.wait()
            raise RpcError(INTERNAL, "eof")
        return self._schemas.make("grpc.ReadStreamResponse", data=process.output.pop(stream))

    def _exit(self, process: Process, seconds: float, status: int) -> None:
        """Let a process end in a moment."""

        def exit_now() -> None:
            process.status = status
            process.exited.set()

        threading.Timer(seconds, exit_now).start()

    def _find(self, container_id: str, exec_id: str) -> Process:
        process = self._processes.get((container_id, exec_id))
        if process is None:
            raise RpcError(NOT_FOUND, f"no such process {exec_id} of container {container_id}")
        return process

    def _empty(self) -> Proto:
        return self._schemas.make("google.protobuf.Empty")


def serve_vsock(listener: socket.socket, methods: Methods, boots_until: float) -> None:
    """Take connections to the guest's ports, of which the agent's is the only one that is listened on."""
    host_port = HOST_PORT
    while True:
        connection, _ = listener.accept()
        line = _first_line(connection)
        asked = _CONNECT.fullmatch(line)
        if asked is None or int(asked[1]) != AGENT_PORT or time.monotonic() < boots_until:
            connection.close()
            continue
        connection.sendall(f"OK {host_port}\n".encode())
        host_port += 1
        threading.Thread(target=serve_connection, args=(connection, methods.answer), daemon=True).start()


def _first_line(connection: socket.socket) -> bytes:
    line = b""
    with suppress(OSError):
        while not line.endswith(b"\n") and (byte := connection.recv(1)):
            line += byte
    return line


def main() -> None:
    """Listen, say so, serve until stdin closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mute", action="append", default=[])
    args = parser.parse_args()
    schemas = Schemas()
    agent, methods = Agent(schemas), Methods(schemas, args.mute)
    methods.add(AGENT, agent.methods())
    methods.add(HEALTH, {"Check": agent.Check})
    listeners = []
    for name in (API_NAME, VSOCK_NAME):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(args.folder / name))
        listener.listen()
        listeners.append(listener)
    until = time.monotonic() + BOOT_S
    threading.Thread(target=serve_vsock, args=(listeners[-1], methods, until), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(OK)  # threads may wait in a read or in WaitProcess


if __name__ == "__main__":
    main()
