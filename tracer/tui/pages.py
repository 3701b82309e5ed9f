"""Pages that take the place of the list: help, numbers, findings, the session, a pod's story."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tracer.output.escape import escape
from tracer.tui import keys
from tracer.tui.lines import Line, Lines
from tracer.tui.narrow import Question
from tracer.tui.numbers import NEWEST, SORTS, number_lines, sum_up
from tracer.tui.paint import DIM, HEAD, NAME, PLAIN, WRONG, Paint
from tracer.tui.pods import OfCall
from tracer.tui.rows import Rows
from tracer.tui.session import Behind
from tracer.tui.view import View
from tracer.tui.waterfall import HEAD_LINES, Waterfall

CHANGING = ("numbers", "session", "story")
"""Pages that are made anew while they are looked at."""

HEADS = {"help": 1, "numbers": 2, "story": HEAD_LINES}
"""How many lines of a page stay at its top."""


class Pages(Lines):
    """The pane that shows one of them."""

    def __init__(self, view: View, behind: Behind, now_ns: Callable[[], int], paint: Paint, *, id: str) -> None:
        super().__init__(paint, id=id)
        self.page = ""
        """What it shows; nothing: the list is there."""
        self.story: Waterfall | None = None
        self._view = view
        self._rows = view.rows
        self._behind = behind
        self._now_ns = now_ns
        self._unicode = paint.unicode
        self._number_sort = SORTS[0]

    def open(self, page: str) -> None:
        """Show a page from its beginning."""
        self.page, self.display = page, True
        self.draw(cursor=0)

    def close(self) -> None:
        """Give the place back to the list."""
        self.page, self.display = "", False

    def draw(self, *, cursor: int | None = None) -> None:
        """Make the page anew; the cursor stays where it was unless told."""
        makers: dict[str, Callable[[], Sequence[Line]]] = {
            "help": help_lines,
            "numbers": self._number_lines,
            "findings": lambda: finding_lines(self._rows),
            "session": lambda: session_lines(self._behind),
            "story": self._story_lines,
        }
        lines = makers[self.page]()
        row = self.row
        self.show(lines, cursor=cursor, head=HEADS.get(self.page, 0))
        if cursor is None and row is not None:
            self.go_to(row)  # it stays under the cursor, whatever comes before it

    @property
    def row(self) -> int | None:
        """The row of the call under the cursor, if the page is one of calls."""
        target = None if self.current is None else self.current.target
        return target.row if self.page and isinstance(target, OfCall) else None

    def go_to(self, row: int) -> bool:
        """Put the cursor on a call; whether the page has it."""
        shown = [] if self.story is None else self.story.shown
        if self.page != "story" or row not in shown:
            return False
        self.move_to(shown.index(row) + self.head)
        return True

    def find(self, wanted: Question, *, forward: bool) -> bool | None:
        """Put the cursor on the next call that is wanted, going round; True: straight on, None: there is none."""
        shown, step = ([] if self.story is None else self.story.shown), 1 if forward else -1
        cursor = self.cursor - self.head
        for distance in range(1, len(shown) + 1):
            at = (cursor + step * distance) % len(shown)
            if wanted(shown[at]):
                self.move_to(at + self.head)
                return (at > cursor) is forward or at == cursor
        return None

    def next_sort(self) -> None:
        """Order the numbers by the next column."""
        self._number_sort = SORTS[(SORTS.index(self._number_sort) + 1) % len(SORTS)]
        self.draw()

    def zoom(self, into: bool) -> None:
        """Draw the time of the story's call under the cursor alone, or all of it."""
        if self.story is not None and self.page == "story":
            row = self.row
            self.story.zoom = self.story.span(row, self._now_ns()) if into and row is not None else None
            self.draw()

    def _story_lines(self) -> Sequence[Line]:
        view = self._view
        most = len(self._rows) if view.most is None else view.most
        return [] if self.story is None else self.story.lines(self._now_ns(), most, self.size.width or 80)

    def _number_lines(self) -> list[Line]:
        view, rows = self._view, self._rows
        count = len(view)
        shown = [view.row(at) for at in range(max(0, count - NEWEST), count)]
        if not shown:
            return [Line((("no call yet", DIM),))]
        sums = sum_up(rows, shown, self._now_ns())
        starts = rows.start
        span = min(starts[shown[0]], starts[shown[-1]]), max(starts[shown[0]], starts[shown[-1]])
        return number_lines(rows, sums, self._number_sort, span, unicode=self._unicode)


def session_lines(behind: Behind) -> list[Line]:
    """What is traced and what is not, and what leaving does."""
    return [*[Line(((escape(line), PLAIN),)) for line in behind.lines()], Line(((f"q: {behind.leaving()}", DIM),))]


def help_lines() -> list[Line]:
    """All keys and commands."""
    head = Line((("keys (esc: back)", HEAD),))
    return [head, *[Line(((f"{sign:<16}", NAME), (text, PLAIN))) for sign, text in keys.help_lines()]]


def finding_lines(rows: Rows) -> list[Line]:
    """Gaps, malformed bytes, notices; each leads to its time."""
    found = [Line(((text, PLAIN),), time_ns) for time_ns, text in rows.findings]
    if rows.broken:
        found.append(Line(((f"broken off: {rows.broken}", WRONG),)))
    return found or [Line((("no gaps, nothing malformed", DIM),))]
