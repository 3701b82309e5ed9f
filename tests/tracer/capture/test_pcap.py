"""Plain pcap files."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracer.capture.files import read
from tracer.capture.packets import MAX_RECORD, Notice, Packet
from tracer.capture.pcap import PcapReader

MICRO, NANO = 0xA1B2C3D4, 0xA1B23C4D


def file(order: str = "<", magic: int = MICRO, link_type: int = 1, *records: tuple[int, int, bytes]) -> bytes:
    data = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65_535, link_type)
    for seconds, part, payload in records:
        data += struct.pack(order + "IIII", seconds, part, len(payload), len(payload)) + payload
    return data


RECORDS = (1, 2, b"one"), (3, 999_999, b""), (0xFFFFFFFF, 0, b"three")
SAMPLE = file("<", MICRO, 1, *RECORDS)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "unit"), [(MICRO, 1_000), (NANO, 1)])
def test_both_byte_orders_and_both_units_of_time(order: str, magic: int, unit: int) -> None:
    found = read(PcapReader(), file(order, magic, 101, *RECORDS))
    assert [(each.time_ns, each.data, each.number) for each in found if isinstance(each, Packet)] == [
        (1_000_000_000 + 2 * unit, b"one", 1),
        (3_000_000_000 + 999_999 * unit, b"", 2),
        (0xFFFFFFFF * 1_000_000_000, b"three", 3),
    ]
    assert {each.link_type for each in found if isinstance(each, Packet)} == {101}


def test_the_length_of_the_frame_check_sequence_is_no_part_of_the_link_type() -> None:
    (found,) = read(PcapReader(), file("<", MICRO, 0x5400_0001, (0, 0, b"x")))
    assert isinstance(found, Packet)
    assert found.link_type == 1


@given(st.lists(st.integers(0, len(SAMPLE)), max_size=12))
def test_any_split_of_the_bytes_gives_the_same_packets(cuts: list[int]) -> None:
    assert read(PcapReader(), SAMPLE, cuts) == read(PcapReader(), SAMPLE)


def test_a_file_cut_at_any_byte_gives_the_packets_before_the_cut_and_says_where() -> None:
    whole = read(PcapReader(), SAMPLE)
    starts = [0, 24, 43, 59, 80]
    for cut in range(1, len(SAMPLE)):
        found = read(PcapReader(), SAMPLE[:cut])
        complete = [item for item in found if isinstance(item, Packet)]
        assert complete == whole[: len(complete)]
        notices = [item for item in found if isinstance(item, Notice)]
        if cut in starts:
            assert notices == []
        else:
            assert [(each.offset, each.fatal) for each in notices] == [(max(at for at in starts if at < cut), True)]


def test_a_length_that_can_not_be_ends_the_reading_on_the_header() -> None:
    broken = struct.pack("<IIII", 0, 0, MAX_RECORD + 1, 0)
    found = read(PcapReader(), SAMPLE + broken + bytes(100))
    assert [type(item) for item in found] == [Packet, Packet, Packet, Notice]
    assert found[3][0] == len(SAMPLE)
    assert found[3][2] is True


@given(st.binary(max_size=200))
@settings(max_examples=60)
def test_garbage_after_the_header_never_raises(garbage: bytes) -> None:
    read(PcapReader(), file() + garbage)
