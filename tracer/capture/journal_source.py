"""Where a recorder takes lines of logs from: a journalctl that follows the journal, or a file that grows.

In: a `Source`, which whoever starts a trace has checked. Out: blocks, each an entry with its time on the capture's
clock. It is read when there is something and never waited for, so it holds up nothing; when it ends, that is said once.
"""

from __future__ import annotations

import glob
import os
import select
import shutil
import stat
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from protos.errors import PodwireError
from tracer.capture.journal import KEPT, PLACE, Entry, ExportReader, build_block, matches
from tracer.capture.plain_logs import HEAD, LineReader, open_reader

_CHUNK: Final = 64 << 10
"""Bytes taken at once: the ring waits meanwhile."""
_BEFORE: Final = 1 << 20
"""So many bytes of a file's end are looked through for what was written since the trace began."""
LAST_S: Final = 0.5
"""So long at most a trace waits at its end for what is left of a log."""
_SET_NS: Final = 100_000_000
"""A wall clock that went on by so much more or less than it should was set."""
_BINARY: Final = b"LPKSHHRH"
"""How journald's own files begin."""
_JOURNALS: Final = ("/run/log/journal/*/*.journal", "/var/log/journal/*/*.journal")


class LogsAt(NamedTuple):
    """How far a log was read: where a recorder that follows another goes on."""

    cursor: str = ""
    """Of the last entry of a journal."""
    place: int = 0
    """In a file: behind its last line."""


@dataclass(frozen=True, slots=True)
class Source:
    """A log that is followed. `fd`, if it is a file, stays open for every recorder of the trace."""

    name: str
    since_ns: int
    """When the trace began, by the wall clock, to which the capture's clock is equal then: lines before that are none
    of its."""
    command: tuple[str, ...] = ()
    """journalctl, without where to begin."""
    fd: int = -1

    def descriptors(self) -> list[int]:
        """What a recorder needs open."""
        return [] if self.fd < 0 else [self.fd]


