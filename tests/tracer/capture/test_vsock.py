"""AF_VSOCK in a capture of vsockmon: streams by cid and port, what comes twice, credit, what is missing, ends."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissectors.ttrpc import build_frame, build_request, build_response
from tests.tracer.capture.vsock_writer import Talk, save
from tests.tracer.cli.live import run
from tracer.calls import Finding
from tracer.capture.flows import FlowClosed, FlowData, FlowOpened, FlowTable
from tracer.capture.packets import Packet
from tracer.capture.reader import open_capture
from tracer.capture.vsock import (
    HEADER,
    LINK_TYPE,
    VIRTIO,
    Closed,
    Connection,
    Data,
    Event,
    Gap,
    Opened,
    Refused,
    VsockTable,
    port_of,
)
from tracer.pipeline import Decoder

AGENT = "grpc.AgentService"


def told(packets: list[bytes]) -> list[Event]:
    table = VsockTable()
    events: list[Event] = []
    for packet in packets:
        new = table.feed(packet)
        assert isinstance(new, list), new
        events += new
    return events


def streams(events: list[Event]) -> dict[tuple[Connection, int], bytes]:
    found: dict[tuple[Connection, int], bytes] = {}
    for event in events:
        if isinstance(event, Data):
            key = event.connection, event.direction
            found[key] = found.get(key, b"") + event.data
    return found


def test_a_connection_is_opened_by_its_answer_and_ended_in_order() -> None:
    talk = Talk((2, 5000), (3, 1024))
    events = told([talk.request(), talk.response(), talk.say(0, b"ask"), talk.say(1, b"answer"), talk.shutdown(0),
                   talk.reset(1)])  # fmt: skip
    connection = events[0].connection
    assert (connection.client, connection.server) == ((2, 5000), (3, 1024))
    assert events == [
        Opened(connection, True), Data(connection, 0, b"ask"), Data(connection, 1, b"answer"),
        Closed(connection, 0, False, False), Closed(connection, 1, False, True),
    ]  # fmt: skip


def test_a_half_close_leaves_the_other_direction_open() -> None:
    talk = Talk((2, 5000), (3, 1024))
    events = told([talk.request(), talk.response(), talk.shutdown(0, 2), talk.say(1, b"late"), talk.shutdown(1, 2)])
    assert [type(event) for event in events] == [Opened, Closed, Data, Closed]


def test_a_reset_in_the_midst_ends_both_directions_and_one_before_the_answer_is_a_refusal() -> None:
    talk = Talk((2, 5000), (3, 1024))
    events = told([talk.request(), talk.response(), talk.say(0, b"ask"), talk.reset(1)])
    assert [(each.direction, each.reset) for each in events if isinstance(each, Closed)] == [(0, True), (1, True)]
    talk = Talk((2, 5000), (3, 1024))
    again = told([talk.request(), talk.reset(1), talk.request(), talk.reset(1), talk.reset(1)])
    assert [type(event) for event in again] == [Refused, Refused]


def test_what_is_shown_again_as_it_was_counts_once() -> None:
    talk = Talk((2, 5000), (3, 1024))
    packets = [talk.request(), talk.response(), talk.say(0, b"one"), talk.say(0, b"one"), talk.say(1, b"two")]
    twice = [each for packet in packets for each in (packet, packet)]
    events = told(twice)
    assert [event.data for event in events if isinstance(event, Data)] == [b"one", b"two"]
    assert [event.length for event in events if isinstance(event, Gap)] == [3]  # the second `one` was another


def test_bytes_wrongly_taken_for_repeated_ones_are_a_gap_once_their_reader_has_them() -> None:
    """A long message of zeros, in pieces of one size: nothing but the reader's count tells them apart."""
    talk = Talk((2, 5000), (3, 1024))
    packets = [talk.request(), talk.response()]
    packets += [talk.say(0, bytes(100), takes=False) for _ in range(3)]
    assert [type(event) for event in told(packets)] == [Opened, Data]
    talk.taken[0] = 300
    packets += [talk.credit(1), talk.say(0, b"end")]
    assert [event[1:] for event in told(packets)[1:]] == [(0, bytes(100)), (0, 200), (0, b"end")]


def test_credit_updates_and_requests_say_nothing_but_that_bytes_are_missing() -> None:
    talk = Talk((2, 5000), (3, 1024))
    packets = [talk.request(), talk.response(), talk.credit(0), talk.say(0, b"abc"), talk.credit(1), talk.credit(1)]
    assert [type(event) for event in told(packets)] == [Opened, Data]
    talk.say(0, b"not captured")
    events = told([*packets, talk.credit(1), talk.say(0, b"def")])
    assert [event[1:] for event in events[2:]] == [(0, len(b"not captured")), (0, b"def")]


