"""Killed under a real containerd and the tests' own traffic at once: no call fails, no container dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from protos.registry import Registry
from tests.e2e.captured import read_capture
from tests.e2e.containerd import Containerd, wait_until
from tests.e2e.cri import CriClient, Pod
from tests.e2e.killing import HOLDER, RECORDER, WORKER, RelayProcesses
from tests.e2e.runtime_traffic import MODULE
from tests.e2e.tracing import Trace
from tests.e2e.traffic import Peer, Traffic
from tracer.relay import shared as sh

pytestmark = [pytest.mark.root, pytest.mark.containerd]

KILLS = 50
MOST = 500
"""So many kills in which too few hit a moment that matters, and the test has proved nothing."""
SALVAGED = 10
"""Successors that found bytes in a pipe, or a record laid and not committed."""


@pytest.fixture
def traffic(containerd: Containerd) -> Iterator[Traffic]:
    with Traffic(containerd.run) as traffic:
        yield traffic


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    """Starts processes, and ends them."""
    peers: list[Peer] = []

    def start(account: Path, *arguments: str) -> Peer:
        peers.append(Peer(account, *arguments, str(account), module=MODULE))
        return peers[-1]

    yield start
    for each in peers:
        each.kill()


def running_tasks(containerd: Containerd) -> list[str]:
    """Each container with its pid and state."""
    return sorted(containerd.ctr("tasks", "ls").splitlines())


@pytest.mark.parametrize("part", [WORKER, HOLDER, RECORDER])
def test_killed_again_and_again_under_containerd_no_call_fails_and_no_container_dies(
    containerd: Containerd,
    registry: Registry,
    traffic: Traffic,
    peer: Callable[..., Peer],
    tmp_path: Path,
    part: str,
) -> None:
    sockets = (f"--socket=cri={traffic.grpc}", f"--socket=events={traffic.ttrpc}")
    capture = tmp_path / "kills.pcapng"
    with Trace(containerd, capture, *sockets) as trace, ExitStack() as stack:
        assert trace.process is not None
        relay = stack.enter_context(RelayProcesses.of(trace.process.pid))
        stack.callback(relay.kill_all)
        # What prints calls is only a reader of the file, and not needed: it goes first.
        trace.process.kill()
        trace.process.wait()
        with CriClient(containerd.address, registry) as client:
            pod = Pod(client, f"kills-{part}-{containerd.token}", containerd.cgroup_parent)
            pod.run()
            pod.start_container()
            shims, tasks = containerd.shims(), running_tasks(containerd)
            shim_socket = str(containerd.shim_socket(pod.sandbox_id))
            calls = peer(tmp_path / "runtime.account", containerd.address, shim_socket, pod.container_id)
            traffic.start()
            calls.ready()

            def enough(kills: int) -> bool:
                return kills >= KILLS and (part != WORKER or relay.word(sh.SALVAGED) >= SALVAGED)

            killed = relay.kill(part, enough, most=MOST)
            runtime, accounts = calls.stop(), traffic.stop()
            assert containerd.shims() == shims
            assert running_tasks(containerd) == tasks  # the same pids, running
            pod.remove_container()
            pod.remove()
        relay.leave()
        assert wait_until(lambda: not relay.all(), 10)
        captured = read_capture(capture)
    print(
        f"{part}: {killed.count} kills, a successor within {killed.longest_s * 1e3:.1f} ms; {accounts.calls} calls, "
        f"{accounts.size >> 20} MiB, {captured.lost} bytes not in the capture; containerd: {runtime['messages']}"
    )
    assert runtime["errors"] == []
    assert runtime["messages"].keys() == {"content", "exec", "state"}
    accounts.check()
    captured.check(accounts)
