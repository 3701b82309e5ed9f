"""Lines of logs between the packets, at their times: those of a file beside a capture, and those in it.

A journal in the export format, of which those of the runtimes alone are taken, or a log as containerd, CRI-O or kubelet
write it. It is read once, in pieces, and has to be in the order of time, as logs are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from types import TracebackType
from typing import Self

from protos.errors import PodwireError
from tracer.capture.journal import Entry
from tracer.capture.packets import Notice, Packet
from tracer.capture.plain_logs import HEAD, open_reader

_CHUNK = 1 << 18
LATE_NS = 1_000_000_000
"""A line may come so long after packets that are later than it: twice what was seen of journald on a busy machine."""


class JournalFile:
    """Iterate it once, within a `with`, which closes it. `-` is standard input. Raises PodwireError if it cannot be
    read, or is no log that is known."""

    def __init__(self, path: str) -> None:
        self._name = "standard input" if path == "-" else path
        try:
            self._file = open(0 if path == "-" else path, "rb", closefd=path != "-")  # noqa: SIM115 # read to its end
        except OSError as error:
            raise PodwireError(f"--journal {self._name}: {(error.strerror or '').lower()}") from error
        try:
            self._head = self._file.read(HEAD)
            self._reader = open_reader(self._head, self._name)
        except OSError as error:
            self._file.close()
            raise PodwireError(f"--journal {self._name}: {(error.strerror or '').lower()}") from error
        except PodwireError:
            self._file.close()
            raise
        self.shown = 0
        """Lines given out by `merged`."""
        self.others = 0
        """Lines that are of nobody who is listened to."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Entry]:
        data = self._head
        while data:
            yield from self._wanted(self._reader.feed(data))
            data = self._file.read(_CHUNK)
        yield from self._wanted(self._reader.close())

    def _wanted(self, entries: list[Entry]) -> Iterator[Entry]:
        for entry in entries:
            if entry.of_runtime():
                yield entry
            else:
                self.others += 1

    def account(self) -> str:
        """Say what of it is not shown, if there is anything to say."""
        if self.shown:
            return f"{self._reader.skipped} lines of {self._name} could not be read" if self._reader.skipped else ""
        others = f" ({self.others} lines are of other programs)" if self.others else ""
        return f"--journal {self._name}: no line of a runtime's log in the time of the capture{others}"


def merged(capture: Iterable[Packet | Notice], journal: JournalFile) -> Iterator[Packet | Notice]:
    """Give out a capture's items with the lines of the log between them, from its first packet to its last."""
    lines = iter(journal)
    line: Entry | None = None
    start_ns = -1
    for item in capture:
        if isinstance(item, Packet):
            if start_ns < 0:
                start_ns = item.time_ns
                line = next((each for each in lines if _time(each) >= start_ns), None)
            while line is not None and _time(line) <= item.time_ns:
                journal.shown += 1
                yield Notice(item.offset, "a line of a log", False, entry=line)
                line = next(lines, None)
        yield item


def in_order(capture: Iterable[Packet | Notice]) -> Iterator[Packet | Notice]:
    """Give out a capture's items with each line of a log where its time is: journald told its recorder of it late."""
    held: deque[tuple[int, Packet | Notice]] = deque()
    lines: list[tuple[int, int, Notice]] = []
    now_ns = 0

    def give(until_ns: int) -> Iterator[Packet | Notice]:
        while held and held[0][0] < until_ns:
            time_ns, item = held.popleft()
            while lines and lines[0][0] <= time_ns:
                yield heappop(lines)[2]
            yield item

    for number, item in enumerate(capture):
        if isinstance(item, Notice) and item.entry is not None:
            heappush(lines, (_time(item.entry), number, item))
            continue
        if isinstance(item, Packet) and item.time_ns > now_ns:
            now_ns = item.time_ns
        held.append((now_ns, item))
        if held[0][0] < now_ns - LATE_NS:
            yield from give(now_ns - LATE_NS)
    yield from give(now_ns + 1)
    while lines:
        yield heappop(lines)[2]


def _time(entry: Entry) -> int:
    return entry.time_ns or 0
