"""Mask the values of secret headers in an HPACK block (RFC 7541), in place.

In: a block, and what it decodes to. Out: the block, of the same length, that decodes to the same names and to values of
the same lengths: so every dynamic table stays as large as it was, and what refers to it goes on meaning the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dissectors.hpack import UNKNOWN, Header, read_integer
from dissectors.huffman import codes


def mask_block(block: bytes, headers: Sequence[Header], is_secret: Callable[[str], bool]) -> bytes:
    """Return the block with the values of secret names masked. `headers` is what a decoder made of it."""
    masked = bytearray(block)
    values = _values(block)
    for (name, _), span in zip(headers, values, strict=True):
        if span is not None and (name == UNKNOWN or is_secret(name)):
            start, end, huffman = span
            masked[start:end] = _masked_huffman(block[start:end]) if huffman else b"*" * (end - start)
    return bytes(masked)


def _values(block: bytes) -> list[tuple[int, int, bool] | None]:
    """Where the value of each header lies, and whether it is in Huffman's code; None where it is an index."""
    spans: list[tuple[int, int, bool] | None] = []
    position = 0
    while position < len(block):
        byte = block[position]
        if byte & 0x80:
            _, position = _integer(block, position, 7)
            spans.append(None)
        elif byte & 0xE0 == 0x20:
            _, position = _integer(block, position, 5)
        else:
            index, position = _integer(block, position, 6 if byte & 0x40 else 4)
            if not index:
                length, position = _integer(block, position, 7)
                position += length
            huffman = bool(block[position] & 0x80)
            length, position = _integer(block, position, 7)
            spans.append((position, position + length, huffman))
            position += length
    return spans


def _integer(block: bytes, position: int, bits: int) -> tuple[int, int]:
    most = (1 << bits) - 1
    number = block[position] & most
    position += 1
    return (number, position) if number < most else read_integer(block, position, most)


def _masked_huffman(data: bytes) -> bytes:
    """Return a string in Huffman's code with as many characters and as many bits, all of them made out of nothing.

    Each character becomes the first one whose code is as long, and they are sorted: what is left of a secret is how
    many of its characters have codes of five bits, of six, and so on.
    """
    by_code = codes()
    first: dict[int, int] = {}
    for code in by_code:
        first.setdefault(code.bit_length(), code)
    bits = int.from_bytes(b"\x01" + data)
    total, lengths, code = 8 * len(data), [], 1
    for at in range(total - 1, -1, -1):
        code = code << 1 | (bits >> at & 1)
        if code in by_code:
            lengths.append(code.bit_length())
            code = 1
    made = 1
    for length in sorted(lengths):
        made = made << length - 1 | (first[length] & (1 << length - 1) - 1)
    padding = total - (made.bit_length() - 1)
    made = made << padding | (1 << padding) - 1
    return (made & (1 << total) - 1).to_bytes(len(data))
