"""The layouts written in construct and the struct forms of writer and reader are the same."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tracer.capture.files import NANOSECONDS, START, Capture, enhanced, interface, read_pcapng, section
from tracer.capture.blocks import ByteOrder, block_layout, build_block, items
from tracer.capture.headers import HEADERS
from tracer.capture.link import FAST, FAST_HEAD, Segment, segment
from tracer.capture.packets import Packet

ORDERS = get_args(ByteOrder)


@given(st.integers(0, 1), st.binary(min_size=1, max_size=200), st.integers(0, (1 << 64) - 1))
def test_a_packet_as_written_parses_by_the_layouts(direction: int, payload: bytes, time_ns: int) -> None:
    capture = Capture().open()
    before = len(capture.bytes)
    capture.writer.data(1, direction, 0, time_ns, payload)
    block = block_layout("little").parse(bytes(capture.bytes[before:]))
    assert (block.type, block.length, block.length_again) == (6, len(capture.bytes) - before, block.length)
    body = block.body
    assert (body.time_high << 32 | body.time_low, body.interface) == (time_ns, 0)
    assert body.captured == body.original == 54 + len(payload)
    assert body.data[54:] == payload
    assert [option.code for option in body.options] == []
    headers = HEADERS.parse(body.data)
    assert headers.ethernet.type == 0x0800
    assert headers.ipv4.version_and_header_words == 0x45
    assert headers.ipv4.total_length == 40 + len(payload)
    assert (headers.ipv4.flags_and_fragment, headers.ipv4.ttl, headers.ipv4.protocol) == (0x4000, 64, 6)
    assert headers.ethernet.destination == b"\2\0" + headers.ipv4.destination
    assert headers.ethernet.source == b"\2\0" + headers.ipv4.source
    assert (headers.tcp.sequence, headers.tcp.acknowledgement) == (1, 1)
    assert headers.tcp.header_words_and_flags == 0x5018
    ports = headers.tcp.source_port, headers.tcp.destination_port
    assert ports == ((49_152, 8080) if direction == 0 else (8080, 49_152))


def test_the_packet_after_a_gap_parses_by_the_layout_with_its_options() -> None:
    capture = Capture().open()
    before = len(capture.bytes)
    capture.data(0, 10, b"late")
    body = block_layout("little").parse(bytes(capture.bytes[before:])).body
    assert [(option.code, option.value) for option in body.options] == [(4, (1).to_bytes(8, "little")), (0, b"")]


@given(
    st.sampled_from(ORDERS), st.binary(max_size=99), st.integers(0, (1 << 64) - 1), st.text(max_size=20),
    st.integers(0, (1 << 64) - 1),
)  # fmt: skip
def test_a_packet_built_by_the_layout_is_read_back(
    order: ByteOrder, data: bytes, ticks: int, comment: str, dropped: int
) -> None:
    options = [(1, comment.encode()), (4, dropped.to_bytes(8, order))]
    file = section(order) + interface(order, options=[NANOSECONDS]) + enhanced(data, ticks, order, options=options)
    (found,) = read_pcapng(file)
    assert isinstance(found, Packet)
    assert (found.data, found.time_ns, found.comment, found.dropped) == (data, ticks, comment, dropped)


@pytest.mark.parametrize("order", ORDERS)
def test_every_layout_builds_and_parses_back(order: ByteOrder) -> None:
    packet = {"time_high": 1, "time_low": 2, "captured": 5, "original": 9, "data": b"hello"}
    option = {"code": 1, "value": b"note"}
    bodies: dict[int, dict[str, object]] = {
        0x0A0D0D0A: {"major": 1, "minor": 0, "section_length": -1, "options": items((1, b"note"))},
        1: {"link_type": 1, "snap_length": 0, "options": items((2, b"eth0"))},
        2: {"interface": 3, "drops": 4, **packet, "options": []},
        3: {"original": 9, "data": b"hello123"},
        4: {"records": items((1, b"\x7f\0\0\1me\0")), "options": []},
        5: {"interface": 0, "time_high": 1, "time_low": 2, "options": items((4, bytes(8)))},
        6: {"interface": 3, **packet, "options": [option]},
    }
    for kind, body in bodies.items():
        built = build_block(kind, body, order)
        parsed = block_layout(order).parse(built)
        assert (parsed.type, parsed.length, parsed.length_again) == (kind, len(built), len(built))
        for name, value in body.items():
            found = parsed.body[name]
            if isinstance(value, list):
                assert [(item.code, item.value) for item in found] == [(item["code"], item["value"]) for item in value]
            else:
                assert found == value, (kind, name)


@given(st.binary(min_size=54, max_size=54), st.binary(max_size=40))
def test_the_fast_form_of_the_headers_reads_what_the_layout_says(random: bytes, payload: bytes) -> None:
    total = (40 + len(payload)).to_bytes(2, "big")
    data = random[:12] + b"\x08\0\x45" + random[15:16] + total + random[18:20] + b"\x40\0" + random[22:23] + b"\x06"
    data += random[24:46] + b"\x50" + random[47:] + payload
    headers = HEADERS.parse(data)
    head, length, fragment, protocol, key, sequence, acknowledgement, words_and_flags = FAST.unpack_from(data)
    ipv4, tcp = headers.ipv4, headers.tcp
    assert (head[:2], head[2]) == (headers.ethernet.type.to_bytes(2, "big"), ipv4.version_and_header_words)
    assert (head, length) == (FAST_HEAD, ipv4.total_length)
    assert (fragment, protocol) == (ipv4.flags_and_fragment, ipv4.protocol)
    ports = tcp.source_port.to_bytes(2, "big") + tcp.destination_port.to_bytes(2, "big")
    assert key == ipv4.source + ipv4.destination + ports
    assert (sequence, acknowledgement) == (tcp.sequence, tcp.acknowledgement)
    assert words_and_flags == tcp.header_words_and_flags
    assert segment(1, data) == Segment(key, sequence, tcp.acknowledgement, words_and_flags & 0xFF, payload, 0)


def test_the_handshake_carries_the_time_it_is_given() -> None:
    capture = Capture().open()
    assert {found.time_ns for found in read_pcapng(bytes(capture.bytes)) if isinstance(found, Packet)} == {START}
