"""pcapng files: what is in them is read, what is broken in them is told with its offset."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tracer.capture.files import (
    NANOSECONDS,
    Capture,
    enhanced,
    interface,
    old,
    packets,
    raw_block,
    read_pcapng,
    section,
    small_capture,
)  # fmt: skip
from tracer.capture.blocks import ByteOrder, Item, build_block, items
from tracer.capture.packets import MAX_RECORD, Notice, Packet
from tracer.capture.pcapng import PcapngReader

ORDERS = get_args(ByteOrder)
SMALL = small_capture()


def told(data: bytes) -> list[tuple[int, str, bool]]:
    return [found[:3] for found in read_pcapng(data) if isinstance(found, Notice)]


def test_what_the_writer_wrote_is_read_back() -> None:
    found = packets(SMALL)
    assert len(found) == 9
    assert [each.number for each in found] == list(range(1, 10))
    assert [each.data[54:] for each in found[3:6]] == [b"ping", b"answer", b"x" * 41]
    described = found[0].interface
    assert described is not None
    assert (described.name, described.description) == ("/run/test.sock", "cri /run/test.sock")
    assert described.names == {"198.18.0.1": "kubelet", "198.18.0.2": "containerd"}
    assert found[0].comment.startswith('{"podwire":1,"hop":"cri","socket":"/run/test.sock","connection":1,')
    assert SMALL[found[4].offset :].startswith(b"\6\0\0\0")


@given(st.lists(st.integers(0, len(SMALL)), max_size=20))
@settings(max_examples=60)
def test_any_split_of_the_bytes_gives_the_same_packets(cuts: list[int]) -> None:
    assert read_pcapng(SMALL, cuts) == read_pcapng(SMALL)


def test_one_byte_at_a_time_gives_the_same_packets() -> None:
    assert read_pcapng(SMALL, range(len(SMALL))) == read_pcapng(SMALL)


def test_a_file_cut_at_any_byte_gives_the_packets_before_the_cut_and_says_where() -> None:
    whole = read_pcapng(SMALL)
    ends = block_ends(SMALL)
    for cut in range(len(SMALL)):
        found = read_pcapng(SMALL[:cut])
        notices = [item for item in found if isinstance(item, Notice)]
        complete = [item for item in found if isinstance(item, Packet)]
        assert complete == whole[: len(complete)]
        if cut in ends:
            assert notices == []
        else:
            (notice,) = notices
            assert notice.fatal
            assert notice.offset == max(end for end in ends if end <= cut)
            assert "cut in the middle of a block" in notice.text


def block_ends(data: bytes) -> list[int]:
    ends = [0]
    while ends[-1] < len(data):
        ends.append(ends[-1] + int.from_bytes(data[ends[-1] + 4 : ends[-1] + 8], "little"))
    return ends


@pytest.mark.parametrize("order", ORDERS)
def test_both_byte_orders_and_all_kinds_of_packet_blocks(order: ByteOrder) -> None:
    file = section(order) + interface(order, link_type=101, snap_length=6, options=[NANOSECONDS, (2, b"eth0")])
    file += enhanced(b"first", 7 << 32 | 9, order) + old(b"second", 5 << 32 | 3, 2, order)
    file += build_block(3, {"original": 99, "data": b"thirdX\0\0"}, order) + old(b"last", 0, 0xFFFF, order)
    first, second, third, last = packets(file)
    assert (first.data, first.time_ns, first.link_type) == (b"first", 7 << 32 | 9, 101)
    assert (second.data, second.time_ns, second.dropped) == (b"second", 5 << 32 | 3, 2)
    assert (third.data, third.time_ns) == (b"thirdX", 0)
    assert last.dropped == 0
    assert {each.interface.name for each in (first, second, third, last) if each.interface} == {"eth0"}


@pytest.mark.parametrize(
    ("options", "ticks", "time_ns"),
    [
        ([], 1_500_000, 1_500_000_000),
        ([(9, b"\x00")], 3, 3_000_000_000),
        ([(9, b"\x06")], 7, 7_000),
        ([(9, b"\x09")], 7, 7),
        ([(9, b"\x0c")], 7_999, 7),
        ([(9, b"\x80")], 2, 2_000_000_000),
        ([(9, b"\x8a")], 1_536, 1_500_000_000),
        ([(9, b"\x09"), (14, (5).to_bytes(8, "little", signed=True))], 7, 5_000_000_007),
        ([(14, (-1).to_bytes(8, "little", signed=True))], 2_000_000, 1_000_000_000),
        ([(9, b"")], 2, 2_000),
    ],
)
def test_times_follow_the_resolution_and_offset_of_their_interface(
    options: list[Item], ticks: int, time_ns: int
) -> None:
    (found,) = packets(section() + interface(options=options) + enhanced(b"x", ticks))
    assert found.time_ns == time_ns


def test_a_section_has_interfaces_and_names_of_its_own() -> None:
    def one(order: ByteOrder, name: bytes) -> bytes:
        record = items((1, b"\x7f\0\0\1" + name + b"\0"))
        names = build_block(4, {"records": record, "options": []}, order)
        return section(order) + interface(order, options=[(2, name)]) + names + enhanced(name, 0, order)

    first, second = packets(one("little", b"one") + one("big", b"two"))
    assert first.interface is not None
    assert second.interface is not None
    assert (first.interface.id, first.interface.name, dict(first.interface.names)) == (0, "one", {"127.0.0.1": "one"})
    assert (second.interface.id, second.interface.name, dict(second.interface.names)) == (
        1, "two", {"127.0.0.1": "two"},
    )  # fmt: skip
    assert [first.number, second.number] == [1, 2]


def test_names_of_both_families_are_read_and_others_are_not() -> None:
    records = [(1, b"\xc6\x12\0\1kubelet\0other\0"), (2, bytes(15) + b"\1localhost\0"), (3, b"strange"), (1, b"\1\2")]
    block = build_block(4, {"records": items(*records), "options": []})
    (found,) = packets(section() + interface() + block + enhanced(b"x"))
    assert found.interface is not None
    assert found.interface.names == {"198.18.0.1": "kubelet", "::1": "localhost"}


def test_several_comments_are_lines_of_one() -> None:
    (found,) = packets(section() + interface() + enhanced(b"x", options=[(1, b"one"), (99, b"?"), (1, b"two")]))
    assert found.comment == "one\ntwo"


@pytest.mark.parametrize("kind", [5, 10, 0xBAD, 0x40000BAD, 0x12345678])
def test_blocks_of_other_types_are_passed_over(kind: int) -> None:
    (found,) = packets(section() + interface() + raw_block(kind, b"whatever") + enhanced(b"x"))
    assert found.data == b"x"


def test_a_packet_that_is_longer_than_its_block_is_told_and_the_next_one_read() -> None:
    broken = bytearray(enhanced(b"broken"))
    broken[20:24] = (1 << 20).to_bytes(4, "little")
    before = section() + interface()
    found = read_pcapng(before + bytes(broken) + enhanced(b"next"))
    assert found[0] == Notice(len(before), "a packet of 1048576 bytes in a block with room for 8", False)
    assert isinstance(found[1], Packet)
    assert (found[1].data, found[1].number) == (b"next", 1)


@pytest.mark.parametrize("kind", [1, 2, 3, 6])
def test_a_block_too_short_for_its_fields_is_told_and_the_next_one_read(kind: int) -> None:
    found = read_pcapng(section() + interface() + raw_block(kind, b"") + enhanced(b"next"))
    assert [type(item) for item in found] == [Notice, Packet]
    assert "cut short" in str(found[0])


def test_an_option_that_runs_over_its_block_is_told_and_the_packet_kept() -> None:
    broken = bytearray(enhanced(b"x", options=[(1, b"note")]))
    at = broken.index(b"note") - 2
    broken[at : at + 2] = (0xFFFF).to_bytes(2, "little")
    notice, found = read_pcapng(section() + interface() + bytes(broken))
    assert isinstance(notice, Notice)
    assert (notice.text, notice.fatal) == ("option 1 runs over the end of its block", False)
    assert isinstance(found, Packet)
    assert (found.data, found.comment) == (b"x", "")


def test_packets_of_an_interface_that_is_not_described_are_told_once() -> None:
    assert told(section() + interface() + enhanced(b"x", which=4) + enhanced(b"x", which=5)) == [
        (28 + 20, "packets of interface 4, which the file does not describe, are passed over", False)
    ]


def test_lengths_that_disagree_are_told_and_the_packet_read() -> None:
    broken = enhanced(b"data")[:-4] + bytes(4)
    found = read_pcapng(section() + interface() + broken + enhanced(b"next"))
    assert [type(item) for item in found] == [Notice, Packet, Packet]


@pytest.mark.parametrize("length", [0, 4, 11, 13, 34, MAX_RECORD + 4, 0xFFFFFFFC])
def test_a_length_that_can_not_be_ends_the_reading_on_the_header(length: int) -> None:
    before = section() + interface() + enhanced(b"x")
    found = read_pcapng(before + b"\6\0\0\0" + length.to_bytes(4, "little") + bytes(4) + enhanced(b"next"))
    assert [type(item) for item in found] == [Packet, Notice]
    assert found[1][0] == len(before)
    assert found[1][2] is True


@pytest.mark.parametrize(
    "broken", [b"\n\r\r\n" + bytes(24), raw_block(0x0A0D0D0A, b"\x4d\x3c\x2b\x1a"), section(major=2)]
)
def test_a_section_header_that_can_not_be_read_ends_the_reading(broken: bytes) -> None:
    before = section() + interface() + enhanced(b"x")
    found = read_pcapng(before + broken + enhanced(b"next"))
    assert [type(item) for item in found] == [Packet, Notice]
    assert found[1][2] is True


def test_nothing_is_read_after_the_end() -> None:
    reader = PcapngReader()
    assert len(reader.feed(section(major=9))) == 1
    assert reader.feed(SMALL) == []
    assert reader.close() == []


def test_no_more_is_kept_than_the_block_that_is_not_complete() -> None:
    reader = PcapngReader()
    reader.feed(section() + interface())
    for _ in range(300):
        reader.feed(enhanced(bytes(9_000)))
        assert len(reader._rest) == 0
    head = enhanced(bytes(9_000))[:5_000]
    reader.feed(head)
    assert len(reader._rest) == 5_000


@given(st.binary(max_size=300))
@settings(max_examples=100)
@example(b"\n\r\r\n")
def test_garbage_never_raises(garbage: bytes) -> None:
    read_pcapng(garbage)
    read_pcapng(section() + interface() + garbage)


@given(st.integers(0, len(SMALL) - 1), st.binary(min_size=1, max_size=8))
@settings(max_examples=150)
def test_damage_anywhere_never_raises(at: int, damage: bytes) -> None:
    found = read_pcapng(SMALL[:at] + damage + SMALL[at + len(damage) :])
    assert all(0 <= item.offset <= len(SMALL) + 8 for item in found)


def test_a_file_without_packets_is_no_error() -> None:
    assert read_pcapng(Capture().finish()) == []
