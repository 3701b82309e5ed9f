"""What the writer writes: TCP that is right in every number."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracer.capture.files import ACK, FIN, PSH, RST, START, SYN, Capture, flow_events, packets, streams
from tracer.capture import conversation
from tracer.capture.blocks import block_layout
from tracer.capture.headers import HEADERS
from tracer.capture.link import Segment, segment
from tracer.capture.packets import HOP_PORTS, MAX_PAYLOAD, Packet


def segments(data: bytes) -> list[Segment]:
    found = [segment(1, packet.data) for packet in packets(data)]
    assert not [reason for reason in found if isinstance(reason, str)]
    return [each for each in found if isinstance(each, Segment)]


def numbers(data: bytes) -> list[tuple[int, int, int, int]]:
    """Sequence number, acknowledgement, flags and payload length of each packet."""
    return [(each.sequence, each.acknowledgement, each.flags, len(each.payload)) for each in segments(data)]


def blocks(data: bytes) -> Iterator[tuple[int, object]]:
    layout = block_layout("little")
    while data:
        block = layout.parse(data)
        yield block.type, block.body
        data = data[block.length :]


def test_a_conversation_shakes_hands_acknowledges_and_ends() -> None:
    capture = Capture().open().data(0, 0, b"ab").data(1, 0, b"cde").data(0, 2, b"f").close(0, 3).close(1, 3)
    assert numbers(capture.finish()) == [
        (0, 0, SYN, 0),
        (0, 1, SYN | ACK, 0),
        (1, 1, ACK, 0),
        (1, 1, PSH | ACK, 2),
        (1, 3, PSH | ACK, 3),
        (3, 4, PSH | ACK, 1),
        (4, 4, FIN | ACK, 0),
        (4, 5, FIN | ACK, 0),
        (5, 5, ACK, 0),
    ]


def test_a_reset_is_a_reset_and_the_other_side_may_go_on() -> None:
    capture = Capture().open().close(0, 0, reset=True).data(1, 0, b"late").close(1, 4)
    assert numbers(capture.finish())[3:] == [(1, 1, RST | ACK, 0), (1, 1, PSH | ACK, 4), (5, 1, FIN | ACK, 0)]


def test_a_connection_that_has_ended_is_forgotten() -> None:
    capture = Capture().open().close(0, 0)
    assert list(capture.writer.state.conversations) == [1]
    capture.close(1, 0)
    assert not capture.writer.state.conversations


def test_no_bytes_are_no_packet() -> None:
    capture = Capture().open()
    before = capture.writer.packets
    capture.data(0, 0, b"")
    assert capture.writer.packets == before


def test_times_are_those_given_and_the_handshake_has_that_of_the_accept() -> None:
    capture = Capture().open().data(0, 0, b"a", after_ns=5).data(1, 0, b"b", after_ns=1 << 40)
    assert [each.time_ns - START for each in packets(capture.finish())] == [0, 0, 0, 5, 1 << 40]


@pytest.mark.parametrize("size", [MAX_PAYLOAD, MAX_PAYLOAD + 1, 3 * MAX_PAYLOAD, 200_000])
def test_what_is_too_long_for_a_packet_becomes_several(size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    capture = Capture().open().data(0, 0, payload[:size])
    found = packets(capture.finish())
    assert max(len(each.data) for each in found) == 54 + MAX_PAYLOAD
    (sent, _) = streams(flow_events(bytes(capture.bytes)))
    assert sent == [payload[:size]]


def test_a_window_is_never_filled() -> None:
    capture = Capture().open()
    place = [0, 0]
    payload = bytes(MAX_PAYLOAD)
    for direction in (0, 0, 1, 1, 0):
        capture.data(direction, place[direction], payload)
        place[direction] += MAX_PAYLOAD
    acknowledged = [1, 1]
    scaled = [False, False]
    for number, each in enumerate(segments(capture.finish())):
        direction = 0 if each.key.startswith(b"\xc6\x12\0\1") else 1
        if each.payload:
            window = 65_535 << 14 if scaled[1 - direction] else 65_535
            assert each.sequence + len(each.payload) - acknowledged[direction] < window
        acknowledged[1 - direction] = max(acknowledged[1 - direction], each.acknowledgement)
        scaled[direction] = number > 1


def test_a_side_that_is_silent_acknowledges_before_half_a_window_is_full() -> None:
    capture = Capture().open().data(1, 0, b"x")
    for place in range(1 << 28, 1 << 32, 1 << 28):  # most of it is left out, so that the test is quick
        capture.data(0, place, b"y")
    acknowledged, answers = 1, 0
    for sequence, acknowledgement, flags, length in numbers(capture.finish())[4:]:
        if flags == ACK:
            assert (sequence, length) == (2, 0)
            acknowledged = acknowledgement
            answers += 1
        assert flags == ACK or sequence + length - acknowledged <= (1 << 29) + (1 << 28)
    assert answers == 7


def test_a_gap_is_a_jump_in_the_sequence_numbers_and_a_drop_count() -> None:
    capture = Capture().open().data(0, 0, b"ab").data(0, 102, b"cd").data(1, 0, b"e")
    capture.writer.drop(1, 7)
    capture.data(1, 50, b"f")
    found = packets(capture.finish())
    assert [each[0] for each in numbers(bytes(capture.bytes))[3:]] == [1, 103, 1, 51]
    assert [each.dropped for each in found] == [0, 0, 0, 0, 1, 0, 7]


def test_statistics_close_the_file() -> None:
    capture = Capture().open().data(0, 0, b"ab").data(0, 102, b"cd")
    (last,) = [body for kind, body in blocks(capture.finish()) if kind == 5]
    options = {option.code: option.value for option in last.options}  # type: ignore[attr-defined]
    assert struct.unpack("<II", options[2]) == (START >> 32, START & 0xFFFFFFFF)
    end = START + 1_000_000_000
    assert struct.unpack("<II", options[3]) == (end >> 32, end & 0xFFFFFFFF)
    assert (struct.unpack("<Q", options[4]), struct.unpack("<Q", options[5])) == ((6,), (1,))


def test_the_section_names_the_machine_and_the_program() -> None:
    kind, body = next(blocks(Capture().finish()))
    assert kind == 0x0A0D0D0A
    options = {option.code: option.value for option in body.options}  # type: ignore[attr-defined]
    assert options[1] == b"a test"
    assert options[3].startswith(b"Linux ")
    assert options[4].startswith(b"podwire ")
    assert options[2]


def test_packets_and_bytes_are_counted() -> None:
    capture = Capture().open().data(0, 0, b"ab")
    data = capture.finish()
    assert (capture.writer.packets, capture.writer.state.bytes) == (4, len(data))


def test_a_process_has_one_address_and_one_name() -> None:
    capture = Capture()
    assert capture.writer.endpoint(("pid", 812), "kubelet") == capture.client
    assert capture.client != capture.server
    records = [
        (record.value[:4], record.value[4:])
        for kind, body in blocks(capture.finish())
        if kind == 4
        for record in body.records[:-1]  # type: ignore[attr-defined]
    ]
    assert records == [(b"\xc6\x12\0\1", b"kubelet\0"), (b"\xc6\x12\0\2", b"containerd\0")]


def test_no_pair_of_address_and_port_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "LAST_PORT", conversation.FIRST_PORT + 9)
    capture = Capture()
    for conn in range(45):
        capture.open(conn).close(0, 0, conn=conn).close(1, 0, conn=conn)
    found = packets(capture.finish())
    opening = [each for each in found if each.comment]
    clients = [HEADERS.parse(each.data) for each in opening]
    pairs = {(each.ipv4.source, each.tcp.source_port) for each in clients}
    assert len(pairs) == 45
    assert len({each.ipv4.source for each in clients}) == 5
    described = opening[-1].interface
    assert described is not None
    assert sorted(described.names.values()) == ["containerd"] + ["kubelet"] * 5


def test_addresses_are_of_198_18_and_after_the_last_one_ports_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "ADDRESSES", 3)
    capture = Capture()
    given_out = [capture.writer.endpoint(("pid", number), "x") for number in range(4)]
    assert given_out == ["198.18.0.3", "198.18.0.1", "198.18.0.2", "198.18.0.3"]
    for conn, address in enumerate(given_out):
        capture.writer.open(conn, 0, "cri", address, capture.server, START, {})
    openings = [HEADERS.parse(each.data) for each in packets(capture.finish()) if each.comment]
    assert len({(each.ipv4.source, each.tcp.source_port) for each in openings}) == 4


@pytest.mark.parametrize(
    ("number", "address"),
    [(0, "198.18.0.1"), (253, "198.18.0.254"), (254, "198.18.1.1"), (254 * 256, "198.19.0.1"),
     (conversation.ADDRESSES - 1, "198.19.255.254")],
)  # fmt: skip
def test_the_pool_of_addresses_is_all_of_198_18_15(number: int, address: str) -> None:
    capture = Capture()
    capture.writer.state.addresses = number
    assert capture.writer.endpoint(("pid", 0), "x") == address


@pytest.mark.parametrize("hop", HOP_PORTS)
def test_a_hop_has_a_server_port_of_its_own(hop: str) -> None:
    opening = HEADERS.parse(packets(Capture(hop).open().finish())[0].data)
    assert opening.tcp.destination_port == HOP_PORTS[hop]


def test_the_first_packet_says_who_and_what() -> None:
    client = {"pid": 812, "command": "kubelet --config é"}
    (about, *rest) = [each.comment for each in packets(Capture().open(client=client).finish())]
    assert json.loads(about) == {
        "podwire": 1, "hop": "cri", "socket": "/run/test.sock", "connection": 1, "client": client,
    }  # fmt: skip
    assert rest == ["", ""]


def test_a_comment_is_text_whatever_a_command_line_holds_and_fits_an_option() -> None:
    long = "𝄞" * 100_000
    about = {key: long for key in ("name", "exe", "command", "unit")} | {"broken": "\udcff\0", "uid": 0}
    opening = packets(Capture().open(client=about, server=about).finish())[0]
    comment = json.loads(opening.comment)
    assert comment["client"]["command"] == long[:1_023] + "…"
    assert comment["client"]["broken"] == "?\0"
    assert comment["server"]["uid"] == 0


@given(st.binary(max_size=300), st.binary(min_size=1, max_size=300), st.integers(0, 1 << 33), st.integers(0, 1))
@settings(max_examples=60)
def test_checksums_are_those_that_scapy_computes(first: bytes, second: bytes, place: int, direction: int) -> None:
    layers = pytest.importorskip("scapy.layers.inet", reason="scapy is not installed")
    ether = pytest.importorskip("scapy.layers.l2").Ether
    capture = Capture().open().data(direction, 0, first).data(1 - direction, place, second).close(0, place << 1)
    for each in packets(capture.finish()):
        seen = ether(each.data)
        again = ether(each.data)
        del again[layers.IP].chksum
        del again[layers.TCP].chksum
        again = ether(bytes(again))
        assert seen[layers.IP].chksum == again[layers.IP].chksum
        assert seen[layers.TCP].chksum == again[layers.TCP].chksum


@pytest.mark.parametrize("size", [4_095, 4_096, 4_097, 8_193, 20_000, 65_494, 65_495])
def test_checksums_of_long_packets_hold(size: int) -> None:
    """They are summed up in pieces."""
    payload = bytes(at * at % 251 for at in range(size))
    packet = packets(Capture().open().data(0, 0, payload).finish())[3].data
    pseudo = packet[26:34] + b"\0\x06" + (size + 20).to_bytes(2, "big")
    assert packet[54:] == payload
    assert ones_sum(pseudo + packet[34:] + bytes(size & 1)) == 0xFFFF


def test_a_sum_of_zero_has_the_checksum_of_zero() -> None:
    """An all-ones sum: 0x0000 by RFC 1071's complement, never 0xFFFF."""
    capture = Capture().open()
    before = len(capture.bytes)
    seen = set()
    for number in range(65_536):
        capture.data(0, 2 * number, number.to_bytes(2, "big"))
    data = bytes(capture.bytes[before:])
    for at in range(0, len(data), 32 + 56):
        seen.add(data[at + 28 + 50 : at + 28 + 52])
        assert ones_sum(data[at + 28 + 14 : at + 28 + 34]) == 0xFFFF
    assert b"\0\0" in seen
    assert b"\xff\xff" not in seen


