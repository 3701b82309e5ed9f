"""`podwire stuck`: which calls have no answer, how old they are, who waits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.tracer.made import MS, POD, SECOND
from tests.tracer.written import Written
from tracer.cli import main


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A Wait and a Delete before a hung Create and a hung Kill with a deadline; a State that was answered."""
    written = Written()
    written.open(1)
    written.open(2)
    written.ask(1, 1, "Wait", 0, id=POD)
    written.ask(2, 1, "Create", 200 * MS, timeout_ns=60 * SECOND, id=POD)
    written.ask(2, 3, "State", 300 * MS, id=POD)
    written.ask(1, 3, "Kill", 500 * MS, timeout_ns=2 * SECOND, id=POD, signal=15)
    written.answer(2, 3, 5 * SECOND)
    return written.save(tmp_path / "hung.pcapng", 5 * SECOND)


def test_calls_without_an_answer_are_listed_oldest_first_and_waiting_ones_last(
    capture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stuck", str(capture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "AGE     HOP   ID             CALL          DEADLINE           CALLER",
        "4.800s  task  9f57c2b6405e1  Create        in 55.200s         containerd (pid 401, containerd.service)",
        "4.500s  task  9f57c2b6405e1  Kill SIGTERM  passed 2.500s ago  containerd (pid 401, containerd.service)",
        "meant to wait (1):",
        "5.000s  task  9f57c2b6405e1  Wait          none               containerd (pid 401, containerd.service)",
    ]


def test_json_has_age_and_deadline_and_whether_it_is_meant_to_wait(
    capture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stuck", "--json", str(capture)]) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [
        (each["method"], each["state"], each["age_ns"], each.get("deadline_left_ns"), each["meant_to_wait"])
        for each in objects
    ] == [
        ("Create", "open", 4800 * MS, 55200 * MS, False),
        ("Kill", "open", 4500 * MS, -2500 * MS, False),
        ("Wait", "open", 5000 * MS, None, True),
    ]
    assert objects[0]["client"]["unit"] == "containerd.service"


def test_the_same_calls_are_open_at_the_end_of_the_decode(capture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", "--json", str(capture)]) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["method"], each["state"]) for each in objects] == [
        ("State", "ended"),
        ("Wait", "open"),
        ("Create", "open"),
        ("Kill", "open"),
    ]


def test_a_call_whose_client_is_gone_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = Written()
    written.open(1)
    written.ask(1, 1, "Create", 0, id=POD)
    written.close(1, 0, SECOND)
    path = written.save(tmp_path / "left.pcapng", SECOND)
    assert main(["stuck", str(path)]) == 0
    assert "Create (the client closed the connection)" in capsys.readouterr().out


def test_nothing_stuck_is_status_0_and_no_line_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = Written()
    written.open(1)
    written.ask(1, 1, "Create", 0, id=POD)
    written.answer(1, 1, MS)
    path = written.save(tmp_path / "fine.pcapng", SECOND)
    assert main(["stuck", str(path)]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "podwire: no call is without an answer\n")


def test_without_a_running_trace_and_without_a_file_it_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.relay.held.runtime_folder", lambda: str(tmp_path))
    assert main(["stuck"]) == 2
    assert capsys.readouterr().err == "podwire: no trace is running: podwire stuck FILE reads a capture\n"


def test_a_bad_file_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text"
    path.write_text("no capture at all\n" * 5)
    assert main(["stuck", str(path)]) == 2
    assert capsys.readouterr().err == f"podwire: {path}: is no pcapng or pcap file\n"


def test_a_call_stands_below_the_one_that_waits_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = Written()
    written.open(1, "cri", "/run/containerd/containerd.sock")
    written.open(2)
    tasks = "containerd.services.tasks.v1.Tasks"
    written.ask(1, 1, "Start", 0, timeout_ns=2 * SECOND, service=tasks, container_id=POD)
    written.ask(2, 1, "Start", 100 * MS, timeout_ns=60 * SECOND, id=POD)
    written.ask(2, 3, "Pids", 200 * MS, id=POD)
    written.ask(2, 5, "Stats", 300 * MS, id=POD)
    written.answer(2, 5, 5 * SECOND)
    path = written.save(tmp_path / "chain.pcapng", 5 * SECOND)
    assert main(["stuck", str(path)]) == 0
    lines = [re.split(r"  +", line)[3:5] for line in capsys.readouterr().out.splitlines()[1:]]
    assert lines == [
        ["Tasks/Start", "passed 3.000s ago"],
        ["└ Start (may wait longer than its caller)", "in 55.100s"],
        ["Pids", "none"],
    ]
    assert main(["stuck", "--json", str(path)]) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["method"], each["innermost"], each.get("parent")) for each in objects] == [
        ("Start", False, None),
        ("Start", True, {"call": 1, "how": "identity"}),
        ("Pids", True, None),
    ]
    assert objects[1]["outlives_parent"] is True
    assert objects[0]["children"] == [{"call": 2, "how": "identity"}]
    assert objects[1]["container"] == {"id": POD}
