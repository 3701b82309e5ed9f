"""pcapng (draft-ietf-opsawg-pcapng): bytes of a file come in, in any pieces; packets and notices go out.

Both byte orders, several sections, Enhanced, Simple and old Packet Blocks, names of addresses, lines of logs, and what
a recorder of ours noted. Every other block is passed over. What is malformed becomes a `Notice` with its offset, and
the reading goes on behind the block unless its length can't be trusted. Files, compression and what a packet contains
are not its matter.

The layouts are those of `blocks`; here they are read by `struct`, which takes a fiftieth of the time.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

from tracer.capture import bundle, journal
from tracer.capture.notes import note_text
from tracer.capture.packets import MAX_RECORD, Interface, Notice, Packet
from tracer.capture.peers import read_comment

MAX_INTERFACES: Final = 1 << 16
"""Of one section. Ours has one a socket; a file of nothing but interfaces must not fill the memory."""
MAX_NAMES: Final = 1 << 18
"""Of one section: twice the addresses that the writer has."""

_SECTION_HEADER = 0x0A0D0D0A
_MAGIC = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}

_new = tuple.__new__  # skips the keyword handling of a NamedTuple's own constructor: half the cost a packet


class _Layouts(NamedTuple):
    """The fixed parts of the blocks in one byte order (fields as in `blocks`)."""

    block: struct.Struct
    """type, total length"""
    section: struct.Struct
    """type, total length, magic, major, minor, section length"""
    interface: struct.Struct
    """link type, reserved, snap length"""
    enhanced: struct.Struct
    """type, total length, interface, time high, time low, captured, original"""
    old: struct.Struct
    """interface, drops, time high, time low, captured, original"""
    item: struct.Struct
    """code, length"""
    u32: struct.Struct
    u64: struct.Struct
    i64: struct.Struct


def _layouts(order: str) -> _Layouts:
    formats = ("II", "IIIHHq", "HHI", "7I", "HHIIII", "HH", "I", "Q", "q")
    return _Layouts(*(struct.Struct(order + form) for form in formats))


_LAYOUTS = {order: _layouts(order) for order in "<>"}


class _Source(NamedTuple):
    """An interface of the section, with how to read its times: ticks * multiplier // divisor + offset = nanoseconds."""

    interface: Interface
    snap_length: int
    multiplier: int
    divisor: int
    offset_ns: int
    nanoseconds: bool
    """The ticks are nanoseconds as they are."""


