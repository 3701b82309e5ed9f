from __future__ import annotations

from dissectors import http2, nri_mux
from dissectors.detect import open_dissector
from dissectors.events import CallOpened, Direction, Inner
from dissectors.grpc_messages import PREFIX
from dissectors.hpack import Decoder
from dissectors.ttrpc import build_frame as ttrpc_frame
from dissectors.ttrpc import build_request, build_response
from tests.dissectors.http2_writer import Writer
from tests.dissectors.support import REQUEST, RESPONSE, by_byte, calls_inside, faults, run
from tracer.capture.carry import MAX_MESSAGE, Carried, Follower

ASK = [(":method", "POST"), (":path", "/a.B/C"), ("content-type", "application/grpc"), ("x-own", "kept")]


def pieces(follower: Follower, direction: int) -> list[bytes | int]:
    return [each.piece for each in follower.carried() if each.direction == direction]


def read(follower: Follower, direction: int) -> tuple[list[http2.Item], Decoder]:
    """What a reader makes of the beginning, and its header table after it."""
    reader = http2.FrameReader(REQUEST if direction == 0 else RESPONSE)
    decoder = Decoder()
    decoder.allow_table_size(65536)
    items: list[http2.Item] = []
    for piece in pieces(follower, direction):
        items += reader.lost(piece) if isinstance(piece, int) else reader.feed(piece)
    for item in items:
        if isinstance(item, http2.Frame) and item.type == http2.HEADERS:
            assert decoder.decode(item.payload), "tshark 4.0 asserts that a block has a header"
    return items, decoder


def started() -> tuple[Follower, Writer, Writer]:
    follower, client, server = Follower(), Writer(REQUEST), Writer(RESPONSE)
    follower.feed(*client.start(header_table_size=65536), 1)
    follower.feed(*server.start(), 1)
    return follower, client, server


def test_a_server_that_speaks_first_makes_no_preface_of_the_client() -> None:
    follower = Follower()
    follower.feed(*Writer(RESPONSE).start(), 1)
    assert pieces(follower, 0) == []
    follower.feed(0, http2.PREFACE[:9], 2)
    assert b"".join(piece for piece in pieces(follower, 0) if isinstance(piece, bytes)) == http2.PREFACE[:9]


def test_the_table_and_its_size_are_carried_even_where_nothing_is_in_it() -> None:
    follower, client, server = started()
    server.encoder.header_table_size = 65536
    follower.feed(*client.headers(1, ASK), 2)
    follower.feed(*server.headers(1, [(":status", "200")]), 3)
    _, decoder = read(follower, 1)
    assert decoder.table() == (65536, [])
    _, decoder = read(follower, 0)
    assert ("x-own", "kept") in decoder.table()[1]


def test_open_calls_are_carried_with_their_beginning_and_ended_ones_are_not() -> None:
    follower, client, server = started()
    for number in (1, 3, 5):
        follower.feed(*client.headers(number, ASK, end=True), number)
    follower.feed(*server.headers(1, [("grpc-status", "0")], end=True), 6)
    follower.feed(*client.reset(3, 8), 7)
    begun = [(each.direction, each.began_ns) for each in follower.carried() if each.began_ns]
    assert begun == [(0, 5)]


def test_a_message_under_way_is_carried_and_one_too_long_is_a_gap() -> None:
    follower, client, _ = started()
    follower.feed(*client.headers(1, ASK), 2)
    follower.feed(*client.data(1, PREFIX.pack(0, 100) + b"x" * 60), 3)
    items, _ = read(follower, 0)
    data = [item for item in items if isinstance(item, http2.Frame) and item.type == http2.DATA]
    assert [item.payload for item in data] == [PREFIX.pack(0, 100) + b"x" * 60]
    follower.feed(*client.data(1, b"x" * 40 + PREFIX.pack(0, MAX_MESSAGE) + b"\xee"), 4)
    assert follower.carried()[-1] == Carried(0, 1)
    assert not any(b"\xee" in piece for piece in pieces(follower, 0) if isinstance(piece, bytes))


def test_after_a_gap_a_gap_is_carried() -> None:
    follower, client, _ = started()
    follower.feed(*client.headers(1, ASK), 2)
    follower.lost(0, 1000)
    assert 1 in pieces(follower, 0)
    assert 1 not in pieces(follower, 1)


PLUGIN_ASK = ttrpc_frame(1, 1, 0, build_request("nri.Plugin", "Configure", b"c" * 6000))
RUNTIME_ASK = ttrpc_frame(1, 1, 0, build_request("nri.Runtime", "RegisterPlugin", b"p"))
ANSWER = ttrpc_frame(1, 2, 0, build_response(0, "", b""))
PLUGIN = [
    (REQUEST, nri_mux.build_frame(2, RUNTIME_ASK)),
    (RESPONSE, nri_mux.build_frame(1, PLUGIN_ASK[:4096])),
    (RESPONSE, nri_mux.build_frame(2, ANSWER)),
    (RESPONSE, nri_mux.build_frame(1, PLUGIN_ASK[4096:])),
    (REQUEST, nri_mux.build_frame(1, ANSWER)),
]


