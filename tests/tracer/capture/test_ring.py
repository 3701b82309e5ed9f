"""A capture in many files: each is read alone, and all together tell what one file would."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.tracer.capture.rings import (
    Step,
    expected,
    listener,
    opening,
    packets_of,
    put_all,
    script,
    shared_memory,
    told_by,
)
from tests.tracer.capture.test_recorder import run_in_child
from tracer.calls import Call, Finding
from tracer.capture import recorder
from tracer.capture.flows import FlowClosed, FlowData, FlowGap, FlowOpened, FlowTable
from tracer.capture.growing import GrowingCapture, Row
from tracer.capture.packets import CARRIED_OVER, Packet
from tracer.capture.reader import open_capture
from tracer.capture.recorder import Recorder
from tracer.capture.ring import Ring, create
from tracer.capture.room import Limits
from tracer.pipeline import Decoder
from tracer.relay import shared as sh
from tracer.relay.shared import Kind, RecorderState, RingWriter

CAPTURES = Path(__file__).parents[3] / "captures"
HOPS = ("cri", "task", "events")
PIECE = 60_000


def steps_of(name: str) -> list[Step]:
    """A recorded capture as a worker would have put it into the ring."""
    table = FlowTable()
    steps = [listener(number, hop=hop) for number, hop in enumerate(HOPS)]
    places: dict[tuple[int, int], int] = {}
    with open_capture(str(CAPTURES / f"{name}.pcapng.gz")) as capture:
        packets = [item for item in capture if isinstance(item, Packet)]
    for event in itertools.chain.from_iterable(table.feed(packet) for packet in packets):
        number, time_ns = event.flow.id, event.time_ns
        if event.flow.hop not in HOPS:
            continue
        if isinstance(event, FlowOpened):
            steps.append(opening(number, HOPS.index(event.flow.hop), time_ns))
            continue
        key = number, int(event.direction)
        place = places.get(key, 0)
        if isinstance(event, FlowData):
            for at in range(0, len(event.data), PIECE):
                data = event.data[at : at + PIECE]
                steps.append(Step(Kind.DATA, event.direction, number, place + at, time_ns, data))
            places[key] = place + len(event.data)
        elif isinstance(event, FlowGap):
            places[key] = place + event.count
        elif isinstance(event, FlowClosed):
            steps.append(Step(Kind.RESET if event.reset else Kind.FIN, event.direction, number, place, time_ns, b""))
    steps.append(Step(Kind.END, 0, 0, 0, packets[-1].time_ns, b""))
    return steps


def record(folder: Path, steps: Iterable[Step], ring: Ring, kill_every: int = 0) -> int:
    """Record them into a ring of files, by recorders that are killed after so many records each (0: never);
    return the last file's number."""
    with shared_memory(1 << 20) as (shared, _, link):
        os.close(create(ring.name(1)))

        def start() -> int:
            return run_in_child(lambda: Recorder(None, Limits(), link, ring, bundles=False).run(shared))

        child = start()
        for number, _ in enumerate(put_all(RingWriter(shared), steps)):
            if kill_every and number % kill_every == kill_every - 1:
                os.kill(child, 9)
                os.waitpid(child, 0)
                child = start()
        os.waitpid(child, 0)
        assert shared.words[sh.RECORDER_STATE] == RecorderState.COMPLETE
        assert not os.path.exists(ring.partial())
        last: int = shared.words[sh.CAPTURE_FILE]
    return last


def decoded(packets: Iterable[Packet]) -> tuple[list[Call], list[Call], list[Finding]]:
    """The calls that ended, those that are open, and what could not be read."""
    decoder = Decoder()
    ended: list[Call] = []
    findings: list[Finding] = []
    for update in itertools.chain.from_iterable(itertools.chain(map(decoder.feed, packets), [decoder.finish()])):
        if isinstance(update, Finding):
            findings.append(update)
        elif update.kind == "ended":
            ended.append(update.call)
    return ended, decoder.open_calls(), findings


def about(call: Call) -> tuple[object, ...]:
    """What a call is, whichever file it is read from."""
    number = call.flow.comment["connection"]
    return (
        number, call.flow.channel, call.hop, call.protocol, call.stream_id, call.service, call.method, call.start_ns,
        call.end_ns, call.state, call.status, call.timeout_ns, call.metadata, call.trailers,
    )  # fmt: skip


def messages(call: Call) -> list[tuple[object, ...]]:
    return [(each.direction, each.time_ns, each.payload, each.note) for each in call.messages]


