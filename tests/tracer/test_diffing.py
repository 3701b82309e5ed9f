"""What two captures, or two pods, have not in common, and that their secrets are not told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protos.registry import Registry
from tests.tracer.made import MS, REQUEST, RESPONSE, Told, ended, message, opened
from tracer.calls import Finding, Update
from tracer.cli import main
from tracer.diffing import MAX_VALUES, Difference, Side, differences

CAPTURES = Path(__file__).parents[2] / "captures"
DOC = Path(__file__).parents[2] / "docs" / "json.md"
REGISTRY = Registry.bundled()
POD_A, POD_B = "a" * 64, "b" * 64


class Calls:
    """A printer that gives calls to a side."""

    def __init__(self) -> None:
        self.side = Side(REGISTRY)
        self.told = Told(self)
        self.stream = 1

    def update(self, update: Update) -> None:
        if not isinstance(update, Finding) and update.kind == "ended":
            self.side.add(update.call)

    def call(self, method: str, fields: Any = None, code: int = 0, took: float = 1) -> Calls:
        found = REGISTRY.method("runtime.v1.RuntimeService", method)
        assert found is not None
        payload = REGISTRY.message_class(found.input_type)(**(fields or {})).SerializeToString()
        self.told.at(0, opened(self.stream, method), message(self.stream, REQUEST, payload))
        self.told.at(took, message(self.stream, RESPONSE), ended(self.stream, code))
        self.stream += 2
        return self


def create(**fields: Any) -> dict[str, Any]:
    return {"pod_sandbox_id": POD_A, "config": fields}


def told(before: Calls, after: Calls) -> list[tuple[Any, ...]]:
    return [
        (each.what, each.method, each.path, each.before, each.after) for each in differences(before.side, after.side)
    ]


def test_the_same_calls_have_no_difference() -> None:
    one = Calls().call("Version").call("CreateContainer", create(image={"image": "a"}))
    other = Calls().call("CreateContainer", create(image={"image": "a"})).call("Version")
    assert told(one, other) == []


def test_calls_that_are_added_gone_or_fail_otherwise() -> None:
    one = Calls().call("Version").call("Version").call("Status")
    other = Calls().call("Version", code=5).call("ListContainers")
    assert told(one, other) == [
        ("calls", "ListContainers", "", (), ("1",)),
        ("calls", "Status", "", ("1",), ()),
        ("calls", "Version", "", ("2",), ("1",)),
        ("errors", "Version", "", (), ("1 NOT_FOUND",)),
    ]


def test_values_that_fields_of_requests_had_in_one_alone() -> None:
    one = Calls().call("CreateContainer", create(image={"image": "a"}, labels={"x": "y"}, command=["sh", "-c"]))
    other = Calls().call("CreateContainer", create(image={"image": "b"}, command=["sh", "-x"]))
    assert told(one, other) == [
        ("field", "CreateContainer", "config.command[]", ("-c",), ("-x",)),
        ("field", "CreateContainer", "config.image.image", ("a",), ("b",)),
        ("field", "CreateContainer", "config.labels.x", ("y",), ()),
    ]


def test_a_secret_that_differs_is_told_but_not_its_value() -> None:
    one = Calls().call("CreateContainer", create(envs=[{"key": "A", "value": b"hunter1"}, {"key": "B", "value": b"c"}]))
    other = Calls().call(
        "CreateContainer", create(envs=[{"key": "B", "value": b"c"}, {"key": "A", "value": b"hunter2"}])
    )
    stars = ("KioqKioqKg==",)  # seven asterisks
    assert told(one, other) == [("field", "CreateContainer", "config.envs[A].value", stars, stars)]


def test_ids_times_and_folders_that_are_numbers_are_the_same() -> None:
    one = Calls().call(
        "CreateContainer", {"pod_sandbox_id": POD_A, "config": {"log_path": "/x/123/2026-01-01T00:00:00Z"}}
    )
    other = Calls().call(
        "CreateContainer", {"pod_sandbox_id": POD_B, "config": {"log_path": "/x/7/2027-02-01T00:00:01Z"}}
    )
    assert told(one, other) == []


def test_a_field_of_more_values_than_can_be_compared_is_not() -> None:
    one, other = Calls(), Calls()
    for number in range(MAX_VALUES + 1):
        one.call("StartContainer", {"container_id": f"one-{number}"})
        other.call("StartContainer", {"container_id": f"other-{number}"})
    assert told(one, other) == []


@pytest.mark.parametrize(("took", "is_told"), [(100, True), (11, False), (2.5, False)])
def test_durations_that_are_clearly_others(took: float, is_told: bool) -> None:
    one, other = Calls(), Calls()
    for _ in range(3):
        one.call("Version", took=took / 2 if is_told else (10 if took == 11 else 2))
        other.call("Version", took=took)
    found = [each for each in differences(one.side, other.side) if each.what == "duration"]
    assert bool(found) is is_told
    if found:
        assert int(found[0].after[0]) == pytest.approx(took * MS, rel=0.01)


def test_documents_beside_the_calls_are_compared_too() -> None:
    one, other = Side(REGISTRY), Side(REGISTRY)
    of = ("bundle", "OCI", "config.json")
    for side, word in ((one, "hunter1"), (other, "hunter2")):
        side.add_document(of, {"process": {"env": [f"KEY={word}"]}}, {"process": {"env": ["KEY=*******"]}})
    assert list(differences(one, other)) == [
        Difference("field", *of, "process.env[KEY]", ("KEY=*******",), ("KEY=*******",))
    ]


def test_each_entry_of_a_list_is_shown_as_itself() -> None:
    """The last one stood there for all."""
    one, other = Side(REGISTRY), Side(REGISTRY)
    of = ("bundle", "OCI", "config.json")
    for side, words in ((one, ["sh", "-c"]), (other, ["ls", "-l"])):
        plain, masked = ({"args": words, "env": [f"KEY={secret}"]} for secret in ("hunter2", "*******"))
        side.add_document(of, plain, masked)
    one.add_document(of, document := {"args": ["env"]}, document)
    assert list(differences(one, other)) == [Difference("field", *of, "args[]", ("sh", "-c", "env"), ("ls", "-l"))]


class TestCommand:
    POD = str(CAPTURES / "ctrd2-pod.pcapng.gz")
    OLD = str(CAPTURES / "ctrd16-pod.pcapng.gz")

    def test_two_versions_of_a_runtime(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["diff", self.OLD, self.POD]) == 0
        lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert lines[0] == "calls"
        assert "+ task Pause 0 → 1" in lines
        assert "- cri ListPodSandboxMetrics 1 UNIMPLEMENTED → none" in lines
        assert not any(line.startswith("- task Create ") for line in lines)  # version 2 is compared as version 3

    def test_a_capture_and_itself(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["diff", self.POD, self.POD]) == 0
        assert capsys.readouterr() == ("", "podwire: no difference\n")

    def test_two_pods_of_one_capture(self, capsys: pytest.CaptureFixture[str]) -> None:
        busy = str(CAPTURES / "ctrd2-busy.pcapng.gz")
        assert main(["diff", busy, busy, "--pods", "default/busy1", "default/busy2", "--json"]) == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        names = [
            each for each in found if each.get("path") == "config.metadata.name" and each["method"] == "RunPodSandbox"
        ]
        assert [(each["before"], each["after"]) for each in names] == [(["busy1"], ["busy2"])]
        assert not any("ImageFsInfo" in each["method"] for each in found)

    def test_a_pod_that_is_not_there_is_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["diff", self.POD, self.POD, "--pods", "a/b", "c/d"]) == 2
        assert f"{self.POD}: no pod is called a/b" in capsys.readouterr().err

    def test_a_pod_is_called_as_a_story_has_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["diff", self.POD, self.POD, "--pods", "pod1", "9f57c2b6"]) == 0
        assert capsys.readouterr() == ("", "podwire: no difference\n")
        assert main(["diff", self.POD, self.POD, "--pods", "pod1", "9f5"]) == 2
        assert "no pod is called 9f5" in capsys.readouterr().err

    def test_its_keys_are_documented(self, capsys: pytest.CaptureFixture[str]) -> None:
        section = DOC.read_text().split("## podwire diff --json")[1].split("\n## ")[0]
        documented = {line.split("`")[1] for line in section.splitlines() if line.startswith("| `")}
        assert main(["diff", "--json", self.OLD, self.POD]) == 0
        shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert set().union(*shown) == documented
