"""The one reading path: packets in, updates out, across all stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from dissectors.nri_mux import build_frame
from dissectors.ttrpc import build_frame as ttrpc_frame
from dissectors.ttrpc import build_request, build_response
from tests.tracer.capture.files import ACK, FIN, ethernet, packet, tcp
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


def test_packets_that_are_not_decoded_are_told_at_the_end() -> None:
    decoder = Decoder()
    datagram, fragment = tcp(1, b"x"), tcp(1, b"x")
    for data in (datagram[:9] + b"\x11" + datagram[10:],) * 2 + (fragment[:6] + b"\x20\0" + fragment[8:],):
        assert decoder.feed(packet(ethernet(data))) == []
    (finding,) = decoder.finish()
    assert finding == Finding("notice", START, "packets that are not decoded: 2 (not TCP), 1 (IPv4 fragment)")


def test_a_connection_that_is_joined_in_the_middle_of_a_frame_is_read_from_the_next_one_on() -> None:
    decoder = Decoder()
    rest = b"\0\0\0\2\0\0\0\0\1\0"  # a header, to look at, and yet the end of a message
    state = ttrpc_frame(3, 1, 0, build_request("containerd.task.v3.Task", "State", b""))
    decoder.feed(packet(ethernet(tcp(100, rest + state, FIN | ACK, ports=(50_000, 8088)))))
    updates = decoder.finish()
    assert story(updates) == ["gap", "opened 1", "message 1"]
    assert [(call.stream_id, call.method) for call in decoder.open_calls()] == [(3, "State")]
    (gap,) = (update for update in updates if isinstance(update, Finding))
    assert (gap.kind, gap.offset, gap.length) == ("gap", 0, 10)


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


VM = "/run/vc/vm/9f57c2b6405e/clh.sock"


def refuse(written: Written, connection: int, at: int, socket: str = VM) -> None:
    """A shim that asks for the agent's port of a guest that does not listen yet."""
    written.open(connection, "agent", socket, at)
    written.send(connection, 0, b"CONNECT 1024\n", at + 1000)
    written.close(connection, 1, at + 2000)
    written.close(connection, 0, at + 3000)


def findings(updates: list[Update]) -> list[tuple[str, str, int]]:
    return [(each.kind, each.reason, each.flow.id if each.flow else 0) for each in updates if isinstance(each, Finding)]


def test_connections_that_a_booting_guest_refuses_are_one_line_with_their_number(tmp_path: Path) -> None:
    written = Written()
    for number in range(300):
        refuse(written, number + 1, number * MS)
    written.open(301, "agent", VM, 300 * MS)
    written.send(301, 0, b"CONNECT 1024\n", 301 * MS)
    written.send(301, 1, b"OK 1073741824\n", 302 * MS)
    written.ask(301, 1, "State", 303 * MS, id=POD)
    written.answer(301, 1, 304 * MS)
    _, updates = read(written.save(tmp_path / "x", SECOND))
    line = "agent (port 1024) refused 300 times in 0.299s, as while a guest boots; then it was taken"
    assert findings(updates) == [("notice", line, 1)]
    assert [each.call.hop for each in updates if each.kind == "ended" and each.call] == ["agent"]


def test_refusals_of_two_vms_and_those_that_nothing_follows_are_lines_of_their_own(tmp_path: Path) -> None:
    written = Written()
    refuse(written, 1, 0)
    refuse(written, 2, MS, VM.replace("9f57", "8ae4"))
    refuse(written, 3, 2 * MS)
    refuse(written, 4, 2 * SECOND)
    _, updates = read(written.save(tmp_path / "x", 3 * SECOND))
    twice = "agent (port 1024) refused 2 times in 0.002s, as while a guest boots"
    once = "agent (port 1024) refused once, as while a guest boots"
    assert findings(updates) == [("notice", twice, 1), ("notice", once, 2), ("notice", once, 4)]


def test_a_guests_log_is_told_by_lines_and_its_console_by_counts(tmp_path: Path) -> None:
    written = Written()
    for connection, port in ((1, 1025), (2, 1026), (3, 1027)):
        written.open(connection, "agent", VM)
        written.send(connection, 0, b"passfd\n1027" if port == 1027 else b"connect %d\n" % port, MS)
        written.send(connection, 1, b"OK 5\n", 2 * MS)
    written.send(1, 1, b'{"msg":"\xff"}\n', 3 * MS)
    written.send(2, 1, b"# ls", 4 * MS)
    written.close(2, 1, 5 * MS)
    _, updates = read(written.save(tmp_path / "x", SECOND))
    assert findings(updates) == [
        ("notice", "debug console (port 1026) opened; its bytes are counted, not decoded", 2),
        ("notice", "a descriptor was passed to passfd I/O (port 1027), whose bytes go through it", 3),
        ("notice", "log", 1),
        ("gap", "not decoded: debug console (port 1026)", 2),
    ]
    log, console = (each for each in updates[-2:] if isinstance(each, Finding))
    assert (log.text, log.offset, log.length) == ('{"msg":"\\xff"}', 5, 11)
    assert (console.length, console.offset) == (4, 5)
