"""The clock of a replay: a capture's own time, which goes on, faster or slower, stands still, or jumps."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from heapq import heappop, heappush
from operator import add

from protos.errors import PodwireError
from tracer.tui.rows import Rows

MOST_SPEED = 1e6


@dataclass(slots=True)
class Player:
    """Plays rows: those that begin after its clock are still to come."""

    rows: Rows
    speed: float = 1.0
    """Seconds of the capture in a second."""
    playing: bool = True
    clock_ns: int = 0
    """0 until the first call is known."""
    _seen: int = 0
    """Rows that had begun by `_counted_ns`, the time that what follows is up to."""
    _counted_ns: int = 0
    _ends: list[tuple[int, int]] = field(default_factory=list)
    """A heap of those that are open: end and row."""
    _endless: set[int] = field(default_factory=set)
    """Those of which no end was read yet."""

    def play(self, passed_s: float) -> None:
        """Let time pass; at the end of the capture it stands."""
        if not len(self.rows):
            return
        if not self.clock_ns:
            self.clock_ns = self.rows.start[0]
        if self.playing:
            self.clock_ns = min(self.clock_ns + int(passed_s * self.speed * 1e9), self.rows.now_ns)
            if self.rows.complete and self.clock_ns >= self.rows.now_ns:
                self.playing = False

    def open_rows(self) -> set[int]:
        """The rows that have begun by the clock, and not ended. Going on costs what has happened meanwhile."""
        rows, clock = self.rows, self.clock_ns
        if clock < self._counted_ns:
            self._seen, self._ends = 0, []
            self._endless.clear()
        begun = bisect_right(rows.start, clock)
        self._endless.update(range(self._seen, begun))
        for row in [row for row in self._endless if rows.length[row] >= 0]:
            self._endless.remove(row)
            heappush(self._ends, (rows.start[row] + rows.length[row], row))
        while self._ends and self._ends[0][0] <= clock:
            heappop(self._ends)
        self._seen, self._counted_ns = begun, clock
        return self._endless | {row for _, row in self._ends}

    def step(self, *, forward: bool) -> None:
        """Stand at the next time at which a call begins or ends, or at the one before."""
        self.playing = False
        rows, clock = self.rows, self.clock_ns
        if forward:
            self.open_rows()
            begun = bisect_right(rows.start, clock)
            near = [*rows.start[begun : begun + 1], *(end for end, _ in self._ends[:1])]
            self.clock_ns = min(near, default=clock)
        else:
            begun = bisect_left(rows.start, clock)
            ends = map(add, rows.start[:begun], rows.length[:begun])  # without an end: no later than its start
            self.clock_ns = max([*rows.start[max(0, begun - 1) : begun], *filter(clock.__gt__, ends)], default=clock)

    def set_speed(self, speed: float) -> None:
        """Play so fast from now on."""
        self.speed = min(max(speed, 1 / MOST_SPEED / 1000), MOST_SPEED)


def parse_speed(text: str) -> float:
    """Return the speed that words name. Raises PodwireError."""
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < MOST_SPEED:
        raise PodwireError("a speed is a number above zero: 4 is four times as fast")
    return speed


def parse_moment(text: str, rows: Rows, utc: bool) -> int:
    """Return the time that `HH:MM:SS.fff` (on the day of the first call) or `+SECONDS` (since it) names."""
    first = rows.start[0] if len(rows) else 0
    try:
        if text.startswith("+"):
            return first + int(float(text[1:]) * 1e9)
        hours, minutes, seconds = text.split(":")
        day = (time.gmtime if utc else time.localtime)(first / 1e9)
        passed = day.tm_hour * 3600 + day.tm_min * 60 + day.tm_sec
        wanted = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        return first - first % 1_000_000_000 + int((wanted - passed) * 1e9)
    except (ValueError, OverflowError):
        raise PodwireError(f"{text!r} is no time: HH:MM:SS.fraction or +SECONDS") from None
