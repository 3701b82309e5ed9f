"""Calls out of events: what is published, when, and what each end is called."""

from __future__ import annotations

import pytest

from dissectors.events import CallEnded, CallHalfClosed, CallMetadata, Direction, Event, Malformed, Skipped
from tests.tracer.made import (
    MS,
    REQUEST,
    RESPONSE,
    SECOND,
    START,
    TASK,
    ended,
    made_flow,
    message,
    opened,
    reset,
    story,
)
from tracer.calls import KEPT_BYTES, KEPT_MESSAGES, Call, CallTracker, CallUpdate, Finding, State
from tracer.capture.flows import Flow


class Script:
    """Feeds one tracker; each step is a millisecond later."""

    def __init__(self) -> None:
        self.tracker = CallTracker()
        self.flow = made_flow()
        self.now_ns = START

    def feed(self, *events: Event, flow: Flow | None = None, protocol: str = "grpc") -> list[str]:
        self.updates = self.tracker.feed(flow or self.flow, protocol, self.now_ns, list(events))
        self.now_ns += MS
        return story(self.updates)

    def close(self, direction: Direction, *, reset: bool = False, flow: Flow | None = None) -> list[str]:
        self.updates = self.tracker.closed(flow or self.flow, self.now_ns, direction, reset)
        self.now_ns += MS
        return story(self.updates)

    def call(self) -> Call:
        update = self.updates[-1]
        assert isinstance(update, CallUpdate)
        return update.call


@pytest.fixture
def script() -> Script:
    return Script()


def test_a_call_is_published_when_it_opens_at_each_message_and_at_its_end(script: Script) -> None:
    assert script.feed(opened(1, "RunPodSandbox")) == ["opened 1"]
    assert script.feed(message(1, REQUEST, b"ask"), CallHalfClosed(1, REQUEST)) == ["message 1"]
    assert script.feed(CallMetadata(1, 0, (("content-type", "application/grpc"),))) == []
    assert script.feed(message(1, RESPONSE, b"answer")) == ["message 1"]
    assert script.feed(ended(1)) == ["ended 1 ended"]
    call = script.call()
    assert (call.service, call.method, call.stream_id) == ("runtime.v1.RuntimeService", "RunPodSandbox", 1)
    assert (call.start_ns, call.end_ns) == (START, START + 4 * MS)
    assert call.response_metadata == (("content-type", "application/grpc"),)
    assert [(m.number, m.direction, m.payload, m.time_ns - START) for m in call.messages] == [
        (1, REQUEST, b"ask", MS),
        (2, RESPONSE, b"answer", 3 * MS),
    ]
    assert (call.request_bytes, call.response_bytes, call.response_count) == (3, 6, 1)
    assert not call.failed()
    assert script.tracker.open_calls() == []


def test_a_call_of_one_frame_is_open_with_its_message_already(script: Script) -> None:
    assert script.feed(opened(1, "Create", TASK), message(1, REQUEST, b"x"), protocol="ttrpc") == [
        "opened 1",
        "message 1",
    ]
    (call,) = script.tracker.open_calls()
    assert (call.state, call.end_ns, call.protocol) == (State.OPEN, None, "ttrpc")


def test_answers_out_of_order_end_their_own_calls(script: Script) -> None:
    script.feed(opened(1), opened(3), opened(5))
    assert script.feed(ended(5), ended(1)) == ["ended 3 ended", "ended 1 ended"]
    assert [call.stream_id for call in script.tracker.open_calls()] == [3]


def test_the_same_stream_id_on_two_connections_is_two_calls(script: Script) -> None:
    other = made_flow(2)
    script.feed(opened(1))
    script.feed(opened(1), flow=other)
    assert script.feed(ended(1), flow=other) == ["ended 2 ended"]
    assert [call.number for call in script.tracker.open_calls()] == [1]


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (ended(1, 0), State.ENDED),
        (ended(1, 5, "no such pod"), State.ENDED),
        (ended(1, 4, "too slow"), State.DEADLINE_EXCEEDED),
        (reset(1, 8, REQUEST), State.CANCELLED),
        (reset(1, 8, RESPONSE), State.RESET),
        (reset(1, 7, REQUEST), State.RESET),
        (CallEnded(1, RESPONSE, 0, None, None, ()), State.ENDED),
    ],
)
def test_each_end_has_its_state(script: Script, end: CallEnded, state: State) -> None:
    script.feed(opened(1))
    assert script.feed(end) == [f"ended 1 {state}"]
    call = script.call()
    assert (call.status, call.reset, call.ended_by) == (end.status, end.reset, end.direction)
    assert call.failed() == (end.status is None or end.status.code != 0)
    assert (call.note == "ended without a status") == (end.status is None and end.reset is None)


def test_a_call_whose_connection_ends_is_cut(script: Script) -> None:
    script.feed(opened(1, timeout_ns=SECOND))
    assert script.close(RESPONSE) == ["ended 1 cut"]
    assert script.call().note == "the server closed the connection"
    assert script.close(REQUEST) == []


