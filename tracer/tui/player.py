"""The clock of a replay: a capture's own time, which goes on, faster or slower, stands still, or jumps."""

from __future__ import annotations

import time
from dataclasses import dataclass

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

    def moments(self) -> list[int]:
        """The times at which a call begins or ends."""
        rows = self.rows
        ends = (rows.start[row] + rows.length[row] for row in range(len(rows)) if rows.length[row] >= 0)
        return sorted({*rows.start, *ends})

    def step(self, *, forward: bool) -> None:
        """Stand at the next such time, or at the one before."""
        self.playing = False
        moments = self.moments() if forward else reversed(self.moments())
        self.clock_ns = next(
            (each for each in moments if (each > self.clock_ns) is forward and each != self.clock_ns), self.clock_ns
        )

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