def test_nri_goes_on_from_any_byte() -> None:
    """What follows a new file's beginning completes the same calls, wherever the old one was left."""
    stream = by_byte(PLUGIN)
    for cut in [*range(1, 40), *range(60, len(stream), 97), *range(len(stream) - 60, len(stream))]:
        follower = Follower()
        for time_ns, (direction, data) in enumerate(stream[:cut]):
            assert isinstance(data, bytes)
            follower.feed(direction, data, time_ns + 1)
        dissector = open_dissector("nri")
        events = run(dissector, [(Direction(each.direction), each.piece) for each in follower.carried()], close=False)
        began = [event for event in events if isinstance(event, Inner) and isinstance(event.event, CallOpened)]
        assert len(began) == sum(1 for each in follower.carried() if each.began_ns)
        events += run(dissector, stream[cut:])
        assert faults(events) == []
        ended_before = [end for *_, end in calls_inside(run(open_dissector("nri"), stream[:cut], close=False))].count(0)
        assert [end for *_, end in calls_inside(events)] == [0] * (2 - ended_before)


def test_a_gap_in_one_of_nri_s_channels_is_carried_in_its_frame() -> None:
    follower = Follower()
    follower.feed(*PLUGIN[0], 1)
    follower.feed(RESPONSE, PLUGIN[1][1][:100], 2)
    follower.lost(RESPONSE, 50)
    dissector = open_dissector("nri")
    events = run(dissector, [(Direction(each.direction), each.piece) for each in follower.carried()], close=False)
    rest = [(RESPONSE, PLUGIN[1][1][150:]), *PLUGIN[2:]]
    assert calls_inside(events + run(dissector, rest))[0] == (2, "nri.Runtime", "RegisterPlugin", 0)
    assert [each for each in follower.carried() if isinstance(each.piece, int)] == [Carried(1, 1)]


def test_where_nri_s_frames_are_not_known_a_gap_is_carried() -> None:
    follower = Follower()
    follower.feed(*PLUGIN[0], 1)
    follower.lost(REQUEST, 5)
    assert Carried(0, 1) in follower.carried()
    assert Carried(1, 1) not in follower.carried()


AGENT_ASK = ttrpc_frame(1, 1, 0, build_request("grpc.AgentService", "WaitProcess", b"w"))
AGENT = [
    (REQUEST, b"CONNECT 1024\n"), (RESPONSE, b"OK 1073741824\n"), (REQUEST, AGENT_ASK),
    (REQUEST, ttrpc_frame(3, 1, 0, build_request("grpc.AgentService", "CloseStdin", b"c"))),
    (RESPONSE, ttrpc_frame(3, 2, 0, build_response(0, "", b""))), (RESPONSE, ANSWER),
]  # fmt: skip


def test_behind_a_vmms_handshake_calls_go_on_from_any_byte() -> None:
    stream = by_byte(AGENT)
    for cut in range(1, len(stream)):
        follower = Follower()
        for time_ns, (direction, data) in enumerate(stream[:cut]):
            assert isinstance(data, bytes)
            follower.feed(direction, data, time_ns + 1)
        dissector = open_dissector("ttrpc")
        script = [(Direction(each.direction), each.piece) for each in follower.carried()]
        events = run(dissector, script, close=False) + run(dissector, stream[cut:])
        assert faults(events) == []
        before = calls_inside(run(open_dissector("ttrpc"), stream[:cut], close=False))
        assert [end for *_, end in calls_inside(events)] == [0] * (2 - [end for *_, end in before].count(0))


def test_of_the_log_what_has_come_of_a_line_is_carried() -> None:
    follower = Follower()
    follower.feed(REQUEST, b"connect 1025\n", 1)
    follower.feed(RESPONSE, b"OK 1\nfirst\nsec", 2)
    follower.feed(RESPONSE, b"ond\nthi", 3)
    assert pieces(follower, 0) == [b"connect 1025\n"]
    assert pieces(follower, 1) == [b"OK 1\n", b"thi"]
    follower.lost(RESPONSE, 5)
    assert pieces(follower, 1) == [b"OK 1\n"]


def test_a_gap_in_a_vmms_answer_is_carried() -> None:
    follower = Follower()
    follower.feed(REQUEST, b"connect 1024\n", 1)
    follower.feed(RESPONSE, b"OK", 2)
    follower.lost(RESPONSE, 5)
    assert pieces(follower, 0) == [b"connect 1024\n"]
    assert pieces(follower, 1) == [b"OK", 1]
