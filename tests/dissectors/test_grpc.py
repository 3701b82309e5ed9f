"""The calls of a gRPC connection: every way to start, answer and end one, and what breaks the protocol."""

from __future__ import annotations

import base64
import gzip
import zlib
from collections.abc import Callable
from itertools import product

import pytest
from hyperframe.frame import PingFrame, SettingsFrame, WindowUpdateFrame
from hypothesis import given
from hypothesis import strategies as st

from dissectors.events import (
    CallEnded,
    CallHalfClosed,
    CallMessage,
    CallMetadata,
    CallOpened,
    Direction,
    Event,
    Malformed,
    Skipped,
    Status,
)
from dissectors.grpc import TRANSITIONS, GrpcConnection, Input, State
from dissectors.grpc_messages import PREFIX
from dissectors.hpack import UNKNOWN
from dissectors.http2 import PREFACE
from tests.dissectors.http2_writer import Chunk, Writer
from tests.dissectors.support import (
    REQUEST,
    RESPONSE,
    assert_any_split_gives_the_same,
    assert_calls_begin_and_end_once,
    assert_every_cut_is_quiet,
    assert_memory_is_bounded,
    calls,
    faults,
    run,
)

CALL = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/a.B/C"),
    (":authority", "x"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]
ANSWER = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0"), ("grpc-message", "")]


def message(data: bytes, compressed: int = 0) -> bytes:
    return PREFIX.pack(compressed, len(data)) + data


class Pair:
    """Both ends of a connection, as writers."""

    def __init__(self) -> None:
        self.client, self.server = Writer(REQUEST), Writer(RESPONSE)

    def start(self) -> list[Chunk]:
        return [self.client.start(), self.server.start(max_frame_size=16384)]

    def unary(self, stream_id: int = 1, request: bytes = b"q", answer: bytes = b"a") -> list[Chunk]:
        return [
            self.client.headers(stream_id, CALL),
            self.client.data(stream_id, message(request), end=True),
            self.server.headers(stream_id, ANSWER),
            self.server.data(stream_id, message(answer)),
            self.server.headers(stream_id, OK, end=True),
        ]


@pytest.fixture
def pair() -> Pair:
    return Pair()


def story(events: list[Event]) -> list[str]:
    """Return events as short words."""
    words = []
    for event in events:
        match event:
            case CallOpened():
                words.append("open" if event.seen else "seen")
            case CallMetadata():
                words.append("metadata")
            case CallMessage():
                text = "?" if event.payload is None else event.payload.decode()
                words.append("><"[event.direction] + text)
            case CallHalfClosed():
                words.append("half")
            case CallEnded():
                words.append(f"reset{event.reset}" if event.reset is not None else "end")
                if event.status is not None:
                    words[-1] += str(event.status.code)
            case _:
                words.append(type(event).__name__)
    return words


def test_a_unary_call_in_full(pair: Pair) -> None:
    script = pair.start() + pair.unary()
    events = assert_any_split_gives_the_same(GrpcConnection, script)
    start = len(script[0][1])
    metadata = (("content-type", "application/grpc"), ("te", "trailers"))
    data_at = start + len(script[2][1]) + 9
    server_at = len(script[1][1])
    answer_at = server_at + len(script[4][1])
    assert events == [
        CallOpened(1, start, "a.B", "C", metadata, None, True),
        CallMessage(1, REQUEST, data_at, 1, b"q", ""),
        CallHalfClosed(1, REQUEST),
        CallMetadata(1, server_at, metadata[:1]),
        CallMessage(1, RESPONSE, answer_at + 9, 1, b"a", ""),
        CallEnded(1, RESPONSE, answer_at + len(script[5][1]), Status(0, "", b""), None, ()),
    ]
    assert_every_cut_is_quiet(GrpcConnection, script)


def test_many_calls_share_what_header_compression_learnt(pair: Pair) -> None:
    script = pair.start()
    for stream_id in range(1, 41, 2):
        script += pair.unary(stream_id)
    events = assert_any_split_gives_the_same(GrpcConnection, script, [1])
    assert calls(events) == [("a.B", "C", 0)] * 20
    assert faults(events) == []


