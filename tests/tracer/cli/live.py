"""`podwire trace` as its user runs it, on a grpcio server and client over real sockets."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import grpc

from protos.registry import Registry

SERVICE = "runtime.v1.RuntimeService"
REGISTRY = Registry.bundled()
COMMAND = [sys.executable, "-m", "tracer.cli"]


def message(name: str, **fields: Any) -> Any:
    return REGISTRY.message_class(f"runtime.v1.{name}")(**fields)


@contextmanager
def grpc_server(path: Path) -> Iterator[None]:
    """A CRI server that answers Version, and never answers Status."""

    def version(request: Any, _context: Any) -> Any:
        return message("VersionResponse", version="0.1.0", runtime_name="grpcio", runtime_version=request.version)

    def status(_request: Any, context: Any) -> Any:
        while context.is_active():
            time.sleep(0.01)
        return message("StatusResponse")

    def handler(act: Callable[[Any, Any], Any], request: str) -> Any:
        kind = REGISTRY.message_class(f"runtime.v1.{request}")
        return grpc.unary_unary_rpc_method_handler(act, kind.FromString, lambda answer: answer.SerializeToString())

    server = grpc.server(ThreadPoolExecutor(8))
    handlers = {"Version": handler(version, "VersionRequest"), "Status": handler(status, "StatusRequest")}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield
    finally:
        server.stop(0).wait()


@contextmanager
def client(path: Path, watch: Callable[[grpc.ChannelConnectivity], None] | None = None) -> Iterator[Callable[..., Any]]:
    """Calls a method of it: `call("Version", version="1")`; `wait=False` returns the future. `watch` is told how its
    connection is."""
    with grpc.insecure_channel(f"unix:{path}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        if watch is not None:
            channel.subscribe(watch)

        def call(method: str, *, wait: bool = True, **fields: Any) -> Any:
            answer = REGISTRY.message_class(f"runtime.v1.{method}Response")
            rpc = channel.unary_unary(f"/{SERVICE}/{method}", lambda each: each.SerializeToString(), answer.FromString)
            future = rpc.future(message(f"{method}Request", **fields), timeout=20)
            return future.result() if wait else future

        yield call


class Running:
    """A running command."""

    def __init__(self, folder: Path, command: str, *options: str, stdin: IO[bytes] | None = None) -> None:
        self.out, self.err = folder / f"{command}.out", folder / f"{command}.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen([*COMMAND, command, *options], stdin=stdin, stdout=out, stderr=err)

    def said(self) -> list[str]:
        """The lines of its stderr."""
        return self.err.read_text().splitlines()

    def printed(self) -> list[str]:
        """The lines of its stdout."""
        return self.out.read_text().splitlines()

    def wait_for(self, check: Callable[[], bool], seconds: float = 30.0) -> None:
        until = time.monotonic() + seconds
        while not check():
            ended = self.process.poll()
            assert ended is None or check(), f"ended with {ended}: {self.said()}"
            assert time.monotonic() < until, f"not within {seconds} s; said {self.said()}, printed {self.printed()}"
            time.sleep(0.01)

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(10)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)


class Trace(Running):
    """A running `podwire trace`."""

    def __init__(self, folder: Path, *options: str, ready: str = "tracing", stdin: IO[bytes] | None = None) -> None:
        super().__init__(folder, "trace", *options, stdin=stdin)
        if ready:
            self.wait_for(lambda: any(line.startswith("cri ") and ready in line for line in self.said()))


Start = Callable[..., Trace]
"""Starts a trace with these options."""


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """One command to its end."""
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60, check=False, **options)
