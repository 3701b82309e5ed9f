"""A journal's lines: systemd's export format comes in, in any pieces; entries go out, and blocks that keep them.

The format is what `journalctl -o export` prints (systemd, Journal Export Formats): a field a line, `NAME=value`, or
where the value may hold anything, `NAME`, its length in 64 bits, the value; an empty line ends an entry. A capture
keeps an entry in a block of pcapng's own type for it (draft-ietf-opsawg-pcapng §4.7), which Wireshark shows as a frame.

Of an entry the fields of KEPT are read and no others: command lines and the like stay out of captures.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.capture.log_times import own_time

if TYPE_CHECKING:  # it brings construct, which takes a tenth of a short command's time
    from tracer.capture.blocks import ByteOrder

BLOCK_TYPE: Final = 9

KEPT: Final = (
    "__REALTIME_TIMESTAMP",  # in front: Wireshark looks for it in what is before the first zero byte
    "__MONOTONIC_TIMESTAMP",
    "_SOURCE_REALTIME_TIMESTAMP",
    "__CURSOR",
    "_BOOT_ID",
    "_HOSTNAME",
    "_SYSTEMD_UNIT",
    "UNIT",
    "SYSLOG_IDENTIFIER",
    "_COMM",
    "_PID",
    "SYSLOG_PID",
    "PRIORITY",
    "MESSAGE",
)
TIME: Final = "PODWIRE_TIME_NS"
"""Ours, in blocks alone: when it was written, on the capture's clock."""
CUT: Final = "PODWIRE_CUT"
"""Ours, in blocks alone: the message was longer than what is kept of it."""
PLACE: Final = "PODWIRE_PLACE"
"""Ours, in blocks alone: the place in a file behind it, where whoever goes on with that file reads on."""
MAX_VALUE: Final = 64 << 10
"""Bytes kept of a field. journald takes lines of 48 KiB from its services."""
_LATE_NS: Final = 2_000_000_000
"""journald may be so late. A line's own time that is further off is of another clock, or of another zone's."""
_LONGEST: Final = 1 << 30
"""journald takes no longer field (768 MiB): a length above it is none."""

IDENTIFIERS: Final = (
    "containerd", "crio", "kubelet", "kata", "containerd-shim-kata-v2", "containerd-shim-runc-v2", "k3s", "rke2",
    "microk8s.daemon-containerd", "microk8s.daemon-kubelite", "microk8s.daemon-kubelet",
)  # fmt: skip
UNITS: Final = tuple(
    f"{name}.service"
    for name in (
        "containerd", "crio", "kubelet", "k3s", "k3s-agent", "rke2-server", "rke2-agent",
        "snap.microk8s.daemon-containerd", "snap.microk8s.daemon-kubelite", "snap.microk8s.daemon-kubelet",
    )
)  # fmt: skip
"""Who is listened to: what writes under one of these names, in one of these units, or systemd about one."""

_NAME = re.compile(rb"[A-Z_][A-Z0-9_]{0,63}")
_LENGTH = struct.Struct("<Q")
_KEPT = {name.encode(): name for name in KEPT}
_IN_BLOCKS = {name.encode(): name for name in (*KEPT, TIME, CUT, PLACE)}


class Entry(NamedTuple):
    """One line of a log, with what is kept of its fields."""

    fields: Mapping[str, bytes]
    end: int = 0
    """Bytes of what it was read from up to its end, counted from where the reading began."""

    def number(self, name: str) -> int | None:
        """A field as a number, if it is one."""
        value = self.fields.get(name, b"")
        return int(value) if value.isdigit() and len(value) < 20 else None

    def text(self, *names: str) -> str:
        """The first of these fields that is there; else an empty text."""
        for name in names:
            if value := self.fields.get(name):
                return value.decode("utf-8", "backslashreplace")
        return ""

    @property
    def time_ns(self) -> int | None:
        """When it was written: as the capture's recorder has it; as the line says itself, if that was shortly before
        journald had it; else when journald had it, or its writer sent it."""
        ours = self.number(TIME)
        if ours is not None:
            return ours
        told = self.number("_SOURCE_REALTIME_TIMESTAMP") or self.number("__REALTIME_TIMESTAMP")
        if told is None:
            return None
        own = own_time(self.fields.get("MESSAGE", b""))
        return own if own is not None and 0 <= told * 1000 + 999 - own < _LATE_NS else told * 1000

    def at(self, time_ns: int) -> Entry:
        """The same, at this time of the capture's clock."""
        return Entry({**self.fields, TIME: b"%d" % time_ns}, self.end)

    def of_runtime(self) -> bool:
        """Whether it is of one of those that are listened to."""
        if self.text("SYSLOG_IDENTIFIER") in IDENTIFIERS:
            return True
        return self.text("_SYSTEMD_UNIT") in UNITS or self.text("UNIT") in UNITS


def matches() -> list[str]:
    """Return the arguments by which journalctl gives those lines alone."""
    wanted = [[f"SYSLOG_IDENTIFIER={name}" for name in IDENTIFIERS]]
    wanted += [[f"{field}={unit}" for unit in UNITS] for field in ("_SYSTEMD_UNIT", "UNIT")]
    return [*wanted[0], "+", *wanted[1], "+", *wanted[2]]


