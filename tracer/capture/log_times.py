"""The times that lines of logs have in themselves: containerd's and CRI-O's (logfmt), kubelet's (klog), JSON of both.

They are when a line was made. A journal's are when journald came to read it, some milliseconds later, and are often the
same for several lines.
"""

from __future__ import annotations

import calendar
import re
import time
from typing import Final

_STAMP: Final = (
    rb"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9})\d*)?(?: ?(?:Z|UTC)|([+-])(\d\d):?(\d\d))?"
)
LOGFMT: Final = re.compile(rb'time="?' + _STAMP)
_JSON: Final = re.compile(rb'"time":"' + _STAMP)
_JSON_NUMBER: Final = re.compile(rb'"ts":(\d{10,13})(?:\.(\d{1,9})\d*)?[,}]')
"""kubelet's, in seconds or milliseconds."""
KLOG: Final = re.compile(rb"[IWEF](\d\d)(\d\d) (\d\d):(\d\d):(\d\d)\.(\d{6})\s+(\d+)\s")
_DAY: Final = 86_400


def own_time(line: bytes) -> int | None:
    """Return the time that a line has, in nanoseconds since 1970; None if it has none."""
    if match := LOGFMT.match(line):
        return logfmt_time(match)
    if match := KLOG.match(line):
        return klog_time(match)
    return _json_time(line) if line.startswith(b"{") else None


def _json_time(line: bytes) -> int | None:
    """What is in a text in JSON has its quotes escaped: these are the line's own."""
    if match := _JSON.search(line):
        return logfmt_time(match)
    number = _JSON_NUMBER.search(line)
    if number is None:
        return None
    unit = 1_000_000 if len(number[1]) == 13 else 1_000_000_000
    return int(number[1]) * unit + int((number[2] or b"0").ljust(9, b"0")) * unit // 1_000_000_000


def logfmt_time(match: re.Match[bytes]) -> int | None:
    """Return nanoseconds since 1970; None if there is no such time."""
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    try:
        seconds = calendar.timegm((year, month, day, hour, minute, second))
    except ValueError:
        return None
    if match[8]:
        east = int(match[9]) * 3600 + int(match[10]) * 60
        seconds -= east if match[8] == b"+" else -east
    return seconds * 1_000_000_000 + int((match[7] or b"0").ljust(9, b"0"))


def klog_time(match: re.Match[bytes]) -> int | None:
    """The same of klog, which writes local time without a year: it is the last one that this may be."""
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
