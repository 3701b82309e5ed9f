"""Protobuf without a schema: which fields are in a message, and the likeliest reading of each.

In: bytes, or a field as the wire has it. Out: fields, readings. All of it is a guess: the wire says no more of a field
than its number and one of six types.
"""

from __future__ import annotations

import struct
from typing import Any, TypeAlias

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

Fields: TypeAlias = Any
"""An UnknownFieldSet: the stubs do not know that it is a sequence."""

MAX_NUMBER = 1 << 16
"""A higher field number is allowed, and rare: bytes with one are taken for no message."""
_LAYOUT = str.maketrans("", "", "\t\n\r")


def wire_fields(data: bytes) -> Fields | None:
    """Return the fields of a message of any type, or None where the bytes are none."""
    try:
        fields: Fields = UnknownFieldSet(Empty.FromString(data))
    except DecodeError:
        return None
    # No field has the number 0, which zeros would be; protobuf takes it in a message that has no fields of its own.
    return None if any(field.field_number == 0 for field in fields) else fields


def text_of(data: bytes) -> str | None:
    """Return bytes as the text that they are, or None where they are none."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text.translate(_LAYOUT).isprintable() else None


def inside(data: bytes) -> str | Fields | None:
    """Return what a field of bytes likely holds: text, the fields of a message, or None for neither.

    What begins with a letter is text where all of it is; a message of a field below 4 begins with a control character.
    """
    if not data:
        return None
    text = text_of(data)
    if text is not None and data[0] >= 0x20:
        return text
    fields = wire_fields(data)
    if fields is not None and all(field.field_number < MAX_NUMBER for field in fields):
        return fields
    return text


def number_text(wire_type: int, value: int) -> str:
    """Return a number with its likeliest reading first, then its wire type and another reading."""
    if wire_type == 0:
        signed = value - (1 << 64) if value >> 63 else value
        return f"{signed} (varint; as sint {(value >> 1) ^ -(value & 1)})"
    name, (whole, real) = ("fixed64", ("<q", "<d")) if wire_type == 1 else ("fixed32", ("<i", "<f"))
    data = struct.pack(whole.upper(), value)
    integer: int = struct.unpack(whole, data)[0]
    decimal: float = struct.unpack(real, data)[0]
    if 1e-9 < abs(decimal) < 1e15:
        return f"{decimal:.9g} ({name}; as integer {integer})"
    return f"{integer} ({name})"
