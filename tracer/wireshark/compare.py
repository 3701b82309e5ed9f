"""podwire's reading of a capture beside tshark's: what differs, call by call, with both readings.

In: two tables of readings. Out: differences. Values that repeat are compared without their order, which tshark's JSON
does not keep.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import NamedTuple

from tracer.wireshark.readings import Dynamic, Key, Message, Reading

SIDES = ("request", "response")
Show = Callable[[Dynamic], str]


class Difference(NamedTuple):
    """One thing that the two do not agree on."""

    where: str
    podwire: str
    tshark: str


def compare(ours: dict[Key, Reading], theirs: dict[Key, Reading], *, show_secrets: bool = False) -> list[Difference]:
    """Return all differences, in the order of podwire's calls. Texts in messages are told by their length alone unless
    `show_secrets`: any may be one."""
    show = _show if show_secrets else _show_no_text
    found: list[Difference] = []
    for key, call in ours.items():
        other = theirs.get(key)
        where = _name(key, call)
        if other is None:
            found.append(Difference(where, "a call", "none"))
            continue
        for what in ("service", "method", "status", "client"):
            one, two = getattr(call, what), getattr(other, what)
            if one != two:
                found.append(Difference(f"{where}: {what}", _show(one), _show(two)))
        for side in (0, 1):
            found += _messages(f"{where}: {SIDES[side]}", show, call.whole, call.sides[side], other.sides[side])
    for key, other in theirs.items():
        if key not in ours:
            found.append(Difference(_name(key, other), "none", "a call"))
    return found


def _messages(where: str, show: Show, whole: bool, ours: list[Message], theirs: list[Message]) -> list[Difference]:
    if not whole:  # of a long stream podwire keeps the first and the last
        return []
    found: list[Difference] = []
    if len(ours) != len(theirs):
        found.append(Difference(f"{where}s", f"{len(ours)} messages", f"{len(theirs)} messages"))
    for number, (one, two) in enumerate(zip(ours, theirs, strict=False), 1):
        if one.length != two.length:
            found.append(Difference(f"{where} {number}: length", str(one.length), str(two.length)))
        if one.body is not None:
            found += _values(f"{where} {number}", show, one.body, two.body)
    return found


def _values(where: str, show: Show, ours: Dynamic, theirs: Dynamic) -> list[Difference]:
    """Go down to what differs."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found: list[Difference] = []
        for name in [*ours, *(name for name in theirs if name not in ours)]:
            if name in ("error", "guess"):
                continue  # podwire's words, not the wire's
            if name == "@unknown" and name in ours and name in theirs:
                fields = [each.get("field") for each in ours[name]]
                found += _values(f"{where} {name}", show, sorted(fields), sorted(theirs[name]))
                continue
            if name not in ours or name not in theirs:
                found.append(Difference(f"{where} {name}", show(ours.get(name)), show(theirs.get(name))))
                continue
            found += _values(f"{where} {name}", show, ours[name], theirs[name])
        return found
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = zip(sorted(ours, key=_show), sorted(theirs, key=_show), strict=True)
        return [
            each for number, (one, two) in enumerate(pairs, 1) for each in _values(f"{where} {number}", show, one, two)
        ]
    if isinstance(ours, float) and isinstance(theirs, float) and math.isclose(ours, theirs, rel_tol=1e-5):
        return []  # tshark prints six digits
    return [] if ours == theirs else [Difference(where, show(ours), show(theirs))]


def _show(value: Dynamic) -> str:
    return "nothing" if value is None else json.dumps(value, sort_keys=True)


def _show_no_text(value: Dynamic) -> str:
    if isinstance(value, str) and not value.removeprefix("-").isdecimal():
        return f"a text of {len(value)} characters"
    if isinstance(value, dict | list):
        return f"{type(value).__name__} of {len(value)}"
    return _show(value)


def _name(key: Key, call: Reading) -> str:
    first, second, channel, stream = key
    inside = f" channel {channel}" if channel else ""
    return f"{call.service or '?'}/{call.method or '?'} ({first} – {second}{inside} stream {stream})"
