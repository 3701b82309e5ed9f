"""What one line says of a call: its method's name, the id of its pod or container, the fields that matter.

In: a call. Out: a `Summary`. Only the first request and the first response are parsed, and only where the table in
`fields` wants something of them. Nothing of the wire leaves here unescaped.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple, cast

from google.protobuf.descriptor import FieldDescriptor

from dissectors.json_value import PROCESS_URL, parse_json
from dissectors.masking import Masker
from protos.registry import Parsed, Registry
from protos.schema_set import resolve
from tracer.calls import Call, Message
from tracer.output.codes import exit_reason, signal_name
from tracer.output.escape import escape
from tracer.output.fields import EVENT_CARRIERS, EVENT_FIELDS, EVENT_ID_PATHS, FIELDS, ID_PATHS, STREAMED
from tracer.output.units import quantity, short_id, size

MAX_TEXT = 64
"""Characters of one field on a line; `-v` has them all."""

MAX_FIRST = 4
"""Fields on a line of a message that the table does not know."""

KEPT = 256
"""What was read of so many messages of a method's side is kept: half of all are the very bytes of one before (polling,
empty answers)."""
KEPT_LENGTH = 512
"""Bytes of a message so kept, at most."""

ENVELOPES = frozenset({"containerd.types.Envelope", "containerd.services.events.v1.Envelope"})
"""Messages that are events in an envelope."""

_PLAIN_SERVICES = ("runtime.v1.", "containerd.task.", "containerd.services.events.ttrpc.", "grpc.AgentService", "nri.")
"""Services whose methods need no name in front on their hop."""

_new = tuple.__new__  # makes a NamedTuple in half the time

Descriptor = Any
"""A message's descriptor: the stubs name another class for it than the C implementation's objects have."""
Item = Callable[[Any], str]
"""Takes a parsed message; returns what the line shows of it, or nothing."""


class Summary(NamedTuple):
    """What a line says of a call. `id` is whole; the line shortens it. All of it is escaped."""

    method: str
    id: str
    request: str
    response: str


class _Side(NamedTuple):
    """What to read of one side's first message."""

    type: str
    items: tuple[Item, ...]
    ids: tuple[Callable[[Any], Any], ...]
    mask: Callable[[str, bytes], bytes] | None
    """Set where a field that is shown is a secret."""
    known: dict[bytes, tuple[str, str]]
    """Messages read before: text and id, both escaped."""


class _Plan(NamedTuple):
    """What to do with the messages of one method."""

    name: str
    request: _Side | None
    """None: nothing is wanted of it."""
    response: _Side | None
    streaming: bool
    carries_event: bool
    known: bool
    streamed: tuple[_Side, ...] = ()
    """Of a stream: what to read of each message, by direction."""


