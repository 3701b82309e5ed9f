"""Logs that no journal has: lines as containerd, CRI-O and kubelet write them to stderr come in, entries go out.

containerd and CRI-O write logfmt (`time="…" level=info msg="…"`), kubelet klog's form (`I1129 17:13:24.123456 …`); k3s
both into one file, all of them JSON if they are told to. A line without a time belongs to the one before.
"""

from __future__ import annotations

import os
import re
from typing import Final

from protos.errors import PodwireError
from tracer.capture.journal import CUT, MAX_VALUE, TIME, Entry, ExportReader
from tracer.capture.log_times import KLOG, LOGFMT, klog_time, logfmt_time, own_time

HEAD: Final = 4096
"""So many bytes of a file say what it is."""
_EXPORT = re.compile(rb"[A-Z_][A-Z0-9_]*[=\n]")
_WRITERS: Final = ("containerd", "crio", "kubelet", "k3s", "rke2", "kata", "microk8s")
"""Names that a file may have in its own, which says who wrote it."""


def open_reader(head: bytes, path: str, *, in_midst: bool = False) -> ExportReader | LineReader:
    """Return what reads a log that begins so; `in_midst`: reading begins further on. Raises PodwireError."""
    start = head.lstrip()
    if own_time(start.partition(b"\n")[0]) is not None:
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
        self._read = 0
        self._in_midst = in_midst
        self._cut = False
        self._time_ns: int | None = None
        self.skipped = 0
        """Lines without a time."""

    def feed(self, data: bytes) -> list[Entry]:
        """Take bytes as they came; return the lines that they completed. Never raises on content."""
        found: list[Entry] = []
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            entry = self._entry(self._rest + data[start:end], self._read + end + 1)
            self._rest, start = b"", end + 1
            if entry is not None:
                found.append(entry)
        self._rest += data[start:]
        self._read += len(data)
        if len(self._rest) > MAX_VALUE:
            self._rest, self._cut = self._rest[:MAX_VALUE], True
        return found

    def close(self) -> list[Entry]:
        """Tell that no more comes: the last line may lack its end."""
        return self.feed(b"\n")

    def _entry(self, line: bytes, place: int) -> Entry | None:
        cut, self._cut = self._cut or len(line) > MAX_VALUE, False
        if self._in_midst:
            self._in_midst = False
            return None
        line = line.rstrip(b"\r")[:MAX_VALUE]
        fields: dict[str, bytes] = {}
        writer = self._writer
        if match := LOGFMT.match(line):
            writer, self._time_ns = writer or "containerd", logfmt_time(match)
        elif match := KLOG.match(line):
            writer, self._time_ns = writer or "kubelet", klog_time(match)
            fields["_PID"] = match[7]
        elif (told := own_time(line)) is not None:
            writer, self._time_ns = writer or ("kubelet" if b'"ts":' in line else "containerd"), told
        if self._time_ns is None or not line:
            self.skipped += bool(line)
            return None
        fields["__REALTIME_TIMESTAMP"] = b"%d" % (self._time_ns // 1000)
        fields["SYSLOG_IDENTIFIER"] = (writer or "log").encode()
        if cut:
            fields[CUT] = b"1"
        return Entry({**fields, TIME: b"%d" % self._time_ns, "MESSAGE": line}, place)
