"""A message as a tree whose nodes know their bytes.

In: a type's name and a payload. Out: nodes, each with what it says, its raw value where that says more, and the range
of the payload that it was read from. The wire is walked by hand: protobuf's parser forgets where a field lay. What
does not parse becomes a node that says so, and the walk goes on behind it where the wire lets it. It never raises on
content. All text in nodes is escaped.
"""

from __future__ import annotations

import json
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as F

from dissectors.json_value import JSON_TYPE_URLS, JSONValue, parse_json
from dissectors.well_known import duration_text, shortest_float, timestamp_text
from protos.registry import Registry
from tracer.output.escape import escape

MOST_DEPTH = 60
"""Messages in messages that are walked; deeper ones are bytes."""
MOST_NODES = 20_000
"""Nodes of one message; what is behind is one node that says so."""
MOST_TEXT = 2000
"""Characters of a value on a line."""

_VARINTS = frozenset(
    {
        F.TYPE_INT32,
        F.TYPE_INT64,
        F.TYPE_UINT32,
        F.TYPE_UINT64,
        F.TYPE_SINT32,
        F.TYPE_SINT64,
        F.TYPE_BOOL,
        F.TYPE_ENUM,
    }
)
_WORDS = {F.TYPE_FIXED32: "<I", F.TYPE_SFIXED32: "<i", F.TYPE_FLOAT: "<f"}
_LONGS = {F.TYPE_FIXED64: "<Q", F.TYPE_SFIXED64: "<q", F.TYPE_DOUBLE: "<d"}


@dataclass(slots=True)
class Node:
    """A field, a message, or a piece of either."""

    name: str
    value: str = ""
    raw: str = ""
    """What stood on the wire, where `value` says what it means."""
    start: int = 0
    end: int = 0
    """Its bytes in the payload, the field's tag among them."""
    children: list[Node] = field(default_factory=list)
    wrong: bool = False
    """It is not what the schema says."""


class _Cut(Exception):
    """The bytes end, or are none of the wire's."""


