"""`podwire status`: what it says of a session that traces, one that drains, one that was killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tracer.cli.live import Start, client, run
from tests.tracer.cli.sessions import eventually, gone, kill_relay, of_folder, shim_is_known
from tests.tracer.output.test_jsonlines import documented
from tests.tracer.relay.harness import ask, connect
from tracer.capture.growing import newest
from tracer.cli import main
from tracer.cli.status import session_json, session_lines
from tracer.relay.held import Held
from tracer.relay.shared import RecorderState
from tracer.sessions import Counters, Part, Session

SANDBOX = "9f57c2b6405e1b5f9f57c2b6405e1b5f9f57c2b6405e1b5f9f57c2b6405e1b5f"
Detach = Callable[..., int]
Shim = Callable[[str], Path]


def status_of(session: int) -> dict[str, Any]:
    told = [json.loads(line) for line in run("status", "--json").stdout.splitlines()]
    (found,) = [each for each in told if each["session"] == session]
    return dict(found)


def text_of(session: int) -> list[str]:
    """The session's lines of the text."""
    lines = run("status").stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"podwire {session}: "))
    rest = [number for number, line in enumerate(lines) if number > start and line.startswith("podwire ")]
    return lines[start : rest[0] if rest else None]


def test_without_a_session_it_says_so_and_the_status_is_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tracer.relay.held.runtime_folder", lambda: str(tmp_path))
    assert main(["status"]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "podwire: no trace is running, and none drains\n")


def test_a_tracing_session_with_its_sockets_connections_capture_and_processes(
    folder: Path, server: Path, detach: Detach, shim: Shim
) -> None:
    session = detach()
    path = shim(SANDBOX)
    with client(server) as call, connect(path) as connection:
        call("Version")
        assert len(ask(connection, b"x" * 1000)) == 1000
        shim_is_known(folder, SANDBOX)
        eventually(lambda: status_of(session)["capture"]["packets"] >= 8, "the capture to have it")
        told = status_of(session)
        lines = text_of(session)
    assert told["state"] == "tracing"
    by_hop = {each["hop"]: each for each in told["connections"]}
    assert set(by_hop) == {"cri", "task"}
    task = by_hop["task"]
    assert (task["request_bytes"], task["response_bytes"], task["sandbox"]) == (1000, 1000, SANDBOX)
    assert {each["path"] for each in told["sockets"]} == {str(server), str(path)}
    assert {each["name"] for each in told["processes"] if each["alive"]} >= {"worker", "recorder"}
    assert told["capture"]["bytes"] <= Path(newest(told["capture"]["path"])).stat().st_size
    assert told["gaps"] == {"lost_bytes": 0, "lost_reads": 0, "dropped_bytes": 0, "dropped_connections": 0}
    assert told["troubles"] == []
    assert f"  task      {folder}/s: sockets as they appear" in lines
    assert f"  cri       {server}: 1 connection" in lines
    assert f"  task      {path}: 1 connection, sandbox {SANDBOX[:13]}" in lines
    assert "  gaps      none" in lines
    assert any(line.startswith("  relay     worker ") for line in lines)


def test_a_draining_session_names_what_drains_and_is_gone_with_its_last_connection(
    folder: Path, trace: Start, shim: Shim
) -> None:
    traced = trace("-w", str(folder / "x.pcapng"))
    path = shim(SANDBOX)
    with connect(path) as connection:
        ask(connection, b"x" * 10)
        (session,) = of_folder(folder)
        shim_is_known(folder, SANDBOX)
        assert traced.interrupt() == 0
        ask(connection, b"x" * 20)
        told = status_of(session.pid)
        assert told["state"] == "draining"
        assert [(each["hop"], each["socket"], each["sandbox"]) for each in told["connections"]] == [
            ("task", str(path), SANDBOX)
        ]
        assert not told["capture"]["recording"]
        wanted = f"  draining  task {path}: connection 1, sandbox {SANDBOX[:13]}, 30 B sent, 30 B answered"
        assert wanted in text_of(session.pid)
        assert run("status").returncode == 0
    gone(session.pid)


def test_a_session_that_was_killed_is_amiss(server: Path, detach: Detach) -> None:
    session = detach()
    kill_relay(session)
    done = run("status")
    assert done.returncode == 1
    lines = text_of(session)
    assert lines[0].startswith(f"podwire {session}: dead, since ")
    assert f"  cri       {server}: held when it was killed" in lines
    assert lines[-1].startswith(f"! podwire {session}: it was killed: every connection through cri {server} is lost")


HELD = Held("/run/podwire/7.json", 7, "/x.pcapng", True, since_ns=1_000_000_000)
COUNTERS = Counters(1, 100, 2, 3000, 40, 0, 0, 5, 6, 1, 2, RecorderState.RUNNING)


def test_gaps_direct_connections_and_deaths_are_said() -> None:
    session = Session(HELD, (), (Part("worker", 8, True),), COUNTERS)
    lines = session_lines(session, 3_500_000_000)
    assert lines[0].endswith(" (2.500s)")
    assert lines[1:] == [
        "  capture   /x.pcapng: 1 packet, 100 B, being written",
        "  gaps      3.0 kB in 2 reads found no room in the ring; 40 B did not get onto the disk",
        "  direct    5 connections went past the relay and were not seen",
        "  relay     worker 8; deaths so far: 1 worker, 2 recorders",
    ]
    told = session_json(session)
    assert told.keys() >= documented()["podwire status --json"].keys()
    assert told["gaps"] == {"lost_bytes": 3000, "lost_reads": 2, "dropped_bytes": 40, "dropped_connections": 0}
    assert (told["direct_connections"], told["worker_deaths"], told["recorder_deaths"]) == (5, 1, 2)


def test_a_missing_process_and_a_recorder_that_gave_up_are_amiss() -> None:
    parts = (Part("worker", 8, True), Part("holder", 9, False))
    session = Session(HELD, (), parts, COUNTERS)
    assert session.troubles == ["its holder (pid 9) is not there"]
    assert "  relay     worker 8, holder 9 (not there); deaths" in session_lines(session, 0)[4]
    failed = replace(COUNTERS, recorder=RecorderState.FAILED)
    assert Session(HELD, (), parts[:1], failed).troubles == [
        "its recorder gave up: the capture is not complete; traffic goes on"
    ]
