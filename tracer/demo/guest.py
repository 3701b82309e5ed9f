"""What the stand-in shim has of its VM: the VMM's process, and the calls to the agent in the guest.

In: the VM's folder. Out: ttrpc calls through the VMM's hybrid vsock socket, as Kata's shim makes them. It dials from
the moment at which the socket is there, and is refused until the guest listens.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from tracer.demo import content
from tracer.demo.rpc import UNKNOWN, Proto, RpcError, Schemas
from tracer.demo.ttrpc_wire import TtrpcClient, dial
from tracer.demo.vmm import AGENT, AGENT_PORT, HEALTH, VSOCK_NAME

CALL_S = 60.0
BOOT_S = 5.0
REDIAL_S = 0.01
READ_BYTES = 32 << 10


class Guest:
    """One VM, from its boot to its end."""

    def __init__(self, schemas: Schemas, folder: Path, mute: Collection[str]) -> None:
        self._schemas, self._folder, self._mute = schemas, folder, mute
        self._vmm: subprocess.Popen[bytes] | None = None
        self._agent: TtrpcClient | None = None
        self._sandbox_id = ""

    def boot(self, sandbox_id: str, hostname: str) -> None:
        """Start the VMM, wait for the agent, make the sandbox. Raises RpcError."""
        self._folder.mkdir()
        command = [sys.executable, "-P", "-m", "tracer.demo.vmm", str(self._folder)]
        command += [f"--mute={name}" for name in self._mute]
        self._vmm = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._vmm.stdout is not None  # it was asked for
        self._vmm.stdout.readline()
        self._agent = TtrpcClient(self._dial(), metadata=())
        self._sandbox_id = sandbox_id
        self._call(HEALTH, "Check", CALL_S, service="")
        self._call(AGENT, "CreateSandbox", CALL_S, sandbox_id=sandbox_id, hostname=hostname, dns=["10.96.0.10"])

    def create(self, container_id: str, spec: dict[str, Any]) -> None:
        """Make a container of an OCI spec. Raises RpcError."""
        rootfs = f"/run/kata-containers/{container_id}/rootfs"
        storage = {"driver": "overlayfs", "source": "none", "fstype": "overlay", "mount_point": rootfs}
        oci = content.agent_spec(spec, container_id)
        names = {"container_id": container_id, "exec_id": container_id}
        self._call(AGENT, "CreateContainer", CALL_S, OCI=oci, storages=[storage], **names)

    def start(self, container_id: str) -> None:
        """Start a container."""
        self._call(AGENT, "StartContainer", CALL_S, container_id=container_id)
        if container_id != self._sandbox_id:
            self._read(container_id, container_id)

    def run(self, container_id: str, exec_id: str, process: dict[str, Any]) -> None:
        """Run a program in a container."""
        process = content.agent_process(process)
        self._call(AGENT, "ExecProcess", CALL_S, container_id=container_id, exec_id=exec_id, process=process)
        self._read(container_id, exec_id)

    def wait(self, container_id: str, exec_id: str) -> int:
        """Return the exit status of a process, once it has one. Raises RpcError."""
        names = {"container_id": container_id, "exec_id": exec_id or container_id}
        status: int = self._call(AGENT, "WaitProcess", 0, **names).status
        return status

    def signal(self, container_id: str, exec_id: str, number: int) -> None:
        """Send a process a signal."""
        names = {"container_id": container_id, "exec_id": exec_id or container_id}
        self._call(AGENT, "SignalProcess", CALL_S, signal=number, **names)

    def stats(self, container_id: str) -> Proto:
        """Ask what a container uses."""
        return self._call(AGENT, "StatsContainer", CALL_S, container_id=container_id)

    def remove(self, container_id: str) -> None:
        """Remove a container."""
        self._call(AGENT, "RemoveContainer", CALL_S, container_id=container_id)

    def stop(self) -> None:
        """End the sandbox, and the VM with it."""
        self._call(AGENT, "DestroySandbox", CALL_S)
        assert self._agent is not None
        assert self._vmm is not None
        self._agent.close()
        self._vmm.communicate()  # it ends when its stdin closes
        for path in self._folder.iterdir():
            path.unlink(missing_ok=True)  # whoever traces it takes its own away, as its server has ended
        self._folder.rmdir()

    def _dial(self) -> socket.socket:
        """Return a connection to the agent's port, from its first byte on."""
        until = time.monotonic() + BOOT_S
        while time.monotonic() < until:
            connected = dial(str(self._folder / VSOCK_NAME))
            answer = b""
            with suppress(OSError):
                connected.sendall(f"CONNECT {AGENT_PORT}\n".encode())
                while not answer.endswith(b"\n") and (byte := connected.recv(1)):
                    answer += byte
            if b"OK" in answer:
                return connected
            connected.close()
            time.sleep(REDIAL_S)
        raise RpcError(UNKNOWN, "the guest did not boot")

    def _read(self, container_id: str, exec_id: str) -> None:
        """Read what a process prints to its end, as it is copied into containerd's fifos."""
        for method in ("ReadStdout", "ReadStderr"):
            threading.Thread(target=self._read_all, args=(method, container_id, exec_id), daemon=True).start()

    def _read_all(self, method: str, container_id: str, exec_id: str) -> None:
        with suppress(RpcError):  # how the agent says that there is no more
            while True:
                self._call(AGENT, method, 0, container_id=container_id, exec_id=exec_id, len=READ_BYTES)

    def _call(self, service: str, method: str, timeout_s: float, /, **fields: object) -> Proto:
        """Call the agent. Raises RpcError."""
        assert self._agent is not None, "a guest is booted first"
        input_type, output_type = self._schemas.types(service, method)
        answer = self._schemas.make(output_type)
        payload = self._schemas.make(input_type, **fields).SerializeToString()
        answer.ParseFromString(self._agent.call(service, method, payload, timeout_s))
        return answer
