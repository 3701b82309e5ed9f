"""Random messages of any type, made from its descriptor by a seeded generator."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

TEXTS = ("", "a", "pod-1", "größe 😀", 'quote " \\ /', "line\nend\t\x1b[31m\x00", "x" * 300)
BLOBS = (b"", b"\x00", b"text", b"\xff\xfe\x00", bytes(range(256)), b'{"a": 1}')
FLOATS = (0.0, 1.0, -0.5, 0.1, 1e300, -1e-300, float("inf"), float("-inf"), float("nan"))


def _integer(bits: int, signed: bool) -> Callable[[random.Random], int]:
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    return lambda rng: rng.choice((0, 1, high, low, rng.randint(low, high)))


_KINDS: dict[int, Callable[[random.Random], Any]] = {
    FieldDescriptor.TYPE_STRING: lambda rng: rng.choice(TEXTS),
    FieldDescriptor.TYPE_BYTES: lambda rng: rng.choice(BLOBS),
    FieldDescriptor.TYPE_BOOL: lambda rng: rng.random() < 0.5,
    FieldDescriptor.TYPE_DOUBLE: lambda rng: rng.choice((*FLOATS, rng.uniform(-1e6, 1e6))),
    FieldDescriptor.TYPE_FLOAT: lambda rng: struct.unpack("f", struct.pack("f", rng.uniform(-1e6, 1e6)))[0],
    FieldDescriptor.TYPE_INT32: _integer(32, True),
    FieldDescriptor.TYPE_INT64: _integer(64, True),
    FieldDescriptor.TYPE_UINT32: _integer(32, False),
    FieldDescriptor.TYPE_UINT64: _integer(64, False),
}


def fill(message: Any, rng: random.Random, depth: int = 0, fill_any: Callable[[Any], object] | None = None) -> None:
    """Set some of a message's fields, and theirs. An Any stays empty unless `fill_any` fills it."""
    name = message.DESCRIPTOR.full_name
    if name == "google.protobuf.Any":
        if fill_any:
            fill_any(message)
        return
    if name == "google.protobuf.FieldMask":
        message.paths.extend(rng.sample(("name", "labels.app", "spec"), 2))  # the same in camel case
        return
    if name == "google.protobuf.Timestamp":
        message.seconds, message.nanos = rng.randint(-62135596800, 253402300799), rng.choice((0, 1, 5000, 999999999))
        return
    if name == "google.protobuf.Duration":
        message.seconds, message.nanos = rng.randint(0, 315576000000), rng.choice((0, 1, 5000, 999999999))
        return
    if name == "google.protobuf.Value" and rng.random() < 0.3:
        message.number_value = rng.uniform(-1e9, 1e9)  # NaN and the infinities are no JSON numbers
        return
    for field in message.DESCRIPTOR.fields:
        if name == "google.protobuf.Value" and field.name == "number_value":
            continue
        if rng.random() < 0.35:
            continue
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            _fill_map(getattr(message, field.name), kind.fields_by_name, rng, depth, fill_any)
        elif kind is not None:
            if depth > 4:
                continue
            inner = getattr(message, field.name)
            if field.is_repeated:
                for _ in range(rng.randint(0, 3)):
                    fill(inner.add(), rng, depth + 1, fill_any)
            else:
                inner.SetInParent()
                fill(inner, rng, depth + 1, fill_any)
        elif field.is_repeated:
            getattr(message, field.name).extend(_scalar(field, rng) for _ in range(rng.randint(0, 4)))
        else:
            setattr(message, field.name, _scalar(field, rng))


def _fill_map(
    values: Any, entry: Any, rng: random.Random, depth: int, fill_any: Callable[[Any], object] | None
) -> None:
    for _ in range(rng.randint(0, 4)):
        key = _scalar(entry["key"], rng)
        if entry["value"].message_type is None:
            values[key] = _scalar(entry["value"], rng)
        elif depth <= 4:
            fill(values[key], rng, depth + 1, fill_any)


def _scalar(field: FieldDescriptor, rng: random.Random) -> Any:
    if field.enum_type is not None:
        return rng.choice([*field.enum_type.values_by_number, 4711])
    return _KINDS[field.type](rng)


def random_message(made: type[Message], seed: int, fill_any: Callable[[Any], object] | None = None) -> Message:
    """Return a message of the class; the same one for the same seed."""
    message = made()
    fill(message, random.Random(f"{message.DESCRIPTOR.full_name} {seed}"), 0, fill_any)
    return message
