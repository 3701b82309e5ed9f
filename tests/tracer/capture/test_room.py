"""R9: what a capture leaves free, and that a pause costs what it says and nothing else."""

from __future__ import annotations

import errno
import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.tracer.capture.rings import (
    START_NS,
    Step,
    Told,
    expected,
    listener,
    opening,
    put,
    script,
    shared_memory,
    told_by,
)
from tracer.capture import recorder, room
from tracer.capture.journal_source import open_source
from tracer.capture.packets import Notice, Packet
from tracer.capture.reader import open_capture
from tracer.capture.recorder import Recorder
from tracer.capture.ring import Ring, create
from tracer.capture.room import FOREGROUND, Disk, Floor, Limits, Pause, background, parse
from tracer.capture.store import Store
from tracer.relay import shared as sh
from tracer.relay.shared import Kind, Record, RecorderState, RingWriter

GB = 1 << 30


@pytest.fixture(autouse=True)
def as_nice_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "nice", lambda _by: 0)


def test_r9_one_that_is_watched_leaves_64_mib_or_one_per_cent_whichever_is_less() -> None:
    assert FOREGROUND.of(1000 * GB) == 64 << 20
    assert FOREGROUND.of(8 << 20) == (8 << 20) // 100


@pytest.mark.parametrize(
    ("config", "free"),
    [
        ("", 15 * GB),
        ("evictionHard:\n  memory.available: 90%\n", 15 * GB),
        ('evictionHard:\n  nodefs.available: "5%"\n', 15 * GB),
        ('evictionHard:\n  nodefs.available: "20%"  # ours\n', 25 * GB),
        ("evictionHard:\n  imagefs.available: 15%\n  nodefs.available: 10%\n", 20 * GB),
        ("evictionSoft:\n  nodefs.available: 30Gi\n", 35 * GB),
    ],
)
def test_r9_in_the_background_it_is_15_per_cent_or_5_more_than_the_kubelet_wants(
    tmp_path: Path, config: str, free: int
) -> None:
    (tmp_path / "config.yaml").write_text(config)
    assert background(str(tmp_path / "config.yaml")).of(100 * GB) == free
    assert background(str(tmp_path / "none")).of(100 * GB) == 15 * GB


