"""Figures of calls: right percentiles in little memory, errors by status, whose they are, as text and JSON."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissectors.events import Event
from protos.registry import Registry
from tests.tracer.made import POD, REQUEST, RESPONSE, SECOND, START, TASK, ended, made_flow, message, opened, reset
from tests.tracer.written import Written
from tracer.calls import Call, CallTracker, Finding
from tracer.cli import main
from tracer.stats import MAX_GROUPS, OTHERS, By, Figures, Row, Statistics, _bucket, _highest
from tracer.story.correlate import Correlator

CAPTURES = Path(__file__).parents[2] / "captures"
DOC = Path(__file__).parents[2] / "docs" / "json.md"
REGISTRY = Registry.bundled()
CONTAINER = "c" * 64


def call(*events: Event, took: int = 1000, flow: Any = None) -> Call:
    tracker, on = CallTracker(), flow or made_flow()
    updates = tracker.feed(on, "grpc", START, list(events[:1]))
    tracker.feed(on, "grpc", START + took, list(events[1:]))
    assert not isinstance(updates[0], Finding)
    return updates[0].call


@given(st.integers(0, 1 << 62))
def test_a_bucket_is_a_hundredth_wide_at_most(length_ns: int) -> None:
    highest = _highest(_bucket(length_ns))
    assert length_ns <= highest <= length_ns + length_ns // 100
    assert _bucket(highest) == _bucket(length_ns)
    assert _bucket(highest + 1) == _bucket(length_ns) + 1


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_percentiles_are_those_of_the_list_within_a_hundredth(lengths: list[int], share: float) -> None:
    figures = Figures()
    flow = made_flow()
    for length in lengths:
        tracker = CallTracker()
        made = tracker.feed(flow, "grpc", START, [opened(1)])[0]
        tracker.feed(flow, "grpc", START + length, [ended(1)])
        figures.add(made.call)  # type: ignore[union-attr] # it opened
    exact = sorted(lengths)[max(0, -(-int(share * 100) * len(lengths) // 100) - 1)]
    found = figures.percentile(share)
    assert found is not None
    assert exact <= found <= exact + exact // 100
    assert figures.max_ns == max(lengths)


def test_memory_of_a_row_does_not_grow_with_its_calls() -> None:
    figures = Figures()
    for length in range(0, 10_000_000, 999):
        figures.buckets[_bucket(length)] += 1
    assert len(figures.buckets) < 128 * 24


def row_of(statistics: Statistics) -> Row:
    (row,) = statistics.rows()
    return row


def test_a_row_counts_calls_errors_bytes_and_what_is_open() -> None:
    statistics = Statistics(REGISTRY)
    for made in (
        call(opened(1), message(1, REQUEST, b"abc"), message(1, RESPONSE, b"de"), ended(1)),
        call(opened(1), ended(1, 5)),
        call(opened(1), ended(1, 5)),
        call(opened(1), ended(1, 2)),
        call(opened(1), reset(1, 8), took=SECOND),
        call(opened(1)),
    ):
        statistics.count(made)
    row = row_of(statistics)
    figures = row.figures
    assert (row.group, row.hop, row.method) == ("", "cri", "Version")
    assert (figures.calls, figures.open, figures.request_bytes, figures.response_bytes) == (6, 1, 3, 2)
    assert figures.errors == {"NOT_FOUND": 2, "UNKNOWN": 1, "cancelled": 1}
    assert figures.max_ns == SECOND
    assert figures.percentile(0.5) in range(1000, 1010)


def story(by: By) -> Counter[str]:
    """The calls by group, of a pod with one container, on two hops; its names come after its first calls."""
    make = lambda name, **fields: REGISTRY.message_class(name)(**fields).SerializeToString()  # noqa: E731 # short
    config = {"metadata": {"namespace": "shop", "name": "web-0"}}
    statistics, correlator, tracker = Statistics(REGISTRY, by), Correlator(REGISTRY), CallTracker()
    cri, shim, other = made_flow(), made_flow(2, "task"), made_flow(3, "task", socket="/run/containerd/s/x")
    run = make("runtime.v1.RunPodSandboxRequest", config=config)
    create = make("runtime.v1.CreateContainerRequest", pod_sandbox_id=POD)
    start = [make(f"{TASK[:-4]}StartRequest", id=identity) for identity in (CONTAINER, "x")]
    for flow, *events in (
        (cri, opened(1, "RunPodSandbox"), message(1, REQUEST, run)),
        (shim, opened(1, "Create", TASK), message(1, REQUEST, make(f"{TASK[:-4]}CreateTaskRequest", id=POD)), ended(1)),
        (cri, message(1, RESPONSE, make("runtime.v1.RunPodSandboxResponse", pod_sandbox_id=POD)), ended(1)),
        (cri, opened(3, "CreateContainer"), message(3, REQUEST, create)),
        (cri, message(3, RESPONSE, make("runtime.v1.CreateContainerResponse", container_id=CONTAINER)), ended(3)),
        (shim, opened(3, "Start", TASK), message(3, REQUEST, start[0]), ended(3)),
        (
            other,
            opened(5, "Start", TASK),
            message(5, REQUEST, start[1]),
            ended(5),
        ),
    ):
        for update in tracker.feed(flow, "grpc", START, list(events)):
            correlator.update(update)
            if update.kind == "ended":
                statistics.count(update.call)
    counted: Counter[str] = Counter()
    for row in statistics.rows():
        counted[row.group] += row.figures.calls
    return counted


def test_calls_are_counted_for_each_pod_container_or_peer() -> None:
    assert story("pod") == {"shop/web-0": 4, "x": 1}
    assert story("container") == {POD: 3, CONTAINER: 1, "x": 1}
    assert story("peer") == {"kubelet (812)": 5}


def test_groups_without_end_are_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.stats.MAX_GROUPS", 2)
    statistics = Statistics(REGISTRY, "peer")
    for number in range(5):
        flow = made_flow()
        flow.client = flow.client._replace(pid=number)
        statistics.count(call(opened(1), flow=flow))
    counted = {row.group: row.figures.calls for row in statistics.rows()}
    assert counted == {"kubelet (0)": 1, "kubelet (1)": 1, OTHERS: 3}
    assert MAX_GROUPS > 2


class TestCommand:
    def rows(self, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
        assert main(["stats", "--json", *words]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    def test_it_counts_what_decode_prints(self, capsys: pytest.CaptureFixture[str]) -> None:
        pod = str(CAPTURES / "ctrd2-pod.pcapng.gz")
        assert main(["decode", "--json", pod]) == 0
        calls = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        calls = [each for each in calls if each["kind"] == "call"]
        rows = self.rows(capsys, pod)
        keys = ("hop", "service", "method")
        assert {tuple(row[key] for key in keys): row["calls"] for row in rows} == Counter(
            tuple(each[key] for key in keys) for each in calls
        )
        for row in rows:
            of_row = [each for each in calls if all(each[key] == row[key] for key in keys)]
            assert row["request_bytes"] == sum(each["request_bytes"] for each in of_row)
            assert row["max_ns"] == max((each["duration_ns"] or 0 for each in of_row), default=None)
            failed = Counter(each["status"]["name"] for each in of_row if each["status"] and each["status"]["code"])
            assert {key: count for key, count in row["errors"].items() if key.isupper()} == failed

    def test_its_keys_are_documented(self, capsys: pytest.CaptureFixture[str]) -> None:
        section = DOC.read_text().split("## podwire stats --json")[1].split("\n## ")[0]
        documented = {line.split("`")[1] for line in section.splitlines() if line.startswith("| `")}
        shown = self.rows(capsys, "--by", "pod", str(CAPTURES / "own16-pod.pcapng.gz"))
        assert set(shown[0]) | {"container", "peer"} == documented

    def test_text_has_a_row_for_each_method(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        written = Written()
        written.open(1)
        written.ask(1, 1, "State", 0, id="one")
        written.answer(1, 1, 2_000_000, 5, "gone")
        written.ask(1, 3, "Wait", 0, id="one")
        path = str(written.save(tmp_path / "x.pcapng", SECOND))
        assert main(["stats", "--by", "container", path]) == 0
        table = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert table == [
            "CONTAINER HOP CALLS P50 P90 P99 MAX SENT RECEIVED OPEN METHOD ERRORS",
            "one task 1 2.000ms 2.000ms 2.000ms 2.000ms 5 B 0 B State 1 NOT_FOUND",
            "one task 1 5 B 0 B 1 Wait",
        ]

    def test_only_what_matches_is_counted(self, capsys: pytest.CaptureFixture[str]) -> None:
        pod = str(CAPTURES / "ctrd2-pod.pcapng.gz")
        rows = self.rows(capsys, "-Y", 'call.method == "CreateContainer"', pod)
        assert [row["method"] for row in rows] == ["CreateContainer"]

    def test_no_call_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = str(Written().save(tmp_path / "x.pcapng", 0))
        assert main(["stats", path]) == 0
        assert capsys.readouterr() == ("", "podwire: no call\n")
