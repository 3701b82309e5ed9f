"""After a trace, the node is as it was; ended while a pod runs, only the relay stays, and goes with the pod."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from protos.registry import Registry
from tests.e2e.containerd import Containerd, mounts_below, wait_until
from tests.e2e.cri import CriClient, Pod, pod_life
from tests.e2e.tracing import Trace

pytestmark = [pytest.mark.root, pytest.mark.containerd]

RUNTIME_FOLDER = Path("/run/podwire")


class Look(NamedTuple):
    """What of a node a trace could have changed."""

    files: str
    unix: list[str]
    mounts: list[str]
    processes: dict[int, str]


def look(containerd: Containerd) -> Look:
    folders = ["/run/containerd", str(RUNTIME_FOLDER), str(containerd.run)]
    command = ["find", *folders, "-maxdepth", "2", "-printf", r"%p %y %m %U:%G %i\n"]
    files = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = Path("/proc/net/unix").read_text().splitlines()
    names = sorted(line.split()[-1] for line in lines if any(folder in line for folder in folders))
    return Look("\n".join(sorted(files.splitlines())), names, mounts_below(containerd.run), ours(containerd))


def ours(containerd: Containerd) -> dict[int, str]:
    """Processes that name this containerd: itself, its shims, a trace of it, the relay and the recorder."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if containerd.token in command:
                found[int(entry.name)] = command
    return found


@pytest.fixture
def seasoned(make_containerd: Callable[..., Containerd], registry: Registry) -> Containerd:
    """A containerd through which one pod has come and gone, untraced, so that its own folders are there."""
    containerd = make_containerd()
    RUNTIME_FOLDER.mkdir(mode=0o700, exist_ok=True)
    with CriClient(containerd.address, registry) as client:
        pod_life(client, f"first-{containerd.token}", containerd.cgroup_parent)
    assert wait_until(lambda: not containerd.shims(), 5)
    # The server's ends of the client's connections go a moment after the client's own.
    assert wait_until(lambda: len(look(containerd).unix) == len(set(look(containerd).unix)), 5)
    return containerd


def test_nothing_is_left_after_pod_and_trace(seasoned: Containerd, registry: Registry, tmp_path: Path) -> None:
    before = look(seasoned)
    with Trace(seasoned, tmp_path / "pod.pcapng") as trace:
        with CriClient(seasoned.address, registry) as client:
            pod_life(client, f"second-{seasoned.token}", seasoned.cgroup_parent)
        assert wait_until(lambda: not seasoned.shims(), 5)
        trace.stop()
    assert "draining" not in trace.said
    assert look(seasoned) == before


def test_ended_while_a_pod_runs_only_the_relay_stays_until_the_pod_goes(
    seasoned: Containerd, registry: Registry, tmp_path: Path
) -> None:
    before = look(seasoned)
    with CriClient(seasoned.address, registry) as untraced:
        untraced.call("runtime.v1.RuntimeService", "Version")
        with Trace(seasoned, tmp_path / "pod.pcapng") as trace, CriClient(seasoned.address, registry) as client:
            pod = Pod(client, f"stays-{seasoned.token}", seasoned.cgroup_parent)
            pod.run()
            pod.start_container()
            shim = seasoned.shims()[pod.sandbox_id]
            size = (tmp_path / "pod.pcapng").stat().st_size
            assert trace.stop() < 2
        assert "draining" in trace.said
        assert os.path.exists(seasoned.address)
        # The pod goes on by the connections that still pass through the relay.
        pod.client = untraced
        assert pod.exec("echo", "on") == (0, b"on\n", b"")
        left = {pid for pid in ours(seasoned).keys() - before.processes.keys() if pid != shim}
        names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in left}
        assert names == {"podwire-worker", "podwire-holder"}
        pod.remove_container()
        pod.remove()
        assert wait_until(lambda: not seasoned.shims(), 5)
        assert wait_until(lambda: not (ours(seasoned).keys() & left), 1.0), "gone within a second of the pod"
    assert wait_until(lambda: look(seasoned) == before, 1.0), f"{look(seasoned)}\n{before}"
    assert (tmp_path / "pod.pcapng").stat().st_size >= size
