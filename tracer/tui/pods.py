"""The pane of pods and containers: state, start-up time, failures. A line leads to a `Whom`, or to a failed call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from tracer.output import look
from tracer.output.units import duration, short_id
from tracer.tui.lines import Line, Lines, Made
from tracer.tui.paint import BOLD, DIM, HEAD, MARK, NAME, PLAIN, SIGNS, Paint, Span, fit
from tracer.tui.rows import Rows, Whom

STATE, START_UP, FAILED = 11, 9, 4
"""Widths of columns; the name takes what is left."""
LEAST_NAME = 8
MOST_FAILURES = 3
"""Failures shown of each pod or container; the line above has their number."""


class PodList(Lines):
    """The pane."""

    def __init__(self, rows: Rows, paint: Paint, *, id: str) -> None:
        super().__init__(paint, id=id)
        self._rows = rows
        self.chosen = 0
        """The number of the pod or container that is narrowed to."""

    def draw(self, note: str) -> None:
        """Show what is known by now; `note` stands in place of the hint."""
        if self.display:
            self.show(pod_lines(self._rows, self.chosen, self.size.width or self.app.size.width, note=note), head=2)


class OfCall(NamedTuple):
    """A line that leads to a call."""

    row: int


def pod_lines(rows: Rows, chosen: int, width: int, *, note: str = "") -> Sequence[Line]:
    """A line for each pod, with its containers and failures under it; `chosen`: the number of what is narrowed to."""
    under: dict[int, list[Whom]] = {}
    for each in rows.whoms[1:]:
        if each.number != each.pod and each.known and not each.sandbox:
            under.setdefault(each.pod, []).append(each)
    makers: list[Callable[[], Line]] = []
    for pod in rows.whoms[1:]:
        if pod.number == pod.pod and (pod.known or pod.number in under):
            for each in (pod, *under.get(pod.number, ())):
                makers += _makers(each, chosen, width)
    if 0 in under:
        makers.append(lambda: Line((("(pod not known)", DIM),)))
        for each in under[0]:
            makers += _makers(each, chosen, width)
    if not makers:
        return [Line((("no pod yet", DIM),))]
    name = fit("pod, container", max(LEAST_NAME, width - STATE - START_UP - FAILED - 6))
    head = f"  {name} {'state':<{STATE}} {'start-up':>{START_UP}} {'fail':>{FAILED}}"
    hint = note or "enter: its calls, again: all; y: its story"
    return Made([Line(((hint, DIM),)), Line(((head, HEAD),))], makers)


def _makers(whom: Whom, chosen: int, width: int) -> list[Callable[[], Line]]:
    makers: list[Callable[[], Line]] = [partial(_line, whom, chosen, width)]
    if whom.failures:  # of thousands, few have any
        told = [(row, part) for row, text in whom.failures[:MOST_FAILURES] for part in text.split("\n")]
        makers += [partial(_failure, row, part) for row, part in told]
    return makers


def _failure(row: int, text: str) -> Line:
    return Line(((f"    {text}", SIGNS[look.FAILED]),), OfCall(row))


def _line(whom: Whom, chosen: int, width: int) -> Line:
    name = whom.name or short_id(whom.id)
    if whom.number != whom.pod:
        name = f"  {name}"
    elif not whom.name:
        name = f"(name not known) {name}"
    sign = look.FAILED if whom.failed or whom.state == "failed" else look.OK
    style = SIGNS.get(sign, PLAIN)
    room = max(LEAST_NAME, width - STATE - START_UP - FAILED - 6)
    name_style = MARK if whom.number == chosen else BOLD if whom.number == whom.pod else NAME
    start_up = duration(whom.start_up_ns) if whom.start_up_ns >= 0 else "-"
    spans: list[Span] = [
        (f"{sign} ", style),
        (fit(name, room), name_style),
        (f" {fit(whom.state or 'unknown', STATE)} {start_up:>{START_UP}} ", PLAIN),
        (fit(str(whom.failed) if whom.failed else "", FAILED, right=True), style),
    ]
    return Line(tuple(spans), whom)


def about(rows: Rows, whom: Whom) -> tuple[str, Callable[[int], bool]]:
    """Words for what is narrowed to a pod or container, and whether a row is about it."""
    number, of, whoms = whom.number, rows.whom, rows.whoms
    if number == whom.pod:
        return f"pod {whom.name or short_id(whom.id)}", lambda row: whoms[of[row]].pod == number
    return f"container {rows.labels[number] or short_id(whom.id)}", lambda row: of[row] == number
