"""How lines look: signs, colours, and what replaces them where the terminal has none.

Meaning is never a colour alone: a sign stands before each line that is not a plain answer.
"""

from __future__ import annotations

import os
from typing import NamedTuple, TextIO

OK = " "
FAILED = "E"
OPEN = "…"
MESSAGE = "·"
CANCELLED = "-"
GAP = "≠"
MALFORMED = "!"
NOTICE = "*"

_COLOURS = {FAILED: "\x1b[31m", OPEN: "\x1b[33m", CANCELLED: "\x1b[2m", GAP: "\x1b[35m", MALFORMED: "\x1b[35m"}
_PLAIN = "\x1b[0m"
_ASCII = str.maketrans({"…": "...", "→": "->", "←": "<-", "≠": "#", "µ": "u", "—": "-", "·": "."})


def below(text: str, depth: int) -> str:
    """What stands in a tree, so deep below its top."""
    return f"{'  ' * (depth - 1)}└ {text}" if depth else text


class Look(NamedTuple):
    """What the place where lines go can show."""

    colour: bool
    unicode: bool

    @classmethod
    def of(cls, stream: TextIO) -> Look:
        """The look for a stream: colours on a terminal alone, and never with NO_COLOR (no-color.org) or TERM=dumb."""
        terminal = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "")
        return cls(terminal, encoding.startswith("utf"))

    def line(self, sign: str, text: str) -> str:
        """Finish a line that begins with what `sign` means."""
        if not self.unicode:
            text = text.translate(_ASCII)
        if self.colour and sign in _COLOURS:
            text = f"{_COLOURS[sign]}{text}{_PLAIN}"
        return text + "\n"
