from __future__ import annotations

import os
import random
import signal
import struct
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from dissectors.ttrpc_frames import build_frame
from dissectors.ttrpc_messages import build_request
from tests.tracer.capture.files import read_pcapng
from tests.tracer.capture.rings import (
    START_NS,
    Step,
    expected,
    listener,
    opening,
    packets_of,
    put,
    put_all,
    read,
    script,
    shared_memory,
)
from tracer.capture import recorder
from tracer.capture.packets import Notice
from tracer.capture.recorder import Recorder
from tracer.capture.room import Limits
from tracer.relay import shared as sh
from tracer.relay.shared import Kind, RecorderState, RingWriter, Shared

RING = 1 << 20


@pytest.fixture(autouse=True)
def as_nice_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "nice", lambda _by: 0)


def record(path: Path, steps: list[Step], *, content: bytes = b"", ring: int = 4 << 20) -> Shared:
    """Let a recorder of this process take records into a file that has `content` already."""
    path.write_bytes(content)
    with shared_memory(ring) as (shared, _, link):
        writer = RingWriter(shared)
        assert not any(put(writer, step) for step in steps), "the ring is too small"
        Recorder(os.open(path, os.O_RDWR), Limits(), link).run(shared)
        assert shared.words[sh.RECORDER_STATE] == RecorderState.COMPLETE
        assert shared.words[sh.TAIL] < shared.words[sh.HEAD], "whoever comes after a kill now has to see the END"
    return shared


def blocks_of(data: bytes) -> list[int]:
    """Where blocks begin, and the end."""
    places = [0]
    while places[-1] < len(data):
        places.append(places[-1] + struct.unpack_from("<I", data, places[-1] + 4)[0])
    return places


def test_a_recorder_killed_at_any_block_is_gone_on_after(tmp_path: Path) -> None:
    """All records come again, as if none had been released; what the file has already is passed over."""
    steps = script(1, 60, 70_000)
    last = steps[-1].time_ns
    steps[-1:] = [
        opening(99, 1, last),
        Step(Kind.FIN, 0, 99, 0, last, b""),
        Step(Kind.FIN, 1, 99, 0, last, b""),
        steps[-1],
    ]
    record(tmp_path / "whole", steps)
    whole = (tmp_path / "whole").read_bytes()
    wanted = expected(steps)
    assert read(tmp_path / "whole") == wanted
    assert any(isinstance(piece, int) for pieces in wanted.values() for piece in pieces)
    rnd = random.Random(2)
    for place, end in zip(blocks_of(whole), [*blocks_of(whole)[1:], 0], strict=True):
        for cut in {place, rnd.randrange(place, end) if end else place}:
            record(tmp_path / "again", steps, content=whole[:cut])
            assert read(tmp_path / "again") == wanted, cut
            again = (tmp_path / "again").read_bytes()
            assert again[:place] == whole[:place]
            assert len(packets_of(tmp_path / "again")) == len(packets_of(tmp_path / "whole")), cut


def test_the_ring_has_all_its_pages_before_traffic_comes(tmp_path: Path) -> None:
    path = tmp_path / "capture.pcapng"
    path.touch()
    with shared_memory(8 << 20) as (shared, _, link):
        before = os.fstat(shared.fd).st_blocks * 512
        put(RingWriter(shared), Step(Kind.END, 0, 0, 0, START_NS, b""))
        Recorder(os.open(path, os.O_RDWR), Limits(), link).run(shared)
        assert before < 1 << 20 <= 8 << 20 <= os.fstat(shared.fd).st_blocks * 512


def test_where_every_record_was_released_the_file_alone_tells_how_to_go_on(tmp_path: Path) -> None:
    steps = script(3, 400, 9_000)
    wanted = expected(steps)
    for at in range(5, len(steps), 7):
        record(tmp_path / "x", [*steps[:at], steps[-1]])
        content = (tmp_path / "x").read_bytes()
        record(tmp_path / "x", steps[at:], content=content)
        assert read(tmp_path / "x") == wanted, at


def test_records_that_come_again_are_passed_over(tmp_path: Path) -> None:
    """A worker that follows on a dead one may tell again what that one had told."""
    steps = script(4, 200, 5_000)
    twice = [step for step in steps[:-1] for _ in range(2)] + [steps[-1]]
    record(tmp_path / "once", steps)
    record(tmp_path / "twice", twice)
    assert read(tmp_path / "twice") == expected(steps)
    assert len((tmp_path / "twice").read_bytes()) == len((tmp_path / "once").read_bytes())


