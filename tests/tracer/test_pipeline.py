"""The one reading path: packets in, updates out, across all stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from dissectors.nri_mux import build_frame
from dissectors.ttrpc import build_frame as ttrpc_frame
from dissectors.ttrpc import build_request, build_response
from tests.tracer.made import MS, POD, SECOND, START, story
from tests.tracer.written import Written
from tracer.calls import Finding, State, Update
from tracer.capture.packets import Notice
from tracer.capture.reader import open_capture
from tracer.pipeline import Decoder


@pytest.fixture
def written() -> Written:
    made = Written()
    made.open(1)
    return made


def read(path: Path) -> tuple[Decoder, list[Update]]:
    decoder = Decoder()
    with open_capture(str(path)) as capture:
        updates = [update for item in capture for update in decoder.feed(item)]
    return decoder, updates + decoder.finish()


def test_a_call_of_a_capture_has_hop_socket_peers_and_times(written: Written, tmp_path: Path) -> None:
    written.ask(1, 1, "Create", MS, id=POD)
    written.answer(1, 1, 5 * MS)
    decoder, updates = read(written.save(tmp_path / "x", SECOND))
    assert story(updates) == ["opened 1", "message 1", "message 1", "ended 1 ended"]
    call = updates[-1].call
    assert call is not None
    assert (call.hop, call.protocol, call.service, call.method) == (
        "task",
        "ttrpc",
        "containerd.task.v3.Task",
        "Create",
    )
    assert (call.start_ns, call.end_ns) == (START + MS, START + 5 * MS)
    assert (call.flow.socket, call.flow.client.unit, call.flow.server.pid) == (
        "/run/containerd/s/abc",
        "containerd.service",
        900,
    )
    assert decoder.now_ns == START + 5 * MS
    assert decoder.open_calls() == []


def test_bytes_that_were_not_captured_are_one_gap_and_mark_the_calls_they_touch(
    written: Written, tmp_path: Path
) -> None:
    written.ask(1, 1, "State", 0, id=POD)
    written.answer(1, 1, MS)
    written.ask(1, 3, "Create", 2 * MS, id=POD)
    written.lose(1, 1, 100)
    written.ask(1, 5, "Start", 3 * MS, id=POD)
    written.answer(1, 5, 4 * MS)
    _, updates = read(written.save(tmp_path / "x", SECOND))
    gaps = [update for update in updates if isinstance(update, Finding)]
    assert [(gap.kind, gap.length, gap.direction) for gap in gaps] == [("gap", 100, 1)]
    calls = {update.call.method: update.call for update in updates if update.kind == "opened" and update.call}
    assert {method: call.gap for method, call in calls.items()} == {"State": False, "Create": True, "Start": True}
    assert calls["Create"].state is State.OPEN


def test_both_connections_inside_nri_s_have_their_own_client(tmp_path: Path) -> None:
    written = Written()
    written.open(1, "nri", "/run/nri/nri.sock")
    ask = ttrpc_frame(1, 1, 0, build_request("nri.Runtime", "RegisterPlugin", b""))
    answer = ttrpc_frame(1, 2, 0, build_response(0, "", b""))
    written.send(1, 0, build_frame(2, ask), MS)
    written.send(1, 1, build_frame(1, ttrpc_frame(1, 1, 0, build_request("nri.Plugin", "Configure", b""))), 2 * MS)
    written.send(1, 1, build_frame(2, answer), 3 * MS)
    written.close(1, 0, 4 * MS)  # the plugin ends in the call that it was asked
    written.close(1, 1, 5 * MS)
    _, updates = read(written.save(tmp_path / "x", SECOND))
    assert story(updates) == [
        "opened 1",
        "message 1",
        "opened 2",
        "message 2",
        "message 1",
        "ended 1 ended",
        "ended 2 cut",
    ]
    register, configure = (update.call for update in updates if update.kind == "opened" and update.call)
    assert (register.flow.client.name, register.flow.server.name) == ("containerd", "shim-9f57c2b6")
    assert (configure.flow.client.name, configure.flow.server.name) == ("shim-9f57c2b6", "containerd")
    assert (register.flow.channel, configure.flow.channel) == (2, 1)
    assert {(call.hop, call.protocol, call.flow.id) for call in (register, configure)} == {("nri", "ttrpc", 1)}
    assert (configure.end_ns, configure.note) == (START + 4 * MS, "the server closed the connection")


def test_bytes_missing_inside_of_nri_s_mark_what_is_open_on_both_channels(tmp_path: Path) -> None:
    written = Written()
    written.open(1, "nri", "/run/nri/nri.sock")
    written.send(1, 0, build_frame(2, ttrpc_frame(1, 1, 0, build_request("nri.Runtime", "RegisterPlugin", b""))), MS)
    written.send(1, 1, build_frame(1, ttrpc_frame(1, 1, 0, build_request("nri.Plugin", "Configure", b""))), 2 * MS)
    written.lose(1, 0, 9)
    written.send(1, 0, b"\xee", 3 * MS)
    decoder, updates = read(written.save(tmp_path / "x", SECOND))
    assert [call.gap for call in decoder.open_calls()] == [True, True]
    gap = next(update for update in updates if isinstance(update, Finding))
    assert (gap.kind, gap.length, gap.direction) == ("gap", 9, 0)


def test_a_notice_of_the_file_is_passed_on() -> None:
    (finding,) = Decoder().feed(Notice(77, "cut in the middle", True))
    assert finding == Finding("notice", 0, "cut in the middle", offset=77, fatal=True)


def test_a_connection_that_ended_leaves_nothing_behind(written: Written, tmp_path: Path) -> None:
    written.ask(1, 1, "Wait", 0, id=POD)
    written.close(1, 1, MS)
    written.close(1, 0, 2 * MS)
    decoder, updates = read(written.save(tmp_path / "x", SECOND))
    assert story(updates) == ["opened 1", "message 1", "ended 1 cut"]
    assert decoder._streams == {}


def test_a_capture_that_ends_leaves_its_calls_open(written: Written, tmp_path: Path) -> None:
    written.ask(1, 1, "Create", 0, id=POD)
    decoder, updates = read(written.save(tmp_path / "x", SECOND))
    assert story(updates) == ["opened 1", "message 1"]
    assert [call.method for call in decoder.open_calls()] == ["Create"]