class Summarizer:
    """Make summaries with the schemas of one registry. What a method's line needs is worked out once."""

    def __init__(self, registry: Registry, *, show_secrets: bool = False) -> None:
        self._registry = registry
        self._masker = None if show_secrets else Masker(registry)
        self._plans: dict[tuple[str, str], _Plan] = {}
        self.unary: set[tuple[str, str]] = set()
        """Methods, by service and name, of which `streamed` has nothing to say: a short way for who asks often."""
        self._events: dict[str, tuple[tuple[Item, ...], tuple[Callable[[Any], Any], ...]]] = {}

    def summarize(self, call: Call) -> Summary:
        """Say what there is to say of `call` by now."""
        plan = self._plans.get((call.service, call.method))
        if plan is None:
            plan = self._plans[call.service, call.method] = self._plan(call.service, call.method)
        if plan.carries_event:
            return self._event(call, plan)
        if not plan.known:
            sizes = size(call.request_bytes) if call.message_count else ""
            sizes = f"{sizes} (no schema)".lstrip() if call.service else sizes
            return Summary(plan.name, "", sizes, size(call.response_bytes) if call.response_count else "")
        wanted = found = identity = ""
        request, response = _first_two(call.messages)
        if request is not None and plan.request is not None:
            wanted, identity = self._read(plan.request, request)
        if response is not None and plan.response is not None:
            found, other = self._read(plan.response, response)
            identity = identity or other
        if plan.streaming:
            found = _stream_text(call) if call.response_count else ""
        return _new(Summary, (plan.name, identity, wanted, found))

    def streamed(self, call: Call, message: Message) -> Summary | None:
        """Say what a message of a stream says, in `request` or `response`; None if `call` is no stream.

        A method that no schema has is one once a side has said two things.
        """
        plan = self._plans.get((call.service, call.method))
        if plan is None:
            plan = self._plans[call.service, call.method] = self._plan(call.service, call.method)
        if plan.streamed:
            side = plan.streamed[message.direction]
            if side.type in ENVELOPES and message.payload is not None:
                identity, text = self._envelope(side.type, message.payload)
            else:
                text, identity = self._read(side, message)
            text = text or size(message.length)
        elif plan.known:
            self.unary.add((call.service, call.method))
            return None
        elif said_twice(call, message):
            text, identity = size(message.length), ""
        else:
            return None
        return Summary(plan.name, identity, *(("", text) if message.direction else (text, "")))

    def _envelope(self, type_name: str, payload: bytes) -> tuple[str, str]:
        parsed = self._registry.parse(type_name, payload)
        if parsed.message is None:
            return "", f"(does not parse: {escape(parsed.error)})"
        summary = self._enveloped(parsed.message, "")
        return summary.id, f"{summary.method} {summary.request}".strip()

    def _read(self, side: _Side, message: Message) -> tuple[str, str]:
        """Return what the line shows of a message, and the id in it; both escaped."""
        payload = message.payload
        if payload is None:
            return f"({escape(message.note)})", ""
        read = side.known.get(payload)
        if read is None:
            parsed = self._registry.parse(side.type, side.mask(side.type, payload) if side.mask else payload)
            body = parsed.message
            if body is None:
                return f"(does not parse: {escape(parsed.error)})", ""
            text = " ".join([text for item in side.items if (text := item(body))])
            read = text, _identity(side.ids, body)
            if len(payload) <= KEPT_LENGTH:
                if len(side.known) >= KEPT:
                    side.known.clear()
                side.known[payload] = read
        return read

    def _event(self, call: Call, plan: _Plan) -> Summary:
        request = call.request()
        if request is None or request.payload is None or plan.request is None:
            return Summary(plan.name, "", f"({escape(request.note)})" if request else "", "")
        parsed = self._registry.parse(plan.request.type, request.payload)
        if parsed.message is None:
            return Summary(plan.name, "", f"(does not parse: {escape(parsed.error)})", "")
        envelope = parsed.message.envelope  # type: ignore[attr-defined] # made at run time from the schema
        return self._enveloped(envelope, plan.name)

    def _enveloped(self, envelope: Any, name: str) -> Summary:  # noqa: ANN401 # see Descriptor
        topic = escape(envelope.topic) or name
        event = self._parse_any(envelope.event)
        if event is None or event.message is None:
            return Summary(topic, "", escape(envelope.event.type_url), "")
        items, ids = self._event_plan(event.message.DESCRIPTOR)
        text = " ".join([text for item in items if (text := item(event.message))])
        return Summary(topic, _identity(ids, event.message), text, "")

    def _parse_any(self, packed: Any) -> Parsed | None:  # noqa: ANN401 # an Any of a private pool has no static type
        url = packed.type_url
        name = self._registry.resolve_any(url if isinstance(url, str) else escape(url))
        return None if name is None else self._registry.parse(name, packed.value)

    def _event_plan(self, descriptor: Descriptor) -> tuple[tuple[Item, ...], tuple[Callable[[Any], Any], ...]]:
        plan = self._events.get(descriptor.full_name)
        if plan is None:
            items = _items(EVENT_FIELDS.get(descriptor.full_name, ""), descriptor)
            plan = self._events[descriptor.full_name] = items, _id_getters(EVENT_ID_PATHS, descriptor)
        return plan

    def _plan(self, service: str, method: str) -> _Plan:
        name = method_name(service, method)
        found = self._registry.method(service, method)
        if found is None:
            return _Plan(name, None, None, False, False, False)
        source = self._registry.message_class(found.input_type).DESCRIPTOR
        target = self._registry.message_class(found.output_type).DESCRIPTOR
        request, _, response = FIELDS.get(service, {}).get(method, "").partition("→")
        if method not in FIELDS.get(service, {}):  # a service of the user's own
            request, response = _first_fields(source), _first_fields(target)
        paths = ID_PATHS.get(service, ())
        carries_event = service in EVENT_CARRIERS and method == "Forward"
        asks = _Side(
            found.input_type, _items(request, source), _id_getters(paths, source), self._mask(request, source), {}
        )
        answers = _Side(
            found.output_type, _items(response, target), _id_getters(paths, target), self._mask(response, target), {}
        )
        streaming = found.client_streaming or found.server_streaming
        each, _, back = STREAMED.get(service, {}).get(method, "").partition("→")
        return _Plan(
            name,
            asks if asks.items or asks.ids or carries_event else None,
            answers if (answers.items or answers.ids) and not found.server_streaming else None,
            streaming,
            carries_event,
            True,
            (
                asks._replace(items=_items(each, source), mask=self._mask(each, source), known={}),
                answers._replace(items=_items(back, target), mask=self._mask(back, target), known={}),
            )
            if streaming
            else (),
        )

    def _mask(self, specification: str, descriptor: Descriptor) -> Callable[[str, bytes], bytes] | None:
        paths = [path for word in specification.split() for path in parse_item(word)[1]]
        fields = [field for path in paths if (field := resolve(path, descriptor)) is not None]
        masker = self._masker
        return masker.mask if masker is not None and any(masker.masks(field) for field in fields) else None


