"""The calls of a ttrpc connection: all shapes, as Go and Rust write them, and what breaks the protocol."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissectors.events import (
    CallEnded,
    CallHalfClosed,
    CallMessage,
    CallOpened,
    Direction,
    Event,
    Malformed,
    Skipped,
    Status,
)
from dissectors.ttrpc import (
    MAX_PAYLOAD,
    TRANSITIONS,
    Input,
    State,
    TtrpcConnection,
    build_frame,
    build_request,
    build_response,
)
from tests.dissectors.support import (
    REQUEST,
    RESPONSE,
    Script,
    assert_any_split_gives_the_same,
    assert_calls_begin_and_end_once,
    assert_memory_is_bounded,
    calls,
    faults,
    run,
)

OK = Status(0, "", b"")
DATA, CLOSED, OPEN, NO_DATA = 3, 1, 2, 4


def request(stream_id: int, flags: int = 0, payload: bytes = b"", **options: object) -> tuple[Direction, bytes]:
    return REQUEST, build_frame(stream_id, 1, flags, build_request("a.B", "C", payload, **options))


def response(stream_id: int, code: int = 0, message: str = "", payload: bytes = b"") -> tuple[Direction, bytes]:
    return RESPONSE, build_frame(stream_id, 2, 0, build_response(code, message, payload))


def data(direction: Direction, stream_id: int, flags: int, payload: bytes = b"") -> tuple[Direction, bytes]:
    return direction, build_frame(stream_id, DATA, flags, payload)


def story(events: list[Event]) -> list[str]:
    """Return events as short words: `open`, `seen` for one whose start was not seen, `>payload`, `<payload`, ..."""
    words = []
    for event in events:
        match event:
            case CallOpened():
                words.append("open" if event.seen else "seen")
            case CallMessage():
                text = "?" if event.payload is None else event.payload.decode()
                words.append("><"[event.direction] + text)
            case CallHalfClosed():
                words.append("half")
            case CallEnded():
                words.append("end" if event.status is None else f"end{event.status.code}")
            case _:
                words.append(type(event).__name__)
    return words


SHAPES: dict[str, tuple[Script, list[str]]] = {
    "unary": ([request(1, payload=b"q"), response(1, payload=b"a")], ["open", ">q", "half", "<a", "end0"]),
    "unary with empty messages": ([request(1), response(1)], ["open", ">", "half", "<", "end0"]),
    "unary that fails": ([request(1), response(1, 5, "no")], ["open", ">", "half", "end5"]),
    "server streaming": (
        [
            request(1, CLOSED, b"q"),
            data(RESPONSE, 1, 0, b"a"),
            data(RESPONSE, 1, 0),
            data(RESPONSE, 1, CLOSED | NO_DATA),
        ],
        ["open", ">q", "half", "<a", "<", "end0"],
    ),
    "server streaming that fails": (
        [request(1, CLOSED, b"q"), data(RESPONSE, 1, 0, b"a"), response(1, 2, "no")],
        ["open", ">q", "half", "<a", "end2"],
    ),
    "server streaming whose last data closes": (
        [request(1, CLOSED, b"q"), data(RESPONSE, 1, CLOSED, b"a")],
        ["open", ">q", "half", "<a", "end0"],
    ),
    "client streaming, Go": (
        [request(1, OPEN), data(REQUEST, 1, 0, b"x"), data(REQUEST, 1, CLOSED | NO_DATA), response(1, payload=b"a")],
        ["open", ">x", "half", "<a", "end0"],
    ),
    "client streaming, Rust": (
        [
            request(1, OPEN | NO_DATA),
            data(REQUEST, 1, 0, b"x"),
            data(REQUEST, 1, CLOSED, b"y"),
            response(1, payload=b"a"),
        ],
        ["open", ">x", ">y", "half", "<a", "end0"],
    ),
    "client streaming with the first message in the request": (
        [request(1, OPEN, b"w"), data(REQUEST, 1, CLOSED | NO_DATA), response(1)],
        ["open", ">w", "half", "<", "end0"],
    ),
    "both ways": (
        [
            request(1, OPEN),
            data(RESPONSE, 1, 0, b"a"),
            data(REQUEST, 1, 0, b"x"),
            data(REQUEST, 1, CLOSED | NO_DATA),
            data(RESPONSE, 1, 0, b"b"),
            data(RESPONSE, 1, CLOSED | NO_DATA),
        ],
        ["open", "<a", ">x", "half", "<b", "end0"],
    ),
    "both ways, the server first": (
        [request(1, OPEN), data(RESPONSE, 1, CLOSED | NO_DATA), data(REQUEST, 1, 0, b"late")],
        ["open", "end0", "Skipped"],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shape(shape: str) -> None:
    script, expected = SHAPES[shape]
    assert story(assert_any_split_gives_the_same(TtrpcConnection, script)) == expected


def test_a_call_in_full() -> None:
    metadata = [("containerd-namespace-ttrpc", "k8s.io"), ("a", "1"), ("a", "2")]
    script = [request(1, payload=b"q", timeout_nano=5_000_000_000, metadata=metadata), response(1, 5, "no such")]
    size = len(script[0][1])
    assert run(TtrpcConnection(), script) == [
        CallOpened(1, 0, "a.B", "C", tuple(metadata), 5_000_000_000, True),
        CallMessage(1, REQUEST, 0, 1, b"q", ""),
        CallHalfClosed(1, REQUEST),
        CallEnded(1, RESPONSE, 0, Status(5, "no such", b"\x08\x05\x12\x07no such"), None, ()),
    ]
    more = run(TtrpcConnection(), [script[0], request(3), response(3), response(1)])
    assert more[3].offset == size


def test_answers_come_in_any_order() -> None:
    script = [request(1), request(3), request(5), response(5), response(1, 2), response(3)]
    assert [end for _, _, end in calls(run(TtrpcConnection(), script))] == [2, 0, 0]


def test_an_answer_to_a_request_that_was_not_seen_opens_its_call() -> None:
    events = run(TtrpcConnection(), [response(7, payload=b"a"), data(RESPONSE, 9, 0, b"b"), response(9, 2)])
    assert story(events) == ["seen", "<a", "end0", "seen", "<b", "end2"]
    assert events[0] == CallOpened(7, 0, "", "", (), None, False)


def test_a_late_answer_is_just_the_answer() -> None:
    """A client that gives up sends nothing; there is nothing by which it could be told."""
    script = [request(1, timeout_nano=1), request(3), response(3), response(1, payload=b"late")]
    assert calls(run(TtrpcConnection(), script)) == [("a.B", "C", 0), ("a.B", "C", 0)]


def test_a_second_answer_is_passed_over() -> None:
    events = run(TtrpcConnection(), [request(1), response(1), response(1, 3)])
    assert story(events)[-2:] == ["end0", "Skipped"]
    assert events[-1].length == len(response(1, 3)[1])


def test_a_stream_id_may_come_again_once_its_call_has_ended() -> None:
    """Servers in Rust, and in Go before 1.2, take it."""
    assert story(run(TtrpcConnection(), [request(1), response(1), request(1), response(1)])) == 2 * [
        "open",
        ">",
        "half",
        "<",
        "end0",
    ]


def test_an_even_stream_id_is_served_like_any() -> None:
    assert calls(run(TtrpcConnection(), [request(2), response(2)])) == [("a.B", "C", 0)]


def test_a_request_on_an_open_call_is_malformed_and_the_call_goes_on() -> None:
    events = run(TtrpcConnection(), [request(1), request(1), response(1, 3)])
    assert story(events) == ["open", ">", "half", "Malformed", "end3"]
    assert events[3].stream_id == 1


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ((REQUEST, build_frame(3, 9, 0, b"xx")), "frame of type 9"),
        ((REQUEST, build_frame(3, 2, 0, b"")), "a response from the wrong side"),
        ((RESPONSE, build_frame(3, 1, 0, b"")), "a request from the wrong side"),
        ((REQUEST, build_frame(3, 1, 0, b"\x0a\x7f")), "no ttrpc request"),
        ((RESPONSE, build_frame(1, 2, 0, b"\x0a\x7f")), "no ttrpc response"),
        ((REQUEST, build_frame(1, DATA, 0, b"x")), "after it had closed"),
        ((RESPONSE, build_frame(1, DATA, NO_DATA, b"x")), "flag no_data"),
    ],
)
def test_what_breaks_the_protocol_is_told_and_sync_kept(frame: tuple[Direction, bytes], reason: str) -> None:
    events = assert_any_split_gives_the_same(TtrpcConnection, [request(1), frame, request(5), response(5)])
    told = [event for event in faults(events) if isinstance(event, Malformed)]
    assert len(told) == 1
    assert reason in told[0].reason
    assert told[0].stream_id == int.from_bytes(frame[1][4:8], "big")
    assert calls(events)[-1] == ("a.B", "C", 0)


def test_a_request_that_does_not_parse_still_opens_its_call() -> None:
    """Its server answers InvalidArgument on that stream."""
    events = run(TtrpcConnection(), [(REQUEST, build_frame(1, 1, 0, b"\xff")), response(1, 3)])
    assert calls(events) == [("", "", 3)]


def test_a_request_over_the_limit_names_its_call_and_the_connection_goes_on() -> None:
    """containerd 1.6 writes one of 7.8 MB; the shim answers with status 8."""
    payload = b"\x00" * 7_800_000
    events = run(TtrpcConnection(), [request(1, payload=payload), response(1, 8, "too large"), request(3), response(3)])
    assert events[0] == CallOpened(1, 0, "a.B", "C", (), None, True)
    assert events[1] == CallMessage(1, REQUEST, 0, len(payload), None, f"over the limit of {MAX_PAYLOAD} bytes")
    assert calls(events) == [("a.B", "C", 8), ("a.B", "C", 0)]


def test_an_answer_with_a_gap_keeps_its_status() -> None:
    wire = response(1, 5, "no such", b"x" * 500)[1]
    connection = TtrpcConnection()
    events = run(connection, [request(1), (RESPONSE, wire[:100])], close=False)
    events += connection.lost(RESPONSE, 300)
    events += run(connection, [(RESPONSE, wire[400:]), request(3), response(3)])
    assert calls(events) == [("a.B", "C", 5), ("a.B", "C", 0)]
    assert story(events).count("<?") == 1
    assert [type(event) for event in faults(events)] == [Skipped]


def test_after_a_gap_an_answer_to_a_lost_request_is_not_seen_not_ended() -> None:
    connection = TtrpcConnection()
    events = run(connection, [request(1), response(1)], close=False)
    events += connection.lost(REQUEST, len(request(3)[1]))
    events += run(connection, [request(5), response(3), response(5)])
    assert [(call.stream_id, call.seen) for call in events if isinstance(call, CallOpened)] == [
        (1, True),
        (5, True),
        (3, False),
    ]


def test_the_middle_of_a_connection_is_told_by_a_loss_of_nothing() -> None:
    connection = TtrpcConnection()
    assert connection.lost(RESPONSE, 0) == []
    events = run(connection, [(RESPONSE, b"\x00\x01\x02the rest of some answer" + response(9)[1])])
    assert story(events) == ["Skipped", "seen", "<", "end0"]


@pytest.mark.parametrize(("state", "what"), list(product(State, Input)))
def test_every_cell_of_the_table(state: State, what: Input) -> None:
    """Bring a call into each state, then feed each input: the table's answer is the connection's."""
    into: dict[State, Script] = {
        State.IDLE: [],
        State.OPEN: [request(1, OPEN)],
        State.HALF_CLOSED: [request(1)],
        State.ENDED: [request(1), response(1)],
    }
    inputs: dict[Input, tuple[Direction, bytes]] = {
        Input.REQUEST: request(1),
        Input.REQUEST_OPEN: request(1, OPEN),
        Input.CLIENT_DATA: data(REQUEST, 1, 0, b"x"),
        Input.CLIENT_CLOSES: data(REQUEST, 1, CLOSED | NO_DATA),
        Input.SERVER_DATA: data(RESPONSE, 1, 0, b"x"),
        Input.SERVER_CLOSES: data(RESPONSE, 1, CLOSED | NO_DATA),
        Input.RESPONSE: response(1),
    }
    after, complaint = TRANSITIONS[state, what]
    connection = TtrpcConnection()
    run(connection, into[state], close=False)
    assert connection._state(1) is state
    events = run(connection, [inputs[what]], close=False)
    assert bool(faults(events)) == bool(complaint)
    if state is State.IDLE and after is State.ENDED:
        assert story(events)[-1] == "end0"  # a stream that was not seen is not remembered
    else:
        assert connection._state(1) is after
    assert ("end0" in story(events)) == (after is State.ENDED and state is not State.ENDED)


@given(st.lists(st.tuples(st.sampled_from(Direction), st.binary(max_size=60)), max_size=8), st.integers(0, 99))
def test_any_bytes_give_the_same_events_at_any_split(script: Script, seed: int) -> None:
    assert_any_split_gives_the_same(TtrpcConnection, script, [seed])


FIELDS = st.tuples(
    st.sampled_from(Direction),
    st.integers(0, 6),
    st.integers(0, 5),
    st.integers(0, 8),
    st.sampled_from([b"", b"x", build_request("a.B", "C", b"q"), build_response(3, "no", b""), b"\x0a\x05"]),
)


@given(st.lists(FIELDS, max_size=10))
def test_any_frames_give_each_call_one_start_and_one_end(
    frames: list[tuple[Direction, int, int, int, bytes]],
) -> None:
    connection = TtrpcConnection()
    connection.feed(REQUEST, request(99)[1])
    connection.feed(RESPONSE, response(99)[1])
    script = [(direction, build_frame(*fields)) for direction, *fields in frames]
    assert_calls_begin_and_end_once(run(connection, script))


@pytest.mark.parametrize(
    ("start", "filling", "total"),
    [
        (b"\x00\xff\xff\xff\x00\x00\x00\x01\x01\x00", b"x" * 65536, 15 << 20),
        (b"\xff" * 20, b"\xff" * 65536, 20 << 20),
        (b"\xff" * 20, b"\x00\x3f\xff\xff\x00\x00\x00\x01\x01\x00" * 600, 2 << 20),
    ],
    ids=["a frame that never ends", "garbage", "headers without frames"],
)
def test_memory_is_bounded(start: bytes, filling: bytes, total: int) -> None:
    assert_memory_is_bounded(TtrpcConnection, REQUEST, start, filling, total, 1 << 20)


def test_a_payload_within_the_limit_is_all_that_is_held() -> None:
    start = b"\x00\x40\x00\x00\x00\x00\x00\x01\x01\x00"
    assert_memory_is_bounded(TtrpcConnection, REQUEST, start, b"\xff" * 65536, 20 << 20, 6 << 20)
