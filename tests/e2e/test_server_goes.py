"""The server ends under the trace: its path is refused as without us, its next start is traced, its pods live on."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from protos.registry import Registry
from tests.e2e.containerd import Containerd, wait_until
from tests.e2e.cri import CriClient, Pod
from tests.e2e.tracing import Trace

pytestmark = [pytest.mark.root, pytest.mark.containerd]

RUNTIME = "runtime.v1.RuntimeService"


def refused(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        return False


def answers(path: str) -> bool:
    return not refused(path)


def owner_and_mode(path: str) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def versions(trace: Trace) -> int:
    return sum(call["method"] == "Version" and call["state"] == "ended" for call in trace.calls())


@pytest.mark.parametrize("connections", [0, 1])
def test_a_killed_servers_path_is_refused_and_its_next_start_traced(
    make_containerd: Callable[..., Containerd], registry: Registry, tmp_path: Path, connections: int
) -> None:
    containerd = make_containerd()
    as_set = {path: owner_and_mode(path) for path in (containerd.address, containerd.events_address)}
    with Trace(containerd, tmp_path / "killed.pcapng") as trace:
        clients = [CriClient(containerd.address, registry) for _ in range(connections)]
        for client in clients:
            client.call(RUNTIME, "Version")
        containerd.kill()
        time.sleep(0.05)
        assert [path for path in as_set if answers(path)] == []
        for client in clients:
            with pytest.raises(grpc.RpcError):
                client.call(RUNTIME, "Version", deadline=5)
            client.close()
        containerd.start()
        # Readiness is asked for through the path, so by now it is the relay's again, or will be at once.
        assert wait_until(lambda: "started again" in trace.errors(), 2)
        with CriClient(containerd.address, registry) as client:
            client.call(RUNTIME, "Version")
        assert {path: owner_and_mode(path) for path in as_set} == as_set
        trace.stop()
    assert versions(trace) == connections + 1
    assert {path: owner_and_mode(path) for path in as_set} == as_set
    with CriClient(containerd.address, registry) as client:
        assert client.call(RUNTIME, "Version").runtime_name == "containerd"


def test_pods_live_through_a_restart_under_the_trace_and_its_end(
    make_containerd: Callable[..., Containerd], registry: Registry, tmp_path: Path
) -> None:
    containerd = make_containerd()
    with Trace(containerd, tmp_path / "restart.pcapng") as trace:
        with CriClient(containerd.address, registry) as client:
            pod = Pod(client, f"lives-{containerd.token}", containerd.cgroup_parent)
            pod.run()
            pod.start_container()
        shims = containerd.shims()
        containerd.restart()
        assert wait_until(lambda: trace.errors().count("started again") == 2, 2)
        with CriClient(containerd.address, registry) as client:
            pod.client = client
            assert pod.exec("echo", "traced") == (0, b"traced\n", b"")
        trace.stop()
    assert "draining" in trace.said
    assert containerd.shims() == shims
    assert f"{pod.container_id}" in containerd.ctr("tasks", "ls")
    assert containerd.ctr("tasks", "ls").count("RUNNING") == 2
    with CriClient(containerd.address, registry) as client:
        pod.client = client
        assert pod.exec("echo", "untraced") == (0, b"untraced\n", b"")
        pod.remove_container()
        pod.remove()
    # The new containerd's connections to the old shim came through the relay too.
    connects = [call for call in trace.calls() if call["hop"] == "task" and call["method"] == "Connect"]
    assert len({call["connection"] for call in connects}) >= 2
    assert {call["socket"] for call in connects} == {str(containerd.shim_socket(sandbox)) for sandbox in shims}