class PcapngReader:
    """Read one file of pcapng. `feed` what was read, in order; `close` at its end."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._wanted = 0
        self._offset = 0
        self._ended = False
        self._layouts = _LAYOUTS["<"]
        self._sources: list[_Source] = []
        self._names: dict[str, str] = {}
        self._interfaces = 0
        self._packets = 0
        self._strangers = False

    def feed(self, data: bytes) -> list[Packet | Notice]:
        """Return what these bytes completed, in order. Never raises on content; after a fatal notice all is ignored."""
        found: list[Packet | Notice] = []
        if self._ended:
            return found
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return found
            data = bytes(self._rest)
            self._rest.clear()
        size, position, base = len(data), 0, self._offset
        enhanced, u32 = self._layouts.enhanced.unpack_from, self._layouts.u32.unpack_from
        append, number, sources = found.append, self._packets, self._sources
        while size - position >= 12:
            # The packets of a capture, but for the few with a comment or with a time that is not in nanoseconds.
            if size - position >= 32:
                kind, length, which, high, low, captured, original = enhanced(data, position)
                end = position + length
                if (
                    kind == 6
                    and length == 32 + (captured + 3 & ~3)
                    and end <= size
                    and length <= MAX_RECORD
                    and which < len(sources)
                    and u32(data, end - 4)[0] == length
                ):
                    interface, _, _, _, _, nanoseconds = sources[which]
                    if nanoseconds:
                        number += 1
                        start = position + 28
                        packet = (
                            number,
                            high << 32 | low,
                            interface,
                            interface.link_type,
                            data[start : start + captured],
                            "",
                            0,
                            base + position,
                            original - captured if original > captured else 0,
                        )
                        append(_new(Packet, packet))
                        position = end
                        continue
            self._packets = number
            taken = self._block(data, position, found)
            number = self._packets
            if not taken:
                break
            position += taken
            enhanced, u32 = self._layouts.enhanced.unpack_from, self._layouts.u32.unpack_from
            sources = self._sources
        else:
            self._wanted = 12
        self._packets = number
        self._offset = base + position
        if not self._ended:
            self._rest += memoryview(data)[position:]
        return found

    def unread(self) -> int:
        """Take back the block that is not all there; return how many bytes of it there are, to be fed again."""
        count = len(self._rest)
        self._rest.clear()
        self._wanted = 0
        return count

    def close(self) -> list[Notice]:
        """Tell that the file ends here; return the notice of a block that is cut."""
        if self._ended or not self._rest:
            return []
        self._ended = True
        wanted = f" of {self._wanted}" if self._wanted > 12 else ""
        text = f"the file is cut in the middle of a block ({len(self._rest)}{wanted} bytes of it are there)"
        return [Notice(self._offset, text, fatal=True)]

    def _block(self, data: bytes, position: int, found: list[Packet | Notice]) -> int:
        """Read one block of any type. Return its length; 0 if it is fatal or not all there (`_wanted` is how much)."""
        offset = self._offset + position
        if data.startswith(b"\n\r\r\n", position) and not self._byte_order(data, position + 8, offset, found):
            return 0
        length: int
        kind, length = self._layouts.block.unpack_from(data, position)
        if length < 12 or length % 4:
            return self._fatal(offset, f"a block can't be {length} bytes long", found)
        if length > MAX_RECORD:
            return self._fatal(offset, f"a block of {length} bytes is longer than is read ({MAX_RECORD})", found)
        if len(data) - position < length:
            self._wanted = length
            return 0
        end = position + length - 4
        again = self._layouts.u32.unpack_from(data, end)[0]
        if again != length:
            found.append(Notice(offset, f"a block is {length} bytes long at its start and {again} at its end", False))
        start = position + 8
        if kind == _SECTION_HEADER:
            return length if self._section(data, position, offset, length, found) else 0
        if kind == 1:
            self._interface(data, start, end, offset, found)
        elif kind == 6:
            self._enhanced(data, start, end, offset, found)
        elif kind == 2:
            self._old(data, start, end, offset, found)
        elif kind == 3:
            self._simple(data, start, end, offset, found)
        elif kind == 4:
            self._name_resolution(data, start, end, offset, found)
        elif kind == bundle.BLOCK_TYPE:
            self._bundle(data[start:end], offset, found)
        elif kind == journal.BLOCK_TYPE:
            self._log(data[start:end], offset, found)
        elif kind == 5:
            self._statistics(data, start, end, offset, found)
        return length

    def _fatal(self, offset: int, text: str, found: list[Packet | Notice]) -> int:
        self._ended = True
        found.append(Notice(offset, text, fatal=True))
        return 0

    def _byte_order(self, data: bytes, position: int, offset: int, found: list[Packet | Notice]) -> bool:
        """Take the byte order of the section that begins here (§4.1)."""
        order = _MAGIC.get(data[position : position + 4])
        if order is None:
            return bool(self._fatal(offset, "a section header without a byte order mark", found))
        self._layouts = _LAYOUTS[order]
        return True

    def _section(self, data: bytes, position: int, offset: int, length: int, found: list[Packet | Notice]) -> bool:
        """Begin a section: its interfaces and names are its own (§4.1)."""
        if length < 28:
            return bool(self._fatal(offset, "a section header is cut short", found))
        _, _, _, major, minor, _ = self._layouts.section.unpack_from(data, position)
        if major != 1:
            return bool(self._fatal(offset, f"version {major}.{minor} of pcapng is not known", found))
        self._sources, self._names, self._strangers = [], {}, False
        return True

    def _interface(self, data: bytes, start: int, end: int, offset: int, found: list[Packet | Notice]) -> None:
        """Interface Description Block (§4.2)."""
        if end - start < 8:
            found.append(Notice(offset, "an interface description is cut short", False))
            return
        if len(self._sources) == MAX_INTERFACES:
            return
        link_type, _, snap_length = self._layouts.interface.unpack_from(data, start)
        name = description = ""
        multiplier, divisor, offset_ns = 1_000, 1, 0  # microseconds unless it says otherwise
        for code, value in self._options(data, start + 8, end, offset, found):
            if code == 2:
                name = value.decode("utf-8", "replace")
            elif code == 3:
                description = value.decode("utf-8", "replace")
            elif code == 9 and len(value) == 1:
                multiplier, divisor = _resolution(value[0])
            elif code == 14 and len(value) == 8:
                offset_ns = self._layouts.i64.unpack(value)[0] * 1_000_000_000
        interface = Interface(self._interfaces, name, description, link_type, self._names)
        plain = multiplier == divisor == 1 and not offset_ns
        self._sources.append(_Source(interface, snap_length, multiplier, divisor, offset_ns, plain))
        self._interfaces += 1

    def _enhanced(self, data: bytes, start: int, end: int, offset: int, found: list[Packet | Notice]) -> None:
        """Enhanced Packet Block (§4.3)."""
        if end - start < 20:
            found.append(Notice(offset, "a packet block is cut short", False))
            return
        _, _, which, high, low, captured, original = self._layouts.enhanced.unpack_from(data, start - 8)
        self._packet(data, (start + 20, end), which, high << 32 | low, (captured, original), 0, offset, found)

    def _old(self, data: bytes, start: int, end: int, offset: int, found: list[Packet | Notice]) -> None:
        """Packet Block, obsolete (appendix A)."""
        if end - start < 20:
            found.append(Notice(offset, "a packet block is cut short", False))
            return
        which, drops, high, low, *sizes = self._layouts.old.unpack_from(data, start)
        dropped = 0 if drops == 0xFFFF else drops
        self._packet(data, (start + 20, end), which, high << 32 | low, (sizes[0], sizes[1]), dropped, offset, found)

    def _simple(self, data: bytes, start: int, end: int, offset: int, found: list[Packet | Notice]) -> None:
        """Simple Packet Block (§4.4): of the first interface, without a time, cut at its snap length."""
        if end - start < 4:
            found.append(Notice(offset, "a packet block is cut short", False))
            return
        captured = original = self._layouts.u32.unpack_from(data, start)[0]
        if self._sources and self._sources[0].snap_length:
            captured = min(captured, self._sources[0].snap_length)
        self._packet(data, (start + 4, end), 0, None, (captured, original), 0, offset, found)

    def _packet(
        self,
        data: bytes,
        span: tuple[int, int],
        which: int,
        ticks: int | None,
        sizes: tuple[int, int],
        dropped: int,
        offset: int,
        found: list[Packet | Notice],
    ) -> None:
        """Append the packet whose bytes, and then options, lie in `span`; `sizes`: as captured, and as it was."""
        start, end = span
        captured, original = sizes
        if captured > end - start:
            text = f"a packet of {captured} bytes in a block with room for {end - start}"
            found.append(Notice(offset, text, False))
            return
        if which >= len(self._sources):
            if not self._strangers:
                text = f"packets of interface {which}, which the file does not describe, are passed over"
                found.append(Notice(offset, text, False))
            self._strangers = True
            return
        source = self._sources[which]
        comments = []
        for code, value in self._options(data, start + (captured + 3 & ~3), end, offset, found):
            if code == 1:
                comments.append(value.decode("utf-8", "replace"))
            elif code == 4 and len(value) == 8:
                dropped = self._layouts.u64.unpack(value)[0]
        time_ns = 0 if ticks is None else ticks * source.multiplier // source.divisor + source.offset_ns
        self._packets += 1
        interface, comment = source.interface, "\n".join(comments)
        payload = data[start : start + captured]
        missing = max(0, original - captured)
        about = (self._packets, time_ns, interface, interface.link_type)
        found.append(Packet(*about, payload, comment, dropped, offset, missing))

    def _bundle(self, body: bytes, offset: int, found: list[Packet | Notice]) -> None:
        kept = bundle.parse_block(body)
        if kept is None:
            found.append(Notice(offset, "a bundle's block cannot be read", False))
        else:
            found.append(Notice(offset, f"the bundle {kept.path}", False, kept))

    def _log(self, body: bytes, offset: int, found: list[Packet | Notice]) -> None:
        """systemd Journal Export Block (§4.7)."""
        entry = journal.parse_block(body)
        text = "a line of a log" if entry is not None else "a log line's block cannot be read"
        found.append(Notice(offset, text, False, entry=entry))

    def _name_resolution(self, data: bytes, start: int, end: int, offset: int, found: list[Packet | Notice]) -> None:
        """Name Resolution Block (§4.5): the first name of each address."""
        for kind, value in self._options(data, start, end, offset, found):
            width = {1: 4, 2: 16}.get(kind)
            if width is None or len(value) <= width or len(self._names) == MAX_NAMES:
                continue
            family = socket.AF_INET if width == 4 else socket.AF_INET6
            name = value[width:].split(b"\0", 1)[0].decode("utf-8", "replace")
            self._names[socket.inet_ntop(family, value[:width])] = name

    def _statistics(self, data: bytes, start: int, end: int, offset: int, found: list[Packet | Notice]) -> None:
        """Interface Statistics Block (§4.6): its comment, if that is a note of ours."""
        for code, value in self._options(data, start + 12, end, offset, found):
            if code == 1 and (text := note_text(read_comment(value.decode("utf-8", "replace")))):
                found.append(Notice(offset, text, fatal=False))

    def _options(
        self, data: bytes, start: int, end: int, offset: int, found: list[Packet | Notice]
    ) -> list[tuple[int, bytes]]:
        """Return the options (§3.5) that lie between `start` and `end`, up to the one that ends them."""
        options = []
        while end - start >= 4:
            code, length = self._layouts.item.unpack_from(data, start)
            start += 4
            if code == 0:
                break
            if length > end - start:
                found.append(Notice(offset, f"option {code} runs over the end of its block", False))
                break
            options.append((code, data[start : start + length]))
            start += length + 3 & ~3
        return options


def _resolution(value: int) -> tuple[int, int]:
    """Return multiplier and divisor that make nanoseconds of ticks (if_tsresol, §4.2: a power of 10, or of 2)."""
    if value & 0x80:
        return 1_000_000_000, 1 << (value & 0x7F)
    return (10 ** (9 - value), 1) if value <= 9 else (1, 10 ** (value - 9))
