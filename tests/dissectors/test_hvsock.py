"""Hybrid vsock: the handshake in all its forms, what each port then speaks, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissectors.detect import open_dissector, settled
from dissectors.events import (
    CallEnded,
    CallMessage,
    CallOpened,
    Event,
    LogLine,
    Malformed,
    PortOpened,
    PortRefused,
    Skipped,
)
from dissectors.hvsock import MAX_ANSWER, MAX_LOG_LINE, HvsockConnection, is_sound, may_begin, port_name
from dissectors.ttrpc import build_frame, build_request, build_response
from tests.dissectors.support import (
    REQUEST,
    RESPONSE,
    Piece,
    Script,
    assert_any_split_gives_the_same,
    assert_every_cut_is_quiet,
    assert_memory_is_bounded,
    by_byte,
    calls,
    faults,
    run,
)

ASK = build_frame(1, 1, 0, build_request("grpc.AgentService", "CreateSandbox", b"\x0a\x01h"))
ANSWER = build_frame(1, 2, 0, build_response(0, "", b""))
AGENT: Script = [
    (REQUEST, b"CONNECT 1024\n"), (RESPONSE, b"OK 1073741824\n"), (REQUEST, ASK), (RESPONSE, ANSWER),
]  # fmt: skip


def test_behind_the_handshake_of_the_agents_port_there_are_calls_at_their_places() -> None:
    events = assert_any_split_gives_the_same(HvsockConnection, AGENT)
    assert_every_cut_is_quiet(HvsockConnection, AGENT)
    assert events[0] == PortOpened(1024, False)
    assert calls(events) == [("grpc.AgentService", "CreateSandbox", 0)]
    assert faults(events) == []
    places = {type(event): event.offset for event in events if isinstance(event, CallOpened | CallEnded)}
    assert places == {CallOpened: len(b"CONNECT 1024\n"), CallEnded: len(b"OK 1073741824\n")}


@pytest.mark.parametrize("hello", [b"CONNECT 1024\n", b"connect 1024\n", b"CONNECT 1024\r\n"])
@pytest.mark.parametrize("answer", [b"OK 1073741824\n", b"OK\n", b"xOK 5 \r\n"])
@pytest.mark.parametrize("expected", ["ttrpc", "grpc", None])
def test_the_first_line_is_found_in_either_case_whatever_is_expected(
    hello: bytes, answer: bytes, expected: str | None
) -> None:
    """Go's shim says CONNECT, runtime-rs connect; both look for OK in the answer, and for nothing else."""
    script: Script = [(REQUEST, hello), (RESPONSE, answer), (REQUEST, ASK), (RESPONSE, ANSWER)]
    events = assert_any_split_gives_the_same(lambda: open_dissector(expected), script)
    assert calls(events) == [("grpc.AgentService", "CreateSandbox", 0)]
    assert faults(events) == []


def test_what_comes_right_behind_the_answers_line_is_the_ports() -> None:
    """VMMs write both in one go; and a client may not wait for the answer."""
    script: Script = [(REQUEST, b"CONNECT 1024\n" + ASK), (RESPONSE, b"OK 7\n" + ANSWER)]
    events = assert_any_split_gives_the_same(HvsockConnection, script)
    assert calls(events) == [("grpc.AgentService", "CreateSandbox", 0)]


def test_a_plain_ttrpc_connection_of_the_hop_is_one_still() -> None:
    """A remote hypervisor's agent has no handshake."""
    events = run(open_dissector("ttrpc"), [(REQUEST, ASK), (RESPONSE, ANSWER)])
    assert calls(events) == [("grpc.AgentService", "CreateSandbox", 0)]
    assert not any(isinstance(event, PortOpened) for event in events)


@pytest.mark.parametrize("head", [b"CONNECT 10.0.0.1:443 HTTP/1.1\r\n", b"CONNECTED\n", b"passfds\n", b"connect x\n"])
def test_what_only_looks_like_a_first_line_is_none(head: bytes) -> None:
    assert not is_sound(head)
    assert not may_begin(head)
    events = run(open_dissector("ttrpc"), [(REQUEST, head)])
    assert not any(isinstance(event, PortOpened | PortRefused) for event in events)
    assert faults(events)


def test_every_beginning_of_a_first_line_is_waited_for() -> None:
    for line in (b"CONNECT 1024\n", b"connect 1\r\n", b"passfd\n"):
        for end in range(len(line)):
            assert may_begin(line[:end])
            assert not is_sound(line[:end])
        assert is_sound(line)
    assert settled(open_dissector("ttrpc")).protocol == ""


@pytest.mark.parametrize("who", [REQUEST, RESPONSE])
def test_a_connection_that_ends_without_an_answer_is_refused_whoever_ends_it(who: int) -> None:
    dissector = HvsockConnection()
    events = dissector.feed(REQUEST, b"connect 1024\n")
    for direction in (REQUEST, RESPONSE) if who == REQUEST else (RESPONSE, REQUEST):
        events += dissector.close(direction)
    assert events == [PortRefused(1024)]


