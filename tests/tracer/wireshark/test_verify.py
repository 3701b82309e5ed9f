"""podwire and tshark read the same out of real captures; and where they do not, each difference is told."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tracer.cli import main
from tracer.wireshark.compare import Difference, compare
from tracer.wireshark.readings import Message, Reading, key_of

ROOT = Path(__file__).parents[3]
CAPTURES = ROOT / "captures"
KEY = key_of("a:1", "b:2", 0, 1)


def verify(*words: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")
    command = [sys.executable, "-m", "tracer.cli", "verify", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.tshark
@pytest.mark.parametrize("name", ["ctrd2-pod", "ctrd16-pod", "ctrd2-nri"])
def test_tshark_reads_the_same_out_of_a_real_runtimes_traffic(name: str) -> None:
    done = verify(CAPTURES / f"{name}.pcapng.gz")
    assert done.stdout == ""
    assert "no difference" in done.stderr
    assert done.returncode == 0


@pytest.mark.tshark
def test_tshark_reads_the_same_out_of_the_demo_its_calls_to_the_agent_among_them(tmp_path: Path) -> None:
    capture = tmp_path / "demo.pcapng"
    command = [sys.executable, "-m", "tracer.cli", "demo", "-w", str(capture)]
    subprocess.run(command, capture_output=True, cwd=ROOT, check=True, timeout=120)
    decoded = subprocess.run(
        [sys.executable, "-m", "tracer.cli", "decode", "--json", str(capture)],
        capture_output=True,
        cwd=ROOT,
        check=True,
    )
    assert {call["hop"] for call in map(json.loads, decoded.stdout.splitlines())} >= {"cri", "task", "events", "agent"}
    done = verify(capture)
    assert done.stdout == ""
    assert "no difference" in done.stderr


def reading(**changed: object) -> Reading:
    body = {"id": "x", "n": "5", "list": ["a", "b"], "inner": {"pid": 7, "@unknown": [{"field": 9}]}}
    made = Reading("S", "M", 0, ([Message(4, body)], [Message(0, {})]), "a:1")
    return dataclasses.replace(made, **changed)


def theirs(**changed: object) -> Reading:
    body = {"id": "x", "n": "5", "list": ["b", "a"], "inner": {"pid": 7, "@unknown": [9]}}
    made = Reading("S", "M", 0, ([Message(4, body)], [Message(0, {})]), "a:1")
    return dataclasses.replace(made, **changed)


def test_what_is_the_same_is_no_difference() -> None:
    assert compare({KEY: reading()}, {KEY: theirs()}) == []


@pytest.mark.parametrize(
    ("changed", "where", "podwire", "tshark"),
    [
        ({"service": "T"}, ": service", '"S"', '"T"'),
        ({"method": "N"}, ": method", '"M"', '"N"'),
        ({"status": 5}, ": status", "0", "5"),
        ({"client": "b:2"}, ": client", '"a:1"', '"b:2"'),
        ({"sides": ([], [Message(0, {})])}, ": requests", "1 messages", "0 messages"),
        ({"sides": ([Message(5, reading().sides[0][0].body)], [Message(0, {})])}, ": request 1: length", "4", "5"),
        ({"sides": (theirs().sides[0], [Message(0, {"pid": 1})])}, ": response 1 pid", "nothing", "1"),
        (
            {"sides": (theirs().sides[0], [Message(0, {"s": "t"})])},
            ": response 1 s",
            "nothing",
            "a text of 1 characters",
        ),
    ],
)
def test_each_kind_of_difference_is_told(changed: dict[str, object], where: str, podwire: str, tshark: str) -> None:
    found = [each for each in compare({KEY: reading()}, {KEY: theirs(**changed)}) if "unknown" not in each.where]
    assert found == [Difference(f"S/M (a:1 – b:2 stream 1){where}", podwire, tshark)]


@pytest.mark.parametrize(
    ("name", "value"), [("id", "y"), ("n", "6"), ("list", ["a"]), ("inner", {"pid": 8, "@unknown": [9]})]
)
def test_a_value_that_differs_is_told(name: str, value: object) -> None:
    other = theirs()
    other.sides[0][0].body[name] = value
    (found,) = compare({KEY: reading()}, {KEY: other}, show_secrets=True)
    assert found.where.startswith(f"S/M (a:1 – b:2 stream 1): request 1 {name}")


def test_calls_that_only_one_has_are_told() -> None:
    assert [each.tshark for each in compare({KEY: reading()}, {})] == ["none"]
    assert [each.podwire for each in compare({}, {KEY: theirs()})] == ["none"]


def test_a_long_stream_of_which_podwire_kept_a_part_is_not_compared_by_its_messages() -> None:
    assert compare({KEY: reading(whole=False)}, {KEY: theirs(sides=([], []))}) == []


def test_without_tshark_or_without_calls_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["verify", str(CAPTURES / "ctrd2-pod.pcapng.gz")]) == 2
    assert capsys.readouterr().err == "podwire: tshark is not installed\n"
