"""`podwire doctor`: which sessions there are, and what was lost with one that was killed whole."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tracer.cli.live import Start, client, run
from tests.tracer.cli.sessions import eventually, kill_relay, of_folder
from tests.tracer.relay.harness import ask, connect
from tracer.capture.ring import Ring

SANDBOX = "9f57c2b6405e1b5f9f57c2b6405e1b5f9f57c2b6405e1b5f9f57c2b6405e1b5f"


def test_it_names_sessions_that_trace_and_that_drain(folder: Path, server: Path, trace: Start) -> None:
    traced = trace("-w", str(folder / "x.pcapng"))
    (session,) = of_folder(folder)
    name = f"· podwire {session.pid}: "
    wanted = f"{name}traces {server} into {folder}/x.pcapng (podwire stop {session.pid} ends it)"
    assert wanted in run("doctor").stdout.splitlines()
    with client(server) as call:
        call("Version")
        assert traced.interrupt() == 0
        assert f"{name}draining: forwards 1 connection until the end of each" in run("doctor").stdout.splitlines()


def test_r3_what_was_lost_with_a_relay_that_was_killed_whole_is_said(
    folder: Path, server: Path, detach: Callable[..., int], shim: Callable[[str], Path]
) -> None:
    session = detach()
    (found,) = of_folder(folder)
    begun = Path(Ring(found.held.capture).partial())
    path = shim(SANDBOX)
    with connect(path) as connection:
        ask(connection, b"hello")
        kill_relay(session)
    begun.touch()  # as if it had been at the end of a file of its ring
    lost = (
        f"✗ lost with podwire {session}: every connection through cri {server}, task {path} is lost; containers behind "
        f"task {path} may be gone: containerd removes those of a shim it has lost"
    )
    assert lost in run("doctor").stdout.splitlines()
    mended = run("doctor", "--mend").stdout.splitlines()
    assert lost in mended
    assert f"✓ mended: {path} of podwire {session}: given back" in mended
    assert not begun.exists()
    with connect(path) as connection:
        assert ask(connection, b"direct") == b"direct"
    assert of_folder(folder) == []


def test_r3_the_next_trace_mends_and_says_what_was_lost_while_draining_too(
    folder: Path, trace: Start, shim: Callable[[str], Path]
) -> None:
    traced = trace("-w", str(folder / "x.pcapng"))
    path = shim(SANDBOX)
    with connect(path) as connection:
        ask(connection, b"hello")
        assert traced.interrupt() == 0
        (session,) = of_folder(folder)
        eventually(lambda: not of_folder(folder)[0].held.sockets, "every path to be given up")
        kill_relay(session.pid)
        again = trace("-w", str(folder / "y.pcapng"))
    assert any(
        line.startswith(f"podwire {session.pid} was killed: every connection through ")
        and f"behind task {path}" in line
        for line in again.said()
    )


def test_vms_that_run_are_counted_once_and_said_to_need_existing(folder: Path, server: Path) -> None:
    """By doctor as by trace: one line for all folders in which VMs have sockets."""
    with listening(folder / "vm" / "9f57" / "clh.sock"), listening(folder / "vm" / "8ae4" / "root" / "kata.hvsock"):
        (folder / "vm" / "9f57" / "qmp.sock").touch()
        named = ("--socket", f"cri={server}", "--socket", f"agent={folder}/vm")
        place = f"agent {folder}/vm"
        said = f"✓ {place}: VMs with hybrid vsock can be traced as they start; 2 run now, which only --existing traces"
        assert said in run("doctor", *named).stdout.splitlines()
        traced = run("trace", *named, "-a", "duration:0.1", "-w", str(folder / "x.pcapng")).stderr.splitlines()
        assert (
            f"{place}: tracing VMs as they start; 2 that ran before are left alone (--existing takes them too)"
            in traced
        )


@contextmanager
def listening(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield


def test_whether_the_journal_can_be_recorded_too_is_said(
    folder: Path, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "bin").mkdir()
    monkeypatch.setenv("PATH", str(folder / "bin"))
    said = run("doctor", "--socket", f"cri={server}").stdout.splitlines()
    assert "· log the journal: no journalctl here: trace --journal FILE records one that is a file" in said
    (folder / "bin/journalctl").touch(mode=0o755)
    said = run("doctor", "--socket", f"cri={server}").stdout.splitlines()
    (line,) = [line for line in said if "log the journal: " in line]
    assert "no journalctl" not in line
