"""Protobuf payloads as JSON values and as lines of text, by the schemas of a registry.

In: a type's full name and the bytes. Out: a dict for `json.dumps`, or lines. It never raises on content: what does not
parse is shown as an error beside its bytes. `json_format` is not used, since one `Any` that it does not know, or one
that carries JSON, fails the whole message. It refuses to know what the fields mean (whoever wants that in text tells
it), and escapes nothing: text from the wire, control characters and line ends included, is made fit for a terminal by
whoever prints it.

One function per message type is made from its descriptor when it is first met; only fields that are set are visited.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from dissectors.guess import inside, number_text, wire_fields
from dissectors.json_value import JSON_TYPE_URLS, MAX_DEPTH, JSONObject, JSONValue, parse_json
from dissectors.masking import Masker, mask_unknown
from dissectors.render_text import Bare, bytes_text, text_lines
from dissectors.well_known import duration_text, shortest_float, timestamp_text
from protos.registry import Registry

__all__ = ["JSONObject", "JSONValue", "NotUtf8", "Renderer"]

MAX_UNKNOWN = 1000
"""Unknown fields shown of one message. One costs two bytes on the wire and some three hundred here."""
MAX_GUESSED = 10_000
"""Unknown fields shown of one payload, with those that are guessed to lie in one another."""
MAX_INSIDE = 1 << 16
"""Bytes of an unknown field that are looked into."""

_Dynamic: TypeAlias = Any
"""A value of a field, or a message whose attributes come from the schema: nothing that a type checker could know."""
_Convert = Callable[[_Dynamic, int], JSONValue]
"""A value and how deep it lies, to what is shown of it."""

_WIRE_TYPES = ("varint", "fixed64", "bytes", "group", "group end", "fixed32")
_WIDE = frozenset(
    {
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_UINT64,
        FieldDescriptor.TYPE_SINT64,
        FieldDescriptor.TYPE_FIXED64,
        FieldDescriptor.TYPE_SFIXED64,
    }
)
_MESSAGES = frozenset({FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_GROUP})
_WRAPPERS = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
_STRUCTS = frozenset({"google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"})
_OWN_FORM = _WRAPPERS | _STRUCTS | {f"google.protobuf.{kind}" for kind in ("Any", "Timestamp", "Duration", "FieldMask")}
"""Types that the proto JSON mapping shows in a form of their own: in an Any that stands under `value`."""


class NotUtf8(str):
    """Text of a string field that is not UTF-8: its bad bytes are written as \\xNN."""


class Meaning(Protocol):
    """Says what values mean, for people."""

    def field(self, field: FieldDescriptor) -> Callable[[Any], str | None] | None:
        """Return what makes the text of a value of this field (its result None: as it is); None: as they are."""
        ...

    def time(self, seconds: int, nanos: int) -> str | None:
        """Return what stands beside a Timestamp, such as the local time, or None."""
        ...

    def document(self, type_url: str, value: JSONValue) -> JSONValue:
        """Return the JSON that an Any carries as it is shown."""
        ...

    def embedded(self, value: JSONValue) -> JSONValue:
        """Return JSON that was found in a string as it is shown."""
        ...


class Renderer:
    """Shows payloads, secrets masked unless they are asked for. Holds what it made of each message type; not safe for
    use by several threads at once.

    With `meaning` it adds to text, not to JSON, what values mean.
    """

    def __init__(self, registry: Registry, meaning: Meaning | None = None, *, show_secrets: bool = False) -> None:
        self.show_secrets = show_secrets
        self._mask = None if show_secrets else Masker(registry).mask
        self._meaning = meaning
        self._json = _Form(registry, wide=str, data=_base64, name=str, unknown=_json_field)
        self._text = _Form(registry, wide=None, data=bytes_text, name=Bare, unknown=_text_field, meaning=meaning)

    def to_json(self, type_name: str, payload: bytes) -> JSONObject:
        """Return the message as a dict for `json.dumps`: names as in the .proto, fields that are not set left out.

        Enums by name (a number without one stays a number), 64-bit numbers as strings, bytes in base64, the well-known
        types as in the proto JSON mapping, map keys sorted. Keys that begin with `@` are ours: `@type` (with `value`
        where it is no message, `value_base64` and `error` where it is not to be had) in an Any; `@unknown`, a list of
        field, wire_type and value, and what is guessed to lie in its bytes: `text` or `message`; `@not_utf8`, the
        fields with text that is not UTF-8; `@error`, `@base64` and maybe `@guess` for what
        does not parse.
        """
        return self._json.payload(type_name, payload if self._mask is None else self._mask(type_name, payload))

    def to_text(self, type_name: str, payload: bytes, indent: int = 0) -> list[str]:
        """Return the message as lines, each with `indent` spaces before it. Long bytes are cut, with their length."""
        shown = payload if self._mask is None else self._mask(type_name, payload)
        tree = self._text.payload(type_name, shown)
        return text_lines(tree, indent, self._meaning.embedded) if self._meaning else text_lines(tree, indent)

    def unknown(self, payload: bytes) -> bytes:
        """Return a message that no schema has as it may be shown."""
        return payload if self.show_secrets else mask_unknown(payload)

    def guess_json(self, payload: bytes) -> list[JSONValue]:
        """Return the fields of a message that no schema has, like `@unknown`; nothing where it parses as no message."""
        return self._json.guess(self.unknown(payload)) or []

    def guess_text(self, payload: bytes, indent: int = 0) -> list[str]:
        """Return the fields of a message that no schema has as lines, or its bytes where it parses as no message."""
        payload = self.unknown(payload)
        fields = self._text.guess(payload)
        if fields is None:
            return text_lines({"bytes": bytes_text(payload)}, indent)
        return text_lines({"guess": fields}, indent) if fields else []


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _as_text(value: str | bytes) -> str:
    """A string's value; it comes as bytes from a pool, or a syntax, that does not check for UTF-8."""
    if isinstance(value, str):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return NotUtf8(value.decode("utf-8", "backslashreplace"))


