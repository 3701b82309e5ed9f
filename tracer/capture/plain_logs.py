"""Logs that no journal has: lines as containerd, CRI-O and kubelet write them to stderr come in, entries go out.

containerd and CRI-O write logfmt (`time="…" level=info msg="…"`), kubelet klog's form (`I1129 17:13:24.123456 …`); k3s
both into one file. A line with neither of these times belongs to the one before.
"""

from __future__ import annotations

import calendar
import os
import re
import time
from typing import Final

from protos.errors import PodwireError
from tracer.capture.journal import CUT, MAX_VALUE, TIME, Entry, ExportReader

HEAD: Final = 4096
"""So many bytes of a file say what it is."""
_LOGFMT = re.compile(
    rb'time="?(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9})\d*)?(?: ?(?:Z|UTC)|([+-])(\d\d):?(\d\d))?'
)
_KLOG = re.compile(rb"[IWEF](\d\d)(\d\d) (\d\d):(\d\d):(\d\d)\.(\d{6})\s+(\d+)\s")
_EXPORT = re.compile(rb"[A-Z_][A-Z0-9_]*[=\n]")
_WRITERS: Final = ("containerd", "crio", "kubelet", "k3s", "rke2", "kata", "microk8s")
"""Names that a file may have in its own, which says who wrote it."""
_DAY: Final = 86_400


def open_reader(head: bytes, path: str, *, in_midst: bool = False) -> ExportReader | LineReader:
    """Return what reads a log that begins so; `in_midst`: reading begins further on. Raises PodwireError."""
    start = head.lstrip()
    if _LOGFMT.match(start) or _KLOG.match(start):
        return LineReader(path, in_midst=in_midst)
    if _EXPORT.match(start):
        return ExportReader(in_midst=in_midst)
    raise PodwireError(
        f"--journal {path}: is no journal in the export format (journalctl -o export), nor a log of containerd, CRI-O "
        "or kubelet"
    )


class LineReader:
    """Reads such lines. What stands before the first time is passed over."""

    def __init__(self, path: str, *, in_midst: bool = False) -> None:
        name = os.path.basename(path).lower()
        self._writer = next((each for each in _WRITERS if each in name), "")
        self._rest = b""
        self._in_midst = in_midst
        self._cut = False
        self._time_ns: int | None = None
        self.skipped = 0
        """Lines without a time."""

    def feed(self, data: bytes) -> list[Entry]:
        """Take bytes as they came; return the lines that they completed. Never raises on content."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_VALUE:
            self._rest, self._cut = self._rest[:MAX_VALUE], True
        found = [self._entry(line) for line in lines]
        return [each for each in found if each is not None]

    def close(self) -> list[Entry]:
        """Tell that no more comes: the last line may lack its end."""
        return self.feed(b"\n")

    def _entry(self, line: bytes) -> Entry | None:
        cut, self._cut = self._cut or len(line) > MAX_VALUE, False
        if self._in_midst:
            self._in_midst = False
            return None
        line = line.rstrip(b"\r")[:MAX_VALUE]
        fields: dict[str, bytes] = {}
        writer = self._writer
        if match := _LOGFMT.match(line):
            writer, self._time_ns = writer or "containerd", _logfmt_time(match)
        elif match := _KLOG.match(line):
            writer, self._time_ns = writer or "kubelet", _klog_time(match)
            fields["_PID"] = match[7]
        if self._time_ns is None or not line:
            self.skipped += bool(line)
            return None
        fields["__REALTIME_TIMESTAMP"] = b"%d" % (self._time_ns // 1000)
        fields["SYSLOG_IDENTIFIER"] = (writer or "log").encode()
        if cut:
            fields[CUT] = b"1"
        return Entry({**fields, TIME: b"%d" % self._time_ns, "MESSAGE": line})


def _logfmt_time(match: re.Match[bytes]) -> int | None:
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    try:
        seconds = calendar.timegm((year, month, day, hour, minute, second))
    except ValueError:
        return None
    if match[8]:
        east = int(match[9]) * 3600 + int(match[10]) * 60
        seconds -= east if match[8] == b"+" else -east
    return seconds * 1_000_000_000 + int((match[7] or b"0").ljust(9, b"0"))


def _klog_time(match: re.Match[bytes]) -> int | None:
    """klog writes local time without a year: it is the last one that this may be."""
    month, day, hour, minute, second, micros = (int(part) for part in match.groups()[:6])
    now = time.time()
    year = time.localtime(now).tm_year
    for each in (year, year - 1):
        try:
            seconds = int(time.mktime((each, month, day, hour, minute, second, 0, 0, -1)))
        except (OverflowError, ValueError):
            return None
        if seconds <= now + _DAY:
            break
    return seconds * 1_000_000_000 + micros * 1000
