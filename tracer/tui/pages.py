"""Pages that take the place of the list: help, findings, the session."""

from __future__ import annotations

from tracer.output.escape import escape
from tracer.tui import keys
from tracer.tui.lines import Line
from tracer.tui.paint import DIM, HEAD, NAME, PLAIN, WRONG
from tracer.tui.rows import Rows
from tracer.tui.session import Behind


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
