"""The list of calls, drawn line by line from the index: what is not on the screen costs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rich.style import Style
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from protos.errors import PodwireError
from tracer.output import look
from tracer.output.units import SHORT_ID, Clock, duration, short_id, size
from tracer.tui.paint import BAR, CURSOR, DIM, HEAD, MARK, PLAIN, SIGNS, Paint, Span, fit
from tracer.tui.rows import OPEN, code_name
from tracer.tui.view import CHAINS, View

NARROW, WIDE, WIDEST = 90, 120, 170
"""Below the first of these widths times go to the millisecond and less is said; from the second on a call's id has a
column beside its pod's name, which from there on and from the third has more room."""
POD_WIDTHS = {WIDE: 24, WIDEST: 36}
BAR_WIDTH = 6
FULL_BAR_NS = 10_000_000_000
"""A bar grows by one cell for each tenfold of time up to this."""


class Column(NamedTuple):
    """One column."""

    name: str
    width: int
    """0: it takes what is left."""
    from_width: int = 0
    """The screen has to be so wide for it to be shown unasked."""
    right: bool = False


COLUMNS = {
    column.name: column
    for column in (
        Column("time", 15),
        Column("hop", 6),
        Column("pod", SHORT_ID),
        Column("id", SHORT_ID, from_width=WIDE),
        Column("method", 0),
        Column("status", 9),
        Column("duration", 9, right=True),
        Column("bar", BAR_WIDTH, from_width=100),
        Column("size", 8, right=True),
        Column("deadline", 16, from_width=10_000),
        Column("number", 8, from_width=10_000, right=True),
    )
}
"""All columns, in their order. The last two come when they are asked for. A narrow column `pod` has the id of what has
no name."""
MOST_WIDTH = 200
FEWEST = 4
"""Columns that stay however narrow it is."""
TIMES = ("day", "start", "before")
"""What the column of times says: time of day, since the first call (or the reference), since the call before."""


@dataclass(slots=True)
class Shape:
    """How the list looks."""

    columns: list[tuple[str, int]] | None = None
    """Name and width of those that were asked for; None: as many as there is room for."""
    times: str = "day"
    reference_ns: int | None = None


