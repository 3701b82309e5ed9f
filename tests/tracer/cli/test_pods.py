"""`podwire pods` over a recording of a real containerd 2.3: its pods, and their failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tracer.cut import cut
from tests.tracer.output.test_jsonlines import documented
from tracer.capture.conversation import CaptureWriter
from tracer.capture.flows import FlowData, FlowOpened, FlowTable
from tracer.capture.packets import Packet
from tracer.capture.reader import open_capture
from tracer.cli import main

CAPTURES = Path(__file__).parents[3] / "captures"
POD = str(CAPTURES / "ctrd2-pod.pcapng.gz")
PHASES = ("start_up_ns", "before_ns", "create_ns", "start_ns")


def pods(path: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main(["pods", "--json", path]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_pods_and_containers_of_a_recording_are_as_its_commands_made_them(capsys: pytest.CaptureFixture[str]) -> None:
    found = {f"{pod['namespace']}/{pod['name']}": pod for pod in pods(POD, capsys)}
    assert {name: pod["state"] for name, pod in found.items()} == {
        "default/pod1": "removed", "default/pod-bad": "failed", "default/pod-nonet": "failed",
        "kube-test/pod2": "removed",
    }  # fmt: skip
    containers = {each["name"]: each for each in found["default/pod1"]["containers"]}
    assert {name: each.get("exit_code") for name, each in containers.items()} == {
        "main": 0, "crash": 1, "hog": 137, "nostart": None,
    }  # fmt: skip


def test_a_start_is_told_by_phase_and_what_was_not_seen_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    found = {pod["name"]: pod for pod in pods(POD, capsys)}
    assert [found["pod1"][name] // 1000 for name in PHASES] == [70_943, 21_511, 34_124, 10_563]
    assert [name in found["pod-bad"] for name in PHASES] == [True, True, True, False]
    assert [name in found["pod-nonet"] for name in PHASES] == [True, False, False, False]
    main_ = next(each for each in found["pod1"]["containers"] if each["name"] == "main")
    assert [main_[name] // 1000 for name in PHASES[1:]] == [12_753, 52_998, 8_644]
    assert main_["start_up_ns"] // 1000 == (8_745_000 + 69_821_000) // 1000 + 1  # CreateContainer and StartContainer


def test_a_pod_that_is_being_made_is_starting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pod,) = pods(str(cut(Path(POD), tmp_path, "RunPodSandbox")), capsys)
    assert (pod["name"], pod["state"], "id" in pod) == ("pod1", "starting", False)


def test_failures_name_the_innermost_error(capsys: pytest.CaptureFixture[str]) -> None:
    found = {pod["name"]: pod for pod in pods(POD, capsys)}
    (bad,) = found["pod-bad"]["failures"]
    assert (bad["hop"], bad["method"]) == ("cri", "RunPodSandbox")
    assert (bad["innermost"]["hop"], bad["innermost"]["method"]) == ("task", "Create")
    assert bad["innermost"]["status"]["message"].endswith("unable to set hostname without a private UTS namespace")
    nostart = next(each for each in found["pod1"]["containers"] if each["name"] == "nostart")
    assert [(each["method"], each["innermost"]["method"]) for each in nostart["failures"]] == [
        ("StartContainer", "Create")
    ]
    assert main(["pods", POD]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("  nostart"))
    assert lines[at + 1].startswith("    E cri StartContainer UNKNOWN (call ")
    assert lines[at + 2].startswith("      └ task Create UNKNOWN (call ")


def test_with_an_expression_the_pods_are_those_of_which_a_call_matches(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = 'call.method == "RunPodSandbox" && call.failed'
    assert main(["pods", "--json", "-Y", wanted, POD]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {pod["name"] for pod in found} == {"pod-bad", "pod-nonet"}


def test_every_key_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    tables = documented()
    for pod in pods(POD, capsys):
        objects = {"podwire pods --json": [pod], "container of a pod": pod["containers"]}
        objects["failure"] = [each for whose in (pod, *pod["containers"]) for each in whose["failures"]]
        for heading, shown in objects.items():
            always = {key for key, required in tables[heading].items() if required}
            for each in shown:
                assert always <= set(each) - {"v", "kind"} <= set(tables[heading])


def test_a_capture_that_begins_in_the_middle_says_what_it_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The connections of the shim alone: nobody says whose containers these are.
    path = tmp_path / "middle.pcapng"
    only_task(CAPTURES / "own16-pod.pcapng.gz", path)
    (found,) = pods(str(path), capsys)
    assert "id" not in found
    assert {(each.get("name"), each["state"]) for each in found["containers"]} == {(None, "exited")}
    assert len(found["containers"]) == 2
    assert main(["pods", str(path)]) == 0
    out = capsys.readouterr().out
    assert "(pod not known)" in out
    assert "(name not known)" in out


def test_nothing_seen_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "empty.pcapng"
    with path.open("wb") as out:
        CaptureWriter(out.write).start(0, "")
    assert main(["pods", str(path)]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "podwire: no pod is seen in it\n")


def only_task(source: Path, target: Path) -> None:
    """Write the connections of hop `task` of a capture, and nothing else."""
    table, streams = FlowTable(), {}
    with target.open("wb") as out, open_capture(str(source)) as capture:
        writer = CaptureWriter(out.write)
        writer.start(0, "")
        for item in capture:
            for event in table.feed(item) if isinstance(item, Packet) else ():
                flow = event.flow
                if flow.hop != "task":
                    continue
                if isinstance(event, FlowOpened):
                    interface = writer.interface(flow.socket, f"task {flow.socket}")
                    client, server = (writer.endpoint((name, 1), name) for name in ("containerd", "shim"))
                    writer.open(flow.id, interface, "task", client, server, event.time_ns, {})
                elif isinstance(event, FlowData):
                    offset = streams.get((flow.id, event.direction), 0)
                    writer.data(flow.id, event.direction, offset, event.time_ns, event.data)
                    streams[flow.id, event.direction] = offset + len(event.data)
        writer.finish(0)
