"""Flows: whose they are, when they open and close, and what they carry."""

from __future__ import annotations

import gc
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracer.capture.files import (
    ACK,
    FIN,
    RST,
    START,
    SYN,
    Capture,
    ethernet,
    flow_events,
    gaps,
    packet,
    packets,
    small_capture,
    streams,
    tcp,
)
from tracer.capture.flows import (
    CLOSED_FLOWS,
    Direction,
    FlowClosed,
    FlowData,
    FlowEvent,
    FlowGap,
    FlowOpened,
    FlowTable,
    _Side,
)
from tracer.capture.holding import HELD, HELD_NS
from tracer.capture.packets import HOP_PORTS, Interface

REQUEST, RESPONSE = Direction.REQUEST, Direction.RESPONSE


def fed(table: FlowTable, *segments: bytes, comment: str = "", described: Interface | None = None) -> list[FlowEvent]:
    events: list[FlowEvent] = []
    for number, data in enumerate(segments):
        one = packet(ethernet(data), START + number, comment=comment)
        events += table.feed(one._replace(interface=described) if described else one)
    return events


def whole(*segments: bytes) -> list[FlowEvent]:
    """All that a capture of these segments tells."""
    table = FlowTable()
    return fed(table, *segments) + table.finish(START + 1_000)


def names(events: list[FlowEvent]) -> list[str]:
    return [type(event).__name__.removeprefix("Flow") for event in events]


def test_a_connection_of_ours_from_open_to_close() -> None:
    events = flow_events(small_capture())
    assert names(events) == ["Opened", "Data", "Data", "Data", "Closed", "Closed"]
    opened = events[0]
    assert isinstance(opened, FlowOpened)
    flow = opened.flow
    assert (opened.seen, opened.time_ns) == (True, START)
    assert (flow.id, flow.hop, flow.socket) == (1, "cri", "/run/test.sock")
    assert flow.client[:4] == ("198.18.0.1", 49_152, "kubelet", 812)
    assert flow.server[:4] == ("198.18.0.2", 8080, "containerd", 401)
    assert flow.comment["connection"] == 1
    assert streams(events) == ([b"ping" + b"x" * 41], [b"answer"])
    assert [event[1:] for event in events if isinstance(event, FlowClosed)] == [
        (REQUEST, START, False), (RESPONSE, START, False),
    ]  # fmt: skip


def test_the_fast_way_and_the_general_one_agree() -> None:
    def told(link_type: int, cut: int) -> list[tuple[object, ...]]:
        table = FlowTable()
        events: list[FlowEvent] = []
        for each in packets(small_capture()):
            events += table.feed(each._replace(data=each.data[cut:], link_type=link_type))
        return [(type(event), *event[1:]) for event in events]

    assert told(1, 0) == told(101, 14)


def test_a_gap_of_ours_is_told_at_once_and_exactly() -> None:
    capture = Capture().open().data(0, 0, b"abc").data(0, 1_000_000, b"def").data(1, 7, b"ghi")
    events = flow_events(capture.close(0, 1_000_010).close(1, 10, reset=True).finish())
    assert streams(events) == ([b"abc", 999_997, b"def", 7], [7, b"ghi"])
    assert [event.reset for event in events if isinstance(event, FlowClosed)] == [False, True]


@pytest.mark.parametrize("gap", [1, (1 << 30) + 1, (1 << 31) + 5, (1 << 32) + 1, 5 << 32])
def test_a_gap_of_any_size_is_exact(gap: int) -> None:
    capture = Capture().open().data(0, 0, b"abc").data(0, 3 + gap, b"def")
    events = flow_events(capture.close(0, 6 + gap).finish())
    assert sum(gaps(events)) == gap
    assert b"".join(piece for piece in streams(events)[0] if isinstance(piece, bytes)) == b"abcdef"


