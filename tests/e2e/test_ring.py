"""A capture in a ring of files over a pod's busy life on a real containerd: each file can be read alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from protos.registry import Registry
from tests.e2e.containerd import Containerd, wait_until
from tests.e2e.cri import EVENTS, CriClient, Pod
from tests.e2e.tracing import PODWIRE, Trace
from tracer.capture.packets import CARRIED_OVER

pytestmark = [pytest.mark.root, pytest.mark.containerd, pytest.mark.tshark]

FILES = 20


def decode(path: Path) -> list[dict[str, Any]]:
    done = subprocess.run([*PODWIRE, "decode", "--json", path], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def about(call: dict[str, Any]) -> tuple[object, ...]:
    """What a call is, whichever file it is read from."""
    status = (call["status"] or {}).get("code")
    return call["socket"], call["stream"], call["time"], call["service"], call["method"], call["duration_ns"], status


def requests_by_tshark(path: Path) -> Counter[str]:
    """Paths of the HEADERS that are not repeated from before the file."""
    made_up = f'frame.comment contains "{CARRIED_OVER}"'
    wanted = ["-Y", f"http2.headers.path && !({made_up})", "-T", "fields", "-e", "http2.headers.path"]
    done = subprocess.run(["tshark", "-r", path, *wanted], capture_output=True, text=True, check=True)
    return Counter(name for line in done.stdout.splitlines() for name in line.split(","))


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_each_file_of_a_ring_decodes_alone_and_all_hold_every_call_once(
    containerd: Containerd, registry: Registry, tmp_path: Path
) -> None:
    with (
        Trace(containerd, tmp_path / "pod.pcapng", "-b", "filesize:30") as trace,
        CriClient(containerd.address, registry) as client,
    ):
        events = client.stream(EVENTS, "Subscribe")
        pod = Pod(client, f"ring-{containerd.token}", containerd.cgroup_parent)
        pod.run()
        pod.start_container()
        turns = 0
        while len(list(tmp_path.glob("pod_*.pcapng"))) < FILES and turns < 200:
            turns += 1
            assert pod.exec("echo", "x" * 200)[0] == 0
            pod.runtime("ContainerStatus", container_id=pod.container_id, verbose=True)
            pod.runtime("ListContainerStats")
        pod.remove_container()
        pod.remove()
        assert wait_until(lambda: not containerd.shims(), 5)
        trace.stop()  # Subscribe is open
        events.cancel()
    files = sorted(tmp_path.glob("pod_*.pcapng"))
    assert len(files) >= FILES
    live = trace.calls()
    assert {call["kind"] for call in live} == {"call"}
    assert all(call["seen_start"] for call in live), "one reader of all files sees each from its start"
    ended: list[dict[str, Any]] = []
    carried = 0
    for path in files:
        calls = decode(path)
        assert {call["kind"] for call in calls} == {"call"}, path
        ended += [call for call in calls if call["state"] != "open"]
        still_open = [call for call in calls if call["state"] == "open"]
        carried += sum(not call["seen_start"] for call in calls)
        assert requests_by_tshark(path) == Counter(
            f"/{call['service']}/{call['method']}"
            for call in calls
            if call["protocol"] == "grpc" and call["seen_start"]
        ), path
    assert carried >= FILES - 1, "Subscribe, in every file but the first"
    assert Counter(map(about, ended)) == Counter(about(call) for call in live if call["state"] != "open")
    assert {call["method"] for call in still_open} == {"Subscribe"}
    assert Counter(map(about, still_open)) == Counter(about(call) for call in live if call["state"] == "open")
