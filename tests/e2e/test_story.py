"""Three pods at once on a real containerd: each call has the right pod, container and parent, live and afterwards.

The judges are the clients' own account (who asked for which id, and when), containerd's debug log, and the ids.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos.registry import Registry
from tests.e2e.containerd import Containerd, wait_until
from tests.e2e.cri import CriClient, Pod
from tests.e2e.tracing import PODWIRE, Trace

pytestmark = [pytest.mark.root, pytest.mark.containerd]

CALLS_BY_CONTAINER = ("StartContainer", "StopContainer", "RemoveContainer", "ExecSync", "ContainerStatus")


@dataclass
class Lived:
    """One pod's life, as its client knows it."""

    name: str
    sandbox: str = ""
    containers: dict[str, str] = field(default_factory=dict)
    """Name → id."""


@dataclass
class Together:
    """A trace of three pods, and who they were."""

    pods: list[Lived]
    calls: dict[int, dict[str, Any]]
    trace: Trace
    log: str

    def of(self, *hops: str) -> list[dict[str, Any]]:
        return [call for call in self.calls.values() if call["hop"] in hops]


def live(containerd: Containerd, registry: Registry, lived: Lived, barrier: threading.Barrier) -> None:
    with CriClient(containerd.address, registry) as client:
        pod = Pod(client, lived.name, containerd.cgroup_parent)
        barrier.wait(30)
        lived.sandbox = pod.run()
        if lived.name.startswith("fails"):
            with pytest.raises(grpc.RpcError):
                pod.start_container(("/no/such/program",), "broken")
            lived.containers["broken"] = pod.container_id
        lived.containers["main"] = pod.start_container()
        assert pod.exec("echo", "hello")[0] == 0
        pod.remove_container()
        pod.remove()


