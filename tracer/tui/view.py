"""Which rows are shown, in which order, and which one is looked at. No screen: the list draws it, tests ask it."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tracer.output import look
from tracer.tui.narrow import Question
from tracer.tui.rows import WAITS, Rows

STEP = 50_000
"""Rows looked at between two keys: some 20 ms."""

SEEK_STEP = 20_000
"""Rows that a search looks at between two looks at the time."""

SORTS: dict[str, Callable[[Rows], Callable[[int], object]]] = {
    "time": lambda rows: rows.start.__getitem__,
    "hop": lambda rows: lambda row: rows.kinds[rows.kind[row]].hop,
    "pod": lambda rows: lambda row: (rows.labels[rows.whom[row]], rows.idents[rows.ident[row]]),
    "id": lambda rows: lambda row: rows.idents[rows.ident[row]],
    "method": lambda rows: lambda row: rows.kinds[rows.kind[row]].name,
    "status": lambda rows: rows.code.__getitem__,
    "duration": lambda rows: rows.length.__getitem__,
    "size": lambda rows: rows.size.__getitem__,
}
"""What each column orders by; `time` is the order of the capture."""
CHAINS = "chains"
"""The order of calls in flight: each below the one that waits for it, those that are meant to wait at the end."""


@dataclass(slots=True)
class View:
    """The list as it is shown."""

    rows: Rows
    order: array[int] = field(default_factory=lambda: array("I"))
    """Rows shown, where `all` is False."""
    all: bool = True
    """Every row is shown, in its order: `order` is not kept."""
    seen: int = 0
    """Rows that were looked at."""
    most: int | None = None
    """No row from this one on is shown: the screen is held, or a replay is no further."""
    cursor: int = 0
    question: Question | None = None
    sort: str = "time"
    reverse: bool = False
    marks: set[int] = field(default_factory=set)
    now_ns: int = 0
    """The time that the order CHAINS is up to."""
    unsorted: int = 0
    """Rows that came since the order was made, at its end."""

    def __len__(self) -> int:
        return self._end() if self.all else len(self.order)

    def _end(self) -> int:
        return len(self.rows) if self.most is None else min(self.most, len(self.rows))

    def row(self, position: int) -> int:
        """The row at a line of the list."""
        return position if self.all else self.order[position]

    @property
    def current(self) -> int | None:
        """The row under the cursor; None: there is none."""
        return self.row(min(self.cursor, len(self) - 1)) if len(self) else None

    def narrow(self, question: Question | None) -> None:
        """Show what a question is answered with yes; None: everything."""
        self.question = question
        self._again()

    def only(self, rows: list[int], question: Question) -> None:
        """Show these, as CHAINS, and later ones of which the question is answered with yes."""
        kept = self.current
        self.question, self.sort, self.reverse, self.all = question, CHAINS, False, False
        self.order, self.seen = array("I", rows), self._end()
        self.resort()
        self.cursor = self.position_of(kept) if kept is not None else 0

    def sort_by(self, name: str, *, reverse: bool) -> None:
        """Order by a column."""
        self.sort, self.reverse = name, reverse
        self._again()

    def _again(self) -> None:
        kept = self.current
        self.order, self.seen, self.unsorted = array("I"), 0, 0
        self.all = self.question is None and self.sort == "time" and not self.reverse
        if self.all:
            self.cursor = min(kept or 0, max(len(self) - 1, 0))
            return
        while self.step():
            if self.seen >= STEP * 4:  # the rest comes between keys
                break
        self.cursor = self.position_of(kept) if kept is not None else 0

    def step(self) -> bool:
        """Look at the next rows; whether there are more."""
        if self.all:
            return False
        end = min(self._end(), self.seen + STEP)
        fresh = range(self.seen, end)
        before = len(self.order)
        self.order.extend(fresh if self.question is None else filter(self.question, fresh))
        self.seen = end
        more = end < self._end()
        if self.sort != "time" or self.reverse:
            self.unsorted += len(self.order) - before
            if not more and (self.unsorted * 10 > before or len(self.order) < STEP):
                self.resort()
        return more

    def resort(self) -> None:
        """Make the order anew."""
        kept = self.current
        key = self._chain if self.sort == CHAINS else SORTS[self.sort](self.rows)
        self.order = array("I", sorted(self.order, key=key, reverse=self.reverse))  # type: ignore[arg-type] # each column orders by values of one type
        self.unsorted = 0
        if kept is not None:
            self.cursor = self.position_of(kept)

    def _chain(self, row: int) -> tuple[bool, tuple[int, ...]]:
        return bool(self.rows.flags[row] & WAITS), self.rows.waits_below(row, self.now_ns)

    def depth(self, row: int) -> int:
        """How many of those that are shown wait for an open call, one for the other."""
        question = self.question or bool
        return sum(1 for each in self.rows.waits_below(row, self.now_ns)[:-1] if question(each))

    def changed(self, changed: list[int]) -> None:
        """Rows have changed: whether each is wanted may have, too."""
        if self.all or self.question is None:
            return
        sorted_by_row = self.sort == "time" and not self.reverse
        for row in changed:
            if row >= self.seen:
                continue
            wanted = self.question(row)
            at = bisect_left(self.order, row) if sorted_by_row else self._index(row)
            there = at < len(self.order) and self.order[at] == row
            if wanted and not there:
                self.order.insert(at, row)
                self.cursor += at <= self.cursor and len(self.order) > 1
            elif there and not wanted:
                del self.order[at]
                self.cursor -= at < self.cursor
        if self.sort == CHAINS and changed:
            self.resort()

    def _index(self, row: int) -> int:
        try:
            return self.order.index(row)
        except ValueError:
            return len(self.order)

    def position_of(self, row: int) -> int:
        """The line of a row, or of what is nearest."""
        if self.all:
            return max(0, min(row, len(self) - 1))
        if self.sort == "time" and not self.reverse:
            return max(0, min(bisect_left(self.order, row), len(self.order) - 1))
        at = self._index(row)
        return at if at < len(self.order) else 0

    def line_at(self, time_ns: int) -> int:
        """The first line of a call that begins no sooner; the last line, if there is none."""
        starts, lines = self.rows.start, range(len(self))
        if self.sort == "time" and not self.reverse:
            at = bisect_left(lines, time_ns, key=lambda line: starts[self.row(line)])
        else:
            at = next((line for line in lines if starts[self.row(line)] >= time_ns), len(lines))
        return min(at, len(lines) - 1)

    def limit(self, clock_ns: int) -> None:
        """Show what has begun by a time."""
        most = bisect_right(self.rows.start, clock_ns)
        back = self.most is not None and most < self.most
        self.most = most
        if back:
            self._again()

    def seek(self, wanted: Question, *, forward: bool = True) -> Iterator[int | None]:
        """Look for the next line that is wanted, going round: None after each SEEK_STEP, then its number, if any."""
        begun, count = self.cursor, len(self)
        step = 1 if forward else -1
        for distance in range(1, count + 1):
            position = (begun + step * distance) % count
            if position < len(self) and wanted(self.row(position)):
                yield position
                return
            if not distance % SEEK_STEP:
                yield None

    def seek_trouble(self, now_ns: int, *, forward: bool = True) -> Iterator[int | None]:
        """The same of the next failure or gap. In the order of the capture it is known where they are."""
        wanted = self.is_error(now_ns)
        if self.reverse or self.sort != "time":
            yield from self.seek(wanted, forward=forward)
            return
        current, troubles = self.current, self.rows.troubles
        if current is None:
            return
        at = bisect_right(troubles, current) if forward else bisect_left(troubles, current)
        around = troubles[at:] + troubles[:at] if forward else (troubles[at:] + troubles[:at])[::-1]
        for row in around:
            position = self.position_of(row)
            if self.row(position) == row and wanted(row):
                yield position
                return

    def is_error(self, now_ns: int) -> Question:
        """Whether a row is a failure or has a gap."""
        return lambda row: self.rows.sign(row, now_ns) in (look.FAILED, look.GAP)
