from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tracer.cli.live import Start, Trace, grpc_server, run
from tests.tracer.cli.sessions import eventually, kill_relay, of_folder
from tests.tracer.relay.harness import SERVER


@pytest.fixture
def server(folder: Path) -> Iterator[Path]:
    """A gRPC server; the path of its socket. The shims' folder is one of the test's own."""
    (folder / "s").mkdir()
    with grpc_server(folder / "cri.sock"):
        yield folder / "cri.sock"


@pytest.fixture
def trace(folder: Path, server: Path) -> Iterator[Start]:
    running: list[Trace] = []

    def start(*options: str, **more: Any) -> Trace:
        sockets = ("--socket", f"cri={server}", "--socket", f"task={folder}/s")
        running.append(Trace(folder, *sockets, *options, **more))
        return running[-1]

    yield start
    for each in running:
        each.close()


@pytest.fixture
def detach(folder: Path, server: Path) -> Iterator[Callable[..., int]]:
    """Starts a trace in the background; returns its session. Whatever is left of it at the end is killed and mended."""

    def start(*options: str) -> int:
        before = {session.pid for session in of_folder(folder)}
        done = run("trace", "--detach", "--socket", f"cri={server}", "--socket", f"task={folder}/s", *options)
        assert done.returncode == 0, done.stderr
        (session,) = [session for session in of_folder(folder) if session.pid not in before]
        return session.pid

    yield start
    left = of_folder(folder)
    for session in left:
        kill_relay(session.pid)
    run("doctor", "--mend")


@pytest.fixture
def shim(folder: Path, server: Path) -> Iterator[Callable[[str], Path]]:
    """Starts an echo server that has the socket and the command line of a sandbox's shim; returns its socket, once a
    running trace has taken it."""
    running: list[subprocess.Popen[str]] = []

    def start(sandbox: str) -> Path:
        path = folder / "s" / f"{len(running):064x}"
        words = [str(path), "0", "", "64", "", str(os.getuid()), "-namespace", "k8s.io", "-id", sandbox]
        process = subprocess.Popen([sys.executable, "-c", SERVER, *words], stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        while process.stdout.readline().strip() != "ready":
            pass
        eventually(lambda: str(path) in _traced(folder), "the shim to be traced")
        return path

    yield start
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _traced(folder: Path) -> set[str]:
    return {socket.path for session in of_folder(folder) for socket in session.held.sockets.values()}
