"""Plain pcap files (draft-ietf-opsawg-pcap): bytes of a file come in, in any pieces; packets and notices go out.

Micro- and nanoseconds, both byte orders. A record has no length of its whole that could be checked, so after one that
can't be true there is no way on. Files, compression and what a packet contains are not its matter.
"""

from __future__ import annotations

import struct
from typing import Final

from tracer.capture.packets import MAX_RECORD, Interface, Notice, Packet

MAGICS: Final[dict[bytes, tuple[str, int]]] = {
    b"\xd4\xc3\xb2\xa1": ("<", 1_000),
    b"\xa1\xb2\xc3\xd4": (">", 1_000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
"""The first four bytes, to the byte order and the nanoseconds in the unit of a time's second part."""

MODIFIED: Final = frozenset({b"\x34\xcd\xb2\xa1", b"\xa1\xb2\xcd\x34"})
"""The first four bytes of Alexey Kuznetsov's variant, whose record headers are longer. It is not read."""

_HEADER_SIZE = 24
_RECORD_SIZE = 16
_new = tuple.__new__


class PcapReader:
    """Read one file of pcap. `feed` what was read, in order; `close` at its end.

    The file's first four bytes must be in `MAGICS`: `feed` raises KeyError if they are not.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._wanted = _HEADER_SIZE
        self._offset = 0
        self._ended = False
        self._record: struct.Struct | None = None
        self._unit = 1
        self._interface = Interface(0, "", "", 0, {})
        self._packets = 0

    def feed(self, data: bytes) -> list[Packet | Notice]:
        """Return what these bytes completed, in order. After a fatal notice all is ignored."""
        found: list[Packet | Notice] = []
        if self._ended:
            return found
        self._rest += data
        if len(self._rest) < self._wanted:
            return found
        data = bytes(self._rest)
        self._rest.clear()
        position = 0
        if self._record is None:
            self._header(data)
            position = _HEADER_SIZE
        position = self._records(data, position, found)
        self._offset += position
        if not self._ended:
            self._rest += memoryview(data)[position:]
        return found

    def close(self) -> list[Notice]:
        """Tell that the file ends here; return the notice of a record, or file header, that is cut."""
        if self._ended or not self._rest:
            return []
        self._ended = True
        what = "a packet" if self._record else "its header"
        text = f"the file is cut in the middle of {what} ({len(self._rest)} of {self._wanted} bytes of it are there)"
        return [Notice(self._offset, text, fatal=True)]

    def _header(self, data: bytes) -> None:
        """File header: magic, version, two unused words, snap length, link type (its high bits tell of the FCS)."""
        order, self._unit = MAGICS[data[:4]]
        self._record = struct.Struct(order + "4I")  # seconds, second part, captured, original
        link_type = struct.unpack_from(order + "I", data, 20)[0] & 0x03FF_FFFF
        self._interface = Interface(0, "", "", link_type, {})

    def _records(self, data: bytes, position: int, found: list[Packet | Notice]) -> int:
        """Append the packets that are complete from `position` on; return where they end."""
        assert self._record is not None
        unpack, unit, interface = self._record.unpack_from, self._unit, self._interface
        size, base, number = len(data), self._offset, self._packets
        self._wanted = _RECORD_SIZE
        while size - position >= _RECORD_SIZE:
            seconds, part, captured, original = unpack(data, position)
            start = position + _RECORD_SIZE
            end = start + captured
            if end > size:
                if captured > MAX_RECORD:
                    text = f"a packet of {captured} bytes is longer than is read ({MAX_RECORD}): no way to go on"
                    found.append(Notice(base + position, text, fatal=True))
                    self._ended = True
                self._wanted = _RECORD_SIZE + captured
                break
            number += 1
            time_ns = seconds * 1_000_000_000 + part * unit
            payload, missing = data[start:end], max(0, original - captured)
            packet = (number, time_ns, interface, interface.link_type, payload, "", 0, base + position, missing)
            found.append(_new(Packet, packet))
            position = end
        self._packets = number
        return position