class TreeMaker:
    """Makes trees with the schemas of one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._left = 0

    def tree(self, type_name: str, payload: bytes) -> list[Node]:
        """Return the fields of a message, in the order of the wire. An unknown type is walked by its wire types."""
        self._left = MOST_NODES
        return self._message(self._descriptor(type_name), payload, 0, len(payload), 0)

    def _descriptor(self, type_name: str) -> Any:  # noqa: ANN401 # descriptors of private pools have no usable type
        if type_name and self._registry.has_message(type_name):
            return self._registry.message_class(type_name).DESCRIPTOR
        return None

    def _message(self, descriptor: Any, data: bytes, start: int, end: int, depth: int) -> list[Node]:  # noqa: ANN401
        nodes: list[Node] = []
        at = start
        while at < end:
            if self._left <= 0:
                nodes.append(Node("…", f"{end - at} bytes more: too many fields to show", start=at, end=end))
                break
            self._left -= 1
            try:
                node = self._field(descriptor, data, at, end, depth)
            except _Cut as reason:
                what = f"does not parse: {reason}: {_bytes(data[at:end])}"
                nodes.append(Node("!", what, start=at, end=end, wrong=True))
                break
            nodes.append(node)
            at = node.end
        return nodes

    def _field(self, descriptor: Any, data: bytes, at: int, end: int, depth: int) -> Node:  # noqa: ANN401
        tag, body = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        known = None if descriptor is None else descriptor.fields_by_number.get(number)
        name = known.name if known is not None else f"field {number}"
        if not number:
            raise _Cut("field 0")
        if wire == 0:
            value, stop = _varint(data, body, end)
            return _varint_node(known, name, value, at, stop)
        if wire in (1, 5):
            size = 8 if wire == 1 else 4
            if body + size > end:
                raise _Cut("cut short")
            forms = _LONGS if wire == 1 else _WORDS
            fits = known is not None and known.type in forms
            form = forms[known.type] if known is not None and fits else "<Q" if wire == 1 else "<I"
            number_value = struct.unpack_from(form, data, body)[0]
            if form == "<f" and number_value == number_value:
                number_value = shortest_float(number_value)
            return Node(
                name,
                str(number_value),
                "" if fits else f"fixed{size * 8}",
                at,
                body + size,
                wrong=not fits and known is not None,
            )
        if wire == 2:
            length, inside = _varint(data, body, end)
            if inside + length > end:
                raise _Cut(f"{length} bytes are announced, {end - inside} are there")
            return self._delimited(known, name, data, at, inside, inside + length, depth)
        raise _Cut(f"wire type {wire}")

    def _delimited(self, known: Any, name: str, data: bytes, at: int, start: int, end: int, depth: int) -> Node:  # noqa: ANN401
        content = data[start:end]
        node = Node(name, start=at, end=end)
        if known is None:
            node.value = _bytes(content)
            node.raw = "no field of the schema"
            return node
        if known.type in (F.TYPE_MESSAGE, F.TYPE_GROUP):
            if depth >= MOST_DEPTH:
                node.value = f"nests more than {MOST_DEPTH} deep: {_bytes(content)}"
                return node
            kind = known.message_type
            node.children = self._message(kind, data, start, end, depth + 1)
            self._mean(node, kind, data, start)
        elif known.type == F.TYPE_STRING:
            node.value = f'"{_shorten(escape(content))}"'
        elif known.type == F.TYPE_BYTES:
            node.value = _bytes(content)
            node.children = _json_nodes(content, start, end)
        else:
            self._packed(node, known, data, start, end)
        return node

    def _packed(self, node: Node, known: Any, data: bytes, start: int, end: int) -> None:  # noqa: ANN401
        at = start
        while at < end:
            self._left -= 1
            if known.type in _VARINTS:
                value, stop = _varint(data, at, end)
                child = _varint_node(known, f"[{len(node.children)}]", value, at, stop)
            else:
                form = _WORDS.get(known.type) or _LONGS.get(known.type)
                if form is None:
                    node.value, node.wrong = _bytes(data[start:end]), True
                    return
                stop = at + struct.calcsize(form)
                if stop > end:
                    raise _Cut("cut short")
                child = Node(f"[{len(node.children)}]", str(struct.unpack_from(form, data, at)[0]), start=at, end=stop)
            if self._left > 0:
                node.children.append(child)
            at = stop
        node.value = "[" + _shorten(", ".join(child.value for child in node.children)) + "]"

    def _mean(self, node: Node, kind: Any, data: bytes, start: int) -> None:  # noqa: ANN401
        """Say what a well-known message means, and unfold what an Any carries."""
        name = kind.full_name
        if name in ("google.protobuf.Duration", "google.protobuf.Timestamp"):
            numbers = {child.name: child.value for child in node.children}
            try:
                seconds, nanos = int(numbers.get("seconds", "0")), int(numbers.get("nanos", "0"))
            except ValueError:
                return
            text = (duration_text if name.endswith("Duration") else timestamp_text)(seconds, nanos)
            node.value = text or "out of range"
        elif name == "google.protobuf.Any":
            self._any(node, data)
        elif kind.GetOptions().map_entry:
            parts = {child.name: child for child in node.children}
            key, value = parts.get("key"), parts.get("value")
            if value is None or not value.children:
                node.value = f"{key.value if key else ''}: {value.value if value else ''}"
            else:
                node.value = f"{key.value if key else ''}:"
        else:
            node.raw = escape(name.rpartition(".")[2])

    def _any(self, node: Node, data: bytes) -> None:
        parts = {child.name: child for child in node.children}
        url_node, value_node = parts.get("type_url"), parts.get("value")
        if url_node is None:
            return
        url = _content(data, url_node).decode("utf-8", "replace")
        node.value = f"({escape(url)})"
        if value_node is None:
            return
        content = _content(data, value_node)
        start = value_node.end - len(content)
        name = None if url in JSON_TYPE_URLS else self._registry.resolve_any(url)
        if name is not None:
            node.children = self._message(self._descriptor(name), data, start, value_node.end, 1)
        else:
            node.children = value_node.children or [value_node]


def _content(data: bytes, node: Node) -> bytes:
    _, body = _varint(data, node.start, node.end)
    _, inside = _varint(data, body, node.end)
    return data[inside : node.end]


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise _Cut("cut short" if at >= end else "a number of more than ten bytes")


def _varint_node(known: Any, name: str, value: int, start: int, end: int) -> Node:  # noqa: ANN401
    if known is None:
        return Node(name, str(value), "no field of the schema", start, end)
    kind = known.type
    if kind not in _VARINTS:
        return Node(name, str(value), "a varint", start, end, wrong=True)
    if kind == F.TYPE_BOOL:
        return Node(name, "true" if value else "false", "", start, end)
    if kind in (F.TYPE_SINT32, F.TYPE_SINT64):
        return Node(name, str((value >> 1) ^ -(value & 1)), "", start, end)
    if kind in (F.TYPE_INT32, F.TYPE_INT64, F.TYPE_ENUM) and value >> 63:
        value -= 1 << 64
    if kind == F.TYPE_ENUM:
        named = known.enum_type.values_by_number.get(value)
        return Node(name, escape(named.name) if named is not None else str(value), str(value), start, end)
    meaning = _meaning(name, value)
    return Node(name, meaning or str(value), str(value) if meaning else "", start, end)


def _meaning(name: str, value: int) -> str:
    """What a plain number says by its field's name: a signal, a time."""
    if name == "signal":
        try:
            return signal.Signals(value).name
        except ValueError:
            return ""
    if name.endswith("_at") and 1 << 59 < value < 1 << 62:  # CRI's times: nanoseconds since the epoch
        return timestamp_text(*divmod(value, 1_000_000_000)) or ""
    return ""


def _bytes(content: bytes) -> str:
    if not content:
        return '""'
    try:
        text = content[:MOST_TEXT].decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if text and text.translate({9: None, 10: None, 13: None}).isprintable():
        return f'"{_shorten(escape(text))}"'
    return f"0x{content[:32].hex()}{'…' if len(content) > 32 else ''} ({len(content)} bytes)"


def _shorten(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


def _json_nodes(content: bytes, start: int, end: int) -> list[Node]:
    """The nodes of bytes that are JSON, as OCI specs are; none if they are not. All have the bytes of the whole."""
    if content[:1] not in (b"{", b"["):
        return []
    try:
        value = parse_json(content)
    except ValueError:
        return []
    return list(_json_children(value, start, end, 0))


def _json_children(value: JSONValue, start: int, end: int, depth: int) -> Iterator[Node]:
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        name = escape(key) if isinstance(key, str) else f"[{key}]"
        node = Node(name, start=start, end=end)
        if isinstance(item, dict | list) and item:
            node.children = list(_json_children(item, start, end, depth + 1))
        else:
            node.value = _shorten(escape(json.dumps(item, ensure_ascii=False)))
        yield node
