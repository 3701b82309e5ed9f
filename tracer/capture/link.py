"""One packet's headers: bytes and their link type come in, a TCP segment or the reason why there is none goes out.

Ethernet (VLAN tags too), raw IP, loopback and Linux "cooked" headers; IPv4 and IPv6. Fragments are not put together.
Checksums are not looked at: what was captured on the sending machine often has none yet. Layouts: `headers`.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

FIN: Final = 1
SYN: Final = 2
RST: Final = 4
ACK: Final = 16

ETHERNET: Final = 1
FAST_SIZE: Final = 54
FAST: Final = struct.Struct(">12x3sxH2xHxB2x12sIIH")
"""Ethernet, IPv4 without options and TCP in one (`headers.HEADERS`): type of what Ethernet carries with IPv4's version
and header length (`FAST_HEAD`), IPv4's total length, fragment word, protocol; addresses and ports; sequence number,
acknowledgement, header length and flags. `segment` gives the same, of any link type, at three times the cost."""
FAST_HEAD: Final = b"\x08\x00\x45"

_IPV4, _IPV6 = 0x0800, 0x86DD
_TAGS = frozenset({0x8100, 0x88A8, 0x9100})
"""VLAN tags (802.1Q, 802.1ad and what came before it)."""
_TCP = 6
_EXTENSIONS = frozenset({0, 43, 60, 135, 139, 140})
"""IPv6 headers that say how long they are, in eights of bytes without the first (RFC 8200 §4, RFC 7045)."""
_AUTHENTICATION, _FRAGMENT = 51, 44
_FAMILIES = {2: _IPV4, 10: _IPV6, 24: _IPV6, 28: _IPV6, 30: _IPV6}
"""AF_INET, and AF_INET6 on Linux, NetBSD, FreeBSD and macOS: loopback headers have the host's own number."""

_U16 = struct.Struct(">H")
_IPV4_HEADER = struct.Struct(">BxH2xHxB2x8s")
_IPV6_HEADER = struct.Struct(">I H B x 32s")
_TCP_HEADER = struct.Struct(">4sIIBB")


class Segment(NamedTuple):
    """One TCP segment."""

    key: bytes
    """Source and destination address (4 or 16 bytes each), source and destination port: one direction of a flow."""
    sequence: int
    acknowledgement: int
    flags: int
    payload: bytes
    missing: int
    """Bytes of the payload that were not captured (a snap length)."""


Located = tuple[Segment, int, int]
"""A segment, and where in its packet TCP's header and the payload begin."""


class _Passed(Exception):
    """Why a packet is no segment."""


def segment(link_type: int, data: bytes) -> Segment | str:
    """Return the TCP segment in a packet, or why there is none: `not TCP`, `IPv4 fragment`, `cut short` …"""
    found = located(link_type, data)
    return found if isinstance(found, str) else found[0]


def located(link_type: int, data: bytes) -> Located | str:
    """Return the same, with where in the packet TCP's header and the payload begin."""
    try:
        ethertype, start = _network(link_type, data)
        if ethertype == _IPV4:
            return _ipv4(data, start)
        if ethertype == _IPV6:
            return _ipv6(data, start)
    except _Passed as reason:
        return str(reason)
    except struct.error:
        return "cut short"
    return "not IP"


def _network(link_type: int, data: bytes) -> tuple[int, int]:
    """Return the Ethernet type of what the link layer carries, and where that begins."""
    if link_type == ETHERNET:
        return _untagged(data, 12)
    if link_type in (101, 228, 229):  # raw IP; 228 and 229 say which
        version = data[0] >> 4 if data else 0
        return {4: _IPV4, 6: _IPV6}.get(version, 0), 0
    if link_type == 0:  # BSD loopback: the address family in the byte order of whoever wrote the file
        family = struct.unpack_from("<I", data)[0]
        return _FAMILIES.get(family if family < 0x10000 else int.from_bytes(data[:4], "big"), 0), 4
    if link_type == 108:  # OpenBSD loopback: in network byte order
        return _FAMILIES.get(struct.unpack_from(">I", data)[0], 0), 4
    if link_type == 113:  # Linux cooked, version 1
        return _untagged(data, 14)
    if link_type == 276:  # Linux cooked, version 2
        ethertype: int = _U16.unpack_from(data)[0]
        return _untagged(data, 22) if ethertype in _TAGS else (ethertype, 20)
    raise _Passed(f"link type {link_type}")


def _untagged(data: bytes, position: int) -> tuple[int, int]:
    """Return the Ethernet type at `position`, behind the VLAN tags there, and where what it names begins."""
    ethertype: int = _U16.unpack_from(data, position)[0]
    while ethertype in _TAGS:
        position += 4
        ethertype = _U16.unpack_from(data, position)[0]
    return ethertype, position + 2


def _ipv4(data: bytes, start: int) -> Located | str:
    version, total, fragment, protocol, addresses = _IPV4_HEADER.unpack_from(data, start)
    header = (version & 15) * 4
    if version >> 4 != 4 or header < 20:
        return "malformed IPv4 header"
    if protocol != _TCP:
        return "not TCP"
    if fragment & 0x3FFF:
        return "IPv4 fragment"
    # A total length of 0 is a packet that the network card would have cut up or put together.
    end = start + total if total else len(data)
    return _tcp(data, start + header, end, addresses)


def _ipv6(data: bytes, start: int) -> Located | str:
    version, length, following, addresses = _IPV6_HEADER.unpack_from(data, start)
    if version >> 28 != 6:
        return "malformed IPv6 header"
    position = start + 40
    end = position + length if length else len(data)
    while following in _EXTENSIONS or following == _AUTHENTICATION:
        inner, words = data[position : position + 2].ljust(2, b"\0")
        if position + 2 > len(data):
            return "cut short"
        position += (words + 2) * 4 if following == _AUTHENTICATION else (words + 1) * 8
        following = inner
    if following == _FRAGMENT:
        return "IPv6 fragment"
    if following != _TCP:
        return "not TCP"
    return _tcp(data, position, end, addresses)


def _tcp(data: bytes, start: int, end: int, addresses: bytes) -> Located | str:
    ports, sequence, acknowledgement, words, flags = _TCP_HEADER.unpack_from(data, start)
    begin = start + (words >> 4) * 4
    if begin < start + 20 or begin > end:
        return "malformed TCP header"
    payload = data[begin:end]
    missing = end - begin - len(payload)
    return Segment(addresses + ports, sequence, acknowledgement, flags, payload, missing), start, begin
