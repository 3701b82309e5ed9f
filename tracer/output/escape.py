"""Text from the wire made safe for a terminal: the one place where that is done.

Control characters, bidirectional overrides, invisible and unassigned characters and bytes that are not UTF-8 come out
as visible escapes. A backslash is doubled, so that what looks like an escape is one.
"""

from __future__ import annotations

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}


def escape(text: str | bytes) -> str:
    """Return `text` with nothing in it that a terminal would act on: one line, printable characters only."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join([_visible(character) for character in text])


def _visible(character: str) -> str:
    short = _SHORT.get(character)
    if short is not None:
        return short
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
