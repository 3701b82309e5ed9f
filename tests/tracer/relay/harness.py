"""A relay under test: started by the real code over real sockets, watched through its own messages and from /proc."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.killing import cpu_seconds, kill_all, processes_of
from tracer.capture.recorder import Recorder
from tracer.capture.room import Limits
from tracer.relay.held import make_runtime_folder
from tracer.relay.relay import Plan
from tracer.relay.start import start_relay
from tracer.relay.targets import Target

SERVER = """
import os, socket, sys, threading, time
path, pause, mode = sys.argv[1], float(sys.argv[2]), sys.argv[3]
if int(sys.argv[6]) != os.getuid():
    os.setgid(int(sys.argv[6]))
    os.setuid(int(sys.argv[6]))
server = socket.socket(socket.AF_UNIX)
try:
    os.unlink(path)
except FileNotFoundError:
    pass
server.bind(path)
print("bound", flush=True)
time.sleep(pause)
server.listen(int(sys.argv[4]))
if mode:
    os.chmod(path, int(mode, 8))
print("ready", flush=True)
def echo(connection):
    while data := connection.recv(1 << 18):
        connection.sendall(data)
    connection.close()
if sys.argv[5] == "deaf":
    time.sleep(60)
while True:
    connection, _ = server.accept()
    if sys.argv[5] == "tell":
        try:
            connection.sendall(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except BrokenPipeError:  # a connection that only asks who we are
            pass
    threading.Thread(target=echo, args=(connection,), daemon=True).start()
"""


class Server:
    """An echo server in a process of its own, so that it can be killed.

    `what`: "deaf" never accepts; "tell" first sends the credentials it sees of its client (struct ucred).
    """

    def __init__(
        self, path: Path, *, pause: float = 0, mode: str = "", backlog: int = 64, what: str = "", uid: int = -1
    ) -> None:
        self.path = path
        uid = os.getuid() if uid < 0 else uid
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(path), str(pause), mode, str(backlog), what, str(uid)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.wait_for("bound")

    def wait_for(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def ready(self) -> Server:
        self.wait_for("ready")
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


@dataclass
class Relay:
    """A started relay, its capture and what it told."""

    pid: int
    control: socket.socket
    runtime: Path
    capture: Path
    told: list[dict[str, Any]] = field(default_factory=list)
    ended: bool = False
    session: int = 0

    def __post_init__(self) -> None:
        self.session = self.pid

    def listen(self, seconds: float) -> None:
        """Take what the relay tells for so long, or until it ends."""
        until = time.monotonic() + seconds
        while not self.ended and (left := until - time.monotonic()) > 0:
            if select.select([self.control], [], [], left)[0]:
                self._take()

    def until(self, event: str, seconds: float = 5.0, **wanted: object) -> dict[str, Any]:
        """The first message of this kind, from those that came already or that come within so many seconds."""
        limit = time.monotonic() + seconds
        while True:
            for said in self.told:
                if said["event"] == event and all(said.get(key) == value for key, value in wanted.items()):
                    return said
            left = limit - time.monotonic()
            assert left > 0, f"no {event} within {seconds} s; told: {self.told}"
            assert not self.ended, f"ended without {event}; told: {self.told}"
            if select.select([self.control], [], [], left)[0]:
                self._take()

    def _take(self) -> None:
        message = self.control.recv(65536)
        if message:
            self.told.append(json.loads(message))
        else:
            self.ended = True

    def leave(self) -> None:
        self.control.send(b"leave")

    def wait_end(self, seconds: float = 5.0) -> None:
        """Until the worker is gone."""
        self.listen(seconds)
        assert self.ended, f"still there after {seconds} s; told: {self.told}"
        os.waitpid(self.pid, 0)
        self.pid = 0

    def recorder_pid(self) -> int:
        return int(self.until("recorder")["pid"])

    def processes(self) -> dict[int, str]:
        """Pid and name of those that run."""
        return processes_of(self.session)

    def process(self, part: str) -> int:
        """The pid of the worker, holder or record(er)."""
        pids = [pid for pid, name in self.processes().items() if name == f"podwire-{part}"]
        assert len(pids) == 1, self.processes()
        return pids[0]

    def kill_all(self) -> None:
        """Worker, holder and recorder in the same instant."""
        kill_all(self.session)

    def cpu_seconds(self) -> float:
        """User and system time of the first worker so far."""
        return cpu_seconds(self.pid)


@contextmanager
def running_relay(
    folder: Path, targets: list[Target], *, limits: Limits | None = None, duration_s: float = 0
) -> Iterator[Relay]:
    """A relay over these targets; ended, with all it made, at the end."""
    runtime = folder / "rt"
    make_runtime_folder(str(runtime))
    capture = folder / "capture.pcapng"
    fd = os.open(capture, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)

    def record(shared: Any, link: socket.socket) -> None:
        Recorder(fd, limits or Limits(), link).run(shared)

    plan = Plan(targets, str(runtime), str(capture), duration_s, False)
    pid, control = start_relay(plan, record, [fd])
    os.close(fd)
    relay = Relay(pid, control, runtime, capture)
    try:
        relay.until("started")
        yield relay
    finally:
        if relay.pid:
            _end(relay)
        control.close()


def _end(relay: Relay) -> None:
    try:
        relay.leave()
        relay.listen(1.0)
    except OSError:
        pass
    if not relay.ended:
        relay.kill_all()
    os.waitpid(relay.pid, 0)


def main_target(path: Path, hop: str = "cri") -> Target:
    return Target(hop, str(path.parent), path.name, True, True)


def connect(path: Path, timeout: float = 5.0) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def ask(connection: socket.socket, data: bytes) -> bytes:
    """Send, and read as much back."""
    connection.sendall(data)
    got = b""
    while len(got) < len(data):
        part = connection.recv(len(data) - len(got))
        if not part:
            break
        got += part
    return got


def answers(path: Path) -> bool:
    """Whether a new connection is echoed."""
    with connect(path) as connection:
        return ask(connection, b"hello") == b"hello"


def eventually(check: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether it becomes true in time."""
    until = time.monotonic() + seconds
    while not check():
        if time.monotonic() > until:
            return False
        time.sleep(0.002)
    return True


def inode(path: Path) -> int:
    return os.lstat(path).st_ino
