"""Questions that can be put to each row: words to search for. A filter is CEL (`tracer.filtering`), which asks for more
than rows have (`tracer.tui.matcher`); what is wrong with one, and how it may go on, is told here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from protos.errors import PodwireError
from protos.registry import Registry
from tracer.tui.rows import Rows, code_name, sign

_PLACE = re.compile(r"column (\d+)")
Question = Callable[[int], bool]
"""Whether a row is wanted."""


class FilterError(Exception):
    """What is wrong with a filter or a search, and at which character of it."""

    def __init__(self, reason: str, at: int) -> None:
        super().__init__(reason)
        self.at = at


class _Term(NamedTuple):
    column: str
    word: str
    wanted: bool


COLUMNS = ("hop", "id", "pod", "method", "service", "status", "sign")


class Words:
    """Words that must all be in a row; `!word` must not; `status:open`, `method:Create` look at one column; words with
    spaces in them are quoted. Case does not matter."""

    def compile(self, text: str, rows: Rows) -> Question:
        terms = [_term(word, at) for word, at in split(text)]
        known: dict[tuple[int, int, int, int, str], bool] = {}
        kinds, idents, codes, flags, whoms = rows.kind, rows.ident, rows.code, rows.flags, rows.whom

        def wanted(row: int) -> bool:
            key = kinds[row], idents[row], codes[row], flags[row], rows.labels[whoms[row]]
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
            "pod": set(rows.labels),
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


def _text(rows: Rows, key: tuple[int, int, int, int, str], column: str) -> str:
    kind, ident, code, flags, label = rows.kinds[key[0]], rows.idents[key[1]], key[2], key[3], key[4]
    columns = {
        "hop": kind.hop,
        "id": ident,
        "pod": label,
        "method": f"{kind.name} {kind.method}",
        "service": kind.service,
        "status": code_name(code),
        "sign": sign(code, flags),
    }
    return (columns[column] if column else " ".join([*list(columns.values())[:-1]])).lower()


def error_of(text: str, registry: Registry) -> FilterError | None:
    """What is wrong with a filter, if anything."""
    from tracer.filtering import Filter  # brings the language, which few need

    try:
        Filter(text, registry)
    except PodwireError as error:
        place = _PLACE.search(str(error))
        return FilterError(str(error).removeprefix("filter: "), int(place[1]) - 1 if place else 0)
    return None


def complete(text: str, registry: Registry) -> list[str]:
    """What the last name in a filter may go on as."""
    from tracer.filtering import complete

    return complete(text, registry)
