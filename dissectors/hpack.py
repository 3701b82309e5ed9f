"""HPACK (RFC 7541): header blocks of one direction in, lists of headers out.

Octets come out as the code points 0 to 255 of a str, which loses nothing; what they mean is not known here. Everything
that a peer can make large is bounded. A decoder that has not seen every block (a capture that begins in the middle, a
gap) is told so: an index that it can't know then gives UNKNOWN in its place, and the rest of the block is decoded.
"""

from __future__ import annotations

from functools import lru_cache

from dissectors.huffman import HuffmanError, decode_huffman

Header = tuple[str, str]

UNKNOWN = "(unknown)"
"""Stands for a name or value that was sent where this decoder has not seen it."""

DEFAULT_TABLE_SIZE = 4096
"""RFC 9113 §6.5.2, SETTINGS_HEADER_TABLE_SIZE."""
MAX_TABLE_SIZE = 1 << 20
"""No table grows beyond this, whatever a peer announces; every implementation seen keeps to the default."""
MAX_LIST_SIZE = 16 << 20
"""What grpc-go accepts by default for one header list (`defaultClientMaxHeaderListSize`)."""
_MAX_INTEGER_BYTES = 5
_ENTRY_OVERHEAD = 32
"""RFC 7541 §4.1."""

_STATIC: tuple[Header, ...] = tuple(
    (name, value)
    for line in """
:authority
:method GET
:method POST
:path /
:path /index.html
:scheme http
:scheme https
:status 200
:status 204
:status 206
:status 304
:status 400
:status 404
:status 500
accept-charset
accept-encoding gzip, deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate
""".splitlines()
    for name, _, value in [line.partition(" ")]
)
"""RFC 7541 Appendix A; index 0 is not used."""
_DYNAMIC = len(_STATIC) - 1


class HpackError(ValueError):
    """The block can't be decoded, and neither can what comes after it: call `forget`."""


class Decoder:
    """The decoding end of one direction's header compression."""

    def __init__(self, *, max_list_size: int = MAX_LIST_SIZE) -> None:
        self.version = 0
        """Changes with the table: two equal blocks decode alike as long as it is the same before and after both."""
        self.complete = True
        """False once a block was missed."""
        self._max_list_size = max_list_size
        self._table: list[Header] = []  # the newest last: index 62 is [-1]
        self._size = 0
        self._max_size = DEFAULT_TABLE_SIZE
        self._allowed = DEFAULT_TABLE_SIZE

    def table(self) -> tuple[int, list[Header]]:
        """Return how large the table may be, and what is in it, the oldest first."""
        return self._max_size, list(self._table)

    def allow_table_size(self, size: int) -> None:
        """Take note of the other side's SETTINGS_HEADER_TABLE_SIZE: how large this table may be made.

        A lower one does not count: until it is acknowledged, blocks may still be larger.
        """
        self._allowed = max(self._allowed, min(size, MAX_TABLE_SIZE))

    def forget(self) -> None:
        """Take note that blocks were missed: what the table holds, and how large it may be, is unknown from here."""
        self.version += 1
        self.complete = False
        self._table.clear()
        self._size = 0
        self._allowed = MAX_TABLE_SIZE

    def decode(self, block: bytes) -> list[Header]:
        """Return the headers of one block; raise HpackError."""
        headers: list[Header] = []
        table = self._table
        position, end = 0, len(block)
        try:
            while position < end:
                byte = block[position]
                position += 1
                if byte & 0x80:  # §6.1 indexed
                    index = byte & 0x7F
                    if index == 0x7F:
                        index, position = read_integer(block, position, 0x7F)
                    if index <= _DYNAMIC:
                        if not index:
                            raise HpackError("index 0")
                        headers.append(_STATIC[index])
                    elif index - _DYNAMIC <= len(table):
                        headers.append(table[_DYNAMIC - index])
                    else:
                        headers.append(self._beyond(index))
                elif byte & 0x60 == 0x20:  # §6.3 table size update
                    size = byte & 0x1F
                    if size == 0x1F:
                        size, position = read_integer(block, position, 0x1F)
                    if headers:
                        raise HpackError("a table size update after a header")
                    self._resize(size)
                else:  # §6.2 literal: with indexing (01), without (0000), never (0001)
                    mask = 0x3F if byte & 0x40 else 0x0F
                    index = byte & mask
                    if not index:
                        name, position = _string(block, position)
                    else:
                        if index == mask:
                            index, position = read_integer(block, position, mask)
                        if index <= _DYNAMIC:
                            name = _STATIC[index][0]
                        elif index - _DYNAMIC <= len(table):
                            name = table[_DYNAMIC - index][0]
                        else:
                            name = self._beyond(index)[0]
                    value, position = _string(block, position)
                    header = (name, value)
                    headers.append(header)
                    if byte & 0x40:
                        self._insert(header)
        except IndexError:
            raise HpackError("the block ends within a header") from None
        except HuffmanError as error:
            raise HpackError(str(error)) from None
        # A short block can't reach the limit, whatever it refers to.
        if end * (self._max_size + _ENTRY_OVERHEAD) > self._max_list_size:
            size = sum(len(name) + len(value) + _ENTRY_OVERHEAD for name, value in headers)
            if size > self._max_list_size:
                raise HpackError(f"a header list of {size} bytes, over the limit")
        return headers

    def _beyond(self, index: int) -> Header:
        """Return what stands for an index that is not in the table."""
        if self.complete:
            raise HpackError(f"index {index} is beyond the table")
        return UNKNOWN, UNKNOWN

    def _insert(self, header: Header) -> None:
        """Add to the table; the oldest go until it fits (§4.4). What is larger than the table empties it."""
        self.version += 1
        self._table.append(header)
        self._size += len(header[0]) + len(header[1]) + _ENTRY_OVERHEAD
        if self._size > self._max_size:
            self._evict()

    def _resize(self, size: int) -> None:
        if size > self._allowed:
            raise HpackError(f"a table size of {size}, where {self._allowed} is allowed")
        self.version += 1
        self._max_size = size
        self._evict()

    def _evict(self) -> None:
        # Entries that were not seen are older than all that were, so they have gone before these.
        gone = 0
        while self._size > self._max_size:
            name, value = self._table[gone]
            self._size -= len(name) + len(value) + _ENTRY_OVERHEAD
            gone += 1
        del self._table[:gone]


def read_integer(block: bytes, position: int, number: int) -> tuple[int, int]:
    """Return the integer whose prefix was all ones (`number`), and the position after it (§5.1)."""
    shift = 0
    for _ in range(_MAX_INTEGER_BYTES):
        byte = block[position]
        position += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
    raise HpackError("an integer that is too long")


def _string(block: bytes, position: int) -> tuple[str, int]:
    """Return the string literal at `position`, and the position after it (§5.2)."""
    first = block[position]
    position += 1
    length = first & 0x7F
    if length == 0x7F:
        length, position = read_integer(block, position, 0x7F)
    end = position + length
    if end > len(block):
        raise HpackError("a string that is longer than its block")
    data = block[position:end]
    if first < 0x80:
        return data.decode("latin-1"), end
    return (_short_huffman(data) if length <= _SHORT else decode_huffman(data)), end


_SHORT = 64
_short_huffman = lru_cache(maxsize=1024)(decode_huffman)
"""Each new connection of a client sends the same strings again."""
