"""Rates, failures and times by method, from the index: what ended within the rows that are shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tracer.output import look
from tracer.output.units import duration
from tracer.tui.lines import Line
from tracer.tui.paint import BOLD, DIM, HEAD, PLAIN, SIGNS, Span, fit
from tracer.tui.rows import Rows, sign

PLOT = 30
"""Cells of a plot."""
_STEPS = " ▁▂▃▄▅▆▇█"
_ASCII_STEPS = " .:-=+*#%"
SORTS = ("calls", "errors", "p50", "p99")
NEWEST = 100_000
"""Rows that are summed up: the newest ones."""


@dataclass(slots=True)
class Sums:
    """What became of the calls of one method."""

    kind: int
    calls: int = 0
    errors: int = 0
    open: int = 0
    lengths: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def quantile(self, part: float) -> int:
        """The time within which this part of the calls had ended (the nearest rank); `lengths` are sorted."""
        return self.lengths[min(len(self.lengths) - 1, int(part * len(self.lengths)))] if self.lengths else 0


def sum_up(rows: Rows, wanted: Iterable[int], now_ns: int) -> list[Sums]:
    """Sum up rows by method."""
    found: dict[int, Sums] = {}
    for row in wanted:
        kind = rows.kind[row]
        sums = found.get(kind)
        if sums is None:
            sums = found[kind] = Sums(kind)
        sums.calls += 1
        sums.starts.append(rows.start[row])
        if rows.open_at(row, now_ns):
            sums.open += 1
            continue
        sums.errors += sign(rows.code[row], rows.flags[row]) == look.FAILED
        sums.lengths.append(rows.length[row])
    for sums in found.values():
        sums.lengths.sort()
    return list(found.values())


def number_lines(rows: Rows, sums: list[Sums], by: str, span: tuple[int, int], *, unicode: bool) -> list[Line]:
    """The table, the largest first; what `enter` on a line narrows to is its kind."""
    order = {
        "calls": lambda each: each.calls,
        "errors": lambda each: each.errors,
        "p50": lambda each: each.quantile(0.5),
        "p99": lambda each: each.quantile(0.99),
    }[by]
    first, last = span
    seconds = max((last - first) / 1e9, 1e-9)
    head = f"{'hop':<6} {'method':<20} {'calls':>6} {'per s':>7} {'errors':>6} {'open':>5} {'p50':>9} {'p99':>9}  "
    total = sum(each.calls for each in sums)
    told = f"{total} calls in {seconds:.1f} s, ordered by {by} (o: by the next, enter: these calls)"
    lines = [Line(((told, DIM),)), Line(((head + "over time", HEAD),))]
    for each in sorted(sums, key=order, reverse=True):
        kind = rows.kinds[each.kind]
        text = f"{fit(kind.hop, 6)} {fit(kind.name, 20)} {each.calls:>6} {each.calls / seconds:>7.1f} "
        errors: Span = (f"{each.errors:>6} ", SIGNS[look.FAILED] if each.errors else DIM)
        times = f"{each.open:>5} {duration(each.quantile(0.5)):>9} {duration(each.quantile(0.99)):>9}  "
        plotted = plot(each.starts, first, last, _STEPS if unicode else _ASCII_STEPS)
        lines.append(Line(((text, PLAIN), errors, (times, PLAIN), (plotted, BOLD)), each.kind))
    return lines


def plot(times: list[int], first: int, last: int, steps: str) -> str:
    """How many fell into each part of the time, the most as a full block."""
    counts = [0] * PLOT
    width = max(1, last - first + 1)
    for time in times:
        counts[max(0, min(PLOT - 1, (time - first) * PLOT // width))] += 1
    most = max(counts) or 1
    return "".join(steps[-(-count * (len(steps) - 1) // most)] for count in counts)
