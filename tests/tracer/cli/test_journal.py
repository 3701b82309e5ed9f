"""--journal FILE: a log beside a capture is shown between its calls, goes into an exported one, and is masked there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.tracer.made import MS, START
from tests.tracer.written import Written
from tracer.capture.packets import Packet
from tracer.capture.reader import open_capture
from tracer.cli import main

SECRET = "hunter2-it-is"
RECORDED = Path(__file__).parents[3] / "captures" / "own16-journal.pcapng.gz"


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Two calls, at 0 and at 20 ms, which take 10 ms."""
    written = Written()
    written.open(1)
    for stream, at in ((1, 0), (3, 20 * MS)):
        written.ask(1, stream, "State", at, id="3c" * 32)
        written.answer(1, stream, at + 10 * MS)
    return written.save(tmp_path / "x.pcapng", 40 * MS)


def export_format(*lines: tuple[int, str, str]) -> bytes:
    """Entries: milliseconds after START, who, what."""
    parts = [
        f"__REALTIME_TIMESTAMP={(START + at * MS) // 1000}\nSYSLOG_IDENTIFIER={who}\n_PID=7\nMESSAGE={what}\n\n"
        for at, who, what in lines
    ]
    return "".join(parts).encode()


JOURNAL = export_format(
    (-1, "containerd", "before the capture"),
    (5, "containerd", f'level=info msg="api_key={SECRET}"'),
    (15, "sshd", "of another program"),
    (25, "kubelet", "second"),
    (31, "kubelet", "after the last packet"),
)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.export"
    path.write_bytes(JOURNAL)
    return path