def test_counts_go_round_at_32_bits() -> None:
    talk = Talk((2, 5000), (3, 1024))
    table = VsockTable()
    for packet in (talk.request(), talk.response()):
        table.feed(packet)
    (connection,) = set(table._connections.values())
    connection.taken[0] = talk.sent[0] = talk.taken[0] = (1 << 32) - 2
    assert table.feed(talk.say(0, b"over")) == [Data(connection, 0, b"over")]
    assert table.feed(talk.credit(1)) == []


def test_a_capture_that_begins_in_the_middle_knows_the_guest_by_its_port() -> None:
    talk = Talk((2, 900), (3, 1024))
    talk.sent[0] = talk.taken[0] = 5000
    events = told([talk.credit(1), talk.say(1, b"answer"), talk.say(0, b"ask")])
    connection = events[0].connection
    assert (connection.client, connection.server) == ((2, 900), (3, 1024))
    assert events == [Opened(connection, False), Data(connection, 1, b"answer"), Data(connection, 0, b"ask")]


def test_the_same_ports_again_are_another_connection() -> None:
    first, second = Talk((2, 5000), (3, 1024)), Talk((2, 5000), (3, 1024))
    packets = [first.request(), first.response(), first.say(0, b"1"), second.request(), second.response(),
               second.say(0, b"2")]  # fmt: skip
    events = told(packets)
    assert [event.data for event in events if isinstance(event, Data)] == [b"1", b"2"]
    assert len(streams(events)) == 2
    assert [each.reset for each in events if isinstance(each, Closed)] == [True, True]


def test_a_snap_length_leaves_a_gap_of_what_it_cut() -> None:
    talk = Talk((2, 5000), (3, 1024))
    packets = [talk.request(), talk.response(), talk.say(0, b"abcdef")[:-4], talk.say(0, b"gh")]
    assert [event[1:] for event in told(packets)[1:]] == [(0, b"ab"), (0, 4), (0, b"gh")]


def test_what_is_no_stream_of_virtios_is_passed_over_with_its_reason() -> None:
    talk = Talk((2, 5000), (3, 1024))
    table = VsockTable()
    assert table.feed(talk.packet(0, 5, b"message", kind=2)) == "vsock, no stream"
    assert table.feed(HEADER.pack(2, 3, 1, 2, 4, 0, 0) + b"data") == "vsock without virtio's header"
    assert table.feed(talk.request()[: HEADER.size + VIRTIO.size - 1]) == "cut short"
    assert table.feed(b"") == "cut short"


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 90), st.integers(0, 255)), max_size=20))
def test_any_bytes_in_packets_do_not_raise(changes: list[tuple[int, int, int]]) -> None:
    talk = Talk((2, 5000), (3, 1024))
    table = FlowTable()
    for operation, at, value in changes:
        packet = bytearray(talk.packet(at % 2, operation, bytes(at % 7)))
        packet[at % len(packet)] ^= value
        table.feed(Packet(1, 1, None, LINK_TYPE, bytes(packet), "", 0, 0))
    table.finish(2)


@pytest.mark.parametrize("seen", [True, False])
def test_whatever_comes_after_an_end_is_of_no_flow(seen: bool) -> None:
    talk = Talk((2, 5000), (3, 1024))
    table = FlowTable()
    packets = [talk.request(), talk.response()] * seen
    packets += [talk.say(0, b"x"), talk.shutdown(0), talk.shutdown(1), talk.say(0, b"y"), talk.credit(1), talk.reset(1)]
    talk.taken[0] = 900
    packets += [talk.reset(1), talk.credit(1), talk.request(), talk.reset(1)]
    events = [event for each in packets for event in table.feed(Packet(1, 1, None, LINK_TYPE, each, "", 0, 0))]
    first = [type(event) for event in events if event.flow.id == 1]
    assert first == [FlowOpened, FlowData, FlowClosed, FlowClosed]
    assert [type(event) for event in events if event.flow.id == 2] == [FlowOpened, FlowClosed, FlowClosed]


def test_names_of_sockets_say_their_port() -> None:
    assert (port_of("vsock://3:1025"), port_of("/run/vc/vm/x/clh.sock"), port_of("vsock://")) == (1025, None, None)


# --- whole captures ---