def ones_sum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


GAPS = st.sampled_from([0, 0, 0, 1, 70_000, 1 << 33])


@given(st.lists(st.tuples(st.integers(0, 1), GAPS, st.binary(min_size=1, max_size=9)), max_size=15))
@settings(max_examples=60)
def test_whatever_is_written_is_read_back_with_its_gaps(steps: list[tuple[int, int, bytes]]) -> None:
    capture = Capture().open()
    ends = [0, 0]
    expected: tuple[list[int], list[int]] = ([], [])
    content = [b"", b""]
    for direction, gap, payload in steps:
        capture.data(direction, ends[direction] + gap, payload)
        ends[direction] += gap + len(payload)
        content[direction] += payload
        expected[direction].append(gap)
    capture.close(1, ends[1]).close(0, ends[0])
    sides = streams(flow_events(capture.finish()))
    for direction in (0, 1):
        assert b"".join(piece for piece in sides[direction] if isinstance(piece, bytes)) == content[direction]
        assert sum(piece for piece in sides[direction] if isinstance(piece, int)) == sum(expected[direction])


def test_every_packet_of_a_conversation_has_an_ident_of_its_own() -> None:
    capture = Capture().open().data(0, 0, b"a").data(0, 1, b"b")
    idents = [HEADERS.parse(each.data).ipv4.ident for each in packets(capture.finish()) if _from_client(each)]
    assert idents == [1, 2, 3, 4]


def _from_client(packet: Packet) -> bool:
    return bool(HEADERS.parse(packet.data).tcp.destination_port == 8080)
