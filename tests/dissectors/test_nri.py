"""NRI's multiplexer and the two connections inside: who calls whom, at any split, and after what is no frame."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissectors import nri, nri_mux
from dissectors.detect import open_dissector
from dissectors.events import CallEnded, CallMessage, CallOpened, Direction, Event, Inner, Malformed, Skipped
from dissectors.nri import NriConnection
from dissectors.nri_mux import MAX_PAYLOAD, PLUGIN_SERVICE, RUNTIME_SERVICE, MuxReader, build_frame
from dissectors.ttrpc import build_frame as ttrpc_frame
from dissectors.ttrpc import build_request, build_response
from tests.dissectors.support import (
    REQUEST,
    RESPONSE,
    Script,
    assert_any_split_gives_the_same,
    assert_memory_is_bounded,
    by_byte,
    calls_inside,
    faults,
    joined,
    load_sample,
    run,
)

REGISTER = ttrpc_frame(1, 1, 0, build_request("nri.Runtime", "RegisterPlugin", b"\x0a\x01p"))
REGISTERED = ttrpc_frame(1, 2, 0, build_response(0, "", b""))
CONFIGURE = ttrpc_frame(1, 1, 0, build_request("nri.Plugin", "Configure", b"c" * 5000))
CONFIGURED = ttrpc_frame(1, 2, 0, build_response(2, "no", b""))

PLUGIN: Script = [
    (REQUEST, build_frame(RUNTIME_SERVICE, REGISTER)),
    # Both channels in one read, and a ttrpc frame in two pieces with one of the other channel between them.
    (
        RESPONSE,
        build_frame(PLUGIN_SERVICE, CONFIGURE[:4096])
        + build_frame(RUNTIME_SERVICE, REGISTERED)
        + build_frame(PLUGIN_SERVICE, CONFIGURE[4096:]),
    ),
    (REQUEST, build_frame(PLUGIN_SERVICE, CONFIGURED)),
]
CALLS = [
    (RUNTIME_SERVICE, "nri.Runtime", "RegisterPlugin", 0),
    (PLUGIN_SERVICE, "nri.Plugin", "Configure", 2),
]


def inside(events: list[Event], channel: int) -> list[Event]:
    return [event.event for event in events if isinstance(event, Inner) and event.channel == channel]


def test_each_channel_has_calls_of_its_own_though_stream_ids_are_the_same() -> None:
    events = assert_any_split_gives_the_same(NriConnection, PLUGIN)
    assert calls_inside(events) == CALLS
    assert faults(events) == []


def test_the_runtime_asks_on_channel_1_and_the_plugin_on_channel_2() -> None:
    asks = {(event.channel, event.asks) for event in run(NriConnection(), PLUGIN) if isinstance(event, Inner)}
    assert asks == {(1, RESPONSE), (2, REQUEST)}
    message = next(event for event in inside(run(NriConnection(), PLUGIN), 1) if isinstance(event, CallMessage))
    assert message.direction is REQUEST  # the call's direction, not the socket's
    assert message.length == 5000


def test_offsets_are_places_in_the_connection() -> None:
    sent = {direction: b"".join(data for to, data in PLUGIN if to == direction) for direction in Direction}
    at = 0
    for event in run(NriConnection(), PLUGIN):
        assert isinstance(event, Inner)
        if isinstance(event.event, CallOpened):
            frame, direction = (CONFIGURE, RESPONSE) if event.channel == 1 else (REGISTER, REQUEST)
        elif isinstance(event.event, CallEnded):
            frame, direction = (CONFIGURED, REQUEST) if event.channel == 1 else (REGISTERED, RESPONSE)
        else:
            continue
        at += 1
        assert sent[direction][event.event.offset :].startswith(frame[:20])
    assert at == 4


def test_places_are_right_after_many_frames_and_forgotten() -> None:
    connection = NriConnection()
    sent = 0
    for number in range(1, 401, 2):
        frame = build_frame(2, ttrpc_frame(number, 1, 0, build_request("a.B", "C", b"x" * number)))
        events = connection.feed(REQUEST, frame[:30]) + connection.feed(REQUEST, frame[30:])
        opened = events[0].event  # type: ignore[union-attr]
        assert isinstance(opened, CallOpened)
        assert opened.offset == sent + 8
        sent += len(frame)
    assert len(connection._channels[2]._places[REQUEST]._inner) <= 2


@pytest.mark.parametrize("channel", [0, 3])
def test_a_frame_on_an_unknown_channel_is_said_and_passed_over(channel: int) -> None:
    odd = build_frame(channel, b"?" * 100)
    script = [PLUGIN[0], (REQUEST, odd), *PLUGIN[1:]]
    events = assert_any_split_gives_the_same(NriConnection, script)
    assert calls_inside(events) == CALLS
    at = len(PLUGIN[0][1])  # type: ignore[arg-type]
    malformed, skipped = faults(events)
    assert isinstance(malformed, Malformed)
    assert (malformed.offset, malformed.evidence) == (at, odd[:8])
    assert f"channel {channel} " in malformed.reason
    assert skipped == Skipped(REQUEST, at, len(odd), "of an unknown channel")


@pytest.mark.parametrize(("channel", "length"), [(2, MAX_PAYLOAD + 1), (0x01000001, 100)])
def test_a_frame_over_the_limits_is_said_and_the_next_sound_one_found(channel: int, length: int) -> None:
    huge = nri_mux.HEADER.pack(channel, length) + b"\xee" * 50
    events = assert_any_split_gives_the_same(NriConnection, [PLUGIN[0], (REQUEST, huge), *PLUGIN[1:]])
    assert calls_inside(events) == CALLS
    at = len(PLUGIN[0][1])  # type: ignore[arg-type]
    malformed, skipped = faults(events)
    assert isinstance(malformed, Malformed)
    assert malformed.offset == at
    assert "over the limit" in malformed.reason
    assert skipped == Skipped(REQUEST, at, len(huge), nri_mux.NO_FRAME)


@pytest.mark.parametrize(("cut", "reason"), [(3, "within a header"), (8, "40 bytes early"), (20, "28 bytes early")])
def test_a_stream_that_is_cut_says_where(cut: int, reason: str) -> None:
    frame = build_frame(RUNTIME_SERVICE, b"x" * 40)[:cut]
    reader = MuxReader(REQUEST)
    reader.feed(frame)
    (malformed,) = reader.close()
    assert isinstance(malformed, Malformed)
    assert reason in malformed.reason
    assert malformed.offset == (0 if cut < 8 else cut)


def test_a_gap_inside_a_frame_costs_that_message_alone() -> None:
    data = PLUGIN[1][1]
    assert isinstance(data, bytes)
    script = [PLUGIN[0], (RESPONSE, data[:1000]), (RESPONSE, 500), (RESPONSE, data[1500:]), PLUGIN[2]]
    events = assert_any_split_gives_the_same(NriConnection, script)
    assert calls_inside(events) == CALLS
    (message,) = [event for event in inside(events, 1) if isinstance(event, CallMessage) and event.length == 5000]
    assert message.payload is None
    assert faults(events) == [Skipped(REQUEST, 1000, 500, "lost")]  # of the call's direction, at the socket's offset


def test_after_a_gap_over_a_frame_s_end_the_next_sound_one_is_found() -> None:
    more = [
        (REQUEST, build_frame(RUNTIME_SERVICE, ttrpc_frame(3, 1, 0, build_request("nri.Runtime", "Update", b"")))),
        (RESPONSE, build_frame(RUNTIME_SERVICE, ttrpc_frame(3, 2, 0, build_response(0, "", b"")))),
    ]
    data = PLUGIN[0][1]
    assert isinstance(data, bytes)
    events = assert_any_split_gives_the_same(NriConnection, [(REQUEST, data[:20]), (REQUEST, 500), *more])
    assert calls_inside(events) == [(2, "", "", None), (2, "nri.Runtime", "Update", 0)]
    assert Skipped(REQUEST, 20, 500, "lost") in faults(events)


def test_a_writer_that_puts_a_ttrpc_header_in_pieces_is_read() -> None:
    """The Rust implementation: four writes a header, each a frame of its own here."""

    def pieces(channel: int, frame: bytes) -> bytes:
        return b"".join(
            build_frame(channel, part) for part in (frame[:4], frame[4:8], frame[8:9], frame[9:10], frame[10:])
        )

    script = [(REQUEST, pieces(2, REGISTER)), (RESPONSE, build_frame(2, REGISTERED))]
    assert calls_inside(assert_any_split_gives_the_same(NriConnection, script)) == CALLS[:1]
    # … and found again after bytes that are no frame.
    connection = NriConnection()
    connection.lost(REQUEST, 0)
    events = run(connection, [(REQUEST, b"\xee" * 30 + pieces(2, REGISTER)), *script[1:]])
    assert calls_inside(events) == CALLS[:1]


def test_a_capture_that_begins_in_the_middle_goes_on_at_the_next_frame() -> None:
    sample = load_sample("nri-plugin")
    first = sample.script[4][1]
    assert isinstance(first, bytes)
    for expected in ("nri", None):
        dissector = open_dissector(expected)
        events = run(dissector, [(sample.script[4][0], b"\x81" + first[11:]), *sample.script[5:]])
        assert dissector.protocol == "nri"
        assert [(channel, method, end) for channel, _, method, end in calls_inside(events)] == [
            (1, "CreateContainer", 0)
        ] * 2


@pytest.mark.parametrize("expected", [None, "nri", "ttrpc", "grpc"])
@pytest.mark.parametrize("direction", Direction)
def test_a_header_of_each_layer_tells_that_it_is_nri(expected: str | None, direction: Direction) -> None:
    data = PLUGIN[direction][1]
    assert isinstance(data, bytes)
    enough = 10 if expected == "nri" else 18
    dissector = open_dissector(expected)
    for index in range(enough):
        assert dissector.protocol == ""
        dissector.feed(direction, data[index : index + 1])
    assert dissector.protocol == "nri"


def test_a_plugin_of_the_real_library_is_read_without_a_fault() -> None:
    sample = load_sample("nri-plugin")
    events = assert_any_split_gives_the_same(NriConnection, sample.script)
    assert faults(events) == []
    methods = {(channel, method) for channel, _, method, _ in calls_inside(events)}
    assert {(2, "RegisterPlugin"), (1, "Configure"), (1, "Synchronize"), (1, "CreateContainer")} <= methods


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(Direction), st.binary(max_size=40)),
            st.sampled_from(PLUGIN),
            st.tuples(st.sampled_from(Direction), st.integers(1, 60)),
        ),
        max_size=8,
    ),
    st.integers(0, 99),
)
def test_any_bytes_give_the_same_events_at_any_split(script: Script, seed: int) -> None:
    assert_any_split_gives_the_same(NriConnection, script, [seed])


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=12), st.integers(1, 50))
def test_what_a_writer_puts_in_comes_out_by_channel(frames: list[tuple[int, bytes]], step: int) -> None:
    wire = b"".join(build_frame(channel, payload) for channel, payload in frames)
    reader = MuxReader(REQUEST)
    found = {1: b"", 2: b""}
    for at in range(0, len(wire), step):
        for item in reader.feed(wire[at : at + step]):
            assert isinstance(item, nri_mux.Chunk)
            assert wire[item.offset : item.offset + len(item.data)] == item.data
            found[item.channel] += item.data
    assert found == {channel: b"".join(data for to, data in frames if to == channel) for channel in (1, 2)}
    assert reader.close() == []


@pytest.mark.parametrize("filling", [build_frame(2, b"\xee" * 3) * 1000, b"\xee" * 60_000, build_frame(9, b"") * 1000])
def test_memory_is_bounded(filling: bytes) -> None:
    assert_memory_is_bounded(NriConnection, REQUEST, b"", filling, 1 << 20, 400_000)


def test_pieces_of_a_byte_keep_the_place_of_the_frame_they_make() -> None:
    frame = ttrpc_frame(3, 1, 0, build_request("a.B", "C", b"x" * nri._MAX_PLACES * 2))
    wire = build_frame(2, REGISTER) + b"".join(build_frame(2, frame[at : at + 1]) for at in range(len(frame)))
    connection = NriConnection()
    events = connection.feed(REQUEST, wire)
    opened = [event.offset for event in inside(events, 2) if isinstance(event, CallOpened)]
    assert opened == [8, 8 + len(REGISTER) + 8]


def test_bytes_one_by_one_are_not_copied_again_and_again() -> None:
    """A quadratic reader would take minutes for this."""
    big = build_frame(2, ttrpc_frame(1, 1, 0, build_request("a.B", "C", b"x" * 200_000)))
    assert len(run(NriConnection(), joined([(REQUEST, big)]), close=False)) == 3
    assert len(run(NriConnection(), by_byte([(REQUEST, big)]), close=False)) == 3