def test_sequence_numbers_wrap() -> None:
    capture = Capture().open()
    size, block = 4 << 30, 1 << 29
    for place in range(0, size, block):  # nearly all of it is left out, so that the test is quick
        capture.data(0, place, b"begin").data(0, place + block - 3, b"end")
    events = flow_events(capture.close(0, size).finish())
    assert gaps(events) == [block - 8] * (size // block)
    assert [event.data for event in events if isinstance(event, FlowData)] == [b"begin", b"end"] * (size // block)


def test_after_a_reset_the_other_direction_of_ours_goes_on() -> None:
    capture = Capture().open().close(1, 0, reset=True).data(0, 0, b"was sent before").close(0, 15)
    assert names(flow_events(capture.finish())) == ["Opened", "Closed", "Data", "Closed"]


def test_a_reset_on_a_network_ends_both_directions() -> None:
    events = fed(
        FlowTable(), tcp(0, flags=SYN), tcp(0, flags=SYN | ACK, reverse=True), tcp(1, b"hi"), tcp(3, flags=RST)
    )
    assert [event[1:] for event in events if isinstance(event, FlowClosed)] == [
        (REQUEST, START + 3, True), (RESPONSE, START + 3, True),
    ]  # fmt: skip


def test_a_capture_that_begins_in_the_middle_says_so() -> None:
    events = whole(tcp(500, b"hello", reverse=True), tcp(99, b"there"))
    assert names(events) == ["Opened", "Data", "Data"]
    assert isinstance(events[0], FlowOpened)
    assert events[0].seen is False
    assert events[0].flow.server.port == 8080
    assert [event.direction for event in events[1:] if isinstance(event, FlowData)] == [RESPONSE, REQUEST]


def test_a_direction_whose_first_segment_has_number_zero_is_kept_in_step() -> None:
    events = whole(tcp(500, b"hello"), tcp(0, b"abc", reverse=True), tcp(3, b"def", reverse=True))
    assert [event.data for event in events if isinstance(event, FlowData)] == [b"hello", b"abc", b"def"]


@pytest.mark.parametrize("ports", [(50_000, 8080), (40, 8088), (2_000, 1_000)])
def test_without_a_handshake_the_server_has_the_known_port_or_the_lower_one(ports: tuple[int, int]) -> None:
    (opened, _) = whole(tcp(1, b"x", ports=ports))
    assert opened.flow.server.port == ports[1]


def test_an_answer_to_a_handshake_that_was_not_seen_tells_both_starts() -> None:
    events = fed(FlowTable(), tcp(9, flags=SYN | ACK, reverse=True, acknowledgement=100), tcp(105, b"late"))
    assert names(events) == ["Opened"]
    assert events[0].flow.client.port == 50_000


def handshake() -> tuple[bytes, bytes]:
    return tcp(99, flags=SYN), tcp(499, flags=SYN | ACK, reverse=True, acknowledgement=100)


QUESTION, ANSWER = tcp(100, b"what?", acknowledgement=500), tcp(500, b"that", reverse=True, acknowledgement=105)


def said(events: list[FlowEvent]) -> list[tuple[Direction, bytes | int]]:
    found: list[tuple[Direction, bytes | int]] = []
    for event in events:
        if isinstance(event, FlowData):
            found.append((event.direction, event.data))
        elif isinstance(event, FlowGap):
            found.append((event.direction, event.count))
    return found


def test_an_answer_that_stands_before_its_question_comes_behind_it() -> None:
    events = whole(*handshake(), ANSWER, QUESTION)
    assert said(events) == [(REQUEST, b"what?"), (RESPONSE, b"that")]
    assert [event.time_ns - START for event in events if isinstance(event, FlowData)] == [3, 3]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
@pytest.mark.parametrize("timed", [False, True])
def test_any_order_of_handshake_question_and_answer_is_the_same(order: tuple[int, ...], timed: bool) -> None:
    segments, table = [*handshake(), QUESTION, ANSWER], FlowTable()
    events: list[FlowEvent] = []
    for number, at in enumerate(order):  # by their own times, or by their places
        events += table.feed(packet(ethernet(segments[at]), START + (at if timed else number)))
    events += table.finish(START + 1_000)
    assert said(events) == [(REQUEST, b"what?"), (RESPONSE, b"that")]
    assert {event.flow.client.port for event in events} == {50_000}
    assert names(events).count("Opened") == 1


def test_an_answer_to_what_was_lost_comes_behind_the_gap_without_a_long_wait() -> None:
    table = FlowTable()
    events = fed(table, *handshake(), ANSWER)
    assert said(events) == []
    at = 0
    while not said(events):
        events += fed(table, tcp(504 + at, b"x", reverse=True, acknowledgement=105))
        at += 1
        assert at <= HELD
    assert said(events)[:2] == [(REQUEST, 5), (RESPONSE, b"that")]
    assert said(events)[2:] == [(RESPONSE, b"x")] * at


def test_what_was_acknowledged_and_never_came_is_told_at_the_end() -> None:
    events = whole(*handshake(), ANSWER, tcp(105, b"next", acknowledgement=504))
    assert said(events) == [(REQUEST, 5), (RESPONSE, b"that"), (REQUEST, b"next")]
    resets = whole(*handshake(), ANSWER, tcp(504, b"", RST | ACK, reverse=True, acknowledgement=105))
    assert said(resets) == [(REQUEST, 5), (RESPONSE, b"that")]
    assert names(resets)[-2:] == ["Closed", "Closed"]


def test_an_end_that_is_not_in_the_capture_is_no_gap() -> None:
    events = whole(*handshake(), QUESTION, tcp(500, b"that", FIN | ACK, reverse=True, acknowledgement=106))
    assert said(events) == [(REQUEST, b"what?"), (RESPONSE, b"that")]


def test_another_connection_on_the_same_ports_ends_what_was_held_of_the_one_before() -> None:
    left = tcp(9_000_000, b"old", acknowledgement=77)
    events = whole(left, *handshake(), QUESTION, ANSWER)
    assert [event.flow.id for event in events if isinstance(event, FlowData)] == [1, 2, 2]
    table = FlowTable()
    events = fed(table, *handshake(), ANSWER, tcp(70_000, flags=SYN))
    assert said(events) == [(REQUEST, 5), (RESPONSE, b"that")]


def test_a_handshake_that_is_shown_again_behind_its_bytes_is_no_other_flow() -> None:
    events = whole(*handshake(), QUESTION, *handshake(), ANSWER)
    assert said(events) == [(REQUEST, b"what?"), (RESPONSE, b"that")]
    assert {event.flow.id for event in events} == {1}


def test_bytes_without_a_handshake_are_given_out_in_time_and_in_order() -> None:
    table = FlowTable()
    fed(table, tcp(0, flags=SYN, ports=(7, 8088)))
    assert fed(table, tcp(105, b"late", acknowledgement=500), QUESTION) == []
    other = packet(ethernet(tcp(1, b"x", ports=(7, 8088))), START + HELD_NS)
    events = table.feed(other)
    assert said(events) == [(REQUEST, b"what?"), (REQUEST, b"late"), (REQUEST, b"x")]
    table = FlowTable()
    events = fed(table, *(tcp(100 + at, b"x") for at in range(HELD + 1)))
    assert len(said(events)) == HELD + 1


def test_several_connections_without_a_handshake_wait_and_all_are_given_out_at_the_end() -> None:
    events = whole(*(tcp(100, b"%d" % number, ports=(50_000 + number, 10010)) for number in range(5)))
    assert sorted(event.data for event in events if isinstance(event, FlowData)) == [b"0", b"1", b"2", b"3", b"4"]
    assert names(events).count("Opened") == 5


def test_a_second_reading_finds_each_packet_at_the_place_that_the_first_one_gave_it() -> None:
    segments = [ANSWER, tcp(105, b"more", acknowledgement=500), QUESTION, *handshake()]
    first = FlowTable()
    assert said(fed(first, *segments)) == [(REQUEST, b"what?"), (REQUEST, b"more"), (RESPONSE, b"that")]
    second, places = FlowTable(first.starts), []
    for number, data in enumerate(segments[:3]):
        one = packet(ethernet(data), START + number)
        second.feed(one)
        place = second.place(one)
        assert place is not None
        places.append((place.flow.id, place.direction, place.offset))
    assert places == [(1, RESPONSE, 0), (1, REQUEST, 5), (1, REQUEST, 0)]


def test_acknowledgements_of_an_unknown_connection_open_nothing() -> None:
    assert fed(FlowTable(), tcp(1), tcp(1, flags=FIN | ACK), tcp(1, flags=RST)) == []


def test_the_same_addresses_and_ports_again_are_another_flow() -> None:
    table = FlowTable()
    fed(table, tcp(0, flags=SYN), tcp(1, b"one"))
    events = fed(table, tcp(70, flags=SYN), tcp(71, b"two"))
    assert names(events) == ["Closed", "Closed", "Opened", "Data"]
    assert [event.flow.id for event in events] == [1, 1, 2, 2]


def test_a_handshake_sent_again_is_no_other_flow() -> None:
    table = FlowTable()
    syn, answer = tcp(5, flags=SYN), tcp(7, flags=SYN | ACK, reverse=True)
    assert names(fed(table, syn, syn, answer, answer, tcp(6, b"x"), answer)) == ["Opened", "Data"]


def test_what_comes_after_the_end_of_a_flow_is_nothing() -> None:
    table = FlowTable()
    fed(table, tcp(0, flags=SYN), tcp(1, b"one", FIN | ACK), tcp(0, b"", FIN | ACK, reverse=True))
    assert fed(table, tcp(1, b"one", FIN | ACK), tcp(1, b"", ACK, reverse=True), tcp(5, b"", ACK)) == []


def test_flows_that_have_ended_are_forgotten_in_time() -> None:
    table = FlowTable()
    gc.collect()
    gc.disable()  # whoever reads much looks for cycles seldom
    try:
        for number in range(CLOSED_FLOWS + 50):
            ports = (number, 8080)
            fed(table, tcp(0, flags=SYN, ports=ports), tcp(1, flags=RST, ports=ports))
        assert len(table._sides) == 2 * CLOSED_FLOWS
        kept = {id(side) for side in table._sides.values()}
        assert [each for each in gc.get_objects() if type(each) is _Side and id(each) not in kept] == []
    finally:
        gc.enable()


def test_what_waits_at_the_end_is_told_with_its_gap() -> None:
    table = FlowTable()
    fed(table, tcp(0, flags=SYN), tcp(11, b"late"))
    events = table.finish(77)
    assert [event[1:] for event in events] == [(REQUEST, 77, 10), (REQUEST, 77, b"late")]
    assert [type(event) for event in events] == [FlowGap, FlowData]


def test_what_waited_has_the_time_of_the_packet_that_let_it_go() -> None:
    events = fed(FlowTable(), tcp(0, flags=SYN), tcp(2, b"b"), tcp(1, b"a"))
    assert [(event.data, event.time_ns) for event in events if isinstance(event, FlowData)] == [
        (b"a", START + 2), (b"b", START + 2),
    ]  # fmt: skip


def test_packets_that_are_not_decoded_are_counted_by_reason() -> None:
    table = FlowTable()
    fragment = tcp(1, b"x")
    fed(table, fragment[:6] + b"\x20\0" + fragment[8:], fragment[:9] + b"\x11" + fragment[10:])
    assert table.passed_over == {"IPv4 fragment": 1, "not TCP": 1}


@pytest.mark.parametrize(("hop", "port"), HOP_PORTS.items())
def test_the_server_port_tells_the_hop(hop: str, port: int) -> None:
    (opened,) = fed(FlowTable(), tcp(0, flags=SYN, ports=(50_000, port)))
    assert opened.flow.hop == hop


@pytest.mark.parametrize(
    ("name", "description"), [("task:/run/s/1", "/run/s/1"), ("/run/s/1", "task /run/s/1"), ("task:/run/s/1", "")]
)
def test_the_interface_tells_hop_and_socket_where_nothing_else_does(name: str, description: str) -> None:
    described = Interface(0, name, description, 1, {"198.18.0.2": "shim"})
    (opened,) = fed(FlowTable(), tcp(0, flags=SYN, ports=(50_000, 99)), described=described)
    assert (opened.flow.hop, opened.flow.socket, opened.flow.server.name) == ("task", "/run/s/1", "shim")


def test_an_unknown_connection_has_no_hop() -> None:
    (opened,) = fed(FlowTable(), tcp(0, flags=SYN, ports=(50_000, 99)))
    assert (opened.flow.hop, opened.flow.socket, opened.flow.client.name) == ("", "", "")


def test_an_end_with_a_comment_of_reset_is_a_reset() -> None:
    table = FlowTable()
    fed(table, tcp(0, flags=SYN))
    (closed,) = fed(table, tcp(1, flags=FIN | ACK), comment=json.dumps({"reset": True}))
    assert isinstance(closed, FlowClosed)
    assert closed.reset is True


def test_a_flow_is_a_key_of_a_dictionary_and_equal_to_itself_alone() -> None:
    first, second = (fed(FlowTable(), tcp(0, flags=SYN))[0].flow for _ in range(2))
    assert {first: 1, second: 2}[first] == 1
    assert first != second


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 63), st.binary(max_size=5), st.booleans()), max_size=30))
@settings(max_examples=200)
def test_no_order_of_segments_raises_and_no_direction_closes_twice(
    segments: list[tuple[int, int, bytes, bool]],
) -> None:
    table = FlowTable()
    events = fed(table, *(tcp(sequence, payload, flags, back) for sequence, flags, payload, back in segments))
    events += table.finish(0)
    closed = [(event.flow.id, event.direction) for event in events if isinstance(event, FlowClosed)]
    assert len(closed) == len(set(closed))
    for number, event in enumerate(events):
        if isinstance(event, FlowData | FlowGap):
            ends = [each for each in events[:number] if isinstance(each, FlowClosed)]
            assert (event.flow.id, event.direction) not in [(end.flow.id, end.direction) for end in ends]


@pytest.mark.parametrize(
    ("at", "value", "passed"), [(6, b"\x20\0", "IPv4 fragment"), (9, b"\x11", "not TCP"), (0, b"\x55", "")]
)
def test_a_packet_that_is_no_segment_is_none_in_its_flow_either(at: int, value: bytes, passed: str) -> None:
    table = FlowTable()
    fed(table, tcp(0, flags=SYN), tcp(1, b"known"))
    following = tcp(6, b"more")
    events = fed(table, following[:at] + value + following[at + len(value) :])
    assert [event for event in events if isinstance(event, FlowData)] == []
    if passed:
        assert table.passed_over == {passed: 1}