def test_a_refusal_in_words_and_half_an_answer_are_said() -> None:
    events = run(HvsockConnection(), [(REQUEST, b"connect 1024\n"), (RESPONSE, b"no such port\n"), (REQUEST, ASK)])
    assert isinstance(events[0], Malformed)
    assert (events[0].reason, events[0].evidence) == ("an answer that is no OK", b"no such port\n")
    assert isinstance(events[-1], Skipped)
    assert events[-1].length == len(ASK)
    broken = run(HvsockConnection(), [(REQUEST, b"connect 1024\n"), (RESPONSE, b"OK 10")])
    assert broken[0] == PortRefused(1024)
    assert isinstance(broken[1], Malformed)
    endless = run(HvsockConnection(), [(REQUEST, b"connect 1024\n"), (RESPONSE, b"x" * 1000)])
    assert [event.reason for event in faults(endless) if isinstance(event, Malformed)] == ["an answer that is no OK"]


def test_the_logs_port_is_told_by_lines() -> None:
    lines = [b'{"level":"INFO","msg":"rpc call"}', b"", b"no json", b"x" * (MAX_LOG_LINE + 5)]
    script: Script = [
        (REQUEST, b"connect 1025\n"), (RESPONSE, b"OK 1073741825\n" + b"\n".join(lines) + b"\nnot ended"),
    ]  # fmt: skip
    events = assert_any_split_gives_the_same(HvsockConnection, script)
    told = [event for event in events if isinstance(event, LogLine)]
    whole, rest = lines[3][:MAX_LOG_LINE], lines[3][MAX_LOG_LINE:]
    assert [event.line for event in told] == [*lines[:3], whole, rest, b"not ended"]
    sent = script[1][1]
    assert isinstance(sent, bytes)
    assert all(sent[event.offset : event.offset + len(event.line)] == event.line for event in told)


def test_a_gap_in_the_log_is_said_where_it_is() -> None:
    events = run(
        HvsockConnection(),
        [(REQUEST, b"connect 1025\n"), (RESPONSE, b"OK 1\nab"), (RESPONSE, 10), (RESPONSE, b"cd\n")],
    )
    assert events[1:] == [LogLine(RESPONSE, 5, b"ab"), Skipped(RESPONSE, 7, 10, "lost"), LogLine(RESPONSE, 17, b"cd")]


@pytest.mark.parametrize(("port", "name"), [(1026, "debug console (port 1026)"), (7, "port 7")])
def test_other_ports_bytes_are_counted(port: int, name: str) -> None:
    script: Script = [
        (REQUEST, b"CONNECT %d\n" % port), (RESPONSE, b"OK 9\n# "), (REQUEST, b"ls\n"), (RESPONSE, b"bin\n"),
    ]  # fmt: skip
    events = assert_any_split_gives_the_same(HvsockConnection, script)
    reason = f"not decoded: {name}"
    assert port_name(port) == name
    assert events == [PortOpened(port, False), Skipped(REQUEST, len(f"CONNECT {port}\n"), 3, reason),
                      Skipped(RESPONSE, 5, 6, reason)]  # fmt: skip


@pytest.mark.parametrize("port", [b"1027", b"1027 keep"])
def test_a_descriptor_that_is_passed_is_told_with_its_port(port: bytes) -> None:
    script: Script = [(REQUEST, b"passfd\n"), (REQUEST, port), (RESPONSE, b"OK 1073741826\n")]
    assert assert_any_split_gives_the_same(lambda: open_dissector("ttrpc"), script) == [PortOpened(1027, True)]


def test_a_gap_is_taken_for_an_ok_and_calls_go_on_behind_it() -> None:
    script: Script = [
        (REQUEST, b"CONNECT 1024\n"), (RESPONSE, b"OK 1"), (RESPONSE, 10), (REQUEST, ASK), (RESPONSE, ANSWER),
    ]  # fmt: skip
    events = run(open_dissector("ttrpc"), script)
    assert calls(events) == [("grpc.AgentService", "CreateSandbox", 0)]
    assert [event.length for event in faults(events)] == [10]


def test_memory_is_bounded_whatever_is_sent_without_an_answer_or_a_line_end() -> None:
    for start, direction in ((b"connect 1024\n", REQUEST), (b"connect 1026\n", REQUEST)):
        assert_memory_is_bounded(HvsockConnection, direction, start, b"x" * 65536, 16 << 20, 6 << 20)

    def log() -> HvsockConnection:
        dissector = HvsockConnection()
        dissector.feed(REQUEST, b"connect 1025\n")
        dissector.feed(RESPONSE, b"OK 1\n")
        return dissector

    dissector = log()
    for _ in range(100):
        dissector.feed(RESPONSE, b"x" * 10_000)
    assert sum(map(len, dissector._inside._buffers)) < MAX_LOG_LINE  # type: ignore[union-attr] # what it holds


pieces = st.lists(
    st.tuples(
        st.sampled_from([REQUEST, RESPONSE]),
        st.one_of(
            st.sampled_from([b"CONNECT 1024\n", b"connect 1025\n", b"passfd\n", b"1027", b"OK 1\n", b"OK", b"\n", ASK]),
            st.binary(min_size=1, max_size=2 * MAX_ANSWER),
            st.integers(1, 100),
        ),
    ),
    max_size=10,
)


@given(pieces)
def test_no_bytes_and_no_gaps_raise(script: list[Piece]) -> None:
    events: list[Event] = run(HvsockConnection(), script)
    assert len([event for event in events if isinstance(event, PortOpened | PortRefused)]) <= 1
    run(HvsockConnection(), by_byte(script))
    assert all(event.length >= 0 for event in events if isinstance(event, CallMessage | Skipped))