def said(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> tuple[list[str], str]:
    assert main([str(each) for each in arguments]) == status
    out, err = capsys.readouterr()
    return out.splitlines(), err


def of(lines: list[str]) -> list[str]:
    """What each line is of."""
    return ["log" if line[16:].startswith("* log") else "call" for line in lines]


def test_decode_shows_the_lines_of_runtimes_in_the_time_of_the_capture(
    capture: Path, journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, err = said(capsys, "decode", capture, "--journal", journal)
    assert (of(lines), err) == (["log", "call", "log", "call"], "")
    assert lines[0].endswith(f"containerd[7]        info       api_key={'*' * len(SECRET)}")
    assert lines[2].endswith("kubelet[7]                      second")
    shown, _ = said(capsys, "decode", capture, "--journal", journal, "--show-secrets")
    assert lines[0][:-13] + SECRET == shown[0]


def test_a_log_of_containerd_goes_too(capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "containerd.log"
    log.write_text('time="2026-11-23T14:58:01.005000000Z" level=error msg="no such shim" id=' + "3c" * 32 + "\n")
    lines, _ = said(capsys, "decode", "--json", capture, "--journal", log)
    told: dict[str, Any] = json.loads(lines[0])
    assert (told["kind"], told["level"], told["container"]) == ("log", "error", {"id": "3c" * 32})


def test_a_story_has_the_lines_that_name_its_pod(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = tmp_path / "calls.pcapng"
    said(capsys, "export", RECORDED, "-o", calls, "--hop", "cri")
    log = tmp_path / "containerd.log"
    lines = [json.loads(line) for line in said(capsys, "decode", "--json", RECORDED)[0] if '"kind":"log"' in line]
    log.write_text("".join(line["text"] + "\n" for line in lines if line["source"] == "containerd"))
    story, _ = said(capsys, "story", "default/logged", calls, "--journal", log)
    assert sum(" * log    containerd " in line for line in story) == 37
    _, err = said(capsys, "story", "default/logged", calls, "--journal", log, "-Y", "call.failed", status=2)
    assert err.count("\n") == 1


def test_an_exported_capture_keeps_them_and_a_redacted_one_masks_them(
    capture: Path, journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged, clean = tmp_path / "merged.pcapng", tmp_path / "clean.pcapng"
    straight, _ = said(capsys, "decode", capture, "--journal", journal)
    said(capsys, "export", capture, "--journal", journal, "-o", merged)
    assert said(capsys, "decode", merged)[0] == straight
    _, err = said(capsys, "redact", merged, clean)
    assert "2 lines of logs: free text, masked where a name or its form tells a secret" in err
    assert said(capsys, "decode", clean)[0] == straight
    assert said(capsys, "decode", clean, "--show-secrets")[0] == straight
    assert SECRET.encode() in merged.read_bytes()
    assert SECRET.encode() not in clean.read_bytes()
    part = tmp_path / "part.pcapng"
    said(capsys, "export", merged, "--until", "0.024", "-o", part)
    assert of(said(capsys, "decode", part)[0]) == ["log", "call", "call"]
    said(capsys, "export", merged, "--hop", "task", "-o", part)
    assert of(said(capsys, "decode", part)[0]) == ["call", "call"]


@pytest.mark.tshark
@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_wireshark_shows_them_as_frames_between_the_packets(
    capture: Path, journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = tmp_path / "merged.pcapng"
    said(capsys, "export", capture, "--journal", journal, "-o", merged)
    done = subprocess.run(
        ["tshark", "-r", merged, "-T", "fields", "-e", "frame.number", "-e", "frame.time_epoch", "-e",
         "systemd_journal.message"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == [str(number) for number in range(1, len(rows) + 1)]
    messages = {row[2]: row[1] for row in rows if row[2]}
    assert [text.split("=")[0] for text in messages] == ["level", "second"]
    assert messages["second"] == "1795445881.025000000"
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"Nov 29 17:13:24 node sshd[1]: hello\n", "is no journal in the export format"),
        (b"", "is no journal in the export format"),
        (None, "no such file or directory"),
    ],
)
def test_what_is_no_log_is_refused(
    capture: Path, tmp_path: Path, content: bytes | None, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    if content is not None:
        path.write_bytes(content)
    lines, err = said(capsys, "decode", capture, "--journal", path, status=2)
    assert lines == []
    assert err.count("\n") == 1
    assert f"--journal {path}: " in err
    assert reason in err


@pytest.mark.parametrize(
    "options",
    [
        ("decode", "-Y", "call.failed"),
        ("export", "--hop", "task"),
        ("export", "--to", "pcap"),
        ("export", "--to", "json", "--since", "0"),
        ("decode", "-r", "-"),
    ],
)
def test_where_no_line_could_be_shown_the_option_is_refused(
    capture: Path, journal: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*options, *([] if "-r" in options else [capture]), "--journal", "-" if "-r" in options else journal]
    _, err = said(capsys, *arguments, status=2)
    assert err.count("\n") == 1


def test_a_journal_without_a_line_for_the_capture_is_told(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "j"
    path.write_bytes(export_format((5, "sshd", "x"), (6, "cron", "y")))
    lines, err = said(capsys, "decode", capture, "--journal", path)
    assert of(lines) == ["call", "call"]
    assert (
        err
        == f"--journal {path}: no line of a runtime's log in the time of the capture (2 lines are of other programs)\n"
    )


def times_of(path: Path) -> list[tuple[int, bool]]:
    """Of packets and lines, in the order of the file, and whether it is a line's."""
    with open_capture(str(path)) as capture:
        items = list(capture)
    return [
        (item.time_ns, False) if isinstance(item, Packet) else (item.entry.time_ns or 0, True)
        for item in items
        if isinstance(item, Packet) or item.entry is not None
    ]


def test_a_recorded_journal_s_lines_stand_within_the_calls_that_they_tell_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """captures/README.md says how it was made."""
    told = [json.loads(line) for line in said(capsys, "decode", "--json", RECORDED)[0]]
    assert Counter(each["kind"] for each in told) == {"call": 65, "log": 73}
    lines = [each for each in told if each["kind"] == "log"]
    assert Counter(line["source"] for line in lines) == {"containerd": 72, "kubelet": 1}
    calls = {each["method"]: each for each in told if each["kind"] == "call" and each["hop"] == "cri"}
    for method in ("RunPodSandbox", "CreateContainer", "StartContainer", "StopPodSandbox", "RemovePodSandbox"):
        call = calls[method]
        begin = datetime.fromisoformat(call["time"])
        end = begin + timedelta(microseconds=call["duration_ns"] / 1000)
        found = [line for line in lines if re.search(rf'msg="{method} (for|within|\\")', line["text"])]
        assert len(found) >= 2, method
        for line in found:
            assert begin <= datetime.fromisoformat(line["time"]) <= end, line["text"]
            assert line["pod"] == call["pod"]
    (kubelets,) = [line for line in lines if line["source"] == "kubelet"]
    assert kubelets["pod"]["name"] == "logged"
    assert kubelets["level"] == "info"
    assert sum("pod" in line for line in lines) == 37
    told_story, _ = said(capsys, "story", "default/logged", RECORDED)
    assert sum(" * log    " in line for line in told_story) == 38, "one names a container that was not known yet"
    page = tmp_path / "story.html"
    said(capsys, "story", "default/logged", RECORDED, "--html", page)
    assert page.read_text().count('class="log"') == 38
    ordered = tmp_path / "ordered.pcapng"
    said(capsys, "export", RECORDED, "-o", ordered)
    times, exported = times_of(RECORDED), times_of(ordered)
    assert [time_ns for time_ns, _ in times] != sorted(time_ns for time_ns, _ in times)
    assert [time_ns for time_ns, _ in exported] == sorted(time_ns for time_ns, _ in exported)
    assert sorted(time_ns for time_ns, is_line in exported if is_line) == sorted(
        time_ns for time_ns, is_line in times if is_line
    )
    clean = tmp_path / "clean.pcapng"
    said(capsys, "redact", RECORDED, clean)
    assert [json.loads(line) for line in said(capsys, "decode", "--json", clean, "--show-secrets")[0]] == told
