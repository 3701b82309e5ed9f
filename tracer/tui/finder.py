"""Looking for a call among those that are shown. A search over a million goes on between keys; the next key ends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from tracer.tui.narrow import Question
from tracer.tui.pages import Pages
from tracer.tui.view import View

LOOK_S = 0.03
"""So long at a time."""


class Finder:
    """Finds lines of the list, or of the story that has its place."""

    def __init__(self, view: View, pages: Pages, go: Callable[[int], None], say: Callable[[str], None]) -> None:
        self._view = view
        self._pages = pages
        self._go = go
        self._say = say
        self._lines: Iterator[int | None] | None = None
        """What is still to be looked at."""
        self._begun = 0
        self._forward = True
        self.search: Question | None = None
        """What the user looked for last."""

    def find(self, wanted: Question, *, forward: bool = True) -> None:
        """Go to the next one that is wanted."""
        self._look_for(lambda: self._view.seek(wanted, forward=forward), wanted, forward=forward)

    def find_error(self, now_ns: int, *, forward: bool) -> None:
        """Go to the next failure or gap."""
        wanted = self._view.is_error(now_ns)
        self._look_for(lambda: self._view.seek_trouble(now_ns, forward=forward), wanted, forward=forward)

    def find_again(self, *, forward: bool) -> None:
        """Go to the next one that the user looked for."""
        if self.search is None:
            self._say("nothing is looked for yet (ctrl+f)")
        else:
            self.find(self.search, forward=forward)

    def find_same(self, of: Callable[[int], int], row: int | None, *, forward: bool) -> None:
        """Go to the next one that has the same of something."""
        if row is not None:
            self.find(lambda each: of(each) == of(row), forward=forward)

    def end(self) -> None:
        """Look no further."""
        self._lines = None

    def look_on(self) -> None:
        """Look at the next ones, for a moment."""
        if self._lines is None:
            return
        until, found = time.monotonic() + LOOK_S, None
        for found in self._lines:
            if found is not None:
                break
            if time.monotonic() >= until:
                self._say("looking …")
                return
        self._lines, begun = None, self._begun
        self._told(None if found is None else found == begun or (found > begun) == self._forward)
        if found is not None:
            self._go(found)

    def _look_for(self, lines: Callable[[], Iterator[int | None]], wanted: Question, *, forward: bool) -> None:
        if self._pages.page == "story":
            self._told(self._pages.find(wanted, forward=forward))
            return
        self._lines, self._begun, self._forward = lines(), self._view.cursor, forward
        self.look_on()

    def _told(self, straight: bool | None) -> None:
        """Say how it was found: straight on, round the end, or (None) not at all."""
        self._say("nothing found" if straight is None else "" if straight else "round the end of what is shown")