class ExportReader:
    """Reads the export format. Memory is bounded by one entry's fields that are kept."""

    def __init__(self, *, in_midst: bool = False, of_block: bool = False) -> None:
        self.skipped = 0
        """Entries that could not be read, or have no message or no time."""
        self._kept = _IN_BLOCKS if of_block else _KEPT
        self._buffer = bytearray()
        self._before = 0
        """Bytes that were taken out of the buffer."""
        self._fields: dict[str, bytes] = {}
        self._bad = in_midst
        """Nothing is known before the next empty line. `in_midst`: so it begins."""
        self._begun = in_midst
        self._pass = 0
        """Bytes of a long value that are still to be passed over."""
        self._pass_line = False
        """What comes up to the line's end is passed over."""

    def feed(self, data: bytes) -> list[Entry]:
        """Take bytes as they came; return the entries that they completed. Never raises on content."""
        self._buffer += data
        found: list[Entry] = []
        position = 0
        while (taken := self._field(position, found)) >= 0:
            position = taken
        del self._buffer[:position]
        self._before += position
        return found

    def close(self) -> list[Entry]:
        """Tell that no more comes: the last entry may lack its empty line."""
        found = self.feed(b"\n") if self._buffer and not self._pass else []
        self._end(found, self._before)
        return found

    def _field(self, position: int, found: list[Entry]) -> int:
        """Read what begins at this place; return where the next begins, -1 if it is not all there."""
        buffer = self._buffer
        if self._pass:
            step = min(self._pass, len(buffer) - position)
            self._pass -= step
            return position + step if step else -1
        end = buffer.find(b"\n", position)
        if self._pass_line:
            self._pass_line = end < 0
            return end + 1 if end >= 0 else len(buffer) if position < len(buffer) else -1
        if end < 0:
            if len(buffer) - position <= MAX_VALUE + 80:
                return -1
            self._line(bytes(buffer[position:]), cut=True)
            self._pass_line = True
            return len(buffer)
        if end == position:
            self._end(found, self._before + end + 1)
            return end + 1
        line = bytes(buffer[position:end])
        if self._bad or b"=" in line:
            self._line(line, cut=False)
            return end + 1
        return self._binary(line, end + 1)

    def _line(self, line: bytes, *, cut: bool) -> None:
        name, equals, value = line.partition(b"=")
        if self._bad or not equals or not _NAME.fullmatch(name):
            self._begun = self._bad = True
        else:
            self._keep(name, value, cut=cut)

    def _binary(self, name: bytes, start: int) -> int:
        if not _NAME.fullmatch(name):
            self._begun = self._bad = True
            return start
        buffer = self._buffer
        if len(buffer) - start < 8:
            return -1
        length: int = _LENGTH.unpack_from(buffer, start)[0]
        start += 8
        here = min(length, MAX_VALUE)
        if len(buffer) - start <= here and length <= _LONGEST:
            return -1
        if length > _LONGEST or (length == here and buffer[start + length] != 0x0A):
            self._begun = self._bad = True
            return start
        self._keep(name, bytes(buffer[start : start + here]), cut=length > here)
        self._pass = length + 1 - here
        return start + here

    def _keep(self, name: bytes, value: bytes, *, cut: bool) -> None:
        self._begun = True
        kept = self._kept.get(name)
        if kept is not None and kept not in self._fields:
            self._fields[kept] = value[:MAX_VALUE]
            if kept == "MESSAGE" and (cut or len(value) > MAX_VALUE):
                self._fields[CUT] = b"1"

    def _end(self, found: list[Entry], place: int) -> None:
        entry = Entry(self._fields, place)
        if not self._bad and "MESSAGE" in self._fields and entry.time_ns is not None:
            found.append(entry)
        elif self._begun:
            self.skipped += 1
        self._fields, self._bad, self._begun = {}, False, False


def build_entry(entry: Entry) -> bytes:
    """Return an entry in the export format, without the empty line at its end."""
    parts = []
    for name in (*KEPT, TIME, CUT, PLACE):
        value = entry.fields.get(name)
        if value is None:
            continue
        if b"\n" in value or b"\0" in value:
            parts.append(name.encode() + b"\n" + _LENGTH.pack(len(value)) + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)


def build_block(entry: Entry, order: ByteOrder = "little") -> bytes:
    """Return the block that keeps an entry."""
    body = build_entry(entry)
    body += bytes(-len(body) % 4)
    length = (len(body) + 12).to_bytes(4, order)
    return BLOCK_TYPE.to_bytes(4, order) + length + body + length


def parse_block(body: bytes) -> Entry | None:
    """Return the entry in a block's body; None if there is none that can be read."""
    reader = ExportReader(of_block=True)
    found = reader.feed(body.rstrip(b"\0") + b"\n\n")
    return Entry(found[0].fields) if len(found) == 1 and not reader.skipped else None