def open_source(what: str) -> Source:
    """Return the source that `--journal` names: nothing is this machine's journal, a folder one of its own, `-` stdin,
    else it is a file. Raises PodwireError."""
    now_ns = time.time_ns()
    if not what or os.path.isdir(what):
        program = shutil.which("journalctl")
        if program is None:
            raise PodwireError("--journal: there is no journalctl here (--journal FILE reads a log that is a file)")
        fields = ",".join(name for name in KEPT if name != "__CURSOR")
        command = (program, "-q", "--no-pager", "-o", "export", f"--output-fields={fields}")
        where = ("-D", what) if what else ()
        return Source(f"the journal in {what}" if what else "the journal", now_ns, (*command, *where, *matches()))
    name = "standard input" if what == "-" else what
    try:
        fd = os.dup(0) if what == "-" else os.open(what, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            check_head(os.pread(fd, HEAD, 0), name)
    except OSError as error:
        raise PodwireError(f"--journal {name}: {(error.strerror or '').lower()}") from error
    return Source(name, now_ns, fd=fd)


def check_head(head: bytes, name: str) -> None:
    """Raises PodwireError if a file that begins so is no log that is read; an empty one may become one."""
    if head.startswith(_BINARY):
        raise PodwireError(
            f"--journal {name}: is one of journald's own files: name its folder, or journalctl --file {name} -o export"
        )
    if head.strip():
        open_reader(head, name)


def journal_trouble() -> str:
    """Say why a journalctl that follows this machine's journal will have nothing to tell; empty if it may have."""
    files = [path for pattern in _JOURNALS for path in glob.glob(pattern)]
    if not files:
        return "there is none on this machine so far (--journal names a folder that has one, or a log that is a file)"
    if not any(os.access(path, os.R_OK) for path in files):
        return "this user may not read it (root may, and the groups adm and systemd-journal)"
    return ""


class Journal:
    """Reads a source in a recorder's process. `offset_ns` makes CLOCK_MONOTONIC the capture's clock; `poll` is told to
    wake up for it, but for a file, of which nothing tells that it has grown."""

    def __init__(self, source: Source, at: LogsAt, offset_ns: int, poll: select.poll) -> None:
        self.at = at
        self._ended = ""
        """Why no more comes."""
        self._end_told = False
        self._poll = poll
        self._source, self._offset_ns = source, offset_ns
        self._fd = source.fd
        self._child: subprocess.Popen[bytes] | None = None
        self._reader: ExportReader | LineReader | None = None
        self._head = b""
        self._place = 0
        self._began = 0
        """Places in a file: what was read up to now, and where the reader began."""
        self._regular = False
        self._boot = _boot_id()
        if source.command:
            self._ask_journal("-f", "--no-tail")
        else:
            self._follow_file()
        if not self._regular and not self._ended:
            poll.register(self._fd, select.POLLIN)

    def _ask_journal(self, *options: str) -> None:
        begin = f"--after-cursor={self.at.cursor}" if self.at.cursor else f"--since=@{self._source.since_ns // 10**9}"
        program, *rest = self._source.command
        try:
            self._child = subprocess.Popen(
                [program, begin, *options, *rest],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            self._ended = f"{program}: {error.strerror}"
            return
        with suppress(OSError), open(f"/proc/{self._child.pid}/oom_score_adj", "w", encoding="ascii") as score:
            score.write("0")  # it may go before all that the relay spares
        assert self._child.stdout is not None
        self._fd = self._child.stdout.fileno()
        self._reader = ExportReader()

    def _follow_file(self) -> None:
        self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
        if self._regular:
            size = os.fstat(self._fd).st_size
            self._place = self._began = self.at.place or max(0, size - _BEFORE)
            if self._place:
                self._open(os.pread(self._fd, HEAD, 0), in_midst=not self.at.place)

    def _open(self, head: bytes, *, in_midst: bool = False) -> None:
        try:
            self._reader = open_reader(head, self._source.name, in_midst=in_midst)
        except PodwireError as error:
            self._end(str(error))

    def take_end(self) -> str:
        """Return, once, why no more comes; empty while more may come."""
        if self._end_told or not self._ended:
            return ""
        self._end_told = True
        return self._ended

    def _end(self, why: str) -> None:
        self._ended = why
        with suppress(KeyError):
            self._poll.unregister(self._fd)

    def rest(self) -> list[bytes]:
        """Return what is left when the capture ends. journald tells those who follow it of new lines up to half a
        second later, but has them in its files at once: it is asked once more, for the lines after the last one."""
        found: list[bytes] = []
        until = time.monotonic() + LAST_S
        while not self._ended and time.monotonic() < until and (data := self._read()):
            found += self._blocks(data)
        if self._regular or self._ended:
            return found
        if self._child is not None:
            self.close()
            self._ask_journal()
        while not self._ended and (left := until - time.monotonic()) > 0:
            if select.select([self._fd], [], [], left)[0]:
                found += self._blocks(self._read())
        self._end_told = True
        return found

    def read(self) -> list[bytes]:
        """Return a block of each line that there is now. Never waits, never raises."""
        return [] if self._ended else self._blocks(self._read())

    def _blocks(self, data: bytes) -> list[bytes]:
        if not data:
            return []
        if self._reader is None:
            self._head += data
            if len(self._head) < HEAD and b"\n" not in self._head.lstrip():
                return []
            self._open(self._head)
            data, self._head = self._head, b""
            if self._reader is None:
                return []
        found = []
        step_ns = self._offset_ns + _clocks_apart()
        for entry in self._reader.feed(data):
            placed = self._on_clock(entry, step_ns)
            if self._source.command:
                self.at = LogsAt(entry.text("__CURSOR"))
            elif self._regular:
                self.at = LogsAt(place=self._began + entry.end)
                placed = Entry({**placed.fields, PLACE: b"%d" % self.at.place})
            if entry.of_runtime() and (placed.time_ns or 0) >= self._source.since_ns:
                found.append(build_block(placed))
        return found

    def _read(self) -> bytes:
        try:
            if self._regular:
                if os.fstat(self._fd).st_size < self._place:  # begun anew, as logrotate's copytruncate does
                    self._place = self._began = 0
                    self._reader, self._head = None, b""
                data = os.pread(self._fd, _CHUNK, self._place)
                self._place += len(data)
                return data
            if not select.select([self._fd], [], [], 0)[0]:
                return b""
            data = os.read(self._fd, _CHUNK)
        except OSError as error:
            self._end(f"{self._source.name}: {error.strerror}")
            return b""
        if not data:
            self._end(self._end_of_child() if self._child is not None else f"{self._source.name} has ended")
        return data

    def _on_clock(self, entry: Entry, step_ns: int) -> Entry:
        """The entry at its time on the capture's clock, which is CLOCK_MONOTONIC: by how far the wall clock is from it
        now, or, if that was set since, was from it when journald had the entry. (It notes both, one after the other: if
        it had to wait for the processor in between, they are some milliseconds off.)"""
        monotonic, real = entry.number("__MONOTONIC_TIMESTAMP"), entry.number("__REALTIME_TIMESTAMP")
        if monotonic and real and entry.fields.get("_BOOT_ID") == self._boot:
            then_ns = (monotonic - real) * 1000 + self._offset_ns
            if abs(then_ns - step_ns) > _SET_NS:
                step_ns = then_ns
        return entry.at((entry.time_ns or 0) + step_ns)

    def _end_of_child(self) -> str:
        child = self._child
        assert child is not None
        assert child.stderr is not None
        os.set_blocking(child.stderr.fileno(), False)
        said = (child.stderr.read() or b"").strip().splitlines()
        with suppress(subprocess.TimeoutExpired):
            child.wait(0.1)
        status = "" if child.returncode is None else f" with status {child.returncode}"
        last = f": {said[-1].decode('utf-8', 'replace')}" if said else ""
        return f"journalctl has ended{status}{last}"

    def close(self) -> None:
        """End the journalctl, which is ours alone."""
        child = self._child
        if child is not None:
            child.kill()  # it is asked in no other way: a relay's processes ignore the signals of terminals
            child.wait()
            for stream in (child.stdout, child.stderr):
                if stream is not None:
                    stream.close()


def _clocks_apart() -> int:
    """Return CLOCK_MONOTONIC less the wall clock, in nanoseconds: of several looks the one that took the least time, as
    this process may have to wait for the processor between two clocks."""
    looks = []
    for _ in range(5):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        looks.append((after - before, (before + after) // 2 - wall))
    return min(looks)[1]


def _boot_id() -> bytes:
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return file.read().strip().replace(b"-", b"")
    return b""