@pytest.mark.parametrize(
    ("text", "free"),
    [("0", 0), ("10%", 10 * GB), ("2.5%", 5 * GB // 2), ("500M", 500 << 20), ("2G", 2 * GB), ("1GiB", GB), ("77", 77)],
)
def test_min_free_is_a_size_or_a_part(text: str, free: int) -> None:
    assert parse(text).of(100 * GB) == free


@pytest.mark.parametrize("text", ["", "-1", "1X", "100%", "ten", "1 G"])
def test_another_min_free_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        parse(text)


def test_of_a_connection_that_came_and_went_in_a_pause_only_the_number_is_kept() -> None:
    pause = Pause(0)
    for kind, direction, number in (
        (Kind.OPEN, 0, 1), (Kind.OPEN, 0, 2), (Kind.FIN, 0, 1), (Kind.RESET, 1, 1), (Kind.FIN, 0, 2), (Kind.FIN, 1, 3),
    ):  # fmt: skip
        pause.keep(Record(kind, direction, number, 0, 0, memoryview(b"")))
    pause.drop(Record(Kind.DATA, 0, 2, 0, 0, memoryview(b"xyz")))
    assert (pause.connections, pause.bytes, pause.packets) == (1, 3, {2: 1})
    assert [(each.kind, each.connection) for each in pause.records()] == [
        (Kind.OPEN, 2), (Kind.FIN, 2), (Kind.FIN, 3),
    ]  # fmt: skip


class Killed(BaseException):
    """What a recorder that is killed does: nothing more."""


@dataclass
class Weather:
    """A disk that is full now and then: by what it says, or by what it refuses. Recorders die in it, if they are to."""

    rnd: random.Random
    refuses: bool = False
    low: bool = False
    refused: int = 0
    deadly: bool = False
    deaths: list[bool] = field(default_factory=list)
    """Of each, whether it was in a pause."""

    def change(self) -> None:
        self.low = self.rnd.random() < 0.5
        self.refuses = self.rnd.random() < 0.3

    def disk(self, _fd: int) -> Disk:
        return Disk(100 * GB, 5 * GB if self.low else 50 * GB)


@pytest.fixture
def weather(monkeypatch: pytest.MonkeyPatch) -> Weather:
    made = Weather(random.Random(11))
    write = Store.write

    def refusing(store: Store, data: bytes) -> None:
        if made.refuses and data:
            write(store, data[: made.rnd.randrange(len(data))])
            made.refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        write(store, data)

    monkeypatch.setattr(Store, "write", refusing)
    monkeypatch.setattr(Disk, "of", made.disk)
    monkeypatch.setattr(recorder, "_LOOK_S", 0.0)
    monkeypatch.setattr(recorder, "_PAUSE_S", 0.0)
    return made


def record(steps: list[Step], fd: int | None, weather: Weather, ring: Ring | None = None) -> list[int]:
    """Let a recorder take the records, a few at a time, with a disk that changes between."""
    limits = Limits(free=Floor(((10, 0),)))
    with shared_memory(8 << 20) as (shared, ours, link):
        writer = RingWriter(shared)
        rest = list(steps)

        def fill(reader: sh.RingReader) -> bool:
            if weather.deadly and rest and weather.rnd.random() < 0.2:
                weather.deaths.append(shared.words[sh.PAUSED_NS] > 0)
                raise Killed
            weather.change()
            if len(rest) < 50:
                weather.low = weather.refuses = False
            for _ in range(min(20, len(rest))):
                left = put(writer, rest.pop(0))
                while left is not None:
                    left = put(writer, left)
            return drain(reader)

        while not shared.words[sh.RECORDER_STATE]:
            one = Recorder(fd, limits, link, ring)
            drain, one._drain = one._drain, fill  # type: ignore[method-assign] # the moment between two looks
            with suppress(Killed):
                one.run(shared)
        assert shared.words[sh.RECORDER_STATE] == RecorderState.COMPLETE
        assert any(b"goes on" in said for said in _heard(ours))
        assert shared.words[sh.PAUSED_NS] == 0
        return list(shared.words)


def _heard(link: socket.socket) -> Iterator[bytes]:
    with suppress(BlockingIOError):
        while True:
            yield link.recv(4096)


def size_of(pieces: list[bytes | int | str]) -> int:
    return sum(piece if isinstance(piece, int) else len(piece) for piece in pieces if not isinstance(piece, str))


def gaps_of(told: Told) -> int:
    return sum(piece for pieces in told.values() for piece in pieces if isinstance(piece, int))


def stream_of(pieces: list[bytes | int | str]) -> list[int | None]:
    """Byte by byte, with None for what is not there."""
    found: list[int | None] = []
    for piece in pieces:
        if isinstance(piece, int):
            found += [None] * piece
        elif isinstance(piece, bytes):
            found += piece
    return found


def check(path_items: list[Packet | Notice], steps: list[Step], words: list[int]) -> None:
    notes = [item.text for item in path_items if isinstance(item, Notice)]
    told = told_by(item for item in path_items if isinstance(item, Packet))
    wanted = expected(steps)
    unseen = wanted.keys() - told.keys()
    assert len(unseen) == 2 * words[sh.DROPPED_CONNECTIONS] > 0
    for key, pieces in told.items():
        ends = [piece for piece in pieces if isinstance(piece, str)]
        assert ends == [piece for piece in wanted[key] if isinstance(piece, str)]
        seen, true = stream_of(pieces), stream_of(wanted[key])
        assert all(ours in (None, its) for ours, its in zip(seen, true, strict=False))
        assert len(seen) == len(true) if ends else len(seen) <= len(true)
    gaps = sum(isinstance(piece, int) for pieces in told.values() for piece in pieces)
    assert sum(item.dropped for item in path_items if isinstance(item, Packet)) > 2 * gaps, "more than one record each"
    in_file = sum(size_of(pieces) for pieces in told.values()) - gaps_of(told)
    all_bytes = sum(len(step.payload) for step in steps if step.kind == Kind.DATA)
    assert words[sh.DROPPED_BYTES] == all_bytes - in_file > 0
    assert sum(note.startswith("paused for ") for note in notes) == len(notes) > 3


def test_r9_pauses_show_as_gaps_of_exact_size_and_nothing_else_is_missing(tmp_path: Path, weather: Weather) -> None:
    path = tmp_path / "x"
    path.touch()
    steps = script(5, 3_000, 60_000)
    words = record(steps, os.open(path, os.O_RDWR), weather)
    assert weather.refused > 3
    with open_capture(str(path)) as file:
        check(list(file), steps, words)


def test_r9_a_ring_whose_next_file_cannot_be_begun_goes_on_with_it_later(tmp_path: Path, weather: Weather) -> None:
    ring = Ring(f"{tmp_path}/x.pcapng", bytes=400_000, since="2")
    steps = script(7, 3_000, 60_000)
    os.close(create(ring.name(1)))
    words = record(steps, None, weather, ring)
    assert weather.refused > 3
    items: list[Packet | Notice] = []
    for _, path in ring.list():
        with open_capture(path) as file:
            items += file
    assert len(ring.list()) > 5
    check(items, steps, words)


@pytest.mark.parametrize("in_ring", [False, True])
def test_r9_a_recorder_killed_in_a_pause_loses_nothing_of_what_it_held_back(
    tmp_path: Path, weather: Weather, monkeypatch: pytest.MonkeyPatch, in_ring: bool
) -> None:
    monkeypatch.setattr(recorder, "_SAVE_BYTES", 100_000)
    monkeypatch.setattr(recorder, "_SAVE_S", 0.0)
    weather.deadly = True
    ring = Ring(f"{tmp_path}/x.pcapng", bytes=400_000, since="2")
    steps = script(8, 1_500, 60_000)
    for number, step in enumerate([listener(3), listener(4)]):  # sockets that come in the midst of it
        at = 500 * (number + 1)
        steps[at:at] = [step._replace(time_ns=steps[at].time_ns)]
        of = 3_000 + number
        steps[at + 1 : at + 1] = [opening(of, 3 + number, steps[at].time_ns)]
    path = Path(ring.name(1))
    path.touch()
    words = record(steps, None if in_ring else os.open(path, os.O_RDWR), weather, ring if in_ring else None)
    assert sum(weather.deaths) > 5
    assert weather.deaths.count(False) > 5
    items: list[Packet | Notice] = []
    for _, each in ring.list():
        with open_capture(each) as file:
            items += file
    assert len(ring.list()) > 5 or not in_ring
    check(items, steps, words)
    assert {(of, direction) for of in (3_000, 3_001) for direction in (0, 1)} <= told_by(
        item for item in items if isinstance(item, Packet)
    ).keys()


@pytest.mark.parametrize(
    "step",
    [
        listener(2, START_NS + 3),
        opening(2, 1, START_NS + 3),
        Step(Kind.FIN, 0, 1, 4, START_NS + 3, b""),
        Step(Kind.CLOCK, 0, 0, 0, START_NS + 3, b"7000000000"),
    ],
    ids=lambda step: Kind(step.kind).name,
)
def test_r9_what_came_in_a_pause_is_there_after_a_kill(tmp_path: Path, weather: Weather, step: Step) -> None:
    path = tmp_path / "x"
    path.touch()
    before = [listener(1), opening(1, 1, START_NS + 1), Step(Kind.DATA, 0, 1, 0, START_NS + 1, b"here")]
    after = [
        opening(3, 2 if step.kind == Kind.LISTENER else 1, START_NS + 4),
        Step(Kind.END, 0, 0, 0, START_NS + 5, b""),
    ]
    looks = iter([(False, before), (True, []), (True, [step]), None, (False, after)])
    with shared_memory(1 << 20) as (shared, _, link):
        writer = RingWriter(shared)

        def look(reader: sh.RingReader) -> bool:
            what = next(looks)
            if what is None:
                raise Killed
            weather.low, steps = what
            assert not any(put(writer, each) for each in steps)
            drain(reader)
            return True

        while not shared.words[sh.RECORDER_STATE]:
            one = Recorder(os.open(path, os.O_RDWR), Limits(free=Floor(((10, 0),))), link)
            drain, one._drain = one._drain, look  # type: ignore[method-assign] # the moment between two looks
            with suppress(Killed):
                one.run(shared)
    with open_capture(str(path)) as file:
        items = list(file)
    told = told_by(item for item in items if isinstance(item, Packet))
    notes = [item.text for item in items if isinstance(item, Notice)]
    assert told.keys() >= {(1, 0), (3, 0)}
    assert any(note.startswith("paused for ") for note in notes)
    assert ((2, 0) in told) == (step.kind == Kind.OPEN)
    assert ("closed" in told[1, 0]) == (step.kind == Kind.FIN)
    assert any("clock" in note for note in notes) == (step.kind == Kind.CLOCK)


def test_r9_lines_of_logs_are_dropped_in_a_pause_and_counted(tmp_path: Path, weather: Weather) -> None:
    path, log = tmp_path / "x", tmp_path / "log"
    path.touch()
    log.touch()
    source = open_source(str(log))
    looks = iter([(False, "one"), (True, "two"), (True, "three"), (False, "four")])
    steps = [listener(1), opening(1, 1, START_NS + 1), Step(Kind.END, 0, 0, 0, START_NS + 5, b"")]
    with shared_memory(1 << 20) as (shared, _, link):
        shared.words[sh.CLOCK_OFFSET] = time.time_ns() - time.monotonic_ns()
        writer = RingWriter(shared)

        def look(reader: sh.RingReader) -> bool:
            weather.low, text = next(looks, (False, ""))
            stamp = time.time_ns() // 1000 + 1
            with log.open("a") as file:
                file.write(
                    f"__REALTIME_TIMESTAMP={stamp}\nSYSLOG_IDENTIFIER=kubelet\nMESSAGE={text}\n\n" if text else ""
                )
            if not text or len(steps) > 1:
                put(writer, steps.pop(0))
            drain(reader)
            return True

        one = Recorder(os.open(path, os.O_RDWR), Limits(free=Floor(((10, 0),))), link, logs=source)
        drain, one._drain = one._drain, look  # type: ignore[method-assign] # the moment between two looks
        one.run(shared)
    os.close(source.fd)
    with open_capture(str(path)) as capture:
        notes = [item for item in capture if isinstance(item, Notice)]
    assert [each.entry.text("MESSAGE") for each in notes if each.entry is not None] == ["one", "four"]
    (paused,) = [each.text for each in notes if each.text.startswith("paused")]
    assert paused.endswith("0 B of traffic and 2 lines of logs missing")


def test_r9_a_disk_that_stays_full_ends_the_capture_at_a_whole_block(tmp_path: Path, weather: Weather) -> None:
    path = tmp_path / "x"
    path.touch()
    weather.refuses = True
    steps = script(5, 300, 5_000)
    with shared_memory(8 << 20) as (shared, _, link):
        writer = RingWriter(shared)
        assert not any(put(writer, step) for step in steps)
        Recorder(os.open(path, os.O_RDWR), Limits(), link).run(shared)
        assert shared.words[sh.RECORDER_STATE] == RecorderState.FAILED
        assert shared.words[sh.DROPPED_BYTES] == sum(len(step.payload) for step in steps if step.kind == Kind.DATA)
    assert path.read_bytes() == b""


def test_a_capture_that_goes_on_does_not_pause_again_at_once() -> None:
    assert room.RESUME > room.MARGIN
