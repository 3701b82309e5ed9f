"""`podwire grep` and `-Y`: calls that match, on each command, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tracer.made import SECOND
from tests.tracer.written import Written
from tracer.cli import main

CAPTURES = Path(__file__).parents[3] / "captures"
POD = str(CAPTURES / "ctrd2-pod.pcapng.gz")


def output(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(list(words)) == 0
    return capsys.readouterr().out.splitlines()


def test_grep_prints_the_calls_that_decode_prints_of_that_kind(capsys: pytest.CaptureFixture[str]) -> None:
    everything = output(capsys, "decode", "--json", POD)
    wanted = [line for line in everything if json.loads(line).get("method") == "CreateContainer"]
    assert len(wanted) > 3
    assert output(capsys, "grep", "--json", 'call.method == "CreateContainer"', POD) == wanted
    assert output(capsys, "decode", "--json", "-Y", 'call.method == "CreateContainer"', POD) == wanted
    lines = output(capsys, "grep", 'call.method == "CreateContainer"', POD)
    assert [("CreateContainer" in line) for line in lines] == [True] * len(wanted)


def test_the_file_may_stand_behind_options(capsys: pytest.CaptureFixture[str]) -> None:
    expected = output(capsys, "grep", "--json", "call.failed", POD)
    assert output(capsys, "grep", "call.failed", "--json", POD) == expected != []
    assert output(capsys, "grep", "call.failed", POD, "--json") == expected
    assert main(["grep", "call.failed", "--json", POD, "too-much"]) == 2
    assert main(["decode", "--jsn", POD]) == 2
    assert capsys.readouterr().out == ""


def test_calls_without_an_end_and_findings_are_left_out_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edge = str(CAPTURES / "ctrd2-edge.pcapng.gz")
    assert {json.loads(line)["kind"] for line in output(capsys, "decode", "--json", edge)} > {"call"}
    for form in ("--json", "--text"):
        assert output(capsys, "grep", form, "false", edge) == []
    written = Written()
    written.open(1)
    written.ask(1, 1, "State", 0, id="one")
    path = str(written.save(tmp_path / "open.pcapng", 3 * SECOND))
    for form in ("--json", "--text"):
        assert output(capsys, "grep", form, "call.open", path) != []
        assert output(capsys, "grep", form, "!call.open", path) == []


def test_calls_counted_are_those_that_match(capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("--json", "--text"):
        lines = output(capsys, "decode", form, "--calls", "2", "-Y", 'call.method == "CreateContainer"', POD)
        assert len([line for line in lines if "CreateContainer" in line]) == 2


def test_stuck_lists_what_matches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = Written()
    written.open(1)
    written.ask(1, 1, "State", 0, id="one")
    written.ask(1, 3, "Pids", 1, id="two")
    path = str(written.save(tmp_path / "open.pcapng", 3 * SECOND))
    lines = output(capsys, "stuck", "-Y", 'request.id == "two"', path)
    assert [line.split()[2] for line in lines] == ["ID", "two"]
    assert output(capsys, "stuck", "-Y", 'call.method == "Create"', path) == []


def test_of_how_many_calls_it_cannot_be_told_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grep", 'request.config.envs[99].key == "A"', POD]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "it cannot be told, no match: Index error: index=99" in said.err


@pytest.mark.parametrize("command", [
    ["decode", POD], ["stuck", POD], ["stats", POD], ["pods", POD], ["story", "pod1", POD], ["trace"], ["attach"],
])  # fmt: skip
def test_a_wrong_expression_is_refused_before_anything_is_done(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "-Y", "call.metod"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "podwire: filter: line 1, column 5: undeclared reference to 'call.metod'\n"


def test_grep_needs_an_expression_and_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["grep"], ["grep", "true"], ["grep", "true", POD, "-Y", "true"]):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_fields_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "call.method" in " ".join(output(capsys, "grep", "--fields"))
    assert "  request.pod_sandbox_id" in output(capsys, "grep", "--fields", "CreateContainer")


def test_calls_of_a_pod_and_of_a_container_are_found_on_each_hop(capsys: pytest.CaptureFixture[str]) -> None:
    busy = str(CAPTURES / "ctrd2-busy.pcapng.gz")
    found = [json.loads(line) for line in output(capsys, "grep", "--json", 'call.pod == "default/busy1"', busy)]
    assert {each["hop"] for each in found} == {"cri", "task", "events"}
    assert {each["pod"]["name"] for each in found} == {"busy1"}
    inside = 'call.pod == "default/busy1" && call.container == "b1c0"'
    found = [json.loads(line) for line in output(capsys, "grep", "--json", inside, busy)]
    assert {each["container"]["name"] for each in found} == {"b1c0"}
