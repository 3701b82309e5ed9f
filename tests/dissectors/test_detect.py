"""Which protocol it is: from either side's first bytes, in the middle of a connection, and what is neither."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissectors.detect import open_dissector, settled
from dissectors.events import CallMessage, CallOpened, Direction, Malformed, Skipped
from dissectors.ttrpc import build_frame, build_request, build_response
from tests.dissectors.http2_writer import Writer
from tests.dissectors.support import (
    REQUEST,
    RESPONSE,
    assert_any_split_gives_the_same,
    assert_memory_is_bounded,
    calls,
    faults,
    load_sample,
    run,
)

EXPECTED = [None, "grpc", "ttrpc", "nri"]
TTRPC = [
    (REQUEST, build_frame(1, 1, 0, build_request("a.B", "C", b"x" * 300))),
    (RESPONSE, build_frame(1, 2, 0, build_response(0, "", b"y" * 300))),
]
SETTINGS = Writer(RESPONSE).start(max_frame_size=16384)[1]


@pytest.mark.parametrize("expected", EXPECTED)
@pytest.mark.parametrize(
    ("direction", "data", "enough", "protocol"),
    [
        (REQUEST, Writer(REQUEST).start()[1], 9, "grpc"),
        (RESPONSE, SETTINGS, 9, "grpc"),
        (REQUEST, TTRPC[0][1], 10, "ttrpc"),
        (RESPONSE, TTRPC[1][1], 10, "ttrpc"),
        (REQUEST, b"POST /x HTTP/1.1\r\n\r\n", 10, "unknown"),
        (REQUEST, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03", 10, "unknown"),
    ],
)
def test_a_few_bytes_of_either_side_tell(
    expected: str | None, direction: Direction, data: bytes, enough: int, protocol: str
) -> None:
    dissector = open_dissector(expected)
    for index in range(enough):
        assert dissector.protocol == ""
        dissector.feed(direction, data[index : index + 1])
    assert dissector.protocol == protocol


@pytest.mark.parametrize("length", [0x101, 0x200, 0x408])
def test_a_ttrpc_request_whose_length_makes_it_look_like_http2_is_ttrpc_where_that_is_expected(length: int) -> None:
    payload = build_request("a.B", "C", b"x" * (length - 11))
    assert len(payload) == length
    script = [(REQUEST, build_frame(1, 1, 0, payload)), TTRPC[1]]
    dissector = open_dissector("ttrpc")
    assert faults(run(dissector, script)) == []
    assert dissector.protocol == "ttrpc"


@pytest.mark.parametrize("expected", EXPECTED)
def test_what_came_before_the_choice_is_replayed_in_order(expected: str | None) -> None:
    sample = load_sample("crictl-runp")
    assert sample.script[0][0] == RESPONSE  # the server speaks first
    events = assert_any_split_gives_the_same(lambda: open_dissector(expected), sample.script)
    assert [end for _, _, end in calls(events)] == [0, 0]


@pytest.mark.parametrize("expected", EXPECTED)
@pytest.mark.parametrize("name", ["shim-pause", "ctr-content-reads"])
@pytest.mark.parametrize("cut", [1, 3, 4, 7])
def test_a_capture_that_begins_in_the_middle_is_read_from_its_first_frame(
    expected: str | None, name: str, cut: int
) -> None:
    script = load_sample(name).script[cut:]
    dissector = open_dissector(expected)
    events = run(dissector, script)
    assert dissector.protocol == ("ttrpc" if name == "shim-pause" else "grpc")
    assert faults(events) == []
    assert len(calls(events)) > 10


@pytest.mark.parametrize("expected", ["ttrpc", None])
def test_a_capture_that_begins_in_a_frame_finds_the_next(expected: str | None) -> None:
    sample = load_sample("shim-pause")
    first = b"\x81" + sample.script[0][1][40:]
    dissector = open_dissector(expected)
    events = run(dissector, [(REQUEST, first), *sample.script[1:]])
    assert dissector.protocol == "ttrpc"
    assert [event.seen for event in events if isinstance(event, CallOpened)][:2] == [False, True]


def test_text_in_which_a_frame_is_found_was_the_middle_of_a_message() -> None:
    script = [(REQUEST, b'{"the rest": "of some JSON"}' * 40 + TTRPC[0][1] * 9), TTRPC[1]]
    dissector = open_dissector(None)
    assert calls(run(dissector, script))[0] == ("a.B", "C", 0)
    assert dissector.protocol == "ttrpc"


def test_text_that_never_becomes_frames_is_told_in_the_end() -> None:
    dissector = open_dissector("grpc")
    assert run(dissector, [(REQUEST, b"hello")], close=False) == []
    events = dissector.close(REQUEST)
    assert [type(event) for event in events] == [Malformed, Skipped]
    assert dissector.close(RESPONSE) == []


def test_text_without_end_is_told_after_64_kib() -> None:
    dissector = open_dissector(None)
    events = run(dissector, [(REQUEST, b"hello " * 100)] * 120, close=False)
    assert [type(event) for event in events] == [Malformed]
    assert dissector.protocol == "unknown"


def test_silence_is_no_fault() -> None:
    """containerd 1.6 opens connections to its shims and closes them without a byte."""
    dissector = open_dissector("ttrpc")
    assert run(dissector, []) == []
    assert dissector.protocol == ""


def test_a_server_that_speaks_grpc_where_ttrpc_is_expected_is_read() -> None:
    """Shims may."""
    sample = load_sample("crictl-runp")
    dissector = open_dissector("ttrpc")
    assert faults(run(dissector, sample.script)) == []
    assert dissector.protocol == "grpc"


@pytest.mark.parametrize("expected", EXPECTED)
def test_the_dissector_is_fed_directly_once_it_is_the_expected_one(expected: str | None) -> None:
    detector = open_dissector(expected)
    assert settled(detector) is detector
    detector.feed(REQUEST, Writer(REQUEST).start()[1])
    # In place of another one it still has to say that it is never answered.
    assert (settled(detector) is detector) is (expected in ("ttrpc", "nri"))


def test_a_gap_before_the_choice_is_kept_in_its_place() -> None:
    dissector = open_dissector("ttrpc")
    assert dissector.lost(REQUEST, 100) == []
    events = run(dissector, TTRPC)
    assert events[0] == Skipped(REQUEST, 0, 100, "lost")
    assert calls(events) == [("a.B", "C", 0)]
    opened = next(event for event in events if isinstance(event, CallOpened))
    assert opened.offset == 100


def test_after_the_choice_losses_go_to_the_dissector() -> None:
    dissector = open_dissector(None)
    wire = TTRPC[0][1]
    run(dissector, [(REQUEST, wire[:100])], close=False)
    events = dissector.lost(REQUEST, 50)
    events += run(dissector, [(REQUEST, wire[150:])])
    assert [type(event).__name__ for event in events][:2] == ["CallOpened", "CallMessage"]
    message = events[1]
    assert isinstance(message, CallMessage)
    assert message.payload is None


@given(
    st.sampled_from(EXPECTED),
    st.lists(st.tuples(st.sampled_from(Direction), st.binary(max_size=50)), max_size=8),
    st.integers(0, 99),
)
def test_any_bytes_give_the_same_events_at_any_split(
    expected: str | None, script: list[tuple[Direction, bytes]], seed: int
) -> None:
    assert_any_split_gives_the_same(lambda: open_dissector(expected), script, [seed])


@pytest.mark.parametrize("expected", EXPECTED)
@pytest.mark.parametrize("filling", [b"text ", b"\xff\x00"])
def test_memory_is_bounded(expected: str | None, filling: bytes) -> None:
    assert_memory_is_bounded(lambda: open_dissector(expected), REQUEST, b"", filling * 9000, 20 << 20, 1 << 20)
