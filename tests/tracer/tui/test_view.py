"""Which rows are shown, while more come, change, are narrowed and ordered."""

from __future__ import annotations

from collections.abc import Iterator

from tests.tracer.made import START
from tracer.tui import view as views
from tracer.tui.rows import Kind, Rows
from tracer.tui.view import View


def rows_of(count: int) -> Rows:
    """Calls a microsecond apart; each takes longer than the one before, every third fails."""
    rows = Rows(kinds=[Kind("cri", "s", "M", "M")], idents=[""])
    more(rows, count)
    return rows


def more(rows: Rows, count: int) -> None:
    for row in range(len(rows), len(rows) + count):
        for name, value in (("start", START + row * 1000), ("length", row), ("code", 5 if row % 3 == 0 else 0)):
            getattr(rows, name).append(value)
        for name in ("kind", "ident", "flags", "size", "place", "flow", "stream", "whom", "parent"):
            getattr(rows, name).append(0)


def failed(rows: Rows) -> views.Question:
    return lambda row: rows.code[row] != 0


def test_what_comes_is_looked_at_in_steps() -> None:
    rows = rows_of(views.STEP * 5)
    view = View(rows)
    view.narrow(failed(rows))
    assert view.seen == views.STEP * 4  # the rest comes between keys
    while view.step():
        pass
    assert list(view.order) == [row for row in range(len(rows)) if row % 3 == 0]
    more(rows, 4)
    view.step()
    assert view.order[-1] == views.STEP * 5 + 2 - (views.STEP * 5 + 2) % 3


def test_a_row_that_changes_comes_and_goes() -> None:
    rows = rows_of(9)
    view = View(rows)
    view.narrow(failed(rows))
    view.cursor = 1
    assert view.current == 3
    rows.code[1], rows.code[6] = 5, 0
    view.changed([1, 6, 7])
    assert list(view.order) == [0, 1, 3]
    assert view.current == 3
    rows.code[0] = 0
    view.changed([0])
    assert list(view.order) == [1, 3]
    assert view.current == 3


def test_the_cursor_stays_on_its_row() -> None:
    rows = rows_of(9)
    view = View(rows)
    view.cursor = 3
    view.sort_by("duration", reverse=True)
    assert [view.row(at) for at in range(9)] == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert view.current == 3
    view.narrow(failed(rows))
    assert view.current == 3
    view.sort_by("time", reverse=False)
    view.narrow(None)
    assert view.current == 3


def test_what_comes_into_an_order_is_put_in() -> None:
    rows = rows_of(4)
    view = View(rows)
    view.sort_by("duration", reverse=True)
    more(rows, 2)
    view.step()
    assert list(view.order) == [5, 4, 3, 2, 1, 0]


def test_a_clock_limits_what_is_shown() -> None:
    rows = rows_of(9)
    view = View(rows)
    view.limit(START + 4000)
    assert len(view) == 5
    view.narrow(failed(rows))
    assert list(view.order) == [0, 3]
    view.limit(START + 6000)
    view.step()
    assert list(view.order) == [0, 3, 6]
    view.limit(START)
    assert list(view.order) == [0]


def find(view: View, wanted: views.Question, *, forward: bool = True) -> bool:
    return goes_to(view, view.seek(wanted, forward=forward))


def goes_to(view: View, lines: Iterator[int | None]) -> bool:
    """Put the cursor on what is found; whether anything was."""
    found = [line for line in lines if line is not None]
    view.cursor = found[0] if found else view.cursor
    return bool(found)


def test_a_search_stops_from_time_to_time() -> None:
    rows = rows_of(views.SEEK_STEP * 3)
    view = View(rows)
    assert list(view.seek(lambda row: row == views.SEEK_STEP * 2 + 5)) == [None, None, views.SEEK_STEP * 2 + 5]
    assert list(view.seek(lambda row: False)) == [None] * 3
    assert view.cursor == 0


def test_a_time_is_found_in_any_order() -> None:
    view = View(rows_of(30))
    assert view.line_at(START + 7001) == 8
    assert view.line_at(0) == 0
    assert view.line_at(START + 10**9) == 29
    view.narrow(failed(view.rows))
    assert view.row(view.line_at(START + 7001)) == 9
    view.sort_by("duration", reverse=True)
    assert view.row(view.line_at(START + 7001)) == 27


def test_finding_goes_round_both_ways() -> None:
    rows = rows_of(9)
    view = View(rows)
    seen = []
    for _ in range(4):
        assert find(view, failed(rows))
        seen.append(view.current)
    assert seen == [3, 6, 0, 3]
    assert find(view, failed(rows), forward=False)
    assert view.current == 0
    assert find(view, failed(rows), forward=False)
    assert view.current == 6
    assert not find(view, lambda row: False)
    assert view.current == 6


def test_the_next_trouble_is_found_without_looking_at_each_row() -> None:
    rows = rows_of(9)
    rows.troubles = [0, 3, 6]
    view = View(rows)
    seen = []
    for _ in range(4):
        assert goes_to(view, view.seek_trouble(START + 1_000_000))
        seen.append(view.current)
    assert seen == [3, 6, 0, 3]
    assert goes_to(view, view.seek_trouble(START + 1_000_000, forward=False))
    assert view.current == 0
    assert goes_to(view, view.seek_trouble(START + 1_000_000, forward=False))
    assert view.current == 6
    view.narrow(lambda row: row != 0 and row < 6)
    assert goes_to(view, view.seek_trouble(START + 1_000_000))
    assert view.current == 3