def _json_field(number: int, wire_type: str, value: JSONValue, found: JSONValue) -> JSONObject:
    """An unknown field, with what is guessed to lie in it, if anything."""
    shown: JSONObject = {"field": number, "wire_type": wire_type, "value": value}
    if found is not None:
        shown["text" if isinstance(found, str) else "message"] = found
    return shown


def _text_field(number: int, wire_type: str, value: JSONValue, found: JSONValue) -> JSONObject:
    return {str(number): value if found is None or isinstance(found, str) else found}


class _Field(NamedTuple):
    name: str
    convert: _Convert | None
    """None: shown as it is."""


class _Form:
    """The functions that show messages in one form: JSON or text."""

    def __init__(
        self,
        registry: Registry,
        *,
        wide: Callable[[int], JSONValue] | None,
        data: Callable[[bytes], JSONValue],
        name: Callable[[str], str],
        unknown: Callable[[int, str, JSONValue, JSONValue], JSONObject],
        meaning: Meaning | None = None,
    ) -> None:
        self._registry = registry
        self._meaning = meaning
        self._wide, self._data, self._name = wide, data, name
        self._unknown_field = unknown
        self._left = MAX_GUESSED
        self._messages: dict[object, _Convert] = {}  # by Descriptor
        self._unchecked_files: dict[FileDescriptor, bool] = {}

    # -- whole payloads ------------------------------------------------------------------------------------------

    def guess(self, payload: bytes) -> list[JSONValue] | None:
        self._left = MAX_GUESSED
        fields = wire_fields(payload)
        return None if fields is None else self._unknown(fields, 0)

    def payload(self, type_name: str, payload: bytes) -> JSONObject:
        self._left = MAX_GUESSED
        parsed = self._registry.parse(type_name, payload)
        if parsed.message is None:
            unread: JSONObject = {"@error": self._name(parsed.error), "@base64": self._data(payload)}
            guess = self.guess(payload)
            return unread | {"@guess": guess} if guess else unread
        shown = self._parsed(type_name, parsed.message, parsed.lenient, 0)
        return shown if isinstance(shown, dict) else {"value": shown}

    def _parsed(self, type_name: str, message: Message, lenient: bool, depth: int) -> JSONValue:
        convert = self._messages.get(message.DESCRIPTOR)
        if convert is None:
            # The pool whose strings are bytes has forgotten which they were, and the maps; the other one knows.
            model = self._registry.message_class(type_name).DESCRIPTOR if lenient else message.DESCRIPTOR
            convert = self._message(cast("Descriptor", message.DESCRIPTOR), cast("Descriptor", model))
        return convert(message, depth)

    def _any(self, message: _Dynamic, depth: int) -> JSONValue:
        """Any, by containerd's rule: the table of what carries JSON, then the registry, then JSON by its look."""
        url, value = _as_text(message.type_url), message.value
        shown: JSONObject = {"@type": url}
        if isinstance(url, NotUtf8):
            shown["@not_utf8"] = ["@type"]
        try:
            if url in JSON_TYPE_URLS:
                document = parse_json(value)
                return shown | {"value": self._meaning.document(url, document) if self._meaning else document}
            name = self._registry.resolve_any(url)
            if name is not None:
                if depth >= MAX_DEPTH:
                    raise ValueError(f"nests more than {MAX_DEPTH} deep")
                parsed = self._registry.parse(name, value)
                if parsed.message is None:
                    raise ValueError(parsed.error)
                inside = self._parsed(name, parsed.message, parsed.lenient, depth + 1)
                if isinstance(inside, dict) and name not in _OWN_FORM:
                    return shown | inside
                return shown | {"value": inside}
            if not value and not url:
                return {}
            if value[:1] in (b"{", b"["):
                return shown | {"value": parse_json(value)}
            raise ValueError("no schema has this type")
        except ValueError as error:
            shown |= {"value_base64": self._data(value), "error": self._name(str(error))}
        guess = self._inside(value, depth + 1)
        return shown if guess is None or isinstance(guess, str) else shown | {"guess": guess}

    # -- messages ------------------------------------------------------------------------------------------------

    def _message(self, descriptor: Descriptor, model: Descriptor) -> _Convert:
        """The function for one message type. `model` is the same type in the pool that knows strings and maps."""
        known = self._messages.get(descriptor)
        if known is not None:
            return known
        unchecked = descriptor is not model or self._is_unchecked(descriptor.file)
        special = self._well_known(descriptor, unchecked)
        if special is not None:
            self._messages[descriptor] = special
            return special
        fields: dict[int, _Field] = {}
        texts: set[str] = set()  # the fields that hold text themselves; a message in a field marks its own

        def show(message: Message, depth: int) -> JSONValue:
            if depth > MAX_DEPTH:
                error = self._name(f"nests more than {MAX_DEPTH} deep")
                return {"@error": error, "@base64": self._data(message.SerializeToString())}
            shown: JSONObject = {}
            below = depth + 1
            for field, value in message.ListFields():
                known = fields.get(field.number)
                if known is None:  # an extension
                    known = fields[field.number] = self._field(field, field, unchecked)
                    texts.add(known.name)
                name, convert = known
                shown[name] = value if convert is None else convert(value, below)
            if unchecked and (names := [name for name in shown if name in texts and _is_damaged(shown[name])]):
                shown["@not_utf8"] = [*names]
            unknown = UnknownFieldSet(message)
            if len(unknown):
                shown["@unknown"] = self._unknown(unknown, depth)
            return shown

        self._messages[descriptor] = show  # before its fields: a type may hold itself
        for number, field in model.fields_by_number.items():
            fields[number] = self._field(descriptor.fields_by_number[number], field, unchecked)
            if field.type not in _MESSAGES or _is_map(field):
                texts.add(field.name)
        return show

    def _is_unchecked(self, file: FileDescriptor) -> bool:
        """Only proto3 has its strings checked when they are parsed; elsewhere bad ones come as bytes."""
        if file not in self._unchecked_files:
            self._unchecked_files[file] = FileDescriptorProto.FromString(file.serialized_pb).syntax != "proto3"
        return self._unchecked_files[file]

    def _unknown(self, fields: _Dynamic, depth: int) -> list[JSONValue]:
        shown: list[JSONValue] = []
        for field in fields:
            if len(shown) == MAX_UNKNOWN or not self._left:
                shown.append({"omitted": len(fields) - len(shown)})
                break
            self._left -= 1
            wire_type, data = field.wire_type, field.data
            found: JSONValue = None
            value: JSONValue
            if isinstance(data, bytes):
                value, found = self._data(data), self._inside(data, depth + 1)
            elif isinstance(data, int):
                value = self._number(wire_type, data)
            elif depth < MAX_DEPTH:
                value = self._unknown(data, depth + 1)
            else:
                value = {"@error": self._name(f"nests more than {MAX_DEPTH} deep")}
            shown.append(self._unknown_field(field.field_number, self._name(_WIRE_TYPES[wire_type]), value, found))
        return shown

    def _number(self, wire_type: int, value: int) -> JSONValue:
        if self._wide is None:
            return self._name(number_text(wire_type, value))
        return value if wire_type == 5 else self._wide(value)

    def _inside(self, data: bytes, depth: int) -> JSONValue:
        """What is guessed to lie in the bytes of an unknown field."""
        found = inside(data) if len(data) <= MAX_INSIDE and depth < MAX_DEPTH else None
        return found if found is None or isinstance(found, str) else self._unknown(found, depth)

    # -- fields --------------------------------------------------------------------------------------------------

    def _field(self, field: FieldDescriptor, model: FieldDescriptor, unchecked: bool) -> _Field:
        name = f"[{model.full_name}]" if model.is_extension else model.name
        if _is_map(model):
            return _Field(name, self._map(field, model, unchecked))
        convert = self._value(field, model, unchecked)
        plain = convert
        if model.is_repeated:
            if convert is None:
                plain = lambda values, depth: list(values)  # noqa: E731 # one of two forms
            else:
                plain = lambda values, depth: [convert(value, depth) for value in values]  # noqa: E731 # as above
        explain = self._meaning.field(model) if self._meaning and not unchecked else None
        if explain is None:
            return _Field(name, plain)

        def explained(value: _Dynamic, depth: int) -> JSONValue:
            text = explain(value)
            return self._name(text) if text is not None else value if plain is None else plain(value, depth)

        return _Field(name, explained)

    def _value(self, field: FieldDescriptor, model: FieldDescriptor, unchecked: bool) -> _Convert | None:
        """What to do with one value of a field; None: nothing."""
        kind, wide, data = model.type, self._wide, self._data
        if kind in _MESSAGES:
            return self._message(_message_type(field), _message_type(model))
        if kind == FieldDescriptor.TYPE_ENUM:
            return self._enum(cast("EnumDescriptor", model.enum_type))
        if kind == FieldDescriptor.TYPE_BYTES:
            return lambda value, depth: data(value)
        if kind == FieldDescriptor.TYPE_STRING:
            return (lambda value, depth: _as_text(value)) if unchecked else None
        if kind in _WIDE:
            return None if wide is None else lambda value, depth: wide(value)
        if kind == FieldDescriptor.TYPE_DOUBLE:
            return lambda value, depth: value if math.isfinite(value) else self._not_finite(value)
        if kind == FieldDescriptor.TYPE_FLOAT:
            return lambda value, depth: shortest_float(value) if math.isfinite(value) else self._not_finite(value)
        return None

    def _enum(self, enum: EnumDescriptor) -> _Convert:
        names = {number: self._name(value.name) for number, value in enum.values_by_number.items()}
        return lambda value, depth: names.get(value, value)

    def _not_finite(self, value: float) -> str:
        return self._name("NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity")

    def _map(self, field: FieldDescriptor, model: FieldDescriptor, unchecked: bool) -> _Convert:
        entry, entry_model = _message_type(field), _message_type(model)
        convert = self._value(entry.fields_by_number[2], entry_model.fields_by_number[2], unchecked)
        by_name = entry_model.fields_by_number[1].type == FieldDescriptor.TYPE_STRING
        as_entries = not entry.GetOptions().map_entry

        # Sorted by key: protobuf's order changes from one run of the program to the next.
        def show(values: _Dynamic, depth: int) -> JSONValue:
            items = [(entry.key, entry.value) for entry in values] if as_entries else values.items()
            return {
                (_as_text(key) if by_name else _key_text(key)): value if convert is None else convert(value, depth)
                for key, value in sorted(items, key=_first)
            }

        if not by_name or unchecked:
            return show
        # Nearly all maps are these; items() is slow on protobuf's maps.
        if convert is None:
            return lambda values, depth: {key: values[key] for key in sorted(values)}
        return lambda values, depth: {key: convert(values[key], depth) for key in sorted(values)}

    # -- well-known types ----------------------------------------------------------------------------------------

    def _well_known(self, descriptor: Descriptor, unchecked: bool) -> _Convert | None:
        """The function for a type that the proto JSON mapping shows in its own way, None for all others."""
        full_name = descriptor.full_name
        if full_name == "google.protobuf.Any":
            return self._any
        if full_name == "google.protobuf.Timestamp":
            return lambda message, depth: self._timestamp(message)
        if full_name == "google.protobuf.Duration":
            return lambda message, depth: self._time(message, duration_text)
        if unchecked:
            return None  # these have strings in them: shown as plain messages, where each can be marked
        if full_name in _WRAPPERS:
            field = descriptor.fields_by_number[1]
            convert = self._value(field, field, unchecked)
            return lambda message, depth: message.value if convert is None else convert(message.value, depth)
        if full_name == "google.protobuf.FieldMask":
            return lambda message, depth: ",".join(message.paths)
        if full_name in _STRUCTS:
            return self._struct
        return None

    def _timestamp(self, message: _Dynamic) -> JSONValue:
        shown = self._time(message, timestamp_text)
        here = self._meaning.time(message.seconds, message.nanos) if self._meaning and isinstance(shown, str) else None
        return shown if here is None else self._name(f"{shown} ({here})")

    def _time(self, message: _Dynamic, text: Callable[[int, int], str | None]) -> JSONValue:
        shown = text(message.seconds, message.nanos)
        if shown is None:
            error = self._name("out of range")
            return {"seconds": str(message.seconds), "nanos": message.nanos, "@error": error}
        return self._name(shown)

    def _struct(self, message: _Dynamic, depth: int) -> JSONValue:
        """Struct, Value and ListValue as the JSON that they stand for."""
        if depth > MAX_DEPTH:
            error = self._name(f"nests more than {MAX_DEPTH} deep")
            return {"@error": error, "@base64": self._data(message.SerializeToString())}
        name = message.DESCRIPTOR.name
        if name == "Struct":
            return {key: self._struct(value, depth + 1) for key, value in sorted(message.fields.items(), key=_first)}
        if name == "ListValue":
            return [self._struct(value, depth + 1) for value in message.values]
        kind = message.WhichOneof("kind")
        if kind is None or kind == "null_value":
            return None
        value = getattr(message, kind)
        if kind == "number_value" and not math.isfinite(value):
            return self._not_finite(value)
        return self._struct(value, depth + 1) if isinstance(value, Message) else value


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _message_type(field: FieldDescriptor) -> Descriptor:
    return cast("Descriptor", field.message_type)  # None is for fields of other types alone


def _first(item: tuple[_Dynamic, _Dynamic]) -> _Dynamic:
    return item[0]


def _key_text(key: int | bool) -> str:
    return str(key).lower()


def _is_damaged(value: JSONValue) -> bool:
    """Whether a field's text, one in its list, or a key or value of its map is not UTF-8."""
    if isinstance(value, list):
        return any(isinstance(item, NotUtf8) for item in value)
    if isinstance(value, dict):
        return any(isinstance(item, NotUtf8) for pair in value.items() for item in pair)
    return isinstance(value, NotUtf8)
