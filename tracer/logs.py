"""A line of a log between the calls: what of an entry of a journal tells who wrote it, when, and how bad it is.

In: an entry. Out: a `Logged`, which a correlator may fill in further. Its message is as it was written; it is masked
and made readable where it is shown (`tracer.output.logs`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from tracer.capture.journal import CUT, Entry

if TYPE_CHECKING:
    from tracer.story.place import Container, Pod

_PRIORITIES: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
"""syslog's, by number (RFC 5424 §6.2.1)."""
_KLOG: Final = {b"I": "info", b"W": "warning", b"E": "error", b"F": "fatal"}
KLOG: Final = re.compile(rb"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d{6}\s+\d+ ")
"""How kubelet's lines begin: level, day, time, thread."""
_LEVEL: Final = re.compile(rb'(?:^|\s)level="?([A-Za-z]+)|"level":"([A-Za-z]+)')


@dataclass(slots=True, eq=False)
class Logged:
    """One line, or several that are one message."""

    time_ns: int
    source: str
    """Who wrote it: the name that it has in the journal."""
    pid: int | None
    unit: str
    """The systemd unit; empty if not known."""
    level: str
    """As it says itself; else what the journal has; empty if neither does."""
    message: bytes
    cut: bool
    """There was more than is kept."""
    pod: Pod | None = None
    """Whom it names, where somebody correlates and it is one pod alone."""
    container: Container | None = None
    kind: Literal["log"] = "log"


def logged(entry: Entry) -> Logged:
    """Return the line that an entry is."""
    message = entry.fields.get("MESSAGE", b"")
    return Logged(
        entry.time_ns or 0,
        entry.text("SYSLOG_IDENTIFIER", "_COMM", "_SYSTEMD_UNIT"),
        entry.number("_PID") or entry.number("SYSLOG_PID"),
        entry.text("_SYSTEMD_UNIT"),
        _level(message, entry.number("PRIORITY")),
        message,
        CUT in entry.fields,
    )


def _level(message: bytes, priority: int | None) -> str:
    if found := KLOG.match(message):
        return _KLOG[found[1]]
    if found := _LEVEL.search(message, 0, 200):
        return (found[1] or found[2]).decode()
    return "" if priority is None or priority >= len(_PRIORITIES) else _PRIORITIES[priority]
