"""A session in the background over a real pod: what drains is named by its sandbox, and a cut kills what was said."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from protos.registry import Registry
from tests.e2e.containerd import Containerd, wait_until
from tests.e2e.cri import CriClient, Pod
from tests.e2e.tracing import PODWIRE

CONTAINER_RUNNING, CONTAINER_EXITED = 1, 2  # runtime.v1.ContainerState

pytestmark = [pytest.mark.root, pytest.mark.containerd]


def podwire(*words: str) -> subprocess.CompletedProcess[str]:
    command = [*PODWIRE, *words]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)


def sessions() -> list[dict[str, Any]]:
    return [json.loads(line) for line in podwire("status", "--json").stdout.splitlines()]


def state_of(pod: Pod) -> int:
    return int(pod.runtime("ContainerStatus", container_id=pod.container_id).status.state)


def test_r4_what_drains_is_named_by_its_sandbox_and_stop_now_kills_that_alone(
    make_containerd: Callable[..., Containerd], registry: Registry
) -> None:
    containerd = make_containerd()
    with CriClient(containerd.address, registry) as untraced:
        untraced.call("runtime.v1.RuntimeService", "Version")
        before = Pod(untraced, f"before-{containerd.token}", containerd.cgroup_parent)
        before.run()
        before.start_container()
        sockets = (f"--socket=cri={containerd.address}", f"--socket=events={containerd.events_address}")
        started = podwire("trace", "--detach", *sockets)
        assert started.returncode == 0, started.stderr
        try:
            with CriClient(containerd.address, registry) as client:
                pod = Pod(client, f"traced-{containerd.token}", containerd.cgroup_parent)
                pod.run()
                pod.start_container()
            pod.client = untraced
            (session,) = sessions()
            task = [each for each in session["connections"] if each["hop"] == "task"]
            assert {each["sandbox"] for each in task} == {pod.sandbox_id}
            stopped = podwire("stop")
            assert stopped.returncode == 0, stopped.stderr
            assert "draining: " in stopped.stdout
            (session,) = sessions()
            assert session["state"] == "draining"
            assert {each["sandbox"] for each in session["connections"]} == {pod.sandbox_id}
            asked = podwire("stop", "--now")
            assert asked.returncode == 2
            kills = [line for line in asked.stderr.splitlines() if " kills the containers of " in line]
            assert kills == [f"cutting {task[0]['socket']} kills the containers of sandbox {pod.sandbox_id}"]
            assert pod.exec("echo", "on") == (0, b"on\n", b"")
        finally:
            cut = podwire("stop", "--now", "--yes")
        assert cut.returncode == 0, cut.stderr
        assert wait_until(lambda: state_of(pod) == CONTAINER_EXITED, 10), "containerd gives up what it lost"
        assert sessions() == []
        assert state_of(before) == CONTAINER_RUNNING
        assert before.exec("echo", "on") == (0, b"on\n", b"")
        for each in (before, pod):
            each.remove_container()
            each.remove()
