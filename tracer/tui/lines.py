"""A pane of lines with a cursor: the detail's tabs, help, numbers, findings. It draws what is visible and no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, overload

from textual.events import Click
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from tracer.tui.paint import CURSOR, PLAIN, Paint, Span


class Line(NamedTuple):
    """One line, and what it stands for."""

    spans: tuple[Span, ...]
    target: object = None
    """What `enter` on it leads to."""


class Made(Sequence[Line]):
    """Lines that are made as they are looked at: of thousands, some fit onto a screen."""

    def __init__(self, head: list[Line], makers: Sequence[Callable[[], Line]]) -> None:
        self._head, self._makers = head, makers

    def __len__(self) -> int:
        return len(self._head) + len(self._makers)

    @overload
    def __getitem__(self, at: int) -> Line: ...
    @overload
    def __getitem__(self, at: slice) -> list[Line]: ...
    def __getitem__(self, at: int | slice) -> Line | list[Line]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        at = range(len(self))[at]
        return self._head[at] if at < len(self._head) else self._makers[at - len(self._head)]()


class Lines(ScrollView, can_focus=True, inherit_bindings=False):
    """The pane."""

    class Resized(Message):
        """The pane has another size."""

        def __init__(self, pane: Lines) -> None:
            super().__init__()
            self.pane = pane

    def __init__(self, paint: Paint, *, id: str) -> None:
        super().__init__(id=id)
        self._paint = paint
        self.lines: Sequence[Line] = ()
        self.head = 0
        """So many lines at the top stay there; the cursor goes to none of them."""
        self.cursor = 0

    def show(self, lines: Sequence[Line], *, cursor: int | None = None, head: int = 0) -> None:
        """Show other lines; the cursor stays where it was unless told."""
        self.lines, self.head = lines, min(head, max(0, len(lines) - 1))
        self.virtual_size = Size(0, len(lines))
        self.move_to(self.cursor if cursor is None else cursor)
        self.refresh()

    @property
    def current(self) -> Line | None:
        """The line under the cursor."""
        return self.lines[self.cursor] if self.cursor < len(self.lines) else None

    def move_to(self, line: int) -> None:
        """Put the cursor on a line, and that on the screen."""
        self.cursor = max(self.head, min(line, len(self.lines) - 1), 0)
        height = max(1, self.size.height)
        top = int(self.scroll_offset.y)
        if not top + self.head <= self.cursor < top + height:
            at = self.cursor - (self.head if self.cursor < top + self.head else height - 1)
            self.scroll_to(y=at, animate=False, immediate=True)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        at = self._at(y)
        width = self.size.width
        if at >= len(self.lines):
            return Strip.blank(width)
        over = CURSOR if at == self.cursor and self.has_focus else PLAIN
        return self._paint.strip(self.lines[at].spans, width, over=over)

    def on_resize(self) -> None:
        self.post_message(self.Resized(self))

    def on_click(self, event: Click) -> None:
        self.move_to(self._at(event.y))

    def _at(self, y: int) -> int:
        """Which line stands there."""
        return y if y < self.head else y + int(self.scroll_offset.y)


class Bar(Widget):
    """One line that is drawn from spans."""

    def __init__(self, paint: Paint, *, id: str) -> None:
        super().__init__(id=id)
        self._paint = paint
        self.spans: tuple[Span, ...] = ()

    def show(self, *spans: Span) -> None:
        """Show other words."""
        if spans != self.spans:
            self.spans = spans
            self.refresh()

    def render_line(self, y: int) -> Strip:
        return self._paint.strip(self.spans, self.size.width)
