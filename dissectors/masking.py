"""Mask what is secret in protobuf messages, in JSON and in metadata: byte by byte in place, so lengths stay.

In: a type's name and a payload. Out: the payload with asterisks where `protos.secrets` says so. What has to be looked
into and does not parse comes out as zeros, which no message is: what can't be read can't be masked. Where no schema is
known, all text and bytes are masked. A type that can have no secret costs one look-up.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from dissectors.events import Metadata
from dissectors.guess import MAX_NUMBER
from dissectors.json_value import JSON_TYPE_URLS, MAX_DEPTH
from dissectors.masking_json import mask_json, mask_path
from protos.registry import Registry
from protos.secrets import BY_NAME, OTHERS, SECRET_NAME, SECRETS, Rule, may_hold_secrets

_Field = Any
"""A field's descriptor: the stubs have two classes of that name, neither of which is the other's."""
_ANY = "google.protobuf.Any"
_TEXT = frozenset({FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES})
_MESSAGES = frozenset({FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_GROUP})
EVIDENCE = 10
"""Bytes shown of what could not be decoded: a frame's header, hardly more. What comes after may be a secret."""
_ALWAYS = frozenset({Rule.WHOLE, Rule.ENV, Rule.TOKEN, Rule.VALUES})
"""Rules that mask without one of the words of TRIGGERS in the message."""


class BadProtobuf(ValueError):
    """The bytes are no protobuf message; caught where a payload is masked."""


@dataclass(slots=True)
class _Plan:
    """What to do with the fields of one message type."""

    name: str
    rules: dict[int, Rule]
    messages: dict[int, _Plan]
    others: Rule | None = None
    is_any: bool = False
    always: bool = False
    """A rule of it, or of a message in it, needs no trigger. Of an Any that is not known."""


class Masker:
    """Masks by the schemas of one registry. What each message type needs is worked out once."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._plans: dict[str, _Plan | None] = {}

    def mask(self, type_name: str, payload: bytes) -> bytes:
        """Return the payload with what is secret in it masked, of the same length. Never raises on content."""
        plan = self._plans.get(type_name)
        if plan is None:
            if type_name in self._plans:
                return payload
            plan = self._plan(type_name)
            if plan is None:
                return payload
        if not plan.always and not may_hold_secrets(payload):
            return payload
        masked = bytearray(payload)
        try:
            self._message(plan, masked, 0, len(masked), 0)
        except BadProtobuf:
            return bytes(len(payload))
        return bytes(masked) if masked != payload else payload

    def masks(self, field: _Field) -> bool:
        """Tell whether a field is masked itself, and not only what is in it."""
        return _rule(field.containing_type.full_name, field) not in (None, Rule.KEEP)

    # -- plans ---------------------------------------------------------------------------------------------------

    def _plan(self, type_name: str) -> _Plan | None:
        plan: _Plan | None = None
        if self._registry.has_message(type_name):
            made: dict[str, _Plan] = {}
            plan = _make(cast("Descriptor", self._registry.message_class(type_name).DESCRIPTOR), made)
            wanted = _reaching({name for name, each in made.items() if each.rules or each.others or each.is_any}, made)
            always = _reaching({name for name, each in made.items() if _is_eager(each)}, made)
            for name, each in made.items():
                each.always = name in always
                each.messages = {number: inside for number, inside in each.messages.items() if inside.name in wanted}
            if type_name not in wanted:
                plan = None
        self._plans[type_name] = plan
        return plan

    # -- messages ------------------------------------------------------------------------------------------------

    def _message(self, plan: _Plan, data: bytearray, start: int, end: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise BadProtobuf
        if plan.is_any:
            self._any(data, start, end, depth)
            return
        rules, messages, others = plan.rules, plan.messages, plan.others
        for number, at, stop in field_spans(data, start, end):
            inside = messages.get(number)
            if inside is not None:
                self._message(inside, data, at, stop, depth + 1)
                continue
            rule = rules.get(number, others)
            if rule is Rule.MAP or rule is Rule.VALUES:
                _mask_entry(data, at, stop, rule)
            elif rule is not None and rule is not Rule.KEEP:
                _mask_value(rule, data, at, stop)

    def _any(self, data: bytearray, start: int, end: int, depth: int) -> None:
        url, spans = "", []
        for number, at, stop in field_spans(data, start, end):
            if number == 1:
                url = data[at:stop].decode("utf-8", "replace")
            elif number == 2:
                spans.append((at, stop))
        name = None if url in JSON_TYPE_URLS else self._registry.resolve_any(url)
        for at, stop in spans:
            if name is None:
                if data.startswith((b"{", b"["), at, stop):
                    mask_json(data, at, stop)
                else:
                    data[at:stop] = mask_unknown(bytes(data[at:stop]))
                continue
            plan = self._plans[name] if name in self._plans else self._plan(name)
            if plan is not None:
                try:
                    self._message(plan, data, at, stop, depth + 1)
                except BadProtobuf:  # what is around it can be shown
                    data[at:stop] = bytes(stop - at)


def mask_unknown(payload: bytes) -> bytes:
    """Return a message that no schema has with all its text and bytes masked: its fields and numbers stay.

    What its bytes hold is guessed as it is when they are shown (`guess`). Zeros, where it parses as no message.
    """
    masked = bytearray(payload)
    try:
        _mask_unknown(masked, field_spans(masked, 0, len(masked)), 0)
    except BadProtobuf:
        return bytes(len(payload))
    return bytes(masked)


def _mask_unknown(data: bytearray, fields: list[tuple[int, int, int]], depth: int) -> None:
    for _, at, stop in fields:
        inside: list[tuple[int, int, int]] = []
        if at < stop and data[at] < 0x20 and depth < MAX_DEPTH:  # else it is text, by its first character
            with suppress(BadProtobuf):
                inside = field_spans(data, at, stop)
        if inside and all(number < MAX_NUMBER for number, _, _ in inside):
            _mask_unknown(data, inside, depth + 1)
        else:
            data[at:stop] = b"*" * (stop - at)


def mask_metadata(metadata: Metadata) -> Metadata:
    """Return metadata with the values of secret names masked."""
    for name, _ in metadata:
        if is_secret_name(name):
            break
    else:
        return metadata
    return tuple((name, _starred(value) if is_secret_name(name) else value) for name, value in metadata)


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Tell whether metadata of this name is a secret."""
    return SECRET_NAME.search(name.encode("utf-8", "replace")) is not None


