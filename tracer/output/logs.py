"""Lines of logs for people: secrets masked, the time and level left out that stand elsewhere on the line.

In: a `Logged`. Out: text, escaped.
"""

from __future__ import annotations

import json
import re

from dissectors.json_value import parse_json
from dissectors.masking_text import mask_text
from tracer.logs import KLOG, Logged
from tracer.output.escape import escape

_FIELD = re.compile(rb'([\w.\-/]+)=("(?:[^"\\]|\\.)*"|[^\s"]*)(?:\s+|$)')
_ESCAPED = re.compile(rb'\\(["\\nt])')
_PLAIN = {b"n": b"\n", b"t": b"\t"}
_ELSEWHERE = frozenset({b"time", b"level"})


def shown_message(line: Logged, *, show_secrets: bool) -> bytes:
    """Return the message as it may be shown, of the same length."""
    return line.message if show_secrets else mask_text(line.message)


def line_text(line: Logged, most: int, *, show_secrets: bool) -> str:
    """Return what a line says, up to so many characters of it."""
    text = _readable(shown_message(line, show_secrets=show_secrets)).decode("utf-8", "surrogateescape")
    cut = line.cut or len(text) > most
    return escape(text[:most]) + (f" … ({len(line.message)} bytes{' and more' if line.cut else ''})" if cut else "")


def source_text(line: Logged) -> str:
    """Return who wrote it: `containerd[812]`."""
    return escape(line.source) + ("" if line.pid is None else f"[{line.pid}]")


def _readable(message: bytes) -> bytes:
    """logfmt and JSON: what it says, then its other fields, without the escapes in their quotes; klog: what follows its
    head."""
    if found := KLOG.match(message):
        return message[found.end() :]
    if message.startswith(b"{"):
        return _of_json(message)
    fields: list[tuple[bytes, bytes]] = []
    position = 0
    while position < len(message):
        each = _FIELD.match(message, position)
        if each is None:
            return message
        fields.append((each[1], each[2]))
        position = each.end()
    said = b" ".join(_value(value) for name, value in fields if name == b"msg")
    others = [name + b"=" + _quoted(value) for name, value in fields if name not in _ELSEWHERE and name != b"msg"]
    return b" ".join([said, *others] if said else others)


def _of_json(message: bytes) -> bytes:
    try:
        fields = parse_json(message)
    except ValueError:
        return message
    if not isinstance(fields, dict):
        return message
    others = [
        f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in fields.items()
        if name not in ("time", "ts", "level", "msg")
    ]
    return " ".join([str(fields["msg"]), *others] if "msg" in fields else others).encode("utf-8", "surrogatepass")


def _quoted(value: bytes) -> bytes:
    """A field's value, in quotes if it is; what these hold is not escaped twice."""
    return b'"' + _value(value) + b'"' if value.startswith(b'"') else value


def _value(value: bytes) -> bytes:
    if not value.startswith(b'"'):
        return value
    return _ESCAPED.sub(lambda found: _PLAIN.get(found[1], found[1]), value[1:-1])