@pytest.mark.parametrize("name", ["ctrd2-busy", "ctrd2-pod", "ctrd2-nri", "ctrd16-pod", "own16-pod"])
@pytest.mark.parametrize("kill_every", [0, 97])
def test_each_file_is_decoded_alone_and_all_hold_every_call_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kill_every: int
) -> None:
    monkeypatch.setattr(recorder, "_SAVE_BYTES", 100_000)
    monkeypatch.setattr(recorder, "_SAVE_S", 0.0)
    steps = steps_of(name)
    record(tmp_path, steps, Ring(str(tmp_path / "one.pcapng")))
    (whole,) = tmp_path.iterdir()
    calls, still_open, findings = decoded(packets_of(whole))
    assert not [each for each in findings if each.kind != "notice"]
    ring = Ring(str(tmp_path / "ring.pcapng"), bytes=max(20_000, whole.stat().st_size // 30))
    record(tmp_path, steps, ring, kill_every)
    files = ring.list()
    assert [number for number, _ in files] == list(range(1, len(files) + 1))
    assert len(files) > 6
    ended: list[Call] = []
    left: list[Call] = []
    begun_before = 0
    for number, path in files:
        packets = packets_of(path)
        assert os.stat(path).st_mode & 0o777 == 0o600
        ones, left, wrong = decoded(packets)
        assert not [each for each in wrong if each.kind != "notice"], (number, wrong)
        ended += ones
        for call in ones + left:
            assert call.seen_start == (call.start_ns >= first_time(packets)), (number, call)
            begun_before += not call.seen_start
            assert call.method
    assert begun_before
    assert Counter(map(about, ended)) == Counter(map(about, calls))
    assert Counter(map(about, left)) == Counter(map(about, still_open))
    together, _, wrong = decoded(packet for _, path in files for packet in packets_of(path))
    assert list(map(about, together)) == list(map(about, calls))
    assert list(map(messages, together)) == list(map(messages, calls))
    assert not [each for each in wrong if each.kind != "notice"]


def first_time(packets: list[Packet]) -> int:
    """Of the first packet that is not made up."""
    return next(packet.time_ns for packet in packets if not packet.comment.startswith(CARRIED_OVER))


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")
@pytest.mark.parametrize("name", ["ctrd2-busy", "own16-pod"])
def test_tshark_reads_in_each_file_alone_the_calls_that_we_do_and_warns_of_nothing(tmp_path: Path, name: str) -> None:
    steps = steps_of(name)
    ring = Ring(str(tmp_path / "ring.pcapng"), bytes=150_000 if name == "own16-pod" else 1_500_000)
    record(tmp_path, steps, ring)
    made_up = f'frame.comment contains "{CARRIED_OVER}"'
    answers = 0
    for _, path in ring.list():
        assert tshark(path, "tcp.analysis.flags || _ws.malformed") == []
        ended, left, _ = decoded(packets_of(path))
        calls = [call for call in ended + left if call.protocol == "grpc"]
        headers = Counter(
            name
            for line in tshark(path, f"http2.header && !({made_up})", "http2.header.name")
            for name in line.split(",")
        )
        assert headers[":path"] == sum(call.seen_start for call in calls)
        answers += headers["grpc-status"]
        late = headers["grpc-status"] - sum(call.status is not None for call in calls)  # behind a reset
        assert late >= 0
        paths = tshark(path, f"http2.headers.path && {made_up}", "http2.headers.path")
        carried = Counter(path for line in paths for path in line.split(","))
        for call in calls:
            assert call.seen_start or carried[f"/{call.service}/{call.method}"]
    record(tmp_path, steps, Ring(str(tmp_path / "one.pcapng")))
    (whole,) = tmp_path.glob("one*")
    names = tshark(str(whole), "http2.header", "http2.header.name")
    assert answers == sum(line.split(",").count("grpc-status") for line in names) > 0


def tshark(path: str, wanted: str, field: str = "frame.number") -> list[str]:
    command = ["tshark", "-r", path, "-Y", wanted, "-T", "fields", "-e", field]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_bytes_of_all_files_are_those_of_one_whatever_is_said(tmp_path: Path) -> None:
    steps = script(11, 1_500, 30_000)
    ring = Ring(str(tmp_path / "x.pcapng"), bytes=300_000)
    record(tmp_path, steps, ring, kill_every=331)
    assert len(ring.list()) > 10
    assert told_by(packet for _, path in ring.list() for packet in packets_of(path)) == expected(steps)


def test_only_the_newest_files_are_kept(tmp_path: Path) -> None:
    foreign = tmp_path / "x_00001_20000101000000.pcapng"
    foreign.touch()
    steps = script(12, 600, 30_000)
    ring = Ring(str(tmp_path / "x.pcapng"), bytes=200_000, files=3, since="20200101000000")
    last = record(tmp_path, steps, ring)
    numbers = [number for number, _ in ring.list()]
    assert len(numbers) == 3
    assert numbers[-1] == last > 5
    assert foreign.exists()


def test_what_comes_between_the_last_look_and_the_next_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = Ring(str(tmp_path / "x.pcapng"), bytes=200_000)
    record(tmp_path, script(13, 100, 30_000), ring)
    (_, first), (_, second), *others = ring.list()
    for _, path in others:
        os.unlink(path)
    whole = Path(first).read_bytes()
    Path(first).write_bytes(whole[:50_000])
    os.rename(second, tmp_path / "later")
    with GrowingCapture(first, ring) as capture:
        found = capture.read_available()
        assert capture.read_available() == []
        look = Row.next

        def next_one(row: Row) -> str | None:
            if not os.path.exists(second):
                Path(first).write_bytes(whole)
                os.rename(tmp_path / "later", second)
            return look(row)

        monkeypatch.setattr(Row, "next", next_one)
        found += capture.read_available()
    assert found == packets_of(first)


def test_what_a_recorder_left_half_begun_is_removed_by_the_next(tmp_path: Path) -> None:
    ring = Ring(str(tmp_path / "x.pcapng"), bytes=1 << 20)
    Path(ring.partial()).touch()
    record(tmp_path, script(14, 20, 300), ring)
    assert [path.name for path in tmp_path.iterdir()] == [os.path.basename(path) for _, path in ring.list()]


def test_a_file_that_goes_before_it_is_opened_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(str(tmp_path / "x.pcapng"), bytes=200_000)
    record(tmp_path, script(13, 300, 30_000), ring)
    files = ring.list()
    assert len(files) > 3
    size = os.stat(files[1][1]).st_size
    look = Row.next

    def removed_meanwhile(row: Row) -> str | None:
        path = look(row)
        if path == files[1][1]:
            os.unlink(path)
        return path

    monkeypatch.setattr(Row, "next", removed_meanwhile)
    with GrowingCapture(files[0][1], ring) as capture:
        found = list(capture)
        assert capture.row is not None
        assert capture.row.lost == size
    assert found[-1] == packets_of(files[-1][1])[-1]._replace(number=found[-1].number)  # type: ignore[union-attr]