def method_name(service: str, method: str) -> str:
    """How a line names a method: alone where its hop leaves no doubt, else with the last part of its service."""
    if not service:
        return "(start not seen)"
    if service.startswith(_PLAIN_SERVICES):
        return escape(method)
    if service.startswith("runtime.v1alpha2."):
        return escape(f"v1alpha2/{method}")
    return escape(f"{service.rpartition('.')[2]}/{method}")


def _first_two(messages: list[Message]) -> tuple[Message | None, Message | None]:
    if len(messages) == 2 and messages[1].direction and not messages[0].direction:  # as most have it
        return messages[0], messages[1]
    request = response = None
    for message in messages:
        if message.direction:
            if response is None:
                response = message
        elif request is None:
            request = message
        if request is not None and response is not None:
            break
    return request, response


def said_twice(call: Call, message: Message) -> bool:
    """Whether this message is not the first of its side: then its call is a stream, whatever schemas know of it."""
    said = call.response_count if message.direction else call.message_count - call.response_count
    return said > 1


def _stream_text(call: Call) -> str:
    sent = call.message_count - call.response_count
    asked = f"{sent} sent, " if sent > 1 else ""
    plural = "" if call.response_count == 1 else "s"
    return f"{asked}{call.response_count} message{plural}, {size(call.response_bytes)}"


def _id_getters(paths: tuple[str, ...], descriptor: Descriptor) -> tuple[Callable[[Any], Any], ...]:
    return tuple(attrgetter(path) for path in paths if resolve(path, descriptor) is not None)


def _identity(ids: tuple[Callable[[Any], Any], ...], body: Any) -> str:  # noqa: ANN401 # see Descriptor
    """The first id that is filled, escaped."""
    for get in ids:
        identity = get(body)
        if identity:
            return escape(identity)
    return ""


def _items(specification: str, descriptor: Descriptor) -> tuple[Item, ...]:
    items = (_item(word, descriptor) for word in specification.split())
    return tuple(item for item in items if item is not None)


