"""A rendered message as lines for people, in the manner of YAML. In: a tree of values. Out: lines, nothing escaped."""

from __future__ import annotations

from collections.abc import Callable

from dissectors.json_value import JSONObject, JSONValue, parse_json

TEXT_LIMIT = 1024
"""Bytes of a bytes field that are shown as text."""
HEX_LIMIT = 64
"""Bytes of a bytes field that are shown in hexadecimal."""
JSON_LIMIT = 1 << 16
"""Bytes of a bytes field that are looked at for JSON; that of a string is, however long."""
_DEEPEST = 64
"""Spaces before a line whose text is still looked at for JSON in JSON: with that it ends."""
_LINE = 100
"""A list of plain values goes on one line if it fits into this."""
_LAYOUT = str.maketrans("", "", "\t\n\r")


Explain = Callable[[JSONValue], JSONValue]


class Bare(str):
    """Text that is shown without quotes, since it is no string of the message."""


def _as_it_is(value: JSONValue) -> JSONValue:
    return value


def bytes_text(data: bytes) -> str:
    """Return bytes as text where they are text, else in hexadecimal; cut where they are long, and then with a count.

    JSON comes out as a plain string, which is shown as the tree that it is.
    """
    if data[:1] in (b"{", b"[") and len(data) <= JSON_LIMIT:
        text = data.decode("utf-8", "replace")
        if json_in(text) is not None:
            return text
    head = data[:TEXT_LIMIT]
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The cut may have gone through a character: that is no fault of the text.
        cut_short = len(data) > TEXT_LIMIT and error.reason == "unexpected end of data"
        text = head[: error.start].decode("utf-8") if cut_short else ""
    if text and text.translate(_LAYOUT).isprintable():
        return Bare(f'"{text}"' if len(data) <= TEXT_LIMIT else f'"{text}"… ({len(data)} bytes)')
    if not data:
        return Bare('""')
    return Bare(f"0x{data[:HEX_LIMIT].hex()}{'…' if len(data) > HEX_LIMIT else ''} ({len(data)} bytes)")


def json_in(text: str) -> JSONValue:
    """Return the JSON object or list that a text is, whole; None for any other text, and for empty ones."""
    if not ((text.startswith("{") and text.endswith("}")) or (text.startswith("[") and text.endswith("]"))):
        return None
    try:
        return parse_json(text.encode("utf-8", "replace")) or None
    except ValueError:
        return None


def text_lines(tree: JSONObject, indent: int, explain: Explain = _as_it_is) -> list[str]:
    """Return the lines of a message. `explain` takes JSON that was found in a text and returns what is shown of it."""
    lines: list[str] = []
    for key, value in tree.items():
        _entry(key, value, " " * indent, lines, explain)
    return lines


def _entry(key: str, value: JSONValue, pad: str, lines: list[str], explain: Explain) -> None:
    if type(value) is str and value[:1] in ("{", "[") and len(pad) <= _DEEPEST:
        inside = json_in(value)
        if inside is not None:
            key, value = f"{key} (JSON)", explain(inside)
    if isinstance(value, dict) and value:
        kind = value.get("@type")
        lines.append(f"{pad}{key}:" if kind is None else f"{pad}{key}: ({kind})")
        for name, item in value.items():
            if name != "@type":
                _entry(name, item, pad + "  ", lines, explain)
    elif isinstance(value, list) and value:
        _list(f"{key}:", value, pad, lines, explain)
    else:
        lines.append(f"{pad}{key}: {_plain(value)}")


def _list(head: str, values: list[JSONValue], pad: str, lines: list[str], explain: Explain) -> None:
    if not any(isinstance(value, dict | list) for value in values):
        line = f"{pad}{head} [{', '.join(map(_plain, values))}]"
        if len(line) <= _LINE:
            lines.append(line)
            return
    lines.append(f"{pad}{head}")
    for value in values:
        if isinstance(value, list) and value:
            _list("-", value, pad + "  ", lines, explain)
        elif isinstance(value, dict) and value:
            start = len(lines)
            for name, item in value.items():
                _entry(name, item, pad + "    ", lines, explain)
            # The dash stands in the first line's indent.
            lines[start] = f"{pad}  - {lines[start][len(pad) + 4 :]}"
        else:
            lines.append(f"{pad}  - {_plain(value)}")


def _plain(value: JSONValue) -> str:
    if isinstance(value, Bare):
        return value
    if isinstance(value, str):
        return f'"{value}"'
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return "{}" if isinstance(value, dict) else "[]"
    return str(value)