def test_calls_at_the_same_time_are_told_apart(pair: Pair) -> None:
    one, three = pair.unary(1, b"1", b"2"), pair.unary(3, b"3", b"4")
    script = pair.start()
    for first, second in zip(one, three, strict=True):
        script += [first, second]
    events = run(GrpcConnection(), script)
    payloads = [(event.stream_id, event.payload) for event in events if isinstance(event, CallMessage)]
    assert payloads == [(1, b"1"), (3, b"3"), (1, b"2"), (3, b"4")]


def test_messages_are_put_together_over_frames_padding_and_frames_of_others(pair: Pair) -> None:
    wire = message(b"first") + message(b"") + message(b"x" * 40)
    script = [*pair.start(), pair.client.headers(1, CALL, pieces=3, pad_length=9, depends_on=0, stream_weight=9)]
    for start in range(0, len(wire), 7):
        script += [
            pair.client.data(1, wire[start : start + 7], padding=start % 4 or None),
            pair.client.frame(PingFrame(opaque_data=b"12345678")),
            pair.client.frame(WindowUpdateFrame(0, window_increment=1)),
        ]
    script.append(pair.client.data(1, b"", end=True))
    events = assert_any_split_gives_the_same(GrpcConnection, script)
    assert story(events) == ["open", ">first", ">", ">" + "x" * 40, "half"]


def test_a_message_of_16_mib_comes_out_whole(pair: Pair) -> None:
    payload = bytes(range(256)) * (1 << 16)
    wire = message(payload)
    script = [*pair.start(), pair.client.headers(1, CALL)]
    script += [pair.client.data(1, wire[start : start + 16384]) for start in range(0, len(wire), 16384)]
    events = run(GrpcConnection(), script, close=False)
    assert isinstance(events[-1], CallMessage)
    assert events[-1].payload == payload


def test_trailers_alone_are_an_answer(pair: Pair) -> None:
    script = [*pair.start(), pair.client.headers(1, CALL, end=True)]
    trailers = [*ANSWER, ("grpc-status", "12"), ("grpc-message", "not known"), ("x", "y")]
    script.append(pair.server.headers(1, trailers, end=True))
    events = run(GrpcConnection(), script)
    assert story(events) == ["open", "half", "end12"]
    assert events[-1].status == Status(12, "not known", b"")
    assert events[-1].metadata == (("content-type", "application/grpc"), ("x", "y"))


