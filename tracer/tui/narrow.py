"""What a filter line says, as a question that can be put to each row.

A `Language` turns the text into that question; the screen knows nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from tracer.tui.rows import Rows, code_name, sign

Question = Callable[[int], bool]
"""Whether a row is wanted."""


class FilterError(Exception):
    """What is wrong with a filter, and at which character of it."""

    def __init__(self, reason: str, at: int) -> None:
        super().__init__(reason)
        self.at = at


class Language(Protocol):
    """A way to write filters."""

    def compile(self, text: str, rows: Rows) -> Question:
        """Return the question. Raises FilterError."""
        ...

    def complete(self, text: str, rows: Rows) -> list[str]:
        """Return what could stand in place of the word at the end of `text`."""
        ...


class _Term(NamedTuple):
    column: str
    word: str
    wanted: bool


COLUMNS = ("hop", "id", "method", "service", "status", "sign")


class Words:
    """Words that must all be in a row; `!word` must not; `status:open`, `method:Create` look at one column; words with
    spaces in them are quoted. Case does not matter."""

    def compile(self, text: str, rows: Rows) -> Question:
        terms = [_term(word, at) for word, at in split(text)]
        known: dict[tuple[int, int, int, int], bool] = {}
        kinds, idents, codes, flags = rows.kind, rows.ident, rows.code, rows.flags

        def wanted(row: int) -> bool:
            key = kinds[row], idents[row], codes[row], flags[row]
            answer = known.get(key)
            if answer is None:
                answer = known[key] = all((term.word in _text(rows, key, term.column)) == term.wanted for term in terms)
            return answer

        return wanted

    def complete(self, text: str, rows: Rows) -> list[str]:
        word = text.rpartition(" ")[2].lstrip("!").lower()
        column, colon, begun = word.partition(":")
        if not colon:
            return [f"{name}:" for name in COLUMNS if name.startswith(word)]
        values = {
            "hop": {kind.hop for kind in rows.kinds},
            "method": {kind.name for kind in rows.kinds},
            "service": {kind.service for kind in rows.kinds},
            "id": set(rows.idents),
            "status": {code_name(code) for code in set(rows.code)},
        }.get(column, set())
        return [f"{column}:{value}" for value in sorted(values) if value and value.lower().startswith(begun)]


def split(text: str) -> list[tuple[str, int]]:
    """Cut at spaces outside of double quotes; return each word with where it begins."""
    words: list[tuple[str, int]] = []
    begun: int | None = None
    word, quoted = "", -1
    for at, character in enumerate(text):
        if character == '"':
            quoted = at if quoted < 0 else -1
            begun = at if begun is None else begun
        elif character == " " and quoted < 0:
            if begun is not None:
                words.append((word, begun))
            word, begun = "", None
        else:
            begun = at if begun is None else begun
            word += character
    if quoted >= 0:
        raise FilterError('a " is not closed', quoted)
    if begun is not None:
        words.append((word, begun))
    return words


def _term(word: str, at: int) -> _Term:
    wanted = not word.startswith("!")
    column, colon, rest = word.lstrip("!").partition(":")
    if not colon:
        column, rest = "", column
    elif column not in COLUMNS:
        raise FilterError(f"no column {column!r} (there are: {', '.join(COLUMNS)})", at)
    if not rest:
        raise FilterError("a word is missing", at)
    return _Term(column, rest.lower(), wanted)


def _text(rows: Rows, key: tuple[int, int, int, int], column: str) -> str:
    kind, ident, code, flags = rows.kinds[key[0]], rows.idents[key[1]], key[2], key[3]
    columns = {
        "hop": kind.hop,
        "id": ident,
        "method": f"{kind.name} {kind.method}",
        "service": kind.service,
        "status": code_name(code),
        "sign": sign(code, flags),
    }
    return (columns[column] if column else " ".join([*list(columns.values())[:-1]])).lower()
