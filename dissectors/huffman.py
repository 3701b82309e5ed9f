"""HPACK's Huffman code (RFC 7541 Appendix B): bytes of a string literal in, its text out.

The code is canonical, so the lengths of its codes are all that has to be written down. Decoding steps byte by byte
through the code's tree; a step once walked is remembered, so the table is as large as the traffic makes it (65,536
steps at most) and importing builds none of it.
"""

from __future__ import annotations

_LENGTHS = """
13 23 28 28 28 28 28 28 28 24 30 28 28 30 28 28 28 28 28 28 28 28 30 28 28 28 28 28 28 28 28 28 6 10 10 12 13
6 8 11 10 10 8 11 8 6 6 6 5 5 5 6 6 6 6 6 6 6 7 8 15 6 12 10 13 6 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7
8 7 8 13 19 13 14 6 15 5 6 5 6 5 6 6 6 5 7 7 6 6 6 5 6 7 6 5 5 6 7 7 7 7 7 15 11 14 13 28 20 22 20 20 22 22 22
23 22 23 23 23 23 23 24 23 24 24 22 23 24 23 23 23 23 21 22 23 22 23 23 24 22 21 20 22 22 23 23 21 23 22 22 24
21 22 23 23 21 21 22 21 23 22 23 23 20 22 22 22 23 22 22 23 26 26 20 19 22 23 22 25 26 26 26 27 27 26 24 25 19
21 26 27 27 26 27 24 21 21 26 26 28 27 27 27 20 24 20 21 22 21 21 23 22 22 25 25 24 24 26 23 26 27 26 26 27 27
27 27 27 28 27 27 27 27 27 26 30
"""
"""Of the codes of 0 to 255, and of EOS."""

_EOS = 256
_ROOT = 1
_BROKEN = 0
_PADDING = frozenset((1 << bits + 1) - 1 for bits in range(8))
"""The states in which a string may end: at most seven bits left, all ones (§5.2)."""


class HuffmanError(ValueError):
    """The bytes are no string in this code."""


def codes() -> dict[int, int]:
    """Return the symbol of each code; a code is written as its bits with a one in front, which keeps leading zeros."""
    table: dict[int, int] = {}
    code = previous = 0
    for length, symbol in sorted((int(length), symbol) for symbol, length in enumerate(_LENGTHS.split())):
        code <<= length - previous
        table[1 << length | code] = symbol
        code, previous = code + 1, length
    return table


_CODES = codes()


class _Steps(dict[int, tuple[int, str]]):
    """(state << 8 | byte) -> (next state, what it completed); a state is the bits so far with a one in front."""

    def __missing__(self, key: int) -> tuple[int, str]:
        state, text = key >> 8, ""
        for shift in range(7, -1, -1):
            state = state << 1 | (key >> shift & 1)
            symbol = _CODES.get(state)
            if symbol is not None:
                if symbol == _EOS:
                    step = self[key] = (_BROKEN, "")
                    return step
                text += chr(symbol)
                state = _ROOT
        step = self[key] = (state, text)
        return step


_STEPS = _Steps()


def decode_huffman(data: bytes) -> str:
    """Return the string, its octets as code points 0 to 255; raise HuffmanError."""
    state = _ROOT
    steps = _STEPS
    parts: list[str] = []
    for byte in data:
        state, text = steps[state << 8 | byte]
        if not state:
            raise HuffmanError("the end-of-string symbol within a string")
        parts.append(text)
    if state not in _PADDING:
        raise HuffmanError("a string's padding is wrong")
    return "".join(parts)
