"""A journal's export format and the blocks that keep it: any split of it gives the same entries, and what is bad is
counted and passed over."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tracer.capture.journal import (
    CUT,
    IDENTIFIERS,
    KEPT,
    MAX_VALUE,
    TIME,
    UNITS,
    Entry,
    ExportReader,
    build_block,
    build_entry,
    matches,
    parse_block,
)
from tracer.capture.journal_file import LATE_NS, in_order
from tracer.capture.packets import Notice, Packet

STAMP = b"1795972421737975"


def binary(name: bytes, value: bytes) -> bytes:
    return name + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"


PLAIN = (
    b"__CURSOR=s=4a82;i=15c\n__REALTIME_TIMESTAMP=" + STAMP + b"\n_CMDLINE=/usr/bin/containerd --token=abc\n"
    b"SYSLOG_IDENTIFIER=containerd\n_PID=812\nMESSAGE=time=x msg=\"a=b\"\n\n"
)  # fmt: skip
LINES = b"__REALTIME_TIMESTAMP=" + STAMP + b"\n" + binary(b"MESSAGE", b"one\n\ntwo\n\0") + b"_PID=1\n\n"
WITHOUT_A_TIME = b"MESSAGE=when?\n\n"
BAD = b"__REALTIME_TIMESTAMP=" + STAMP + b"\nno name\nxxxxxxxx\nMESSAGE=never\n\n"
LONG = b"__REALTIME_TIMESTAMP=" + STAMP + b"\nMESSAGE=" + b"x" * (MAX_VALUE + 900) + b"\n_PID=7\n\n"
LONG_BINARY = (
    b"__REALTIME_TIMESTAMP=" + STAMP + b"\n" + binary(b"MESSAGE", b"\n" * (MAX_VALUE + 1)) + b"_PID=8\n\n"
)  # fmt: skip
ALL = PLAIN + b"\n\n" + BAD + LINES + WITHOUT_A_TIME + LONG + LONG_BINARY + PLAIN


def read(data: bytes, cuts: list[int] | None = None) -> tuple[list[Entry], int]:
    reader = ExportReader()
    found: list[Entry] = []
    places = [0, *sorted(cuts or []), len(data)]
    for begin, end in itertools.pairwise(places):
        found += reader.feed(data[begin:end])
    found += reader.close()
    return found, reader.skipped


def test_entries_come_with_the_fields_that_are_kept() -> None:
    found, skipped = read(ALL)
    assert skipped == 2
    assert [entry.fields["MESSAGE"][:9] for entry in found] == [
        b'time=x ms', b"one\n\ntwo\n", b"xxxxxxxxx", b"\n" * 9, b'time=x ms',
    ]  # fmt: skip
    assert found[0].fields == {
        "__CURSOR": b"s=4a82;i=15c", "__REALTIME_TIMESTAMP": STAMP, "SYSLOG_IDENTIFIER": b"containerd", "_PID": b"812",
        "MESSAGE": b'time=x msg="a=b"',
    }  # fmt: skip
    assert [entry.number("_PID") for entry in found] == [812, 1, 7, 8, 812]
    assert [(len(entry.fields["MESSAGE"]), CUT in entry.fields) for entry in found[2:4]] == [(MAX_VALUE, True)] * 2
    assert found[0].time_ns == int(STAMP) * 1000
    assert [ALL[: entry.end].endswith(b"\n\n") for entry in found] == [True] * 5
    assert found[1].end == ALL.index(WITHOUT_A_TIME)


@given(st.lists(st.integers(0, len(ALL)), max_size=30))
@example(list(range(len(PLAIN + BAD + LINES + WITHOUT_A_TIME) + 2)))
def test_any_split_gives_the_same(cuts: list[int]) -> None:
    assert read(ALL, cuts) == read(ALL)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
@example(b"MESSAGE\n\xff\xff\xff\xff\xff\xff\xff\xff1", [9])
@example(b"MESSAGE\n\0\0\0\0\0\0\0\0x", [9])
def test_arbitrary_bytes_never_raise_and_what_follows_an_empty_line_is_read(noise: bytes, cuts: list[int]) -> None:
    cuts = [cut for cut in cuts if cut <= len(noise)]
    assert read(noise, cuts) == read(noise)
    if b"\n" not in noise:  # else a length in it may span all that follows
        assert read(b"?" + noise + b"\n\n" + PLAIN)[0][-1].fields == read(PLAIN)[0][0].fields


def test_a_length_that_no_field_has_takes_its_entry_alone() -> None:
    found, skipped = read(b"MESSAGE\n\xff\xff\xff\xff\xff\xff\xff\x7f\n\n" + PLAIN)
    assert ([entry.fields for entry in found], skipped) == ([read(PLAIN)[0][0].fields], 1)


def test_a_value_that_is_no_line_is_written_with_its_length() -> None:
    for value in (b"a\nb", b"a\0b"):
        assert build_entry(Entry({"MESSAGE": value})) == binary(b"MESSAGE", value)


def test_a_reader_that_begins_in_the_midst_takes_whole_entries_alone() -> None:
    reader = ExportReader(in_midst=True)
    assert reader.feed(LINES[7:]) == []
    (entry,) = reader.feed(PLAIN)
    assert (entry.fields, entry.end) == (read(PLAIN)[0][0].fields, len(LINES[7:] + PLAIN))


def test_the_last_entry_of_a_file_needs_no_empty_line() -> None:
    for less in (1, 2):
        assert [entry.fields for entry in read(PLAIN[:-less])[0]] == [entry.fields for entry in read(PLAIN)[0]]


values = st.binary(max_size=60)
entries = st.dictionaries(st.sampled_from([*KEPT, CUT]), values).map(
    lambda fields: Entry({**fields, "MESSAGE": fields.get("MESSAGE", b""), TIME: b"17"})
)


@given(entries)
@example(Entry({"MESSAGE": b"ends\0\0", TIME: b"17"}))
@example(Entry({"MESSAGE": b"", TIME: b"17"}))
def test_a_block_gives_back_what_it_keeps(entry: Entry) -> None:
    block = build_block(entry)
    kind, length = struct.unpack_from("<II", block)
    assert (kind, length, length % 4, block[-4:]) == (9, len(block), 0, block[4:8])
    assert parse_block(block[8:-4]) == entry
    other = build_block(entry, "big")
    assert (other[8:-4], struct.unpack_from(">II", other)) == (block[8:-4], (kind, length))


def test_ours_in_a_journal_is_no_time() -> None:
    forged = PLAIN.replace(b"_PID=812", TIME.encode() + b"=5")
    assert read(forged)[0][0].time_ns == int(STAMP) * 1000


@pytest.mark.parametrize("body", [b"", b"\0\0\0\0", b"MESSAGE=x\n", PLAIN + PLAIN, BAD])
def test_a_block_without_one_entry_is_told(body: bytes) -> None:
    assert parse_block(body) is None


def test_who_is_listened_to_is_one_table() -> None:
    assert Entry({"SYSLOG_IDENTIFIER": b"kubelet"}).of_runtime()
    assert Entry({"SYSLOG_IDENTIFIER": b"node", "_SYSTEMD_UNIT": b"k3s.service"}).of_runtime()
    assert Entry({"SYSLOG_IDENTIFIER": b"systemd", "UNIT": b"containerd.service"}).of_runtime()
    assert not Entry({"SYSLOG_IDENTIFIER": b"sshd", "_SYSTEMD_UNIT": b"ssh.service"}).of_runtime()
    assert len(matches()) == len(IDENTIFIERS) + 2 * len(UNITS) + 2


def packet(time_ns: int, number: int = 0) -> Packet:
    return Packet(number, time_ns, None, 1, b"", "", 0, 0)


def line(time_ns: int) -> Notice:
    return Notice(0, "a line of a log", False, entry=Entry({TIME: b"%d" % time_ns}))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, LATE_NS // 2), st.booleans()), max_size=40), st.booleans())
def test_lines_that_come_late_are_put_in_their_places(steps: list[tuple[int, int, bool]], last: bool) -> None:
    """A line may come after packets of half a second; packets stay in the order of the file."""
    now, items = LATE_NS, list[Packet | Notice]()
    for ahead, late, is_line in steps:
        now += ahead * LATE_NS // 10
        items.append(line(now - late) if is_line else packet(now, len(items)))
    items += [Notice(0, "of the packet before", False), packet(now, len(items))] if last else []
    found = list(in_order(items))
    assert sorted(map(id, found)) == sorted(map(id, items))
    others = [item for item in items if not isinstance(item, Notice) or item.entry is None]
    assert [item for item in found if not isinstance(item, Notice) or item.entry is None] == others
    times = [
        item.time_ns if isinstance(item, Packet) else item.entry.time_ns or 0
        for item in found
        if isinstance(item, Packet) or item.entry is not None
    ]
    assert times == sorted(times)
