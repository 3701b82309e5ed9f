"""What the writer writes, in the programs that people open it with: tshark, tcpdump, capinfos."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tracer.capture.files import START, Capture, small_capture
from tracer.capture import conversation
from tracer.capture.packets import MAX_PAYLOAD

BAD = "_ws.malformed || tcp.analysis.flags || tcp.checksum.status == 0 || ip.checksum.status == 0"
CHECKED = ("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")


def run(home: Path, program: str, *arguments: str) -> str:
    """Return what a program prints; it must end well. Skips the test where there is no such program."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "TZ": "UTC"}
    done = subprocess.run([path, *arguments], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tshark(path: Path, *arguments: str) -> list[str]:
    return run(path.parent, "tshark", "-r", str(path), *arguments).splitlines()


def written(folder: Path, data: bytes) -> Path:
    path = folder / "x.pcapng"
    path.write_bytes(data)
    return path


def busy(connections: int = 12) -> Capture:
    """Connections of every kind of end, on one hop, with messages of all sizes up to 16 MiB."""
    capture = Capture("task")
    sizes = [1, 24, 65_494, 1, 65_495, 65_496, 40, 300_000]
    for conn in range(connections):
        capture.open(conn)
        places = [0, 0]
        for turn, size in enumerate([*sizes[conn % 8 :], *sizes, 16 << 20 if conn == 3 else 5]):
            direction = (turn // 2 + conn) & 1
            capture.data(direction, places[direction], bytes(size), conn)
            places[direction] += size
        first = conn & 1
        if conn % 4 < 3:
            capture.close(first, places[first], reset=conn % 4 == 2, conn=conn)
            capture.data(1 - first, places[1 - first], b"still here", conn)
            capture.close(1 - first, places[1 - first] + 10, conn=conn)
    return capture


@pytest.mark.tshark
def test_tshark_finds_nothing_to_complain_of_at_any_size_and_end(tmp_path: Path) -> None:
    capture = busy()
    path = written(tmp_path, capture.finish())
    assert tshark(path, *CHECKED, "-Y", BAD) == []
    assert len(tshark(path, "-T", "fields", "-e", "frame.number")) == capture.writer.packets


@pytest.mark.tshark
def test_tcpdump_and_capinfos_read_to_the_end(tmp_path: Path) -> None:
    capture = busy()
    capture.socket = capture.writer.interface("/run/later.sock", "task /run/later.sock")
    capture.open(99)
    path = written(tmp_path, capture.finish())
    assert len(run(tmp_path, "tcpdump", "-nr", str(path)).splitlines()) == capture.writer.packets
    told = run(tmp_path, "capinfos", "-M", str(path))
    assert f"Number of packets:   {capture.writer.packets}" in told
    assert "File encapsulation:  ether" in told
    assert "Name = /run/later.sock" in told
    assert "Description = task /run/test.sock" in told
    assert "Capture application: podwire " in told
    assert "Capture comment:     a test" in told


@pytest.mark.tshark
def test_a_gap_shows_as_a_lost_segment_of_its_exact_size(tmp_path: Path) -> None:
    capture = Capture().open().data(0, 0, bytes(100)).data(0, 5_100, bytes(10)).data(0, 5_110, bytes(10))
    path = written(tmp_path, capture.data(1, 0, b"answer").finish())
    fields = ["-T", "fields", "-e", "frame.number", "-e", "tcp.seq", "-e", "tcp.nxtseq"]
    before, *_ = tshark(path, *fields, "-Y", "frame.number == 4")
    (lost,) = tshark(path, *fields, "-Y", "tcp.analysis.lost_segment")
    assert lost.split("\t")[0] == "5"
    assert int(lost.split("\t")[1]) - int(before.split("\t")[2]) == 5_000


@pytest.mark.tshark
def test_sequence_numbers_that_wrap_are_no_complaint(tmp_path: Path) -> None:
    capture = Capture().open()
    near = (1 << 32) - 3 * MAX_PAYLOAD
    capture.data(0, near, b"x")  # all before it is a gap, made in several steps
    begin = capture.writer.packets
    for number in range(8):
        capture.data(0, near + 1 + number * MAX_PAYLOAD, bytes(MAX_PAYLOAD))
        capture.data(1, number, b"y")
    path = written(tmp_path, capture.close(0, near + 1 + 8 * MAX_PAYLOAD).close(1, 8).finish())
    complaints = tshark(path, *CHECKED, "-Y", f"({BAD}) && frame.number > {begin + 2}")
    assert complaints == []


@pytest.mark.tshark
def test_more_connections_than_ports_never_reuse_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "LAST_PORT", conversation.FIRST_PORT + 9)
    capture = Capture()
    for conn in range(35):
        capture.open(conn).data(0, 0, b"hello", conn).close(0, 5, conn=conn).close(1, 0, conn=conn)
    path = written(tmp_path, capture.finish())
    assert tshark(path, "-Y", BAD) == []
    found = tshark(path, "-T", "fields", "-e", "tcp.stream", "-Y", "tcp.flags.syn == 1 && tcp.flags.ack == 0")
    assert len(set(found)) == 35


@pytest.mark.tshark
def test_names_comments_and_times_show_in_tshark(tmp_path: Path) -> None:
    path = written(tmp_path, small_capture())
    first = tshark(path, "-N", "n", "-c", "1")[0]
    assert "kubelet" in first
    assert "containerd" in first
    (about,) = tshark(path, "-c", "1", "-T", "fields", "-e", "frame.comment")
    assert about.startswith('{"podwire":1,"hop":"cri"')
    (time,) = tshark(path, "-c", "1", "-T", "fields", "-e", "frame.time_epoch")
    assert time == f"{START // 10**9}.{START % 10**9:09}"


@pytest.mark.tshark
def test_a_gap_shows_its_drops(tmp_path: Path) -> None:
    capture = Capture().open().data(0, 0, b"x")
    capture.writer.drop(1, 3)
    path = written(tmp_path, capture.data(0, 10, b"y").finish())
    (dropped,) = tshark(path, "-T", "fields", "-e", "frame.drop_count", "-Y", "frame.drop_count")
    assert dropped == "3"
