"""`podwire export`: parts of real captures stand alone, and every form has the same calls."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dissectors.ttrpc_frames import build_frame
from tests.dissectors.test_wireshark import REQUEST as TYPE_REQUEST
from tests.dissectors.test_wireshark import request, response
from tests.tracer.capture.files import START, Capture
from tests.tracer.capture.test_tools import BAD, tshark
from tracer.cli import main

ROOT = Path(__file__).parents[3]
CAPTURES = ROOT / "captures"
POD = CAPTURES / "ctrd2-pod.pcapng.gz"
NRI = CAPTURES / "ctrd2-nri.pcapng.gz"
CORRELATED = ("pod", "container", "exec", "image", "parent", "outlives_parent", "children")
"""What other calls say of it, which need not be in a part."""
OTHER = ("call", "connection", "client", "server", "messages", "time", "duration_ns", *CORRELATED)
"""Keys of a call that may differ in another file."""


def podwire(*words: str | Path, data: bytes = b"") -> bytes:
    command = [sys.executable, "-m", "tracer.cli", *map(str, words)]
    done = subprocess.run(command, input=data, capture_output=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def told(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def decoded(path: Path) -> list[dict[str, Any]]:
    return told(podwire("decode", "--json", path))


def same(call: dict[str, Any]) -> str:
    """What has to be the same of a call in an export."""
    bodies = [(each["direction"], each["length"], each.get("body")) for each in call["messages"]]
    kept = {name: value for name, value in call.items() if name not in OTHER}
    return json.dumps([kept, call["time"], call["duration_ns"], bodies], sort_keys=True)


def ends(call: dict[str, Any]) -> float:
    return float("inf") if call["duration_ns"] is None else begins(call) + call["duration_ns"] / 1e9


def begins(call: dict[str, Any]) -> float:
    from datetime import datetime

    return datetime.fromisoformat(call["time"][:26]).timestamp() - START / 1e9


def numbered(call: dict[str, Any]) -> tuple[Any, ...]:
    """What tells a call from others, in any export."""
    return call["service"], call["method"], call["stream"], call["time"]


@pytest.mark.parametrize("path", [POD, NRI])
def test_a_whole_capture_has_the_same_calls(path: Path, tmp_path: Path) -> None:
    whole = tmp_path / "x.pcapng"
    podwire("export", path, "-o", whole)
    assert [same(call) for call in decoded(whole)] == [same(call) for call in decoded(path)]


@pytest.mark.parametrize("path", [POD, NRI])
@pytest.mark.parametrize(("since", "until"), [(1.0, 3.0), (2.9, 4.4), (0.9142, 0.9145), (6.0, 60.0)])
def test_a_cut_capture_has_the_calls_of_its_time_as_they_were(
    path: Path, since: float, until: float, tmp_path: Path
) -> None:
    cut = tmp_path / "x.pcapng"
    podwire("export", path, "-o", cut, "--since", since, "--until", until)
    before = {numbered(call): call for call in decoded(path)}
    first = min(begins(call) for call in before.values())
    found = decoded(cut)
    assert [each for each in found if each["kind"] != "call"] == []
    for call in found:
        original = before[numbered(call)]
        assert (
            begins(original) > first + since - 0.01 if call["seen_start"] else begins(original) < first + since + 0.01
        )
        assert begins(original) < first + until + 0.01
        if ends(original) > first + until + 0.01:
            assert call["state"] == "open"
        if ends(original) <= first + until - 0.01:
            assert call["status"] == original["status"]
            assert call["state"] == original["state"]
        if call["seen_start"] and call["duration_ns"] is not None:
            assert same(call) == same(original)
    wanted = {
        key
        for key, call in before.items()
        if begins(call) <= first + until - 0.01 and ends(call) >= first + since + 0.01
    }
    assert wanted <= {numbered(call) for call in found}


@pytest.mark.tshark
def test_tshark_has_no_complaint_about_a_cut_capture(tmp_path: Path) -> None:
    cut = tmp_path / "x.pcapng"
    podwire("export", POD, "-o", cut, "--since", 2.9, "--until", 4.4)
    assert tshark(cut, "-Y", BAD) == []
    assert b"no difference" in subprocess.run(
        [sys.executable, "-m", "tracer.cli", "verify", str(cut)], capture_output=True, cwd=ROOT, check=False
    ).stderr  # fmt: skip


def test_one_hop_alone(tmp_path: Path) -> None:
    only = tmp_path / "x.pcapng"
    podwire("export", POD, "-o", only, "--hop", "events")
    events = [call for call in decoded(POD) if call["hop"] == "events"]
    assert events
    assert [same(call) for call in decoded(only)] == [same(call) for call in events]


def test_what_matches_has_its_connections_and_its_time_alone(tmp_path: Path) -> None:
    found = tmp_path / "x.pcapng"
    podwire("export", POD, "-o", found, "-Y", 'call.method == "ExecSync"')
    wanted = [call for call in decoded(POD) if call["method"] == "ExecSync"]
    calls = decoded(found)
    assert [same(call) for call in calls if call["method"] == "ExecSync"] == [same(call) for call in wanted]
    assert {call["hop"] for call in calls} == {"cri"}
    assert len(calls) < 2 * len(wanted)


def test_a_filter_that_asks_for_the_pod_matches_in_a_capture_too(tmp_path: Path) -> None:
    """Nothing matched: the calls had no places."""
    found = tmp_path / "x.pcapng"
    podwire("export", POD, "-o", found, "-Y", 'call.pod == "kube-test/pod2" && call.hop == "task"')
    wanted = [call for call in decoded(POD) if call.get("pod", {}).get("name") == "pod2" and call["hop"] == "task"]
    calls = decoded(found)
    assert wanted
    assert {numbered(call) for call in wanted} <= {numbered(call) for call in calls}
    assert {call["hop"] for call in calls} == {"task"}


def test_a_pipe_is_read_and_written() -> None:
    plain = gzip.decompress(POD.read_bytes())
    out = podwire("export", "-", "--hop", "task", data=plain)
    assert out.startswith(b"\n\r\r\n")
    assert len(told(podwire("decode", "--json", "-", data=out))) == sum(call["hop"] == "task" for call in decoded(POD))


def test_pcap_has_the_same_packets(tmp_path: Path) -> None:
    plain, ng = tmp_path / "x.pcap", tmp_path / "x.pcapng"
    podwire("export", NRI, "-o", plain)
    podwire("export", NRI, "-o", ng)
    assert plain.read_bytes()[:4] == b"\x4d\x3c\xb2\xa1"
    names = [[numbered(call) for call in decoded(path)] for path in (plain, ng)]
    assert names[0] == names[1]
    assert names[0]


def test_calls_as_text_and_as_json_lines_are_those_of_decode(tmp_path: Path) -> None:
    assert podwire("export", POD, "--to", "json") == podwire("decode", "--json", POD)
    assert podwire("export", POD, "--to", "text", "--utc") == podwire("decode", "--utc", POD)
    late = tmp_path / "x.jsonl"
    podwire("export", POD, "-o", late, "--hop", "task", "--since", 6)
    calls, first = told(late.read_bytes()), min(map(begins, decoded(POD)))
    assert {call["hop"] for call in calls} == {"task"}
    assert min(map(ends, calls)) >= first + 6
    assert len(calls) == sum(call["hop"] == "task" and ends(call) >= first + 6 for call in decoded(POD))


def test_har_has_an_entry_for_each_call() -> None:
    document = json.loads(podwire("export", NRI, "--to", "har"))
    calls = decoded(NRI)
    assert [entry["_podwire"] for entry in document["log"]["entries"]] == calls
    state = next(entry for entry in document["log"]["entries"] if entry["_podwire"]["method"] == "State")
    assert state["request"]["url"].startswith("ttrpc:///run/containerd/s/")
    assert json.loads(state["request"]["postData"]["text"])["id"]
    assert (state["response"]["status"], state["response"]["statusText"]) == (200, "OK")
    assert json.loads(podwire("export", NRI, "--to", "har", "--hop", "agent"))["log"]["entries"] == []


def test_a_side_that_had_closed_before_is_closed_in_the_cut(tmp_path: Path) -> None:
    capture = Capture("task").open().data(0, 0, request(1), after_ns=1)
    capture.close(0, len(request(1)))
    path = tmp_path / "x.pcapng"
    capture.data(1, 0, response(1), after_ns=2_000_000_000).close(1, len(response(1)))
    path.write_bytes(capture.finish())
    cut = tmp_path / "y.pcapng"
    podwire("export", path, "-o", cut, "--since", 1)
    (call,) = decoded(cut)
    assert (call["state"], call["seen_start"]) == ("ended", False)
    assert call["note"] == "answered after the client closed the connection"


def test_a_gap_stays_one_of_its_size(tmp_path: Path) -> None:
    capture = Capture("task").open().data(0, 0, request(1)).data(0, len(request(1)) + 500, request(3))
    path, whole = tmp_path / "x.pcapng", tmp_path / "y.pcapng"
    path.write_bytes(capture.data(1, 0, build_frame(9, TYPE_REQUEST, 0, b"")).finish())
    podwire("export", path, "-o", whole)
    gaps = [[each["length"] for each in decoded(one) if each["kind"] == "gap"] for one in (path, whole)]
    assert gaps[0] == gaps[1]
    assert 500 in gaps[0]
    entries = json.loads(podwire("export", path, "--to", "har"))["log"]["entries"]
    assert [entry["_podwire"]["kind"] for entry in entries] == ["call"] * 2


@pytest.mark.parametrize(
    "words",
    [
        ("-o", "x.what"),
        ("-o", "/nowhere/x.pcapng"),
        ("--to", "har", "-Y", "call.nothing == 1"),
        ("-o", str(POD), "--to", "pcap"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(POD), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("podwire: ")
    assert error.count("\n") == 1


def test_what_matches_cannot_be_cut_out_of_a_pipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["export", "-", "-o", str(tmp_path / "x.pcap"), "-Y", "true"]) == 2
    assert "pipe" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("stats",), ("export", "--no-comments", "-o", "OUT"), ("export", "-o", "OUT.txt")])
def test_on_a_terminal_it_is_shown_how_far_the_reading_of_a_large_file_is(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / ("x.txt" if "OUT.txt" in words else "x.pcapng")
    terminal, shown = pty.openpty()
    with os.fdopen(terminal, "rb", 0) as screen, os.fdopen(shown, "w") as stream:
        monkeypatch.setattr("tracer.cli.decode.PROGRESS_BYTES", 1)
        monkeypatch.setattr("tracer.cli.decode.PROGRESS_PACKETS", 500)
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, stream)
        assert main([words[0], str(POD), *(str(out) if word.startswith("OUT") else word for word in words[1:])]) == 0
        stream.flush()
        told = b""
        while select.select([screen], [], [], 0.5)[0]:  # the kernel hands it on by and by
            told += screen.read(60_000)
    assert re.findall(rb"\r *\d+ %", told)
    assert b"\r     \r" in told