class CallList(ScrollView, can_focus=True, inherit_bindings=False):
    """The list; its first line is the header."""

    class Picked(Message):
        """A line was clicked."""

    class Headed(Message):
        """A column's name was clicked."""

        def __init__(self, column: str) -> None:
            super().__init__()
            self.column = column

    def __init__(self, view: View, paint: Paint, *, utc: bool, id: str) -> None:
        super().__init__(id=id)
        self.view = view
        self.shape = Shape()
        self.now_ns = 0
        self.deadlines = False
        """A column says what is left of each call's deadline."""
        self._paint = paint
        self._clock = Clock(utc=utc)
        self._drawn: list[Strip] = []
        """The lines as they are on the screen."""

    def move_to(self, position: int) -> None:
        """Put the cursor on a line, and that on the screen."""
        self.view.cursor = max(0, min(position, len(self.view) - 1))
        self.fit_scroll()

    def fit_scroll(self) -> None:
        """Bring the cursor's line onto the screen."""
        self.virtual_size = Size(0, len(self.view) + 1)
        height = self.page
        top = int(self.scroll_offset.y)
        cursor = self.view.cursor
        if not top <= cursor < top + height:
            at = cursor if cursor < top else cursor - height + 1
            self.scroll_to(y=at, animate=False, immediate=True)
        self._draw_changed()

    def _draw_changed(self) -> None:
        """Draw the lines that are not as they were: on a slow line each one counts."""
        width, height = self.size
        lines = [self._line(y, width) for y in range(height)]
        if len(lines) != len(self._drawn):
            self._drawn = lines
            self.refresh()
            return
        changed = [Region(0, y, width, 1) for y in range(height) if lines[y] != self._drawn[y]]
        self._drawn = lines
        if changed:
            self.refresh(*changed)

    @property
    def page(self) -> int:
        """Lines of calls on the screen."""
        return max(1, self.size.height - 1)

    def columns(self) -> list[Column]:
        """The columns as they are now, with widths."""
        width = self.size.width
        if self.shape.columns is not None:
            chosen = [COLUMNS[name]._replace(width=cells) for name, cells in self.shape.columns]
        else:
            wanted = [each for each in COLUMNS.values() if each.from_width <= width]
            if self.deadlines:
                # All of them are open: status and bar have to be where there is room, the deadline first.
                last = [COLUMNS["duration"], COLUMNS["deadline"], COLUMNS["status"], COLUMNS["bar"]]
                wanted = [each for each in wanted if each not in last and each.name != "size"] + last
            chosen = [self._sized(each, width) for each in wanted]
            while len(chosen) > FEWEST and sum(each.width or 11 for each in chosen) + len(chosen) + 3 > width:
                chosen.pop()
        taken = sum(column.width + 1 for column in chosen) + 3
        free = [column for column in chosen if not column.width]
        rest = max(8, (width - taken) // len(free)) if free else 0
        return [column if column.width else column._replace(width=rest) for column in chosen]

    @staticmethod
    def _sized(column: Column, width: int) -> Column:
        if column.name == "time" and width < NARROW:
            return column._replace(width=12)
        if column.name == "pod":
            return column._replace(width=max([column.width, *(POD_WIDTHS[at] for at in POD_WIDTHS if at <= width)]))
        return column

    def render_line(self, y: int) -> Strip:
        return self._line(y, self.size.width)

    def _line(self, y: int, width: int) -> Strip:
        if y == 0:
            return self._header(width)
        at = y - 1 + int(self.scroll_offset.y)
        if at >= len(self.view):
            return Strip.blank(width)
        row = self.view.row(at)
        over = PLAIN
        if at == self.view.cursor:
            over = CURSOR if self.has_focus else Style(bold=True, underline=True)
        return self._paint.strip(self._row(row, at), width, over=over)

    def _header(self, width: int) -> Strip:
        spans: list[Span] = [("   ", HEAD)]
        for column in self.columns():
            arrow = ""
            if column.name == self.view.sort and not (column.name == "time" and not self.view.reverse):
                arrow = "-" if self.view.reverse else "+"
            spans.append((fit(column.name + arrow, column.width, right=column.right) + " ", HEAD))
        return self._paint.strip(spans, width, over=HEAD)

    def _row(self, row: int, at: int) -> list[Span]:
        rows = self.view.rows
        sign = rows.sign(row, self.now_ns)
        style = SIGNS.get(sign, PLAIN)
        mark = ("●", MARK) if row in self.view.marks else (" ", PLAIN)
        spans: list[Span] = [mark, (sign + " ", style)]
        for column in self.columns():
            text, column_style = self._cell(column.name, row, at, column.width)
            padded = fit(text, column.width, right=column.right)
            spans.append((padded + " ", style if column_style is PLAIN else column_style))
        return spans

    def _cell(self, name: str, row: int, at: int, width: int) -> tuple[str, Style]:
        rows = self.view.rows
        kind = rows.kinds[rows.kind[row]]
        is_open = rows.open_at(row, self.now_ns)
        if name == "time":
            return self._time(row, at)[:width], PLAIN
        if name == "hop":
            return kind.hop or "?", PLAIN
        if name == "id":
            return short_id(rows.idents[rows.ident[row]]), PLAIN
        if name == "pod":
            label = rows.labels[rows.whom[row]]
            return label or (short_id(rows.idents[rows.ident[row]]) if width <= SHORT_ID else ""), PLAIN
        if name == "method":
            depth = self.view.depth(row) if self.view.sort == CHAINS else 0
            return look.below(kind.name, depth), PLAIN
        if name == "status":
            return code_name(OPEN if is_open else rows.code[row]), PLAIN
        if name == "duration":
            return duration(self.age(row)), PLAIN
        if name == "bar":
            return bar(self.age(row)), SIGNS[look.OPEN] if is_open else BAR
        if name == "size":
            return size(rows.size[row]), DIM
        if name == "deadline":
            return self._deadline(row, width), PLAIN
        return str(row + 1), PLAIN

    def text_line(self, row: int) -> str:
        """A call as a line of a text file."""
        rows, kind = self.view.rows, self.view.rows.kinds[self.view.rows.kind[row]]
        sign, status, ident = (
            rows.sign(row, self.now_ns),
            code_name(rows.code[row]),
            short_id(rows.idents[rows.ident[row]]),
        )
        names = f"{kind.hop:<6} {ident:<{SHORT_ID}} {rows.labels[rows.whom[row]]:<20} {kind.name:<20}"
        return f"{self._clock.text(rows.start[row])} {sign} {names} {status:<9} {duration(self.age(row)):>9}"

    def age(self, row: int) -> int:
        """How long a call took, or has been open."""
        rows = self.view.rows
        if rows.open_at(row, self.now_ns):
            return max(0, self.now_ns - rows.start[row])
        return rows.length[row]

    def _time(self, row: int, at: int) -> str:
        start = self.view.rows.start[row]
        if self.shape.times == "day":
            return self._clock.text(start)
        since = self.shape.reference_ns
        if self.shape.times == "before":
            since = self.view.rows.start[self.view.row(at - 1)] if at else start
        elif since is None:
            since = self.view.rows.start[0]
        return f"{'-' if start < since else '+'}{abs(start - since) / 1e9:.6f}"

    def _deadline(self, row: int, width: int) -> str:
        deadline = self.view.rows.open.get(row)
        if deadline is None:
            return ""
        left = deadline - self.now_ns
        if left <= 0:
            return "passed"
        whole = max(1, deadline - self.view.rows.start[row])
        cells = max(1, min(BAR_WIDTH, BAR_WIDTH * left // whole))
        return f"{'█' * cells}{'·' * (BAR_WIDTH - cells)} {duration(left)}"

    def on_click(self, event: Click) -> None:
        if event.y:
            self.move_to(event.y - 1 + int(self.scroll_offset.y))
            self.post_message(self.Picked())
            return
        at = 3
        for column in self.columns():
            at += column.width + 1
            if event.x < at:
                self.post_message(self.Headed(column.name))
                return


def parse_columns(text: str) -> list[tuple[str, int]] | None:
    """Return the columns that words name, `NAME` or `NAME:WIDTH`; None: all as they were. Raises PodwireError."""
    chosen = []
    for word in text.split():
        name, colon, width = word.partition(":")
        if name not in COLUMNS or (colon and not (width.isdecimal() and 1 <= int(width) <= MOST_WIDTH)):
            raise PodwireError(f"{word}: NAME or NAME:WIDTH, of {', '.join(COLUMNS)}")
        chosen.append((name, int(width) if colon else COLUMNS[name].width))
    return chosen or None


def bar(length_ns: int) -> str:
    """A length of time by its size: nothing below 100 µs, one cell more for each tenfold, six from 10 s on."""
    cells, step = 0, FULL_BAR_NS
    for count in range(BAR_WIDTH, 0, -1):
        if length_ns >= step:
            cells = count
            break
        step //= 10
    return "█" * cells
