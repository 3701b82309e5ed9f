"""What may lie between a client and a server: nothing, socat, socat that dumps, podwire. Each is a context: it gets a
folder of its own and the server's path, and gives the path to dial."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import processes
from tests.bench.load import Talk
from tracer.capture.flows import FlowData, FlowGap, FlowTable
from tracer.capture.packets import Notice
from tracer.capture.reader import open_capture

_END_S = 10.0
DIRECT, SOCAT, DUMPS, PODWIRE = "direct", "socat", "socat -r -R", "podwire"

Contestant = Callable[[Path, Path], AbstractContextManager[Path]]


@contextmanager
def direct(folder: Path, server: Path) -> Iterator[Path]:
    """Nothing in between."""
    yield server


@contextmanager
def socat(folder: Path, server: Path, dumps: bool = False) -> Iterator[Path]:
    """A process for each connection, which copies 8 KiB at a time."""
    path = folder / "socat.sock"
    options = ["-r", str(folder / "requests"), "-R", str(folder / "replies")] if dumps else []
    command = ["socat", *options, f"UNIX-LISTEN:{path},fork", f"UNIX-CONNECT:{server}"]
    process = subprocess.Popen(command, start_new_session=True)  # as the relay is
    try:
        yield path
    finally:
        process.terminate()
        process.wait()
        processes.end(process.pid)


def socat_with_dumps(folder: Path, server: Path) -> AbstractContextManager[Path]:
    """The same, with everything that passes in two files: the nearest thing to a capture that it has."""
    return socat(folder, server, dumps=True)


@contextmanager
def podwire(folder: Path, server: Path) -> Iterator[Path]:
    """A relay whose capture is whole once the context has ended."""
    with relay(folder, server):
        yield server


@dataclass(frozen=True, slots=True)
class Relay:
    """A relay that belongs to nobody but its control socket."""

    session: int
    """Of all its processes."""
    control: socket.socket

    def leave(self) -> None:
        """Tell it to end; it goes on with the connections that are open."""
        self.control.send(b"leave")

    def wait_for(self, event: str) -> None:
        """Until it tells this, or ends."""
        until = time.monotonic() + _END_S
        while select.select([self.control], [], [], max(0.0, until - time.monotonic()))[0]:
            message = self.control.recv(65536)
            if not message or f'"event": "{event}"'.encode() in message:
                return
        raise TimeoutError(f"the relay does not tell {event}")


@contextmanager
def relay(folder: Path, server: Path) -> Iterator[Relay]:
    """Start one over this server's socket; it has no connection any more when the context ends."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "tests.bench.starter", str(folder), str(server), str(theirs.fileno())]
    with ours, theirs:
        subprocess.run(command, pass_fds=[theirs.fileno()], check=True)
        session, descriptors, _, _ = socket.recv_fds(ours, 64, 1)
    with socket.socket(fileno=descriptors[0]) as control:
        started = Relay(int(session), control)
        try:
            yield started
        finally:
            started.leave()
            started.wait_for("ended")
            processes.reap(started.session)


CONTESTANTS: dict[str, Contestant] = {DIRECT: direct, SOCAT: socat, DUMPS: socat_with_dumps, PODWIRE: podwire}


def missing(capture: Path, talks: list[Talk]) -> int:
    """How many bytes of these connections (in the order they were made) are not in the capture; one that is another
    than what passed is an error."""
    expected = {(number, side): talk.stream(side) for number, talk in enumerate(talks, 1) for side in (0, 1)}
    at = dict.fromkeys(expected, 0)
    found = 0
    table = FlowTable()
    with open_capture(str(capture)) as file:
        for packet in file:
            if isinstance(packet, Notice):
                raise ValueError(f"{capture}: {packet}")
            for event in table.feed(packet):
                if isinstance(event, FlowGap):
                    at[event.flow.id, int(event.direction)] += event.count
                elif isinstance(event, FlowData):
                    key = event.flow.id, int(event.direction)
                    if not expected[key].startswith(event.data, at[key]):
                        raise ValueError(f"{capture}: other bytes than passed, at {at[key]} of flow {key}")
                    at[key] += len(event.data)
                    found += len(event.data)
    return sum(len(stream) for stream in expected.values()) - found
