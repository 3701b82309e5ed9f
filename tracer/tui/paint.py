"""How text gets onto the screen: the one place that makes what a terminal is sent, and nothing raw comes through it.

Colours are the terminal's own sixteen, so that they suit a light and a dark one; a sign says the same without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from tracer.output import look
from tracer.output.escape import escape

PLAIN = Style()
BOLD = Style(bold=True)
DIM = Style(dim=True)
RAW = Style(color="cyan")
NAME = Style(color="blue")
CURSOR = Style(reverse=True)
MARK = Style(reverse=True, bold=True)
HEAD = Style(bold=True, underline=True)
BAR = Style(color="green")
WRONG = Style(color="magenta", bold=True)
SIGNS = {
    look.FAILED: Style(color="red", bold=True),
    look.OPEN: Style(color="yellow"),
    look.CANCELLED: Style(dim=True),
    look.GAP: Style(color="magenta"),
    look.MALFORMED: Style(color="magenta"),
}
"""As text has them."""

Span = tuple[str, Style]

_ASCII = str.maketrans(
    {
        "…": ".",
        "→": ">",
        "≠": "#",
        "µ": "u",
        "—": "-",
        "█": "#",
        "▏": "|",
        "·": ".",
        "▸": "+",
        "▾": "-",
        "●": "*",
        "│": "|",
        "─": "-",
        "└": "`",
        "░": "~",
        "▓": "X",
        "‹": "<",
        "›": ">",
    }
)


class Paint:
    """Makes strips. Without `unicode` each sign has one character of ASCII in its place."""

    def __init__(self, *, unicode: bool = True) -> None:
        self.unicode = unicode

    def safe(self, text: str) -> str:
        """Return text with nothing that a terminal would act on. What was escaped before comes out as it is."""
        if not text.isprintable():
            text = escape(text)
        return text if self.unicode else text.translate(_ASCII)

    def strip(self, spans: Sequence[Span], width: int, *, over: Style = PLAIN) -> Strip:
        """One line of exactly `width` cells, with `over` laid over it."""
        left = width
        segments = []
        for text, style in spans:
            text = self.safe(text)
            cells = cell_len(text)
            if cells > left:
                text, cells = set_cell_size(text, left), left
            if text:
                segments.append(Segment(text, style + over if over else style))
            left -= cells
            if left <= 0:
                break
        if left > 0:
            segments.append(Segment(" " * left, over))
        return Strip(segments, width)


@lru_cache(4096)
def fit(text: str, width: int, *, right: bool = False) -> str:
    """Text in exactly `width` cells, cut with a mark."""
    cells = cell_len(text)
    if cells > width:
        return set_cell_size(text, width - 1) + "…" if width > 1 else set_cell_size(text, width)
    return " " * (width - cells) + text if right else text + " " * (width - cells)
