"""The logs that a recorder follows: a file that grows, a pipe, a journalctl; each line once, whatever is killed."""

from __future__ import annotations

import os
import random
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from protos.errors import PodwireError
from tests.tracer.capture.files import read_pcapng
from tests.tracer.capture.rings import put_all, script, shared_memory
from tests.tracer.capture.test_recorder import run_in_child
from tracer.capture import journal_source, recorder
from tracer.capture.checkpoint import Checkpoint
from tracer.capture.journal import PLACE, Entry, parse_block
from tracer.capture.journal_source import Journal, LogsAt, Source, journal_trouble, open_source
from tracer.capture.packets import Notice
from tracer.capture.recorder import Recorder
from tracer.capture.ring import Ring, create
from tracer.capture.room import Limits
from tracer.relay import shared as sh
from tracer.relay.shared import RecorderState, RingWriter

OFFSET_NS = time.time_ns() - time.monotonic_ns()
"""What makes CLOCK_MONOTONIC the capture's clock, in these tests."""


def entry(text: str, *, at_ns: int | None = None, who: str = "containerd", **fields: object) -> bytes:
    micros = (time.time_ns() if at_ns is None else at_ns) // 1000
    more = "".join(f"{name}={value}\n" for name, value in fields.items())
    return f"__REALTIME_TIMESTAMP={micros}\n{more}SYSLOG_IDENTIFIER={who}\nMESSAGE={text}\n\n".encode()


def opened(source: Source, at: LogsAt = LogsAt()) -> Journal:  # noqa: B008 # it does not change
    return Journal(source, at, OFFSET_NS, select.poll())


def now_ns() -> int:
    return time.monotonic_ns() + OFFSET_NS


def entries(blocks: list[bytes]) -> list[Entry]:
    found = [parse_block(block[8:-4]) for block in blocks]
    assert None not in found
    return [each for each in found if each is not None]


def texts(blocks: list[bytes]) -> list[str]:
    return [each.text("MESSAGE") for each in entries(blocks)]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[tuple[Path, Source]]:
    """A file with a line that is older than the trace, and the source that it is."""
    path = tmp_path / "journal.export"
    path.write_bytes(entry("old"))
    source = open_source(str(path))
    yield path, source
    os.close(source.fd)


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_of_a_file_what_comes_since_the_trace_began_is_read_as_it_grows(log: tuple[Path, Source]) -> None:
    path, source = log
    journal = opened(source)
    assert texts(journal.read()) == []
    whole = entry("one") + entry("of another", who="sshd") + entry("two", _PID=7)
    append(path, whole[:-20])
    first = journal.read()
    assert texts(first) == ["one"]
    append(path, whole[-20:])
    second = journal.read()
    assert texts(second) == ["two"]
    assert entries(second)[0].fields[PLACE] == str(path.stat().st_size).encode()
    assert abs((entries(first)[0].time_ns or 0) - now_ns()) < 10**10, "on the capture's clock"
    assert journal.take_end() == ""
    assert texts(journal.rest()) == []


def test_another_reader_goes_on_behind_the_last_line(log: tuple[Path, Source]) -> None:
    path, source = log
    append(path, entry("one") + entry("two") + entry("three"))
    blocks = opened(source).read()
    place = int(entries(blocks)[1].fields[PLACE])
    assert texts(opened(source, LogsAt("", place)).read()) == ["three"]


def test_a_long_file_is_looked_at_from_near_its_end(log: tuple[Path, Source], monkeypatch: pytest.MonkeyPatch) -> None:
    path, source = log
    monkeypatch.setattr(journal_source, "_BEFORE", 300)
    for number in range(20):
        append(path, entry(f"line {number}"))
    found = texts(opened(source).read())
    assert found
    assert found == [f"line {number}" for number in range(20 - len(found), 20)]
    assert len(found) < 6


def test_a_file_that_is_cut_and_begun_anew_is_read_from_its_beginning(log: tuple[Path, Source]) -> None:
    path, source = log
    append(path, entry("one"))
    journal = opened(source)
    assert texts(journal.read()) == ["one"]
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
    path.write_text(f'time="{stamp}" level=info msg=two\n')
    found = texts(journal.read())
    assert [text[-8:] for text in found] == [" msg=two"]


def test_an_empty_file_may_become_a_log_and_one_that_becomes_something_else_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    for is_log, said in ((True, ""), (False, "is no journal in the export format")):
        source = open_source(str(path))
        journal = opened(source)
        append(path, entry("one") if is_log else b"whatever\n")
        assert texts(journal.read()) == (["one"] if is_log else [])
        assert said in journal.take_end()
        assert journal.take_end() == ""
        os.close(source.fd)
        path.write_bytes(b"")