def test_rich_status_details_come_as_they_are(pair: Pair) -> None:
    details = base64.b64encode(b"\x08\x05\x12\x01x").decode()
    script = [*pair.start(), pair.client.headers(1, CALL, end=True)]
    script.append(pair.server.headers(1, [("grpc-status", "5"), ("grpc-status-details-bin", details)], end=True))
    assert run(GrpcConnection(), script)[-1].status == Status(5, "", b"\x08\x05\x12\x01x")


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_messages_are_decompressed_by_each_sides_encoding(
    pair: Pair, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    packed = compress(b"hello" * 9)
    script = [
        *pair.start(),
        pair.client.headers(1, [*CALL, ("grpc-encoding", encoding)]),
        pair.client.data(1, message(packed, 1) + message(b"plain"), end=True),
        pair.server.headers(1, [*ANSWER, ("grpc-encoding", "snappy")]),
        pair.server.data(1, message(b"??", 1)),
    ]
    found = [event for event in run(GrpcConnection(), script) if isinstance(event, CallMessage)]
    assert [event.payload for event in found] == [b"hello" * 9, b"plain", None]
    assert [event.length for event in found] == [len(packed), 5, 2]
    assert found[2].note == "compressed by snappy"


def test_the_deadline_on_the_wire(pair: Pair) -> None:
    script = [*pair.start(), pair.client.headers(1, [*CALL, ("grpc-timeout", "1500m")])]
    assert run(GrpcConnection(), script)[0].timeout_ns == 1_500_000_000


def test_a_reset_of_the_clients_cancels_and_what_crosses_it_is_passed_over(pair: Pair) -> None:
    unary = pair.unary()
    script = [*pair.start(), *unary[:2], pair.client.reset(1, 8), *unary[2:], *pair.unary(3)]
    events = run(GrpcConnection(), script)
    assert story(events)[:4] == ["open", ">q", "half", "reset8"]
    assert events[3].direction == REQUEST
    assert calls(events) == [("a.B", "C", "reset 8"), ("a.B", "C", 0)]
    assert faults(events) == []


def test_a_reset_of_the_servers_after_its_answer_is_no_end_of_its_own(pair: Pair) -> None:
    """grpc-go sends NO_ERROR after the trailers when the client has not ended its side."""
    script = [*pair.start(), pair.client.headers(1, CALL), pair.server.headers(1, [*ANSWER, *OK], end=True)]
    script += [pair.server.reset(1, 0), pair.client.data(1, message(b"late"), end=True)]
    assert story(run(GrpcConnection(), script)) == ["open", "end0"]


def test_goaway_ends_the_calls_that_are_never_answered(pair: Pair) -> None:
    script = pair.start()
    script += [pair.client.headers(stream_id, CALL, end=True) for stream_id in (1, 3, 5)]
    script += [pair.server.goaway(3, 11, b"too_many_pings"), pair.client.headers(7, CALL, end=True)]
    script += [pair.server.headers(stream_id, [*ANSWER, *OK], end=True) for stream_id in (1, 3)]
    assert [end for _, _, end in calls(run(GrpcConnection(), script))] == [0, 0, "reset 7", "reset 7"]


def test_a_clients_goaway_ends_nothing(pair: Pair) -> None:
    unary = pair.unary()
    script = [*pair.start(), *unary[:2], pair.client.goaway(0), *unary[2:]]
    assert calls(run(GrpcConnection(), script)) == [("a.B", "C", 0)]


def test_a_stream_that_ends_without_a_status_has_none(pair: Pair) -> None:
    script = [*pair.start(), pair.client.headers(1, CALL, end=True), pair.server.headers(1, ANSWER)]
    script.append(pair.server.data(1, message(b"a"), end=True))
    assert story(run(GrpcConnection(), script)) == ["open", "half", "metadata", "<a", "end"]


def test_an_informational_answer_comes_before_the_real_one(pair: Pair) -> None:
    script = [*pair.start(), pair.client.headers(1, CALL, end=True), pair.server.headers(1, [(":status", "103")])]
    script += [pair.server.headers(1, ANSWER), pair.server.headers(1, OK, end=True)]
    assert story(run(GrpcConnection(), script)) == ["open", "half", "metadata", "metadata", "end0"]


def test_what_is_no_grpc_is_shown_as_such_and_nothing_is_made_of_its_body(pair: Pair) -> None:
    request = [(":method", "GET"), (":path", "/version"), (":scheme", "http")]
    script = [*pair.start(), pair.client.headers(1, request), pair.client.data(1, b"{}", end=True)]
    script += [
        pair.server.headers(1, [(":status", "404"), ("content-type", "text/plain")]),
        pair.server.data(1, b"\x00\x00\x00\x00\x01x", end=True),
    ]
    events = run(GrpcConnection(), script)
    assert story(events) == ["open", "Malformed", "Skipped", "half", "Malformed", "metadata", "Skipped", "end"]
    assert "GET /version" in events[1].reason
    assert "404" in events[4].reason
    assert (events[0].service, events[0].method) == ("", "/version")


def test_a_message_cut_by_the_streams_end_is_told(pair: Pair) -> None:
    script = [*pair.start(), pair.client.headers(1, CALL), pair.client.data(1, message(b"x" * 20)[:12], end=True)]
    script += [pair.server.headers(1, ANSWER), pair.server.data(1, b"\x00\x00"), pair.server.headers(1, OK, end=True)]
    told = faults(run(GrpcConnection(), script))
    assert [event.reason for event in told] == [
        "a message of 20 bytes ends 13 bytes short",
        "a message ends within its prefix",
    ]
    assert told[0].stream_id == 1


def test_a_message_cut_by_the_connections_end_is_told(pair: Pair) -> None:
    script = [*pair.start(), pair.client.headers(1, CALL), pair.client.data(1, message(b"x" * 20)[:12])]
    assert [event.reason for event in faults(run(GrpcConnection(), script))] == [
        "a message of 20 bytes ends 13 bytes short"
    ]


def test_a_prefix_that_is_none_is_told(pair: Pair) -> None:
    script = [*pair.start(), pair.client.headers(1, CALL), pair.client.data(1, b"hello world")]
    (event,) = faults(run(GrpcConnection(), script))
    assert isinstance(event, Malformed)
    assert event.reason == "no gRPC message prefix"


def test_a_pushed_stream_keeps_header_compression_and_makes_no_call(pair: Pair) -> None:
    script = [*pair.start(), pair.client.headers(1, CALL, end=True), pair.server.headers(1, ANSWER)]
    script += [pair.server.promise(1, 2, [(":path", "/pushed"), ("x", "y")]), pair.server.headers(2, [("x", "y")])]
    script += [pair.server.headers(1, OK, end=True), *pair.unary(3)]
    events = run(GrpcConnection(), script)
    assert calls(events) == [("a.B", "C", 0), ("a.B", "C", 0)]
    assert [type(event) for event in faults(events)] == [Skipped]


def test_settings_of_one_side_hold_for_the_other(pair: Pair) -> None:
    """A client that allows a table of 64 KiB and frames of 32 KiB gets both from its server."""
    client = pair.client.frame(SettingsFrame(settings={1: 65536, 5: 32768}))
    unary = pair.unary(1, b"q", b"a" * 20000)
    pair.server.encoder.header_table_size = 65536
    script = [*pair.start(), client, *unary]
    events = run(GrpcConnection(), script)
    assert calls(events) == [("a.B", "C", 0)]
    assert faults(events) == []


def test_settings_hold_for_a_side_that_has_not_begun(pair: Pair) -> None:
    """A client says them first, its server's first frame comes later."""
    script = [pair.client.start(max_frame_size=32768), pair.server.start(), *pair.unary(1, b"q", b"a" * 20000)]
    events = run(GrpcConnection(), script)
    assert calls(events) == [("a.B", "C", 0)]
    assert faults(events) == []


def test_without_its_settings_a_larger_frame_is_a_fault(pair: Pair) -> None:
    script = [*pair.start(), *pair.unary(1, b"q" * 20000)]
    assert faults(run(GrpcConnection(), script))


def test_a_broken_header_block_costs_names_not_calls(pair: Pair) -> None:
    broken = pair.client.raw(1, 4, 1, b"\xff\xff\xff\xff\xff\xff")
    script = [*pair.start(), broken, pair.client.data(1, message(b"q"), end=True)]
    script += [pair.server.headers(1, ANSWER), pair.server.headers(1, OK, end=True), *pair.unary(3)]
    events = assert_any_split_gives_the_same(GrpcConnection, script)
    assert calls(events) == [("", "", 0), ("a.B", "C", 0)]
    assert [type(event) for event in faults(events)] == [Malformed]


def test_a_capture_that_begins_in_the_middle_shows_what_it_can(pair: Pair) -> None:
    script = pair.start() + pair.unary(1) + pair.unary(3) + pair.unary(5)
    answer = script.index(pair.server.data(3, message(b"a")))
    events = run(GrpcConnection(), script[answer:])
    opened = [event for event in events if isinstance(event, CallOpened)]
    assert [(event.stream_id, event.seen) for event in opened] == [(3, False), (5, True)]
    assert story(events)[:2] == ["seen", "<a"]
    # The path and the status came by indexes into a table that was filled before.
    assert calls(events) == [("", "", "no status"), ("", "", "no status")]
    assert (UNKNOWN, UNKNOWN) in opened[1].metadata
    assert faults(events) == []


@pytest.mark.parametrize("cut", range(0, 700, 13))
def test_a_capture_that_begins_at_any_byte_of_the_client_invents_nothing(pair: Pair, cut: int) -> None:
    script = pair.start()
    for stream_id in range(1, 13, 2):
        script += pair.unary(stream_id)
    rest = b"".join(data for direction, data in script if direction == REQUEST)[cut:]
    connection = GrpcConnection()
    connection.lost(REQUEST, 0)
    events = run(connection, [(REQUEST, rest)])
    for service, method, _ in calls(events):
        assert (service, method) in {("a.B", "C"), ("", "")}
    assert all(event.payload in (b"q", None) for event in events if isinstance(event, CallMessage))


def test_a_gap_inside_data_costs_its_message_alone(pair: Pair) -> None:
    script = pair.start() + pair.unary(1, b"q" * 100) + pair.unary(3)
    index = 3
    wire = script[index][1]
    connection = GrpcConnection()
    events = run(connection, [*script[:index], (REQUEST, wire[:50])], close=False)
    events += connection.lost(REQUEST, 30)
    events += run(connection, [(REQUEST, wire[80:]), *script[index + 1 :]])
    assert story(events)[:4] == ["open", ">?", "half", "Skipped"]
    assert calls(events) == [("a.B", "C", 0), ("a.B", "C", 0)]


def test_a_client_that_allows_large_frames_before_the_server_has_spoken_gets_them(pair: Pair) -> None:
    answer = pair.server.data(1, PREFIX.pack(0, 99_995) + bytes(99_995))
    script = [
        pair.client.start(max_frame_size=1 << 20),
        pair.server.start(max_frame_size=16384),
        pair.client.headers(1, CALL, end=True),
        pair.server.headers(1, ANSWER),
        answer,
    ]
    events = run(GrpcConnection(), script, close=False)
    assert [len(event.payload or b"") for event in events if isinstance(event, CallMessage)] == [99_995]
    assert [event for event in events if isinstance(event, Malformed)] == []


def test_a_gap_over_the_settings_that_allow_large_frames_leaves_those_sound(pair: Pair) -> None:
    connection = GrpcConnection()
    events = run(connection, pair.start(), close=False)
    settings = pair.server.start(max_frame_size=1 << 20)
    events += connection.lost(RESPONSE, len(settings[1]))
    events += run(
        connection, [pair.client.headers(1, CALL), pair.client.data(1, PREFIX.pack(0, 99_995) + bytes(99_995))]
    )
    assert [len(event.payload or b"") for event in events if isinstance(event, CallMessage)] == [99_995]
    assert [event for event in events if isinstance(event, Malformed)] == []


def test_a_gap_over_an_answers_headers_is_no_fault_of_its_data(pair: Pair) -> None:
    connection = GrpcConnection()
    events = run(connection, [*pair.start(), pair.client.headers(1, CALL, end=True)], close=False)
    events += connection.lost(RESPONSE, len(pair.server.headers(1, ANSWER)[1]))
    events += run(connection, [pair.server.data(1, PREFIX.pack(0, 5) + b"hello"), pair.server.reset(1, 0)], close=False)
    assert [event for event in events if isinstance(event, Malformed)] == []


def test_a_gap_over_headers_leaves_calls_that_were_not_seen(pair: Pair) -> None:
    one, three, five = pair.unary(1), pair.unary(3), pair.unary(5)
    connection = GrpcConnection()
    events = run(connection, [*pair.start(), *one], close=False)
    events += connection.lost(REQUEST, len(three[0][1]) + len(three[1][1]))
    events += run(connection, [*three[2:], *five])
    opened = [(event.stream_id, event.seen) for event in events if isinstance(event, CallOpened)]
    assert opened == [(1, True), (3, False), (5, True)]
    assert [end for _, _, end in calls(events)] == [0, 0, 0]


@pytest.mark.parametrize(("state", "what"), list(product(State, Input)))
def test_every_cell_of_the_table(pair: Pair, state: State, what: Input) -> None:
    """Bring a stream into each state, then feed each input: the table's answer is the connection's."""
    client, server = pair.client, pair.server
    end = client.data(1, b"", end=True)
    into: dict[State, list[Callable[[], Chunk]]] = {
        State.IDLE: [],
        State.OPEN: [lambda: client.headers(1, CALL)],
        State.SENT: [lambda: client.headers(1, CALL), lambda: end],
        State.ANSWERED: [lambda: client.headers(1, CALL), lambda: server.headers(1, ANSWER)],
        State.ANSWERED_SENT: [lambda: client.headers(1, CALL), lambda: end, lambda: server.headers(1, ANSWER)],
        State.ENDED: [lambda: client.headers(1, CALL), lambda: server.reset(1, 2)],
    }
    trailers = state not in (State.IDLE, State.ENDED)  # there, they would be the headers of a call
    inputs: dict[Input, Callable[[], Chunk]] = {
        Input.REQUEST_HEADERS: lambda: client.headers(1, CALL),
        Input.REQUEST_DATA: lambda: client.data(1, message(b"x")),
        Input.REQUEST_END: lambda: client.headers(1, [("x", "y")], end=True) if trailers else end,
        Input.RESPONSE_HEADERS: lambda: server.headers(1, ANSWER),
        Input.RESPONSE_DATA: lambda: server.data(1, message(b"x")),
        Input.RESPONSE_END: lambda: server.headers(1, OK, end=True),
        Input.RESET: lambda: server.reset(1, 2),
    }
    after, complaint = TRANSITIONS[state, what]
    connection = GrpcConnection()
    run(connection, [*pair.start(), *(make() for make in into[state])], close=False)

    def state_now() -> State:
        stream = connection._streams.get(1)
        return connection._missing_state(1) if stream is None else stream.state

    assert state_now() is state
    events = run(connection, [inputs[what]()], close=False)
    told = [event for event in faults(events) if isinstance(event, Malformed)]
    assert [event.reason for event in told] == ([complaint] if complaint else [])
    if state is State.IDLE and after is State.ENDED:
        assert story(events)[0] == "seen"  # a stream that was not seen is not remembered
    else:
        assert state_now() is after
    ended = [event for event in events if isinstance(event, CallEnded)]
    assert len(ended) == (after is State.ENDED and state is not State.ENDED)


STEPS = st.tuples(
    st.sampled_from(["headers", "end", "data", "data_end", "answer", "trailers", "reset", "raw", "goaway"]),
    st.booleans(),
    st.sampled_from([1, 2, 3, 5]),
    st.sampled_from([b"", message(b"x"), message(b"abc")[:6], b"\x07nonsense", b"\x01\x00\x00\x00\x01z"]),
)


def play(pair: Pair, steps: list[tuple[str, bool, int, bytes]]) -> list[Chunk]:
    script = pair.start()
    for kind, from_server, stream_id, body in steps:
        side = pair.server if from_server else pair.client
        match kind:
            case "headers":
                script.append(side.headers(stream_id, CALL))
            case "end":
                script.append(side.headers(stream_id, CALL, end=True))
            case "data":
                script.append(side.data(stream_id, body))
            case "data_end":
                script.append(side.data(stream_id, body, end=True))
            case "answer":
                script.append(side.headers(stream_id, ANSWER))
            case "trailers":
                script.append(side.headers(stream_id, OK, end=True))
            case "reset":
                script.append(side.reset(stream_id, 8))
            case "raw":
                script.append(side.raw(1, 4, stream_id, body))
            case _:
                script.append(side.goaway(stream_id))
    return script


@given(st.lists(STEPS, max_size=12), st.integers(0, 99))
def test_any_frames_give_each_call_one_start_and_one_end(steps: list[tuple[str, bool, int, bytes]], seed: int) -> None:
    script = play(Pair(), steps)
    assert_calls_begin_and_end_once(assert_any_split_gives_the_same(GrpcConnection, script, [seed]))


@given(st.lists(STEPS, max_size=8), st.lists(st.integers(0, 2000), max_size=3), st.integers(1, 40))
def test_any_gaps_raise_nothing(steps: list[tuple[str, bool, int, bytes]], places: list[int], length: int) -> None:
    script = [
        (direction, data[index : index + 1]) for direction, data in play(Pair(), steps) for index in range(len(data))
    ]
    gaps = {place + offset for place in places for offset in range(length)}
    connection = GrpcConnection()
    for number, (direction, data) in enumerate(script):
        if number in gaps:
            connection.lost(direction, 1)
        else:
            connection.feed(direction, data)
    for direction in Direction:
        connection.close(direction)


@given(st.lists(st.tuples(st.sampled_from(Direction), st.binary(max_size=60)), max_size=8), st.integers(0, 99))
def test_any_bytes_give_the_same_events_at_any_split(script: list[Chunk], seed: int) -> None:
    assert_any_split_gives_the_same(GrpcConnection, script, [seed])


def test_memory_is_bounded(pair: Pair) -> None:
    start = b"".join(data for _, data in [pair.client.start(), pair.client.headers(1, CALL)])
    endless = pair.client.data(1, b"\x00\xff\xff\xff\xff" + b"x" * 16000)[1]
    filling = pair.client.data(1, b"x" * 16384)[1]
    assert_memory_is_bounded(GrpcConnection, REQUEST, start + endless, filling, 30 << 20, 1 << 20)
    assert_memory_is_bounded(GrpcConnection, REQUEST, start, b"\xff" * 65536, 20 << 20, 1 << 20)
    never_ends = pair.client.raw(0, 0, 1, b"x" * 16384)[1][:20]
    assert_memory_is_bounded(GrpcConnection, REQUEST, start + never_ends, b"\xff" * 65536, 20 << 20, 1 << 20)


def test_many_finished_calls_leave_nothing(pair: Pair) -> None:
    connection = GrpcConnection()
    run(connection, pair.start(), close=False)
    for stream_id in range(1, 1001, 2):
        run(connection, pair.unary(stream_id), close=False)
    assert connection._streams == {}


def test_a_loss_of_sync_does_not_reach_back_to_headers_of_the_same_read(pair: Pair) -> None:
    """Found by fuzzing: header compression was told of the loss before the headers in front of it were decoded."""
    call = [(REQUEST, b"".join(data for _, data in [pair.client.start(), *pair.unary()[:2]]))]
    garbage = (REQUEST, b"\xff" * 40)
    events = assert_any_split_gives_the_same(GrpcConnection, [*call, garbage])
    assert calls(events) == [("a.B", "C", None)]


@pytest.mark.parametrize("cut", [3, 12, 20])
def test_a_preface_that_turns_wrong_is_told_at_that_byte(cut: int) -> None:
    """Found by fuzzing: it was told late if it came in pieces."""
    wire = PREFACE[:cut] + b"x" * (9 - cut if cut < 8 else 1)
    events = run(GrpcConnection(), [(REQUEST, wire[index : index + 1]) for index in range(len(wire))], close=False)
    assert [type(event) for event in events] == [Malformed]


@pytest.mark.parametrize("headers", [CALL, [("te", "trailers")]], ids=["whole", "of which the method is not known"])
def test_headers_that_are_read_behind_the_answer_open_no_second_call(headers: list[tuple[str, str]]) -> None:
    connection, client, server = GrpcConnection(), Writer(REQUEST), Writer(RESPONSE)
    for direction in Direction:
        connection.lost(direction, 0)
    answer = server.headers(1, ANSWER)[1] + server.data(1, message(b"x"))[1] + server.headers(1, OK, end=True)[1]
    told = connection.feed(RESPONSE, answer)
    assert [type(event) for event in told if isinstance(event, CallOpened | CallEnded)] == [CallOpened, CallEnded]
    asked = client.headers(1, headers)[1] + client.data(1, message(b"y"), end=True)[1]
    late = connection.feed(REQUEST, asked + client.headers(3, CALL)[1] + client.data(3, message(b"z"))[1])
    assert [event.stream_id for event in late if isinstance(event, CallOpened | CallMessage)] == [3, 3]
    assert [event.reason for event in late if isinstance(event, Skipped)] == [
        "HEADERS of a call of which later frames were read before"
    ]
    assert [event for event in late if isinstance(event, Malformed)] == []