@pytest.fixture(scope="module")
def together(containerd: Containerd, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Together:
    pods = [Lived(f"{name}-{containerd.token}") for name in ("fails", "one", "two")]
    logged = containerd.log.stat().st_size
    barrier = threading.Barrier(len(pods))
    with Trace(containerd, tmp_path_factory.mktemp("story") / "three.pcapng") as trace:
        threads = [threading.Thread(target=live, args=(containerd, registry, pod, barrier)) for pod in pods]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wait_until(lambda: not containerd.shims(), 10)
        trace.stop()
    log = containerd.log.read_bytes()[logged:].decode(errors="replace")
    calls = {call["call"]: call for call in trace.calls() if call["kind"] == "call"}
    return Together(pods, calls, trace, log)


def identity(call: dict[str, Any]) -> tuple[str, str]:
    """Sandbox and container of a call as podwire placed it."""
    return call.get("pod", {}).get("id", ""), call.get("container", {}).get("id", "")


def request(call: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = call["messages"][0]["body"]
    return body


def wire_id(call: dict[str, Any]) -> str:
    """The container's id as it stands in the request of a Task call or in a forwarded event."""
    body = request(call)
    event = body["envelope"]["event"] if call["hop"] == "events" else None
    return str(body["id"] if event is None else event["container_id"])


def links(together: Together) -> dict[int, tuple[int, str]]:
    """Child → parent and how, out of both accounts: what a child says when it ends, and what its parent says later."""
    found: dict[int, tuple[int, str]] = {}
    for number, call in together.calls.items():
        if "parent" in call:
            found[number] = call["parent"]["call"], call["parent"]["how"]
    for number, call in together.calls.items():
        for child in call.get("children", ()):
            found[child["call"]] = number, child["how"]
    return found


def span(call: dict[str, Any]) -> tuple[float, float]:
    start = datetime.fromisoformat(call["time"]).timestamp()
    return start, start + (call["duration_ns"] or 10**15) / 1e9


def test_every_task_and_events_call_has_its_pod_and_container(together: Together) -> None:
    owners = {pod.sandbox: pod.sandbox for pod in together.pods}
    for create in together.of("cri"):
        if create["method"] == "CreateContainer" and create["status"]["code"] == 0:
            owners[create["messages"][1]["body"]["container_id"]] = request(create)["pod_sandbox_id"]
    named = {pod.sandbox: pod.name for pod in together.pods}
    answered = {identity(call)[0]: span(call)[1] for call in together.of("cri") if call["method"] == "RunPodSandbox"}
    assert answered.keys() == named.keys()
    placed = together.of("task", "events")
    assert len(placed) > 100
    for call in placed:
        container = wire_id(call)
        assert call["container"]["id"] == container
        if span(call)[1] > answered[owners[container]]:  # else nobody knows yet whose it is
            assert identity(call) == (owners[container], container), call["method"]
            assert call["pod"]["name"] == named[owners[container]]
    for call in together.of("cri"):
        if call["method"] in CALLS_BY_CONTAINER:
            container = request(call)["container_id"]
            assert identity(call) == (owners[container], container)


def test_every_exec_is_named(together: Together) -> None:
    execs = [call for call in together.of("task") if call["method"] == "Exec"]
    assert len(execs) == 3
    for call in together.of("task"):
        assert call.get("exec", "") == request(call).get("exec_id", "")


def test_no_link_is_wrong_and_every_task_call_has_its_cri_parent(together: Together) -> None:
    found = links(together)
    cri = {number: call for number, call in together.calls.items() if call["hop"] == "cri"}

    def ids(call: dict[str, Any]) -> set[str]:
        """What a CRI call is about, by the wire alone."""
        bodies = [message["body"] for message in call["messages"][:2]]
        return {body[key] for body in bodies for key in ("pod_sandbox_id", "container_id") if body.get(key)}

    unlinked = []
    for call in together.of("task"):
        begun = span(call)[0]
        container, number = wire_id(call), call["call"]
        around = {n for n, c in cri.items() if span(c)[0] <= begun <= span(c)[1] and container in ids(c)}
        parent = found.get(number)
        if parent is None:
            unlinked.append((call["method"], around))
            continue
        above = together.calls[parent[0]]
        assert parent[1] == "identity"
        if above["hop"] == "events":  # what containerd does by itself after an exit
            assert wire_id(above) == container
            assert request(above)["envelope"]["topic"] == "/tasks/exit"
        else:
            assert parent[0] in around, (call["method"], above["method"])
    # Whatever lies in the span of one CRI call alone that names its id has that parent.
    assert [each for each in unlinked if len(each[1]) == 1] == []
    caused = {together.calls[found[call["call"]][0]]["method"] for call in together.of("task") if call["call"] in found}
    assert caused >= {"RunPodSandbox", "StartContainer", "ExecSync", "StopContainer", "StopPodSandbox"}
    creates = [call for call in together.of("task") if call["method"] == "Create"]
    assert len(creates) == 7
    for call in creates:
        above = cri[found[call["call"]][0]]
        assert above["method"] == ("RunPodSandbox" if wire_id(call) in _sandboxes(together) else "StartContainer")


def test_parents_are_those_of_containerds_log(together: Together) -> None:
    """It logs the beginning and the end of each CRI request with the ids; the shims' events with theirs."""
    returned = re.findall(
        r'RunPodSandbox for &PodSandboxMetadata\{Name:([^,]+),.*returns sandbox id \\"(\w{64})\\"', together.log
    )
    assert dict(returned) == {pod.name: pod.sandbox for pod in together.pods}
    created = re.findall(
        r'CreateContainer within sandbox \\"(\w{64})\\" for &ContainerMetadata\{Name:([^,]+),.*'
        r'returns container id \\"(\w{64})\\"',
        together.log,
    )
    seen = {
        (identity(call)[0], call["container"]["name"], identity(call)[1])
        for call in together.of("cri")
        if call["method"] == "CreateContainer"
    }
    assert seen == set(created)
    found = links(together)
    starts = {
        wire_id(call): request(together.calls[found[call["call"]][0]])["container_id"]
        for call in together.of("task")
        if call["method"] == "Create" and wire_id(call) not in _sandboxes(together)
    }
    logged = set(re.findall(r'StartContainer for \\"(\w{64})\\"', together.log))
    assert set(starts) == logged == set(starts.values())
    assert all(child == parent for child, parent in starts.items())


def test_events_follow_the_task_calls_that_they_tell_of(together: Together) -> None:
    found = links(together)
    causes = {
        "/tasks/create": "Create", "/tasks/start": "Start", "/tasks/exec-added": "Exec",
        "/tasks/exec-started": "Start", "/tasks/delete": "Delete",
    }  # fmt: skip
    for call in together.of("events"):
        topic = request(call)["envelope"]["topic"]
        if topic in causes:
            above = together.calls[found[call["call"]][0]]
            assert (above["method"], wire_id(above)) == (causes[topic], wire_id(call))
            assert request(above).get("exec_id", "") == call.get("exec", "")


def test_the_same_comes_from_the_capture(together: Together) -> None:
    decoded = subprocess.run(
        [*PODWIRE, "decode", "--json", str(together.trace.capture)], capture_output=True, check=True
    )
    assert decoded.stdout == together.trace.out


def test_pods_and_story_tell_of_them(together: Together) -> None:
    done = subprocess.run(
        [*PODWIRE, "pods", "--json", str(together.trace.capture)], capture_output=True, text=True, check=True
    )
    pods = {pod["name"]: pod for pod in map(json.loads, done.stdout.splitlines())}
    assert pods.keys() == {pod.name for pod in together.pods}
    for lived in together.pods:
        pod = pods[lived.name]
        assert (pod["id"], pod["state"], pod["failed"]) == (lived.sandbox, "removed", 0)
        assert 0 < pod["before_ns"] + pod["create_ns"] + pod["start_ns"] < pod["start_up_ns"]
        containers = {each["name"]: each for each in pod["containers"]}
        assert containers.keys() == set(lived.containers)
        assert containers["main"]["id"] == lived.containers["main"]
        assert containers["main"]["exit_code"] == 0
        if "broken" in containers:
            (failure,) = containers["broken"]["failures"]
            assert (failure["method"], failure["innermost"]["hop"]) == ("StartContainer", "task")
            assert "/no/such/program" in failure["innermost"]["status"]["message"]
    for lived in together.pods:
        told = subprocess.run(
            [*PODWIRE, "story", lived.name, str(together.trace.capture)], capture_output=True, text=True, check=True
        )
        own = [
            call for call in together.of("task", "events") if wire_id(call) in (lived.sandbox, *_of(together, lived))
        ]
        lines = told.stdout.splitlines()[1:]
        assert sum(" task " in line or " events " in line for line in lines) == len(own)


def _of(together: Together, lived: Lived) -> set[str]:
    return {
        identity(call)[1]
        for call in together.of("cri")
        if call["method"] == "CreateContainer" and request(call)["pod_sandbox_id"] == lived.sandbox
    }


def _sandboxes(together: Together) -> set[str]:
    return {pod.sandbox for pod in together.pods}


def stuck(*arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run([*PODWIRE, "stuck", "--json", *arguments], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def chain(calls: list[dict[str, Any]]) -> list[tuple[str, str, bool]]:
    """The hung calls about the pod: hop, method, whether it is the innermost."""
    return [(call["hop"], call["method"], call["innermost"]) for call in calls if not call["meant_to_wait"]]


def test_a_shim_that_stops_is_named_live_and_from_the_capture(
    containerd: Containerd, registry: Registry, tmp_path: Path
) -> None:
    with CriClient(containerd.address, registry) as client, Trace(containerd, tmp_path / "stuck.pcapng") as trace:
        pod = Pod(client, f"stopped-{containerd.token}", containerd.cgroup_parent)
        sandbox = pod.run()
        container = pod.start_container()
        shim = containerd.shims()[sandbox]
        os.kill(shim, signal.SIGSTOP)
        try:
            hung = threading.Thread(target=pod.exec, args=("true",))
            hung.start()
            expected = [("cri", "ExecSync", False), ("task", "State", True)]
            found: list[dict[str, Any]] = []

            def named() -> bool:
                nonlocal found
                found = stuck(str(trace.capture))
                return len(chain(found)) == len(expected)

            assert wait_until(named, 20, 0.2), found
            asked = time.time()
            assert chain(found) == expected
            inner = next(call for call in found if call["innermost"] and not call["meant_to_wait"])
            assert identity(inner) == (sandbox, container)
            assert inner["pod"]["name"] == pod.name
            assert inner["parent"]["how"] == "identity"
            assert 0 <= inner["age_ns"] <= (asked - datetime.fromisoformat(inner["time"]).timestamp() + 30) * 1e9
            copy = tmp_path / "copy.pcapng"
            copy.write_bytes(trace.capture.read_bytes())
            assert chain(stuck(str(copy))) == expected
        finally:
            os.kill(shim, signal.SIGCONT)
        hung.join()
        pod.remove_container()
        pod.remove()
        assert wait_until(lambda: not containerd.shims(), 10)
        trace.stop()
    assert chain(stuck(str(trace.capture))) == []


@pytest.mark.tshark
def test_an_export_has_one_pods_calls_of_all_hops_with_comments_and_no_secret(
    together: Together, tmp_path: Path
) -> None:
    capture, lived = together.trace.capture, together.pods[1]
    part = tmp_path / "pod.pcapng"
    command = [*PODWIRE, "export", str(capture), "-o", str(part), "--pod", lived.sandbox, "--redact"]
    subprocess.run(command, capture_output=True, check=True)
    done = subprocess.run([*PODWIRE, "verify", str(part)], capture_output=True, text=True, check=False)
    assert "no difference" in done.stderr
    shown = subprocess.run(
        ["tshark", "-r", str(part), "-Y", "frame.comment", "-T", "fields", "-e", "frame.comment"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    here = {number for number, call in together.calls.items() if call.get("pod", {}).get("id") == lived.sandbox}
    said = {int(number) for number in re.findall(rf"call (\d+): pod \S+ \({lived.sandbox[:13]}\)", shown)}
    assert here <= said
    assert re.search(r"parent: call \d+, cri StartContainer \(found by identity\)", shown)
    assert {call["hop"] for call in together.calls.values() if call["call"] in said} >= {"cri", "task", "events"}
