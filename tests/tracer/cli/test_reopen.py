"""`podwire trace --reopen`: a client that has held its connection since before is seen from its next call on."""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path

import grpc
import pytest

from tests.tracer.cli.live import Start, client, run
from tests.tracer.relay.harness import connect

ME = str(os.getpid())


@pytest.mark.root
def test_a_client_that_held_its_connection_dials_again_and_its_next_call_is_traced(
    folder: Path, server: Path, trace: Start
) -> None:
    states: list[grpc.ChannelConnectivity] = []
    with client(server, states.append) as call, client(server) as other:
        call("Version", version="before")
        traced = trace("-w", str(folder / "x.pcapng"), "--reopen", ME, "--yes", ready="tracing new connections")
        traced.wait_for(lambda: any("old connection" in line for line in traced.said()))
        # A call that begins before it has heard of the end is one in flight.
        traced.wait_for(lambda: states[-1] is grpc.ChannelConnectivity.IDLE)
        assert call("Version", version="after").runtime_version == "after"
        other("Version", version="another")
        traced.wait_for(lambda: len(traced.printed()) == 2)
        assert traced.interrupt() == 0
    asked = f"--reopen ends 1 connection of {Path('/proc/self/comm').read_text().strip()}, pid {ME}, to cri {server}"
    assert any(line.startswith(asked) for line in traced.said()), traced.said()
    assert sum("old connection ended; its next one is seen" in line for line in traced.said()) == 1


@pytest.mark.root
def test_what_is_in_flight_on_that_connection_fails_and_nothing_else_does(
    folder: Path, server: Path, trace: Start
) -> None:
    with client(server) as call:
        hangs = call("Status", wait=False)
        call("Version")  # so that the other has come
        traced = trace("-w", str(folder / "x.pcapng"), "--reopen", ME, "--yes", ready="tracing new connections")
        with pytest.raises(grpc.RpcError) as caught:
            hangs.result(timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        call("Version")
        traced.wait_for(lambda: len(traced.printed()) == 1)


def test_without_a_terminal_it_needs_yes_and_then_nothing_was_touched(folder: Path, server: Path) -> None:
    with connect(server) as held:
        before = server.stat().st_ino
        done = run("trace", "--socket", f"cri={server}", "--reopen", ME, "-w", str(folder / "x"), stdin=-3)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == "podwire: --reopen asks first, on a terminal; without one it needs --yes"
        assert server.stat().st_ino == before
        assert not (folder / "x").exists()
        assert still_open(held)


def still_open(connection: socket.socket) -> bool:
    """Whether it has not been ended; the server may have greeted on it."""
    while select.select([connection], [], [], 0)[0]:
        if not connection.recv(65536):
            return False
    return True


def test_connections_of_shims_and_agents_are_never_ended(folder: Path, server: Path) -> None:
    for hop, path, why in (
        ("task", folder / "s" / ("a" * 64), "containerd takes a shim"),
        ("agent", folder / "vm" / "9f57" / "clh.sock", "a shim whose agent's connection is lost"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            with connect(path) as held, listener.accept()[0] as accepted:
                named = ("--socket", f"cri={server}", "--socket", f"task={folder}/s", "--socket", f"agent={folder}/vm")
                done = run("trace", *named, "--reopen", ME, "--yes", "-w", str(folder / "x"))
                assert done.returncode == 2
                assert f"its connection is of hop {hop}, of which none is ended: {why}" in done.stderr
                held.sendall(b"still")
                assert accepted.recv(5) == b"still"


def test_a_name_that_nobody_has_is_said_with_those_who_are_there(server: Path, folder: Path) -> None:
    with connect(server):
        done = run("trace", "--socket", f"cri={server}", "--reopen", "kubelet", "--yes", "-w", str(folder / "x"))
        assert done.returncode == 2
        assert "--reopen kubelet: no such client is connected; there are: " in done.stderr
        assert f"(pid {ME})" in done.stderr
