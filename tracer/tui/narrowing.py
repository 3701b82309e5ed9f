"""By what the list is narrowed: several things at once, each in words for the status line and as a question to rows."""

from __future__ import annotations

from collections.abc import Callable

from tracer.output.escape import escape
from tracer.tui.narrow import Question
from tracer.tui.rows import Rows
from tracer.tui.source import Matches

FILTER = "filter"
IN_FLIGHT = "in flight"
POD = "pod"


class Narrowing:
    """What is wanted. The filter's answers come by and by, from a process that reads the capture for it."""

    def __init__(self, rows: Rows, match: Callable[[str], Matches] | None) -> None:
        self._rows = rows
        self._match = match
        self._questions: dict[str, Question] = {}
        self.words: dict[str, str] = {}
        """Each thing it is narrowed by, in words; the last one is undone first."""
        self.filter = ""
        self.matches: Matches | None = None
        self._matched: set[int] = set()
        self.untold = 0
        """Calls of which the filter could not tell."""

    def __contains__(self, by: str) -> bool:
        return by in self.words

    def by(self, name: str, words: str, question: Question) -> None:
        """Narrow by one thing more, or by another one of its kind."""
        self.words[name], self._questions[name] = words, question

    def drop(self, name: str) -> None:
        """Narrow by one thing less."""
        if name == FILTER:
            self.filter = ""
            self.end_matching()
        self.words.pop(name, None)
        self._questions.pop(name, None)

    def drop_last(self) -> bool:
        """Undo the last thing; whether there was one."""
        if self.words:
            self.drop(next(reversed(self.words)))
            return True
        return False

    def question(self) -> Question | None:
        """What is wanted by all of them; None: everything is."""
        questions = list(self._questions.values())
        if len(questions) < 2:
            return questions[0] if questions else None
        return lambda row: all(question(row) for question in questions)

    def by_filter(self, text: str) -> None:
        """Narrow by a filter; an empty one takes it away."""
        self.drop(FILTER)
        if text and self._match is not None:
            self.filter, self.matches = text, self._match(text)
            self._matched, self.untold = set(), 0
            self.by(FILTER, f"filter {escape(text)}", self._matched.__contains__)

    def take_matches(self) -> list[int]:
        """Take what the filter has found; return the rows in question. Raises IndexerError."""
        changed: list[int] = []
        for found in () if self.matches is None else self.matches.take():
            self._matched.update(found.wanted)
            self._matched.difference_update(found.unwanted)
            self.untold = found.errors
            changed += found.wanted + found.unwanted
        return changed

    def end_matching(self) -> None:
        """The filter finds no more."""
        if self.matches is not None:
            self.matches.close()
            self.matches = None
