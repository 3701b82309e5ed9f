"""What may become of all that started a trace, and what is left when the relay itself is killed whole.

The traffic is the tests' own, checksummed at both ends, and goes through a relay started by `podwire trace`.
"""

from __future__ import annotations

import fcntl
import os
import pty
import secrets
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from tests.e2e.captured import read_capture
from tests.e2e.killing import RelayProcesses
from tests.e2e.messages import RESPONSE, UNARY, Account, Source
from tests.e2e.traffic import SERVICE, Traffic
from tests.e2e.ttrpc_peer import TtrpcClient
from tests.tracer.cli.live import COMMAND, run
from tests.tracer.relay.harness import eventually

CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def folder(folder: Path) -> Path:
    (folder / "s").mkdir()
    return folder


@pytest.fixture
def traffic(folder: Path) -> Iterator[Traffic]:
    with Traffic(folder) as traffic:
        yield traffic


@pytest.fixture
def cgroups() -> Iterator[list[Path]]:
    """A new cgroup in each hierarchy where one can be made; what is still in them at the end is killed."""
    name = f"pwt-{secrets.token_hex(3)}"
    made = []
    for root in (CGROUPS, *CGROUPS.iterdir()) if CGROUPS.is_dir() else ():
        if (root / "cgroup.procs").exists():
            with suppress(OSError):
                (root / name).mkdir()
                made.append(root / name)
    yield made
    for each in made:
        if each.is_dir():
            kill_cgroup(each)
            each.rmdir()


def kill_cgroup(cgroup: Path) -> None:
    """As a service manager does with a unit: every process in it, until there is none."""

    def empty() -> bool:
        pids = (cgroup / "cgroup.procs").read_text().split()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        return not pids

    assert eventually(empty)


class Started:
    """A `podwire trace` on a terminal of its own and in these cgroups."""

    def __init__(self, traffic: Traffic, capture: Path, cgroups: list[Path]) -> None:
        self.capture = capture
        self.master, slave = pty.openpty()
        self.said = capture.with_suffix(".err")
        command = [*COMMAND, "trace", "-w", str(capture), "--socket", f"cri={traffic.grpc}"]
        command += ["--socket", f"events={traffic.ttrpc}", "--socket", f"task={traffic.folder}/s"]

        def prepare() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            for cgroup in cgroups:
                with suppress(OSError):  # cpuset's takes nobody until it has processors
                    (cgroup / "cgroup.procs").write_text("0")

        with self.said.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=slave,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                preexec_fn=prepare,
            )
        os.close(slave)
        try:
            paths = (traffic.grpc, traffic.ttrpc)
            traced = eventually(lambda: all(f"{path}: tracing" in self.said.read_text() for path in paths), 10)
            assert traced, self.said.read_text()
            self.relay = RelayProcesses.of(self.process.pid)
        except BaseException:
            self.close_terminal()
            self.process.kill()
            self.process.wait()
            raise

    def close_terminal(self) -> None:
        if self.master >= 0:
            os.close(self.master)
            self.master = -1

    def close(self) -> None:
        self.close_terminal()
        self.relay.kill_all()
        self.process.kill()
        self.process.wait()
        os.close(self.relay.memory)


@pytest.fixture
def start(traffic: Traffic, folder: Path) -> Iterator[Callable[..., Started]]:
    started: list[Started] = []

    def start(cgroups: list[Path] | None = None) -> Started:
        started.append(Started(traffic, folder / "x.pcapng", cgroups or []))
        return started[-1]

    yield start
    for each in started:
        each.close()
    if started:
        run("doctor", "--mend")


def test_r3_the_relay_goes_on_when_session_terminal_and_cgroup_of_who_started_it_are_gone(
    traffic: Traffic, start: Callable[..., Started], cgroups: list[Path]
) -> None:
    traced = start(cgroups)
    joined = [each for each in cgroups if (each / "cgroup.procs").read_text().split() == [str(traced.process.pid)]]
    assert bool(joined) == bool(cgroups)
    traffic.start()
    before = traced.relay.all()
    assert len(before) == 3
    os.killpg(traced.process.pid, signal.SIGKILL)
    traced.close_terminal()
    traced.process.wait()
    for cgroup in cgroups:
        kill_cgroup(cgroup)
        cgroup.rmdir()
    time.sleep(0.5)
    assert traced.relay.all() == before
    accounts = traffic.stop()
    traced.relay.leave()
    assert eventually(lambda: not traced.relay.all(), 10)
    captured = read_capture(traced.capture)
    accounts.check()
    captured.check(accounts)  # what came after their end is recorded too


def test_r4_a_terminal_that_is_closed_ends_the_trace_in_order_and_costs_no_call(
    traffic: Traffic, start: Callable[..., Started]
) -> None:
    traced = start()
    traffic.start()
    traced.close_terminal()  # SIGHUP
    assert traced.process.wait(10) == 0
    assert "draining" in traced.said.read_text()
    assert traced.relay.all()
    time.sleep(0.3)
    traffic.stop().check()
    assert eventually(lambda: not traced.relay.all(), 10)


@pytest.mark.parametrize("mender", ["doctor", "the next start", "the trace"])
def test_e9_all_killed_at_once_paths_are_mended_new_calls_work_and_what_is_lost_is_said(
    traffic: Traffic, folder: Path, start: Callable[..., Started], mender: str
) -> None:
    servers = {path: path.stat().st_ino for path in (traffic.grpc, traffic.ttrpc)}
    traced = start()
    traffic.start()
    if mender != "the trace":
        traced.process.kill()
    traced.relay.kill_all()
    if mender == "the trace":
        assert traced.process.wait(10) == 1
        said = traced.said.read_text()
    else:
        traced.process.wait()
        assert eventually(lambda: not traced.relay.all())
        assert {path: path.stat().st_ino for path in servers} != servers
        if mender == "doctor":
            said = run("doctor", "--mend").stdout
        else:
            again = start()
            again.process.send_signal(signal.SIGINT)
            assert again.process.wait(10) == 0
            said = again.said.read_text()
    for path, inode in servers.items():
        assert path.stat().st_ino == inode
        assert str(path) in said
    # No connection outlives this, and no container of a shim: that is what is said.
    assert f"every connection through cri {traffic.grpc}, events {traffic.ttrpc} is lost" in said
    message = Source(9).message(9, UNARY, 0)
    with TtrpcClient(str(traffic.ttrpc)) as ttrpc_client:
        answers = [ttrpc_client.call(SERVICE, "Unary", message)]
    with grpc.insecure_channel(f"unix:{traffic.grpc}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        answers.append(channel.unary_unary(f"/{SERVICE}/Unary")(message, timeout=10))
    assert [Account().add(answer, RESPONSE) for answer in answers] == [(9, UNARY, 0)] * 2
    assert len(traffic.stop().errors) >= 6