def test_a_pipe_is_read_to_its_end_which_is_said_once_and_does_not_wake_a_poll_again() -> None:
    end, pipe = os.pipe()
    source = Source("standard input", 0, fd=end)
    poll = select.poll()
    journal = Journal(source, LogsAt(), OFFSET_NS, poll)
    assert (journal.read(), poll.poll(0)) == ([], [])
    os.write(pipe, entry("one"))
    assert [fd for fd, _ in poll.poll(0)] == [end]
    assert texts(journal.read()) == ["one"]
    os.close(pipe)
    assert journal.read() == []
    assert (journal.take_end(), journal.take_end()) == ("standard input has ended", "")
    assert poll.poll(0) == []
    os.close(end)


def test_journald_s_monotonic_time_puts_right_what_a_wall_clock_that_was_set_would_not(
    log: tuple[Path, Source],
) -> None:
    path, source = log
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    real = time.time_ns() + 3_600_000_000_000  # the wall clock was set since
    stamps = {"__MONOTONIC_TIMESTAMP": 7_000_000, "_SOURCE_REALTIME_TIMESTAMP": real // 1000 - 250}
    append(path, entry("x", at_ns=real, _BOOT_ID=boot, **stamps))
    append(path, entry("y", at_ns=real, _BOOT_ID="0" * 32, **stamps))
    real -= 3_600_000_000_000
    apart_ns = journal_source._clocks_apart()
    noted = (real + apart_ns) // 1000 + 5_000  # journald waited for the processor before it looked at the other clock
    append(path, entry("z", at_ns=real, _BOOT_ID=boot, __MONOTONIC_TIMESTAMP=noted))
    one, two, three = entries(opened(Source(source.name, 0, fd=source.fd)).read())[1:]
    assert one.time_ns == 7_000_000_000 - 250_000 + OFFSET_NS
    assert abs((two.time_ns or 0) - now_ns() - 3_600_000_000_000) < 10**10
    assert abs((three.time_ns or 0) - (real + apart_ns + OFFSET_NS)) < 2_500_000


def test_the_clocks_are_compared_where_nothing_came_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monotonic = iter([10_000, 25_000, 30_000, 30_010, 40_000, 47_000, 50_000, 59_000, 60_000, 66_000])
    wall = iter([1_024_000, 1_030_005, 1_041_000, 1_051_000, 1_061_000])
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(monotonic))
    monkeypatch.setattr(time, "time_ns", lambda: next(wall))
    assert journal_source._clocks_apart() == -1_000_000


JOURNALCTL = """#!/bin/sh
printf '%s\\n' "$@" > {folder}/arguments
cat {folder}/lines
echo 'Journal has been rotated since unit was started' >&2
exit 4
"""


def stub(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str = JOURNALCTL) -> None:
    program = folder / "journalctl"
    program.write_text(text.format(folder=folder))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_journalctl_that_ends_is_said_with_its_status_and_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(tmp_path, monkeypatch)
    source = open_source("")
    (tmp_path / "lines").write_bytes(entry("one", __CURSOR="s=1") + entry("two", __CURSOR="s=2"))
    journal = opened(source)
    found: list[str] = []
    until = time.monotonic() + 20
    while not (end := journal.take_end()) and time.monotonic() < until:
        found += texts(journal.read())
    journal.close()
    assert end == "journalctl has ended with status 4: Journal has been rotated since unit was started"
    assert (found, journal.at) == (["one", "two"], LogsAt("s=2"))
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments[0] == f"--since=@{source.since_ns // 10**9}"
    assert {"-f", "--no-tail", "SYSLOG_IDENTIFIER=kubelet", "_SYSTEMD_UNIT=crio.service"} <= set(arguments)


FOLLOWING = """#!/bin/sh
case "$*" in
*--since=*" -f "*) cat {folder}/lines; exec sleep 1000 ;;
*--after-cursor=s=1*" -f "*) exit 9 ;;
*--after-cursor=s=1*) cat {folder}/last ;;
esac
"""


def test_at_the_end_the_journal_is_asked_for_what_it_has_not_told_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(tmp_path, monkeypatch, FOLLOWING)
    source = open_source("")
    (tmp_path / "lines").write_bytes(entry("one", __CURSOR="s=1"))
    (tmp_path / "last").write_bytes(entry("two", __CURSOR="s=2") + entry("three", __CURSOR="s=3"))
    journal = opened(source)
    found: list[str] = []
    until = time.monotonic() + 20
    while not found and time.monotonic() < until:
        found += texts(journal.read())
    found += texts(journal.rest())
    journal.close()
    assert (found, journal.take_end()) == (["one", "two", "three"], "")