def _first_fields(descriptor: Descriptor) -> str:
    """Items for a message that the table does not know: its first fields that fit on a line."""
    plain = [each.name for each in descriptor.fields if not each.is_repeated and each.message_type is None]
    return " ".join(f"{name}={name}" for name in plain[:MAX_FIRST])


def parse_item(word: str) -> tuple[str | None, list[str], str]:
    """Take an item of the table apart: its label (None: none was given), its paths, its form."""
    label, separator, rest = word.rpartition("=")
    paths, _, form = rest.partition(":")
    return label if separator else None, paths.split("/"), form


def _item(word: str, descriptor: Descriptor) -> Item | None:
    label, paths, form = parse_item(word)
    fields = [field for path in paths if (field := resolve(path, descriptor)) is not None]
    if len(fields) != len(paths):
        return None  # an older schema, or a user's own
    if len(paths) > 1:
        getters = [attrgetter(path) for path in paths]
        return lambda message: "/".join([_text(value) for get in getters if (value := get(message))])
    return _one(label, attrgetter(paths[0]), fields[0], form)


def _one(label: str | None, get: Callable[[Any], Any], field: FieldDescriptor, form: str) -> Item:
    if form == "exit":
        return lambda message: f"exit {_why(get(message))}"
    if form == "count":
        return lambda message: f"{label} {len(get(message))}"
    if form == "exec":
        return lambda message: (
            f"{label} {_id(value)}" if (value := get(message)) and value != message.container_id else ""
        )
    if form == "set":
        return lambda message: f"{label} {names}" if (names := _set_fields(get(message))) else ""
    if form == "args":
        return lambda message: _args(get(message))
    numeric = field.cpp_type not in (FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_MESSAGE)
    if field.enum_type is not None:
        names = {value.number: value.name for value in field.enum_type.values}
        return lambda message: names.get(value := get(message), str(value))
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        name = label or field.name
        return lambda message: name if get(message) else ""
    shown = _FORMS[form]
    if label is None and numeric and form != "signal":
        label = field.name
    before = "" if label is None else f"{label} "
    if form == "always":
        return lambda message: before + shown(get(message))
    return lambda message: before + shown(value) if (value := get(message)) else ""


def _args(packed: Any) -> str:  # noqa: ANN401 # an Any of a private pool
    if packed.type_url != PROCESS_URL:
        return ""
    try:
        args = cast("dict[str, Any]", parse_json(packed.value)).get("args")
    except (ValueError, AttributeError):
        return ""
    return _words(args) if isinstance(args, list) else ""


def _set_fields(message: Any) -> str:  # noqa: ANN401 # see Descriptor
    return ",".join(field.name for field, _ in message.ListFields())


def _text(value: str | bytes) -> str:
    text = escape(value)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _id(value: str | bytes) -> str:
    return short_id(escape(value))


def _digest(value: str | bytes) -> str:
    algorithm, colon, digits = escape(value).partition(":")
    return f"{algorithm}:{digits[:12]}" if colon and len(digits) == 64 else _text(value)


def _words(value: Any) -> str:  # noqa: ANN401 # repeated string, bytes where the text was not UTF-8, or number
    words = [escape(word) if isinstance(word, bytes) else str(word) for word in value]
    return _text(shlex.join(words))


def _signal(value: int) -> str:
    return signal_name(value) or str(value)


def _why(status: int) -> str:
    reason = exit_reason(status)
    return str(status) if reason is None else f"{status} ({reason})"


def _plain(value: Any) -> str:  # noqa: ANN401 # any scalar of protobuf
    return _text(value) if isinstance(value, (str, bytes)) else str(value)


_FORMS: dict[str, Callable[[Any], str]] = {
    "": _plain,
    "always": _plain,
    "id": _id,
    "digest": _digest,
    "bytes": lambda value: size(len(value)),
    "words": _words,
    "signal": _signal,
    "seconds": lambda value: f"{value}s",
    "quantity": quantity,
    "why": _why,
    "elsewhere": lambda value: f"{_text(value)} (its bytes bypass CRI)",
}
