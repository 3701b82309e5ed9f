"""Disks that are full or slow: traffic does not notice, and the capture says what it lacks."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.killing import processes_of
from tests.tracer.cli.live import COMMAND, Trace, run
from tests.tracer.relay.harness import connect
from tracer.capture.flows import FlowData, FlowGap, FlowTable
from tracer.capture.packets import Notice, Packet
from tracer.capture.reader import open_capture
from tracer.sessions import Counters, Session, read_sessions

MB = 1_000_000


@contextmanager
def sink(path: Path) -> Iterator[None]:
    """A server that reads a number, then so many bytes, and answers with their SHA-256."""

    def serve(connection: socket.socket) -> None:
        with connection:
            while head := connection.recv(8, socket.MSG_WAITALL):
                left, digest = int.from_bytes(head, "big"), hashlib.sha256()
                while left:
                    data = connection.recv(min(left, 1 << 18))
                    digest.update(data)
                    left -= len(data)
                connection.sendall(digest.digest())

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


BLOCK = random.Random(3).randbytes(MB)


def send(client: socket.socket, size: int) -> int:
    """Send so many million bytes, all different; what arrived is what was sent. Returns the bytes that passed."""
    digest = hashlib.sha256()
    client.sendall((size * MB).to_bytes(8, "big"))
    for number in range(size):
        data = number.to_bytes(8, "big") + BLOCK[8:]
        digest.update(data)
        client.sendall(data)
    assert client.recv(32, socket.MSG_WAITALL) == digest.digest()
    return 8 + size * MB + 32


@pytest.fixture
def folder(run_folder: Path) -> Path:
    return run_folder


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8000k,mode=700", "podwire-test", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@contextmanager
def traced(folder: Path, *options: str) -> Iterator[tuple[Trace, socket.socket]]:
    path = folder / "s.sock"
    with sink(path):
        trace = Trace(folder, "--socket", f"cri={path}", "--socket", f"task={folder}/s", *options)
        try:
            with connect(path, 60) as client:
                yield trace, client
        finally:
            trace.close()


def session() -> Session:
    (found,) = read_sessions()
    return found


def counters() -> Counters:
    found = session().counters
    assert found is not None
    return found


def read(items: list[Packet | Notice]) -> tuple[int, int, list[str]]:
    """Bytes in the capture, bytes that it says are missing, and its notices."""
    table, here, missing = FlowTable(), 0, 0
    notices = []
    for item in items:
        if isinstance(item, Notice):
            notices.append(item.text)
            continue
        for event in table.feed(item):
            if isinstance(event, FlowData):
                here += len(event.data)
            elif isinstance(event, FlowGap):
                missing += event.count
    return here, missing, notices


def read_file(path: Path) -> tuple[int, int, list[str]]:
    with open_capture(str(path)) as file:
        return read(list(file))


@pytest.mark.parametrize(
    ("options", "why", "free"),
    [
        ([], "are to stay so", 80_000),
        (["--min-free", "20%"], "are to stay so", 1_600_000),
        (["--min-free", "0"], "full", 0),
    ],
    ids=["one per cent", "20 per cent", "full"],
)
def test_a_full_disk_pauses_the_capture_and_not_the_traffic(
    folder: Path, small_disk: Path, options: list[str], why: str, free: int
) -> None:
    capture, filler = small_disk / "x.pcapng", small_disk / "filler"
    filler.write_bytes(bytes(4 * MB))
    with traced(folder, "-w", str(capture), *options) as (trace, client):
        passed = send(client, 10)
        trace.wait_for(lambda: any("the capture's disk" in line and why in line for line in trace.said()))
        passed += send(client, 5)
        trace.wait_for(lambda: counters().dropped_bytes > 5 * MB)
        status = run("status")
        assert status.returncode == 1
        assert "paused since" in status.stdout
        assert "MB did not get onto the disk" in status.stdout
        assert json.loads(run("status", "--json").stdout)["capture"]["paused"] is True
        now = os.statvfs(small_disk)
        assert free <= now.f_bavail * now.f_frsize < free + MB
        filler.unlink()
        trace.wait_for(lambda: any("the capture goes on; paused for" in line for line in trace.said()))
        passed += send(client, 1)
        assert not session().troubles
        dropped = counters().dropped_bytes
        assert trace.interrupt() == 0
    here, missing, (note,) = read_file(capture)
    assert here + missing == passed
    assert missing == dropped > 10 * MB
    assert note.startswith("paused for ")
    lines = run("decode", str(capture)).stdout.splitlines()
    assert [line for line in lines if " notice, capture at byte " in line and note in line]
    assert sum(int(line.split(" gap ")[1].split()[0]) for line in lines if line.endswith(": lost")) == missing
    tshark = ["tshark", "-r", capture, "-Y", "tcp.analysis.lost_segment"]
    assert subprocess.run(tshark, capture_output=True, text=True, check=True).stdout


def test_a_recorder_stopped_for_five_seconds_costs_capture_and_no_traffic(folder: Path) -> None:
    capture = folder / "x.pcapng"
    with traced(folder, "-w", str(capture)) as (trace, client):
        (recorder,) = [pid for pid, name in processes_of(session().pid).items() if name == "podwire-record"]
        until = time.monotonic() + 5
        os.kill(recorder, signal.SIGSTOP)
        try:
            passed = send(client, 100)
            time.sleep(max(0, until - time.monotonic()))
        finally:
            os.kill(recorder, signal.SIGCONT)
        until = time.monotonic() + 30
        while sum(read_file(capture)[:2]) != passed:  # what is lost shows once something comes after it
            assert time.monotonic() < until
            passed += send(client, 0)
            time.sleep(0.1)
        lost = counters().lost_bytes
        status = run("status").stdout
        assert trace.interrupt() == 0
    here, missing, _ = read_file(capture)
    assert here + missing == passed
    assert missing == lost > 50 * MB
    assert "found no room in the ring" in status


def test_files_of_a_ring_that_are_gone_take_no_room(folder: Path) -> None:
    """No process of the relay has them open, the one that began the first neither."""
    with traced(folder, "-w", str(folder / "x.pcapng"), "-b", "filesize:1000", "-b", "files:2") as (trace, client):
        send(client, 10)
        trace.wait_for(lambda: counters().bytes > 10 * MB)
        files = [
            os.readlink(each)
            for pid in processes_of(session().pid)
            for each in Path(f"/proc/{pid}/fd").iterdir()
            if os.path.lexists(each)
        ]
        here = [each for each in files if "/x_0" in each]
        assert here
        assert not [each for each in here if each.endswith(" (deleted)")]


def test_a_slow_reader_of_w_minus_loses_what_is_counted_and_traffic_goes_on(folder: Path) -> None:
    path = folder / "s.sock"
    taken: list[bytes] = []
    with sink(path), (folder / "err").open("wb") as err:
        command = [*COMMAND, "trace", "--socket", f"cri={path}", "--socket", f"task={folder}/s", "-w", "-"]
        with subprocess.Popen([*command, "--spool", "4x4"], stdout=subprocess.PIPE, stderr=err) as trace:
            assert trace.stdout is not None
            while b"cri " not in (folder / "err").read_bytes():
                time.sleep(0.01)
            began = time.monotonic()

            def read_slowly() -> None:
                assert trace.stdout is not None
                while data := os.read(trace.stdout.fileno(), 50_000):
                    taken.append(data)
                    time.sleep(0.05)

            reader = threading.Thread(target=read_slowly)
            reader.start()
            passed = 0
            with connect(path, 60) as client:
                for _ in range(20):
                    passed += send(client, 5)
                    time.sleep(max(0.0, began + passed / (12 * MB) - time.monotonic()))
                time.sleep(max(0.0, began + 10 - time.monotonic()))
                in_all, not_there = counters().bytes, counters().lost_bytes
                trace.send_signal(signal.SIGINT)
                assert trace.wait(30) == 0
            reader.join()
    said = (folder / "err").read_text()
    lost = int(said.split("stdout was not read to the end: ")[1].split()[0])
    assert sum(map(len, taken)) + lost >= in_all > passed - not_there
    (folder / "read.pcapng").write_bytes(b"".join(taken))
    here, missing, _ = read_file(folder / "read.pcapng")
    assert here > 2 * MB
    assert here + missing <= passed