def _starred(value: str | bytes) -> str | bytes:
    return "*" * len(value) if isinstance(value, str) else b"*" * len(value)


def field_spans(data: bytearray, start: int = 0, stop: int | None = None) -> list[tuple[int, int, int]]:
    """Number, start and end of each field that has a length; a group's fields are taken as the message's own.

    Raises BadProtobuf.
    """
    end = len(data) if stop is None else stop
    spans: list[tuple[int, int, int]] = []
    position = start
    while position < end:
        tag, position = _varint(data, position, end)
        wire_type = tag & 7
        if wire_type == 2:
            length, position = _varint(data, position, end)
            if length > end - position:
                raise BadProtobuf
            spans.append((tag >> 3, position, position + length))
            position += length
        elif wire_type == 0:
            _, position = _varint(data, position, end)
        elif wire_type == 1:
            position += 8
        elif wire_type == 5:
            position += 4
        elif wire_type > 5:
            raise BadProtobuf
        if not tag >> 3:
            raise BadProtobuf
    if position != end:
        raise BadProtobuf
    return spans


def _varint(data: bytearray, position: int, end: int) -> tuple[int, int]:
    number = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
        if shift > 63:
            break
    raise BadProtobuf


def _make(descriptor: Descriptor, made: dict[str, _Plan]) -> _Plan:
    known = made.get(descriptor.full_name)
    if known is not None:
        return known
    row = SECRETS.get(descriptor.full_name, {})
    plan = made[descriptor.full_name] = _Plan(
        descriptor.full_name, {}, {}, row.get(OTHERS), descriptor.full_name == _ANY
    )
    for field in descriptor.fields:
        rule = _rule(descriptor.full_name, field)
        if rule is not None and (rule is not Rule.KEEP or plan.others):
            plan.rules[field.number] = rule
        elif field.type in _MESSAGES:
            plan.messages[field.number] = _make(cast("Descriptor", field.message_type), made)
    return plan


def _rule(type_name: str, field: _Field) -> Rule | None:
    """What goes for a field; None: nothing of its own, look into it if it is a message."""
    row = SECRETS.get(type_name, {})
    if field.name in row:
        return row[field.name]
    if field.type in _TEXT:
        if OTHERS in row:
            return row[OTHERS]
        return next((rule for pattern, rule in BY_NAME if pattern.search(field.name)), None)
    inside = field.message_type
    if inside is not None and inside.GetOptions().map_entry and inside.fields_by_number[2].type in _TEXT:
        return Rule.MAP
    return None


def _is_eager(plan: _Plan) -> bool:
    return plan.is_any or any(rule in _ALWAYS for rule in (*plan.rules.values(), plan.others))


def _reaching(goal: set[str], made: dict[str, _Plan]) -> set[str]:
    """The types that are of the goal, or have a message of it in them."""
    found = set(goal)
    grown = True
    while grown:
        grown = False
        for name, plan in made.items():
            if name not in found and any(inside.name in found for inside in plan.messages.values()):
                found.add(name)
                grown = True
    return found


def _mask_entry(data: bytearray, start: int, end: int, rule: Rule) -> None:
    """Mask the value of one entry of a map of text to text."""
    key = b""
    values: list[tuple[int, int]] = []
    for number, at, stop in field_spans(data, start, end):
        if number == 1:
            key = bytes(data[at:stop])
        elif number == 2:
            values.append((at, stop))
    for at, stop in values:
        if rule is Rule.VALUES or SECRET_NAME.search(key):
            data[at:stop] = b"*" * (stop - at)
        else:
            _mask_value(Rule.JSON, data, at, stop)
            mask_path(data, at, stop)


def _mask_value(rule: Rule, data: bytearray, start: int, end: int) -> None:
    """Mask one value of a field."""
    if rule is Rule.ENV:
        at = data.find(b"=", start, end)
        start = end if at < 0 else at + 1
    elif rule is Rule.TOKEN:
        start = max(start, data.rfind(b"/", start, end) + 1)
    elif rule is Rule.PATH:
        mask_path(data, start, end)
        return
    elif rule is Rule.OPTIONS:
        _mask_options(data, start, end)
        return
    elif rule is Rule.JSON:
        if bytes(data[start : start + 16]).lstrip()[:1] in (b"{", b"["):
            mask_json(data, start, end)
        return
    data[start:end] = b"*" * (end - start)


def _mask_options(data: bytearray, start: int, end: int) -> None:
    at = start
    for option in bytes(data[start:end]).split(b","):
        name, equals, value = option.partition(b"=")
        if equals and SECRET_NAME.search(name):
            begin = at + len(name) + 1
            data[begin : begin + len(value)] = b"*" * len(value)
        at += len(option) + 1