def test_a_journalctl_is_ended_with_the_recorder_that_began_it_though_it_ignores_signals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(tmp_path, monkeypatch, "#!/bin/sh\ntrap '' TERM INT\nexec sleep 1000\n")
    journal = opened(open_source(str(tmp_path)))
    assert journal._child is not None
    journal.close()
    assert journal._child.returncode == -signal.SIGKILL


def test_what_cannot_be_followed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.journal").write_bytes(b"LPKSHHRH" + bytes(100))
    (tmp_path / "x.txt").write_bytes(b"hello\n")
    for name, reason in (
        ("x.journal", "is one of journald's own files: name its folder"),
        ("x.txt", "is no journal in the export format"),
        ("gone", "no such file or directory"),
    ):
        with pytest.raises(PodwireError, match=f"--journal {tmp_path}/{name}: {reason}"):
            open_source(f"{tmp_path}/{name}")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PodwireError, match="there is no journalctl here"):
        open_source("")


def test_why_a_journal_will_tell_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_source, "_JOURNALS", (f"{tmp_path}/*/*.journal",))
    assert "there is none on this machine" in journal_trouble()
    (tmp_path / "id").mkdir()
    (tmp_path / "id/system.journal").touch()
    assert journal_trouble() == ""
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    assert "this user may not read it" in journal_trouble()


def test_a_wall_clock_that_is_set_back_hides_no_line(log: tuple[Path, Source], monkeypatch: pytest.MonkeyPatch) -> None:
    path, source = log
    journal = opened(source)
    assert journal.read() == []
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3_600_000_000_000)
    append(path, entry("one", at_ns=real() - 3_600_000_000_000))
    (found,) = entries(journal.read())
    assert abs((found.time_ns or 0) - now_ns()) < 10**10


def test_at_the_end_a_log_without_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    end, pipe = os.pipe()
    os.write(pipe, b"x")
    journal = opened(Source("standard input", 0, fd=end))
    monkeypatch.setattr(journal, "_read", lambda: entry("again"))
    found = journal.rest()
    os.close(pipe)
    os.close(end)
    assert set(texts(found)) == {"again"}


def lines_of(data: bytes) -> list[str]:
    return [each.entry.text("MESSAGE") for each in read_pcapng(data) if isinstance(each, Notice) and each.entry]


@pytest.mark.parametrize("ring_bytes", [0, 200_000])
@pytest.mark.parametrize("checkpoints", [True, False])
def test_recorders_killed_at_any_moment_write_every_line_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ring_bytes: int, *, checkpoints: bool
) -> None:
    """The file, or the row of files, says how far the log was read, with what was kept in memory or without it."""
    monkeypatch.setattr(os, "nice", lambda _by: 0)
    monkeypatch.setattr(recorder, "_SAVE_BYTES", 50_000)
    monkeypatch.setattr(recorder, "_SAVE_S", 0.0)
    if not checkpoints:
        monkeypatch.setattr(Checkpoint, "save", lambda _self, _what: None)
    log, path = tmp_path / "log", tmp_path / "x.pcapng"
    log.touch()
    source = open_source(str(log))
    ring = Ring(str(path), bytes=ring_bytes) if ring_bytes else None
    first = ring.name(1) if ring is not None else str(path)
    fd = create(first)
    rnd = random.Random(7)
    kills, written = 0, 0
    with shared_memory(1 << 20) as (shared, ours, link):
        shared.words[sh.CLOCK_OFFSET] = OFFSET_NS

        def start() -> int:
            one = os.dup(fd) if ring is None else None
            return run_in_child(lambda: Recorder(one, Limits(), link, ring, logs=source, bundles=False).run(shared))

        child = start()
        kill_at = time.monotonic() + 0.05
        for _ in put_all(RingWriter(shared), script(8, 3_000, 9_000)):
            if rnd.random() < 0.3:
                append(log, entry(str(written)))
                written += 1
            if time.monotonic() > kill_at:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                kills += 1
                child = start()
                kill_at = time.monotonic() + rnd.uniform(0.005, 0.05)
        os.waitpid(child, 0)
        assert shared.words[sh.RECORDER_STATE] == RecorderState.COMPLETE
        ours.close()
    os.close(fd)
    os.close(source.fd)
    paths = [str(path)] if ring is None else [each for _, each in ring.list()]
    assert kills >= 4
    assert (len(paths) > 5) == bool(ring_bytes)
    assert [line for each in paths for line in lines_of(Path(each).read_bytes())] == [str(n) for n in range(written)]