def calls_of(talk: Talk, sandbox: str, count: int) -> list[bytes]:
    """A shim that dials until its guest listens, then makes calls, some longer than a packet; both sides' credit."""
    packets = [each for _ in range(3) for each in (talk.request(), talk.reset(1))]
    packets += [talk.request(), talk.response()]
    for number in range(count):
        payload = b"\x2a" + bytes([len(sandbox)]) + sandbox.encode()  # sandbox_id
        if number % 2:
            payload += b"\x0a\x80\x20" + b"".join(b"%04d" % each for each in range(1024))  # hostname
        frame = build_frame(2 * number + 1, 1, 0, build_request(AGENT, "CreateSandbox", payload))
        packets += [talk.say(0, frame[at : at + 1000]) for at in range(0, len(frame), 1000)]
        packets += [talk.credit(1)]
        packets += [talk.say(1, build_frame(2 * number + 1, 2, 0, build_response(0, "", b""))), talk.credit(0)]
    return [*packets, talk.shutdown(0), talk.reset(1)]


@pytest.fixture
def two_agents(tmp_path: Path) -> Path:
    """Two shims' connections to two guests, packet by packet in turn, from the same host port; each packet of the
    middle twice."""
    dice = random.Random(7)
    rows = [calls_of(Talk((2, 5000), (cid, 1024)), f"pod-{cid}", 6) for cid in (3, 4)]
    packets: list[bytes] = []
    while any(rows):
        row = dice.choice([each for each in rows if each])
        packets += [row.pop(0)] * dice.choice((1, 1, 2))
    return save(tmp_path / "vsock.pcap", packets)


def test_two_agents_interleaved_with_packets_twice_and_credit_are_decoded(two_agents: Path) -> None:
    shown = [json.loads(line) for line in run("decode", "--json", str(two_agents)).stdout.splitlines()]
    calls = [each for each in shown if each["kind"] == "call"]
    assert Counter((each["socket"], each["id"], each["method"], each["state"]) for each in calls) == {
        (f"vsock://{cid}:1024", f"pod-{cid}", "CreateSandbox", "ended"): 6 for cid in (3, 4)
    }
    assert {(each["hop"], each["client"]["name"], each["server"]["name"]) for each in calls} == {
        ("agent", "host", "guest-3"), ("agent", "host", "guest-4"),
    }  # fmt: skip
    others = Counter((each["kind"], each["reason"].partition(" times")[0]) for each in shown if each["kind"] != "call")
    assert others == {("notice", "agent (port 1024) refused 3"): 2}


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")
def test_tshark_agrees_on_streams_and_their_lengths(two_agents: Path) -> None:
    names = ("src_cid", "src_port", "dst_cid", "dst_port", "virtio.op", "virtio.len")
    fields = [word for name in names for word in ("-e", f"vsock.{name}")]
    out = subprocess.run(
        ["tshark", "-r", str(two_agents), "-T", "fields", *fields], capture_output=True, text=True, check=True
    ).stdout
    with open_capture(str(two_agents)) as capture:
        data = [packet.data for packet in capture if hasattr(packet, "data")]
    lengths: Counter[tuple[int, ...]] = Counter()
    last: dict[tuple[int, ...], bytes] = {}
    for line, packet in zip(out.splitlines(), data, strict=True):
        *ends, operation, length = (int(word, 0) for word in line.split("\t"))
        if operation == 5 and last.get(tuple(ends)) != packet:
            lengths[tuple(ends)] += length
        last[tuple(ends)] = packet
    ours: Counter[tuple[int, ...]] = Counter()
    for (connection, direction), sent in streams(told(data)).items():
        ends = (connection.client, connection.server)[:: -1 if direction else 1]
        ours[(*ends[0], *ends[1])] += len(sent)
    assert ours == lengths
    assert len(ours) == 4


def test_a_guests_log_and_console_are_told_by_their_ports(tmp_path: Path) -> None:
    log, console, other = Talk((2, 1), (3, 1025)), Talk((2, 2), (3, 1026)), Talk((2, 7000), (3, 9))
    packets = [each for talk in (log, console, other) for each in (talk.request(), talk.response())]
    packets += [log.say(1, b'{"msg":1}\n{"ms'), log.say(1, b'g":2}\n'), console.say(1, b"# "), console.say(0, b"ls\n")]
    packets += [other.say(0, b"neither gRPC nor ttrpc")]
    packets += [each for talk in (log, console, other) for each in (talk.shutdown(0), talk.reset(1))]
    decoder = Decoder()
    with open_capture(str(save(tmp_path / "x.pcap", packets))) as capture:
        updates = [update for item in capture for update in decoder.feed(item)] + decoder.finish()
    assert [(each.reason, each.text, each.length) for each in updates if isinstance(each, Finding)] == [
        ("log", '{"msg":1}', 9), ("log", '{"msg":2}', 9),
        ("debug console (port 1026) opened; its bytes are counted, not decoded", "", 0),
        ("not decoded: debug console (port 1026)", "", 3), ("not decoded: debug console (port 1026)", "", 2),
        ("neither gRPC nor ttrpc: text", "", 9), ("unknown protocol", "", 22),
    ]  # fmt: skip
