"""`podwire trace` between a shim and a VM: what each port of the guest speaks, and that a VMM's other sockets stay as
they are."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dissectors.ttrpc import build_frame, build_request, build_response
from tests.tracer.cli.live import Trace, run
from tests.tracer.relay.harness import connect

BESIDE = ("qmp.sock", "vhost-fs.sock", "clh-api.sock", "console.sock")
REFUSED = 200
REQUEST = build_frame(1, 1, 0, build_request("grpc.AgentService", "CreateSandbox", b"\x2a\x05pod-1"))
ANSWER = build_frame(1, 2, 0, build_response(0, "", b""))


class Vmm:
    """A stand-in in Dragonball's way: takes `passfd`, refuses the agent's port until it has been asked often enough."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.sockets = {name: self._listen(folder / name) for name in (*BESIDE, "kata.hvsock")}
        self.inodes = {name: os.lstat(folder / name).st_ino for name in BESIDE}
        self.refused = 0
        self.passed: list[int] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _listen(self, path: Path) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.listen(64)
        return server

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.sockets["kata.hvsock"].accept()
            except OSError:
                return
            with connection:
                self._serve_one(connection)

    def _serve_one(self, connection: socket.socket) -> None:
        line = read_line(connection)
        if line == b"passfd\n":
            _, fds, _, _ = socket.recv_fds(connection, 64, 1)
            self.passed += fds
            connection.sendall(b"OK 1073741827\n")
        elif line == b"connect 1024\n" and self.refused < REFUSED:
            self.refused += 1
        elif line == b"connect 1024\n":
            connection.sendall(b"OK 1073741824\n")
            assert connection.recv(4096) == REQUEST
            connection.sendall(ANSWER)
            connection.recv(1)
        elif line == b"connect 1025\n":
            connection.sendall(b'OK 1073741825\n{"level":"INFO","msg":"\x1b[31mred"}\n{"msg":"second"}\n')
        elif line == b"connect 1026\n":
            connection.sendall(b"OK 1073741826\n# ")
            assert connection.recv(64) == b"ls\n"

    def close(self) -> None:
        for server in self.sockets.values():
            server.shutdown(socket.SHUT_RDWR)
            server.close()
        for fd in self.passed:
            os.close(fd)


def read_line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and (byte := connection.recv(1)):
        line += byte
    return line


def dial(path: Path, port: int) -> tuple[socket.socket, bytes]:
    connection = connect(path)
    connection.sendall(f"connect {port}\n".encode())
    return connection, read_line(connection)


@pytest.fixture
def traced(folder: Path, server: Path) -> Iterator[Trace]:
    (folder / "kata").mkdir()
    sockets = ("--socket", f"cri={server}", "--socket", f"agent={folder}/kata")
    running = Trace(folder, *sockets, "-w", str(folder / "x.pcapng"))
    yield running
    running.close()


def test_what_a_shim_says_to_its_vm_is_shown_by_port_and_other_sockets_stay(folder: Path, traced: Trace) -> None:
    vm = folder / "kata" / "9f57c2b6405e"
    vmm = Vmm(vm)
    path = vm / "kata.hvsock"
    traced.wait_for(lambda: b"kata.hvsock" in (folder / "x.pcapng").read_bytes())  # it has been taken
    for _ in range(REFUSED):
        connection, answer = dial(path, 1024)
        connection.close()
        assert answer == b""
    agent, answer = dial(path, 1024)
    assert answer == b"OK 1073741824\n"
    agent.sendall(REQUEST)
    assert agent.recv(4096) == ANSWER
    agent.close()
    log, answer = dial(path, 1025)
    assert answer == b"OK 1073741825\n"
    while log.recv(4096):
        pass
    log.close()
    console, answer = dial(path, 1026)
    assert answer + console.recv(2) == b"OK 1073741826\n# "
    console.sendall(b"ls\n")
    assert console.recv(1) == b""
    console.close()
    read, write = os.pipe()
    with connect(path) as passing:
        passing.sendall(b"passfd\n")
        socket.send_fds(passing, [b"1027"], [write])
        os.close(write)
        assert read_line(passing) == b"OK 1073741827\n"
    os.write(vmm.passed[0], b"through")
    assert os.read(read, 10) == b"through"
    os.close(read)
    for name in BESIDE:
        assert os.lstat(vm / name).st_ino == vmm.inodes[name]
        with connect(vm / name) as client, vmm.sockets[name].accept()[0] as accepted:
            client.sendall(b"hello")
            assert accepted.recv(5) == b"hello"
    traced.wait_for(lambda: sum("passed" in line for line in traced.printed()) == 1)
    assert traced.interrupt() == 0
    vmm.close()
    shown = [json.loads(line) for line in run("decode", "--json", str(folder / "x.pcapng")).stdout.splitlines()]
    (call,) = [each for each in shown if each["kind"] == "call"]
    assert (call["hop"], call["id"], call["socket"]) == ("agent", "pod-1", str(path))
    assert call["server"]["name"] == "kata-agent-9f57c2b6405e"
    others = [(each["kind"], each["reason"], each.get("text"), each.get("length")) for each in shown if each != call]
    refused, *others = others
    assert refused[1].startswith(f"agent (port 1024) refused {REFUSED} times in ")
    assert sorted(others, key=str) == [
        ("gap", "not decoded: debug console (port 1026)", None, 2),
        ("gap", "not decoded: debug console (port 1026)", None, 3),
        ("notice", "a descriptor was passed to passfd I/O (port 1027), whose bytes go through it", None, None),
        ("notice", "debug console (port 1026) opened; its bytes are counted, not decoded", None, None),
        ("notice", "log", '{"level":"INFO","msg":"\x1b[31mred"}', 33),
        ("notice", "log", '{"msg":"second"}', 16),
    ]
    assert not any("\x1b" in line for line in traced.printed())
