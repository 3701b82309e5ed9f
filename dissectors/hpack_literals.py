"""Write HPACK (RFC 7541) as literals: what carries a header list, or a whole dynamic table, into another capture.

In go headers as `hpack` gives them, out comes a header block. No index is used and nothing is compressed.
"""

from __future__ import annotations

from collections.abc import Iterable

from dissectors.hpack import Header


def header_list(headers: Iterable[Header]) -> bytes:
    """Return a block that leaves the table as it is (§6.2.2)."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in headers)


def table(max_size: int, entries: Iterable[Header]) -> bytes:
    """Return a block after which the table is as large as it may be, and has these entries, the oldest first (§6.2.1,
    §6.3)."""
    block = _integer(0x20, 5, max_size)
    return block + b"".join(b"\x40" + _string(name) + _string(value) for name, value in entries)


def _string(text: str) -> bytes:
    data = text.encode("latin-1")
    return _integer(0, 7, len(data)) + data


def _integer(pattern: int, bits: int, number: int) -> bytes:
    """Return an integer behind the pattern of its first byte (§5.1)."""
    most = (1 << bits) - 1
    if number < most:
        return bytes((pattern | number,))
    number -= most
    rest = bytearray((pattern | most,))
    while number >= 0x80:
        rest.append(number & 0x7F | 0x80)
        number >>= 7
    rest.append(number)
    return bytes(rest)
