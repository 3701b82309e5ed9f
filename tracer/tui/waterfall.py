"""A pod's story on the screen: its calls as a tree over the hops, each a bar from its start to its end, drawn to time.

In: rows of one pod. Out: lines for a page; what a line leads to is its call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from rich.style import Style

from tracer.output import look
from tracer.output.units import duration, short_id
from tracer.tui.lines import Line, Made
from tracer.tui.paint import BAR, BOLD, DIM, HEAD, MARK, PLAIN, SIGNS, Span, fit
from tracer.tui.pods import OfCall
from tracer.tui.rows import OPEN, WAITS, Rows, Whom, code_name

MOST = 5000
"""Calls of one story that are drawn: the first ones."""
HEAD_LINES = 2
"""Title and axis."""
LEAST_LANE = 20
"""Cells of a bar's lane, at least."""
STATUS_FROM, WHOM_FROM = 110, 90
"""From these widths on, status and container have a column."""


@dataclass(slots=True)
class Waterfall:
    """The story of a pod."""

    rows: Rows
    pod: Whom
    marks: set[int]
    """Rows that are marked."""
    zoom: tuple[int, int] | None = None
    """Only this time is drawn, from and to; None: all of it."""
    shown: list[int] = field(default_factory=list)
    """Rows as they stand below the head."""
    more: int = 0
    """Calls that are not drawn."""

    def calls(self, most: int) -> list[tuple[int, int]]:
        """Its rows below `most`, each with its depth in the tree: parents before their children, by time."""
        rows, pod = self.rows, self.pod.number
        of = {whom.number for whom in rows.whoms[1:] if whom.pod == pod}
        here: set[int] = set()
        under: dict[int, list[int]] = {}
        self.more = 0
        for row, (whom, parent) in enumerate(zip(rows.whom[:most], rows.parent, strict=False)):
            # What a call of the pod has caused is the pod's, also when its identity would have come with an answer.
            if whom in of or (parent - 1 in here and not rows.whoms[whom].pod):
                if len(here) == MOST:
                    self.more += 1
                    continue
                here.add(row)
                under.setdefault(parent - 1 if parent - 1 in here else -1, []).append(row)
        ordered: list[tuple[int, int]] = []
        left = [(row, 0) for row in reversed(under.get(-1, ()))]
        while left:
            row, depth = left.pop()
            ordered.append((row, depth))
            left += [(each, depth + 1) for each in reversed(under.get(row, ()))]
        return ordered

    def lines(self, now_ns: int, most: int, width: int) -> Sequence[Line]:
        """Title, axis, and a line for each call; times after `now_ns` are not told of."""
        rows, pod = self.rows, self.rows.whoms[self.pod.number]
        calls = self.calls(most)
        name = pod.name or "(name not known)"
        title = f"pod {name} sandbox {short_id(pod.id) or 'not known'}"
        state = f": {pod.state or 'state not known'}" if now_ns >= rows.now_ns else ""
        head = Line(((title, BOLD), (state, PLAIN), ("  enter: the call, right: zoom into it, left: back out", DIM)))
        self.shown = [row for row, _ in calls]
        if not calls:
            return [head, Line((("no call of it yet", DIM),))]
        first = min(rows.start[row] for row, _ in calls)
        last = max(self._end(row, now_ns) for row, _ in calls)
        begin, end = self.zoom or (first, last)
        names = max(16, min(34, width // 4))
        before = 3 + 7 + names + 1 + (15 if width >= WHOM_FROM else 0) + (10 if width >= STATUS_FROM else 0) + 10
        lane = max(LEAST_LANE, width - before)
        heads = [head, Line(((" " * before, PLAIN), (axis(begin - first, end - first, lane), HEAD)))]
        where = (begin, end, lane)
        makers = [partial(self._line, row, depth, names, width, where, now_ns) for row, depth in calls]
        if self.more:
            makers.append(partial(Line, ((f"… {self.more} more calls, later ones", DIM),)))
        return Made(heads, makers)

    def span(self, row: int, now_ns: int) -> tuple[int, int]:
        """Start and end of a call."""
        return self.rows.start[row], self._end(row, now_ns)

    def _end(self, row: int, now_ns: int) -> int:
        rows = self.rows
        return max(rows.start[row], now_ns) if rows.open_at(row, now_ns) else rows.start[row] + rows.length[row]

    def _line(self, row: int, depth: int, names: int, width: int, where: tuple[int, int, int], now_ns: int) -> Line:
        rows = self.rows
        kind, is_open = rows.kinds[rows.kind[row]], rows.open_at(row, now_ns)
        sign = rows.sign(row, now_ns)
        style = SIGNS.get(sign, PLAIN)
        start, stop = self.span(row, now_ns)
        mark = ("●", MARK) if row in self.marks else (" ", PLAIN)
        spans: list[Span] = [
            mark,
            (f"{sign} ", style),
            (f"{kind.hop or '?':<6} ", DIM),
            (fit(look.below(kind.name, depth), names) + " ", style),
        ]
        if width >= WHOM_FROM:
            whom = rows.whoms[rows.whom[row]]
            own = "" if whom.sandbox or whom.number == whom.pod else whom.name or short_id(whom.id)
            spans.append((fit(own, 14) + " ", PLAIN))
        if width >= STATUS_FROM:
            spans.append((fit(code_name(OPEN if is_open else rows.code[row]), 9) + " ", style))
        spans.append((f"{duration(stop - start):>9} ", PLAIN))
        spans += bar(start, stop, where, *_look(sign, is_open, bool(rows.flags[row] & WAITS)))
        return Line(tuple(spans), OfCall(row))


def _look(sign: str, is_open: bool, waits: bool) -> tuple[Style, str]:
    """How a bar looks: what it is made of says the same as its colour."""
    if sign == look.FAILED:
        return SIGNS[sign], "▓"
    if waits:
        return DIM, "·"  # meant to wait: it would hide what is done meanwhile
    return (SIGNS[look.OPEN], "░") if is_open else (BAR, "█")


def bar(start: int, stop: int, where: tuple[int, int, int], style: Style, block: str) -> list[Span]:
    """A lane from `begin` to `end` of so many cells with a bar in it, a cell at least; `‹`, `›`: it lies outside."""
    begin, end, lane = where
    if stop < begin or start > end:
        return [("‹" if stop < begin else " " * (lane - 1) + "›", DIM)]
    whole = max(1, end - begin)
    first = min(lane - 1, max(0, start - begin) * lane // whole)
    after = min(lane, max(first + 1, -(-(min(stop, end) - begin) * lane // whole)))
    return [(" " * first, PLAIN), (block * (after - first), style)]


def axis(begin_ns: int, end_ns: int, lane: int) -> str:
    """Times since the pod's first call, over so many cells: at its beginning, in its middle and at its end."""
    first, last = f"+{duration(max(0, begin_ns))}", f"+{duration(end_ns)}"
    text = first.ljust(lane)
    middle = f"+{duration((begin_ns + end_ns) // 2)}"
    at = lane // 2
    if at > len(first) + 1 and at + len(middle) + 1 < lane - len(last):
        text = text[:at] + middle + text[at + len(middle) :]
    if lane - len(last) > len(first):
        text = text[: lane - len(last)] + last
    return text
