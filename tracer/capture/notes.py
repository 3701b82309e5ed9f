"""Facts about a whole capture, which its recorder notes in the file: JSON objects, in words.

They are comments of interface statistics, which other readers show as comments. `podwire` tells what kind a note is:

    clock set   by_ns: the wall clock went on by so much more than the capture's times; said from 100 ms on
    paused      from_ns, to_ns, bytes, connections, lines (of logs): what was dropped in a time without room on the disk
    log ended   why: from here on the capture has no more lines of the log that was recorded beside the traffic
"""

from __future__ import annotations

from collections.abc import Mapping

from tracer.capture.peers import number_of, text_of
from tracer.output.units import counted, duration, size

_SAID_NS = 100_000_000
"""A wall clock that is off by less has been kept in step, by NTP or by a hypervisor; nobody wants to hear of it."""


def note_text(about: Mapping[str, object]) -> str:
    """Return what a note says; empty if it is none that is known."""

    def number(key: str) -> int:
        return number_of(about.get(key)) or 0

    kind = about.get("podwire")
    if kind == "clock set":
        by_ns = number("by_ns")
        if abs(by_ns) < _SAID_NS:
            return ""
        way = "forward" if by_ns >= 0 else "back"
        return f"the clock was set {way} by {duration(abs(by_ns))}: the times here do not follow it"
    if kind == "paused":
        for_ns = max(0, number("to_ns") - number("from_ns"))
        whole = number("connections")
        text = f"paused for {duration(for_ns)} for want of room on the disk: {size(number('bytes'))} of traffic"
        if whole:
            text += f" and {counted(whole, 'whole connection')}"
        if lines := number("lines"):
            text += f" and {counted(lines, 'line')} of logs"
        return f"{text} missing"
    if kind == "log ended":
        return f"no more lines of the log: {text_of(about.get('why'))}"
    return ""