def test_a_connection_whose_opening_comes_late_is_recorded(tmp_path: Path) -> None:
    end = Step(Kind.END, 0, 0, 0, START_NS + 9, b"")
    data = Step(Kind.DATA, 0, 1, 0, START_NS + 4, b"late")
    steps = [listener(1), opening(2, 1, START_NS + 2), opening(1, 1, START_NS + 3), data, opening(1, 1, START_NS + 5)]
    record(tmp_path / "x", [*steps, end])
    assert read(tmp_path / "x")[1, 0] == [b"late"]


def run_in_child(act: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


@pytest.mark.parametrize("save_bytes", [0, 1 << 20, 1 << 40])
def test_recorders_killed_at_any_moment_lose_nothing_and_write_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_bytes: int
) -> None:
    monkeypatch.setattr(recorder, "_SAVE_BYTES", save_bytes)
    monkeypatch.setattr(recorder, "_SAVE_S", 0.0)
    path = tmp_path / "x"
    path.touch()
    steps = script(5, 4_000, 60_000)
    rnd = random.Random(6)
    kills = 0
    with shared_memory(RING) as (shared, ours, link):
        fd = os.open(path, os.O_RDWR)

        def start() -> int:
            return run_in_child(lambda: Recorder(os.dup(fd), Limits(), link).run(shared))

        child = start()
        kill_at = time.monotonic() + 0.05
        for _ in put_all(RingWriter(shared), steps):
            if time.monotonic() > kill_at:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                assert shared.words[sh.RECORDER_STATE] == RecorderState.RUNNING
                kills += 1
                child = start()
                kill_at = time.monotonic() + rnd.uniform(0.005, 0.05)
        os.waitpid(child, 0)
        assert shared.words[sh.RECORDER_STATE] == RecorderState.COMPLETE
        assert shared.words[sh.CAPTURE_BYTES] == path.stat().st_size
        assert shared.words[sh.CAPTURE_PACKETS] == len(packets_of(path))
        os.close(fd)
        ours.close()
    assert kills >= 8
    assert read(path) == expected(steps)


@pytest.mark.parametrize("bundles", [True, False])
def test_a_bundle_is_kept_behind_the_call_that_names_it_unless_it_is_not_wanted(tmp_path: Path, bundles: bool) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "address").write_text("unix:///x")
    request = b"\x0a\x01c\x12" + bytes((len(str(folder)),)) + str(folder).encode()
    frame = build_frame(1, 1, 0, build_request("containerd.task.v3.Task", "Create", request))
    steps = [
        listener(1, hop="task"),
        opening(1, 1, START_NS),
        opening(2, 1, START_NS),
        Step(Kind.DATA, 0, 1, 0, START_NS + 1, frame),
        Step(Kind.DATA, 0, 2, 0, START_NS + 1, frame),
        Step(Kind.END, 0, 0, 0, START_NS + 2, b""),
    ]
    path = tmp_path / "x.pcapng"
    path.touch()
    with shared_memory(1 << 20) as (shared, _, link):
        writer = RingWriter(shared)
        assert not any(put(writer, step) for step in steps)
        Recorder(os.open(path, os.O_RDWR), Limits(), link, bundles=bundles).run(shared)
    found = read_pcapng(path.read_bytes())
    kept = [each.bundle for each in found if isinstance(each, Notice) and each.bundle is not None]
    assert [(each.connection, each.stream, each.id, each.path) for each in kept] == (
        [(1, 1, "c", str(folder))] if bundles else []
    )
    record(tmp_path / "again", steps, content=path.read_bytes())  # it was killed before it released anything
    again = [each for each in read_pcapng((tmp_path / "again").read_bytes()) if isinstance(each, Notice)]
    assert len(again) == len(kept)


def test_of_a_long_file_only_what_came_since_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its beginning is not to be read for a while."""
    monkeypatch.setattr(recorder, "_SAVE_BYTES", 0)
    monkeypatch.setattr(recorder, "_SAVE_S", 0.0)
    path = tmp_path / "x"
    path.touch()
    steps = script(5, 800, 20_000)
    with shared_memory(RING) as (shared, _, link):
        fd = os.open(path, os.O_RDWR)

        def start() -> int:
            return run_in_child(lambda: Recorder(os.dup(fd), Limits(), link).run(shared))

        child = start()
        for number, _ in enumerate(put_all(RingWriter(shared), steps)):
            if number == 600:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                beginning = os.pread(fd, 64, 0)
                os.pwrite(fd, bytes(64), 0)
                child = start()
        os.waitpid(child, 0)
        os.pwrite(fd, beginning, 0)
        os.close(fd)
        assert shared.words[sh.RECORDER_STATE] == RecorderState.COMPLETE
        assert os.fstat(shared.recorder_notes).st_size == 0, "its memory is given back"
    assert read(path) == expected(steps)
