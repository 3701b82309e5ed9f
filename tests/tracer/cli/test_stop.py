"""`podwire stop`: the end of a session that is at no terminal, or at another one (R4)."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tracer.cli.live import Start, client, grpc_server, run
from tests.tracer.cli.sessions import eventually, gone, of_folder, shim_is_known
from tests.tracer.relay.harness import ask, connect, inode
from tracer.cli import main
from tracer.sessions import read_session

SANDBOX = "9f57c2b6405e1b5f9f57c2b6405e1b5f9f57c2b6405e1b5f9f57c2b6405e1b5f"
Detach = Callable[..., int]
Shim = Callable[[str], Path]


def test_it_gives_the_paths_back_and_the_capture_is_whole(folder: Path, server: Path, detach: Detach) -> None:
    before = inode(server)
    session = detach()
    assert inode(server) != before
    with client(server) as call:
        call("Version", version="seen")
    (held,) = of_folder(folder)
    done = run("stop")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"podwire {session}: its paths are given back; capture {held.capture} (spooled")
    assert inode(server) == before
    gone(session)
    assert "grpcio seen" in run("decode", held.capture).stdout
    with client(server) as call:
        assert call("Version", version="direct").runtime_version == "direct"


def test_r4_a_foreground_trace_ends_by_itself_with_all_that_ctrl_c_would_do(
    folder: Path, server: Path, trace: Start
) -> None:
    traced = trace("-w", str(folder / "x.pcapng"))
    with client(server) as call:
        call("Version", version="first")
        waiting = call("Status", wait=False)
        traced.wait_for(lambda: len(traced.printed()) >= 1)
        (session,) = of_folder(folder)
        done = run("stop", str(session.pid))
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            f"podwire {session.pid}: its paths are given back; capture {folder}/x.pcapng",
            "draining: 1 connection goes on through the relay, unrecorded, until they end",
        ]
        assert traced.process.wait(10) == 0
        assert traced.said()[-1] == done.stdout.splitlines()[-1]
        assert call("Version", version="through").runtime_version == "through"
        again = run("stop", str(session.pid))  # a session that drains is told so, and left alone
        assert again.stdout == done.stdout
        assert run("stop").stderr.startswith("podwire: no trace is running; draining: ")
        waiting.cancel()
    gone(session.pid)


def test_now_cuts_what_drains_after_saying_what_that_kills(
    folder: Path, server: Path, detach: Detach, shim: Shim
) -> None:
    session = detach()
    path = shim(SANDBOX)
    with connect(path) as connection, connect(server) as other:
        ask(connection, b"hello")
        eventually(lambda: len(of_folder(folder)[0].connections) == 2, "the other connection to be accepted")
        shim_is_known(folder, SANDBOX)
        assert run("stop").returncode == 0
        assert ask(connection, b"still") == b"still"
        done = run("stop", "--now", "--yes")
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines() == [
            f"cutting {path} kills the containers of sandbox {SANDBOX}",
            f"cutting 1 connection of {server}: its clients have to connect again",
        ]
        assert done.stdout.startswith(f"podwire {session}: ended; capture ")
        assert connection.recv(100) == b""
        other.recv(100)  # the server's greeting
        assert other.recv(100) == b""
    assert read_session(session) is None


def test_now_without_a_terminal_needs_yes(folder: Path, detach: Detach, shim: Shim) -> None:
    session = detach()
    with connect(shim(SANDBOX)) as connection:
        ask(connection, b"hello")
        done = run("stop", "--now", stdin=subprocess.DEVNULL)
        assert done.returncode == 2
        assert done.stderr.endswith("--now asks first, on a terminal; without one it needs --yes\n")
        assert ask(connection, b"still") == b"still"
    assert [each.state for each in of_folder(folder) if each.pid == session] == ["tracing"]


@pytest.mark.parametrize(("answer", "status"), [(b"n\n", 2), (b"\n", 2), (b"y\n", 0)])
def test_on_a_terminal_it_asks(folder: Path, detach: Detach, shim: Shim, answer: bytes, status: int) -> None:
    session = detach()
    with connect(shim(SANDBOX)) as connection:
        ask(connection, b"hello")
        controller, terminal = pty.openpty()
        try:
            os.write(controller, answer)
            done = run("stop", "--now", stdin=terminal)
        finally:
            os.close(controller)
            os.close(terminal)
        assert done.returncode == status, done.stderr
        assert "cut them now? [y/N] " in done.stderr
        if status:
            assert ask(connection, b"still") == b"still"
        else:
            assert connection.recv(100) == b""
    assert (read_session(session) is None) == (status == 0)


def test_of_several_one_has_to_be_named(folder: Path, server: Path, detach: Detach) -> None:
    first = detach()
    with grpc_server(folder / "other.sock"):
        sockets = ("--socket", f"cri={folder}/other.sock", "--socket", f"task={folder}/s2")
        assert run("trace", "--detach", *sockets).returncode == 0
        (second,) = [each.pid for each in of_folder(folder) if each.pid != first]
        done = run("stop")
        assert done.returncode == 2
        assert done.stderr.startswith("podwire: several sessions are running; name one: ")
        assert f"{first} (tracing, " in done.stderr
        assert f"{second} (tracing, " in done.stderr
        assert run("stop", str(second)).returncode == 0
        gone(second)
        assert [each.pid for each in of_folder(folder)] == [first]
        assert run("stop", "77").stderr.startswith(f"podwire: 77: no such session; there are: {first} (tracing, ")


def test_without_a_session_it_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tracer.relay.held.runtime_folder", lambda: str(tmp_path))
    assert main(["stop"]) == 2
    assert capsys.readouterr().err == "podwire: no trace is running\n"
