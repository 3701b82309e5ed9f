"""Logs without a journal: lines of containerd, CRI-O and kubelet are told by their form and have their own times."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protos.errors import PodwireError
from tracer.capture.journal import CUT, MAX_VALUE, Entry, ExportReader
from tracer.capture.plain_logs import LineReader, open_reader

AT = 1_795_445_881_138_902_558
LOG = (
    b"goroutine 1 [running]:\n"
    b'time="2026-11-23T14:58:01.138902558Z" level=info msg="one"\n'
    b'time="2026-11-23T15:58:01.2+01:00" level=error msg="two\\nlines"\r\n'
    b"panic: of the line above\n\n"
    b'time="2026-11-23 14:58:01.138902558Z" level=info msg="CRI-O puts a space there"\n'
)


def read(data: bytes, cuts: list[int] | None = None, path: str = "/var/log/x") -> tuple[list[Entry], int]:
    reader = LineReader(path)
    found: list[Entry] = []
    places = [0, *sorted(cuts or []), len(data)]
    for begin, end in itertools.pairwise(places):
        found += reader.feed(data[begin:end])
    return found + reader.close(), reader.skipped


def test_logfmt_has_its_own_times() -> None:
    found, skipped = read(LOG)
    assert skipped == 1
    assert [entry.time_ns for entry in found] == [AT, AT + 61_097_442, AT + 61_097_442, AT]
    assert [entry.fields["MESSAGE"][-12:] for entry in found][1:3] == [b'"two\\nlines"', b"e line above"]
    assert {entry.text("SYSLOG_IDENTIFIER") for entry in found if b"time=" in entry.fields["MESSAGE"]} == {"containerd"}


def test_klog_has_local_time_of_the_last_year_that_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: 1_767_250_000.0)  # 2026-01-01 15:46 there
    (new, old), _ = read(b'I0101 15:46:39.000001     812 a.go:1] "x"\nE1231 23:59:59.500000 9 b.go:2] y\n')
    monkeypatch.undo()
    time.tzset()
    assert (new.time_ns, new.number("_PID"), new.text("SYSLOG_IDENTIFIER")) == (
        1_767_249_999_000_001_000,
        812,
        "kubelet",
    )
    assert old.time_ns == 1_767_193_199_500_000_000


def test_json_has_the_same_times() -> None:
    lines = (
        rb'{"level":"info","msg":"\"time\":\"2001-01-01T00:00:00Z\"","time":"2026-11-23T14:58:01.138902558Z"}',
        b'{"ts":1795445881138.902,"caller":"a.go:1","msg":"x","v":2}',
        b'{"ts":1795445881.138902,"v":2,"msg":"x"}',
        b'{"msg":"of the line above"}',
    )
    found, skipped = read(b"\n".join(lines) + b"\n")
    assert [entry.time_ns for entry in found] == [AT, AT - 558, AT - 558, AT - 558]
    assert [entry.text("SYSLOG_IDENTIFIER") for entry in found[:3]] == ["containerd", "kubelet", "kubelet"]
    assert skipped == 0
    assert isinstance(open_reader(lines[0] + b"\n", "x"), LineReader)


def test_a_files_name_says_who_wrote_it() -> None:
    assert {entry.text("SYSLOG_IDENTIFIER") for entry in read(LOG, path="/var/log/crio.log")[0]} == {"crio"}


@given(st.lists(st.integers(0, len(LOG)), max_size=12))
@example(list(range(len(LOG))))
def test_any_split_gives_the_same(cuts: list[int]) -> None:
    assert read(LOG, cuts) == read(LOG)


@given(st.binary(max_size=80))
@example(b'time="2026-13-45T14:58:01Z" level=info')
@example(b"I9999 99:99:99.000000 1 x.go:1] y")
@example(b'time="0000-00-00T00:00:00Z"')
def test_arbitrary_bytes_never_raise(noise: bytes) -> None:
    read(noise)
    assert read(noise + b"\n" + LOG)[0][-1].fields == read(LOG)[0][-1].fields


def test_a_line_without_end_is_cut_and_takes_no_more_memory() -> None:
    reader = LineReader("x")
    reader.feed(LOG[23:60])
    for _ in range(3):
        reader.feed(b"y" * MAX_VALUE)
    (entry,) = reader.feed(b"\n")
    assert (len(entry.fields["MESSAGE"]), entry.fields[CUT]) == (MAX_VALUE, b"1")
    assert CUT not in reader.feed(LOG[23:])[0].fields


def test_a_reader_that_begins_in_the_midst_leaves_out_what_it_lacks_the_beginning_of() -> None:
    reader = LineReader("x", in_midst=True)
    begin = LOG.index(b'time="2026-11-23T15')
    whole = LineReader("x").feed(LOG[begin:])
    assert reader.feed(LOG[30:]) == [Entry(entry.fields, entry.end + begin - 30) for entry in whole]
    assert LOG[: whole[0].end + begin].endswith(b'lines"\r\n')


def test_the_form_is_told_by_the_first_bytes() -> None:
    assert isinstance(open_reader(LOG[23:], "x"), LineReader)
    assert isinstance(open_reader(b"\nW1129 17:13:24.123456 1 x.go:1] y", "x"), LineReader)
    assert isinstance(open_reader(b"\n__CURSOR=s=1\n", "x"), ExportReader)
    assert isinstance(open_reader(b"MESSAGE\n\5\0\0\0\0\0\0\0", "x"), ExportReader)
    for other in (b'{"__CURSOR":"s=1"}', b"Nov 29 17:13:24 node containerd[1]: time=", b"\n\r\r\n\x1c\0\0\0", b""):
        with pytest.raises(PodwireError, match=r"--journal /x/y: is no journal in the export format"):
            open_reader(other, "/x/y")