@pytest.mark.parametrize(("by_reset", "how"), [(False, "closed"), (True, "reset")])
def test_a_call_whose_client_is_gone_is_open_until_the_server_answers_or_ends(
    script: Script, by_reset: bool, how: str
) -> None:
    script.feed(opened(1), opened(3), opened(5))
    assert script.close(REQUEST, reset=by_reset) == []
    assert {call.note for call in script.tracker.open_calls()} == {f"the client {how} the connection"}
    assert script.feed(ended(1)) == ["ended 1 ended"]
    assert script.call().note == f"answered after the client {how} the connection"
    assert script.close(RESPONSE) == ["ended 2 cut", "ended 3 cut"]
    assert script.call().note == f"the client {how} the connection"
    assert script.call().ended_by is REQUEST


def test_frames_after_a_regular_end_are_no_news(script: Script) -> None:
    script.feed(opened(1), ended(1, 3))
    assert script.feed(message(1, REQUEST, b"still sending"), reset(1, 0, RESPONSE)) == []


def test_a_call_in_flight_knows_its_deadline(script: Script) -> None:
    script.feed(opened(1, timeout_ns=2 * SECOND), opened(3))
    first, second = script.tracker.open_calls()
    assert first.deadline_ns == START + 2 * SECOND
    assert not first.deadline_passed(START + SECOND)
    assert first.deadline_passed(START + 2 * SECOND)
    assert first.state is State.OPEN
    assert second.deadline_ns is None
    assert not second.deadline_passed(START + 100 * SECOND)


def test_a_call_whose_start_was_not_seen_says_so(script: Script) -> None:
    script.feed(opened(7, "", "", seen=False), message(7, RESPONSE, b"?"), ended(7))
    call = script.call()
    assert (call.seen_start, call.service, call.method) == (False, "", "")


def test_a_stream_id_that_comes_again_ends_the_call_before_it(script: Script) -> None:
    script.feed(opened(1))
    assert script.feed(opened(1)) == ["ended 1 cut", "opened 2"]


def test_a_gap_marks_what_is_open_and_nothing_else(script: Script) -> None:
    script.feed(opened(1), opened(3), ended(1))
    done = script.call()
    script.tracker.gap(script.flow)
    script.feed(opened(5))
    assert not done.gap
    assert [(call.stream_id, call.gap) for call in script.tracker.open_calls()] == [(3, True), (5, False)]


def test_what_could_not_be_decoded_is_a_finding_with_its_place(script: Script) -> None:
    script.feed(opened(1))
    told = script.feed(
        Malformed(RESPONSE, 400, "not a ttrpc header", b"GET / HTTP", 1), Skipped(RESPONSE, 400, 90, "seek")
    )
    assert told == ["malformed", "gap"]
    malformed, skipped = script.updates
    assert isinstance(malformed, Finding)
    assert isinstance(skipped, Finding)
    assert malformed.call is script.tracker.open_calls()[0]
    assert (malformed.flow, malformed.direction, malformed.offset) == (script.flow, RESPONSE, 400)
    assert (malformed.reason, malformed.evidence) == ("not a ttrpc header", b"GET / HTTP")
    assert (skipped.offset, skipped.length, skipped.call) == (400, 90, None)


def test_of_a_long_stream_the_first_and_the_last_messages_are_kept_and_the_rest_counted(script: Script) -> None:
    script.feed(opened(1))
    for number in range(1000):
        script.feed(message(1, RESPONSE, b"%d" % number))
    call = script.call()
    half = KEPT_MESSAGES // 2
    assert [m.number for m in call.messages] == [*range(1, half + 1), *range(1001 - half, 1001)]
    assert (call.message_count, call.dropped_messages) == (1000, 1000 - KEPT_MESSAGES)
    assert call.response_bytes == sum(len(b"%d" % number) for number in range(1000))


def test_large_messages_are_bounded_by_their_bytes_but_first_and_last_stay(script: Script) -> None:
    script.feed(opened(1))
    large = bytes(KEPT_BYTES // 4)
    for _ in range(9):
        script.feed(message(1, RESPONSE, large))
    call = script.call()
    assert sum(len(m.payload or b"") for m in call.messages) == call.kept_bytes <= KEPT_BYTES
    assert [m.number for m in call.messages][:1] + [m.number for m in call.messages][-1:] == [1, 9]
    assert call.dropped_messages == 9 - len(call.messages)


def test_one_message_over_the_limit_is_kept(script: Script) -> None:
    script.feed(opened(1), message(1, REQUEST, bytes(KEPT_BYTES + 1)))
    assert script.call().dropped_messages == 0


def test_nothing_is_kept_of_connections_that_have_ended(script: Script) -> None:
    for number in range(1, 4):
        flow = made_flow(number)
        script.feed(opened(1), flow=flow)
        script.close(REQUEST, flow=flow)
        script.close(RESPONSE, flow=flow)
    assert script.tracker.open_calls() == []
    assert script.tracker._connections == {}
