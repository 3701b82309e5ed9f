"""The screen over a real containerd: a pod's life on three hops, what is in flight, one call's messages; the end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from protos.registry import Registry
from tests.e2e.containerd import Containerd
from tests.e2e.cri import CriClient, Pod
from tests.tracer.cli.live import run
from tests.tracer.cli.terminal import Terminal

pytestmark = [pytest.mark.root, pytest.mark.containerd]


def test_a_pods_life_is_seen_live(
    make_containerd: Callable[..., Containerd], registry: Registry, tmp_path: Path
) -> None:
    containerd = make_containerd()
    inode = os.stat(containerd.address).st_ino
    sockets = (f"--socket=cri={containerd.address}", f"--socket=events={containerd.events_address}")
    screen = Terminal("trace", "-w", str(tmp_path / "pod.pcapng"), *sockets, "--socket=task=/run/containerd/s")
    try:
        screen.wait_for("in flight")
        with CriClient(containerd.address, registry) as client:
            pod = Pod(client, f"seen-{containerd.token}", containerd.cgroup_parent)
            pod.run()
            pod.start_container()
            for words in ("RunPodSandbox", "/tasks/create", "StartContainer"):
                screen.wait_for(words)
            screen.type("i")  # the two tasks' Wait
            screen.wait_for("2 in flight")
            screen.wait_for("[in flight]")
            screen.type("i/call.method == 'RunPodSandbox'\r")
            screen.wait_for("[filter ")
            screen.type("g\r")
            screen.wait_for("▾ request")
            screen.wait_for(f'"seen-{containerd.token}"')
            pod.remove()
            screen.wait_for("0 in flight")
        screen.type("\x03")
        assert screen.wait() == 0
        assert screen.restored
        assert os.stat(containerd.address).st_ino == inode
    finally:
        screen.close()


def test_a_screen_that_is_killed_costs_the_pod_nothing_and_attach_goes_on(
    make_containerd: Callable[..., Containerd], registry: Registry, tmp_path: Path
) -> None:
    containerd = make_containerd()
    inode = os.stat(containerd.address).st_ino
    capture = tmp_path / "pod.pcapng"
    sockets = (f"--socket=cri={containerd.address}", f"--socket=events={containerd.events_address}")
    screens = [Terminal("trace", "-w", str(capture), *sockets, "--socket=task=/run/containerd/s")]
    try:
        screens[0].wait_for("in flight")
        with CriClient(containerd.address, registry) as client:
            pod = Pod(client, f"left-{containerd.token}", containerd.cgroup_parent)
            pod.run()
            screens[0].wait_for("RunPodSandbox")
            screens[0].process.kill()
            screens[0].process.wait()
            pod.start_container()  # through the relay, whose screen is gone
            screens.append(Terminal("attach"))
            screens[1].wait_for("StartContainer")
            pod.remove()
            screens[1].wait_for("RemovePodSandbox")
            screens[1].type("q")
            assert screens[1].wait() == 0
        assert run("stop").returncode == 0
        assert os.stat(containerd.address).st_ino == inode
        calls = [json.loads(line) for line in run("decode", "--json", str(capture)).stdout.splitlines()]
        assert {"RunPodSandbox", "StartContainer", "RemovePodSandbox"} <= {call.get("method") for call in calls}
        assert not [call for call in calls if call["kind"] == "gap"]
    finally:
        for screen in screens:
            screen.close()
        run("stop")
