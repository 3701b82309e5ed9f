"""A part of a capture while it grows: connections come once a call on them matches, from that call on."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracer.capture.files import packets
from tests.tracer.made import START, TASK
from tests.tracer.written import Written
from tracer.calls import Call, CallUpdate
from tracer.capture.packets import Notice, Packet
from tracer.capture.pcapng import PcapngReader
from tracer.export.live import BEHIND_S, LiveSelection
from tracer.pipeline import Decoder

POD = Path(__file__).parents[3] / "captures" / "ctrd2-pod.pcapng.gz"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Matching:
    """Calls of one method match, at their first word or at their end."""

    def __init__(self, method: str, *, at_end: bool = False) -> None:
        self._method, self._at_end = method, at_end
        self._decoder = Decoder()

    def __call__(self, item: Packet | Notice) -> Iterator[tuple[int, int]]:
        for update in self._decoder.feed(item):
            if not isinstance(update, CallUpdate) or (self._at_end and update.kind != "ended"):
                continue
            if update.call.method == self._method:
                yield update.call.flow.id, update.call.start_ns


def calls(data: bytes) -> list[Call]:
    decoder, found = Decoder(), []
    for item in PcapngReader().feed(data):
        found += [each.call for each in decoder.feed(item) if isinstance(each, CallUpdate) and each.kind == "opened"]
    return found


def about(call: Call) -> tuple[object, ...]:
    return call.flow.socket, call.service, call.method, call.stream_id, call.start_ns, call.end_ns, call.message_count


@pytest.mark.parametrize("at_end", [False, True])
def test_of_a_recording_the_connections_with_a_match_are_there_from_that_call_on(at_end: bool) -> None:
    data = gzip.decompress(POD.read_bytes())
    selection = LiveSelection("a test", Matching("Exec", at_end=at_end), clock=Clock())
    out = b"".join(selection.feed(data[at : at + 5000]) for at in range(0, len(data), 5000)) + selection.finish()
    everything = calls(data)
    begins: dict[int, int] = {}
    for call in everything:
        if call.method == "Exec":
            begins.setdefault(call.flow.id, call.start_ns)
    assert begins
    wanted = [
        about(call)
        for call in everything
        if call.flow.id in begins and (call.end_ns is None or call.end_ns >= begins[call.flow.id])
    ]
    assert 5 < len(wanted) < len(everything)
    shown = calls(out)
    assert sorted(map(str, map(about, shown))) == sorted(map(str, wanted))


def test_it_is_a_second_behind_and_begins_with_the_call_that_matches_at_its_end() -> None:
    clock, written = Clock(), Written()
    selection = LiveSelection("a test", Matching("Kill", at_end=True), clock=clock)

    def grow() -> bytes:
        data = bytes(written.parts)
        written.parts.clear()
        return selection.feed(data)

    written.open(1)
    written.ask(1, 1, "State", 1)
    written.answer(1, 1, 2)
    written.ask(1, 3, "Kill", 3)
    out = grow()
    assert packets(out) == []  # the file has begun, so that its reader need not wait
    assert len(out) > 0
    written.answer(1, 3, 4)
    out += grow()
    assert packets(out) == []
    clock.now = BEHIND_S
    out += grow()
    (kill,) = calls(out)
    assert (kill.method, kill.start_ns, kill.end_ns) == ("Kill", START + 3, START + 4)


def test_a_call_that_took_longer_than_that_is_there_from_its_true_start() -> None:
    clock, written = Clock(), Written()
    selection = LiveSelection("a test", Matching("Kill", at_end=True), clock=clock)
    written.open(1)
    written.ask(1, 3, "Kill", 3)
    out = selection.feed(bytes(written.parts))
    written.parts.clear()
    clock.now = 10 * BEHIND_S
    out += selection.feed(b"")
    assert packets(out) == []
    written.answer(1, 3, 10_000_000_000)
    out += selection.feed(bytes(written.parts))
    assert packets(out)  # at once: what came before it has passed
    (kill,) = calls(out + selection.finish())
    assert (kill.start_ns, kill.end_ns) == (START + 3, START + 10_000_000_000)
    assert kill.service == TASK


def test_a_connection_without_a_match_never_comes() -> None:
    written = Written()
    selection = LiveSelection("a test", Matching("Kill"), clock=Clock())
    written.open(1)
    written.ask(1, 1, "State", 1)
    written.close(1, 0, 2)
    written.close(1, 1, 2)
    out = io.BytesIO(selection.feed(bytes(written.parts)) + selection.finish())
    assert packets(out.getvalue()) == []
