"""Which calls are wanted: an expression in CEL, the Common Expression Language, over a call and its messages.

In: an expression; then calls. Out: whether each is wanted. The expression is compiled once for each method that calls
come of, with `request` and `response` as that method's message types: one that does not fit a method's types matches
none of its calls. Then it is asked what the method alone decides: mostly that it is another one, and nothing of the
call is read. What cannot be evaluated, as of a call without an answer, is no match; it is counted, and said once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from cel_expr_python import cel
from google.protobuf.descriptor import Descriptor

from protos.errors import PodwireError
from protos.registry import Registry
from tracer.calls import Call, Message
from tracer.output.codes import status_name
from tracer.output.fields import EVENT_CARRIERS
from tracer.output.summary import Summarizer
from tracer.waiting import meant_to_wait

_TYPE = cel.Type
_Field = Callable[[Call, int], Any]
"""Takes a call and the time of the capture."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Variable(NamedTuple):
    """One thing that an expression can ask of a call."""

    name: str
    type: cel.Type
    what: str
    get: _Field


def _length_ns(call: Call, now_ns: int) -> int:
    return max(0, (now_ns if call.end_ns is None else call.end_ns) - call.start_ns)


def _pod(call: Call, _: int) -> str:
    pod = None if call.place is None else call.place.pod
    return "" if pod is None else pod.label() or pod.id


def _container(call: Call, _: int) -> str:
    container = None if call.place is None else call.place.container
    return "" if container is None else container.name or container.id


VARIABLES: Final = (
    Variable("call.number", _TYPE.INT, "in the capture, from 1", lambda call, _: call.number),
    Variable("call.hop", _TYPE.STRING, "cri, task, events, agent, nri, other", lambda call, _: call.hop),
    Variable("call.protocol", _TYPE.STRING, "grpc or ttrpc", lambda call, _: call.protocol),
    Variable("call.service", _TYPE.STRING, "full name", lambda call, _: call.service),
    Variable("call.method", _TYPE.STRING, "without the service's name", lambda call, _: call.method),
    Variable("call.state", _TYPE.STRING, "open, ended, cancelled … (docs/json.md)", lambda call, _: call.state.value),
    Variable(
        "call.status",
        _TYPE.STRING,
        "OK, NOT_FOUND …; empty without one",
        lambda call, _: "" if call.status is None else status_name(call.status.code),
    ),
    Variable(
        "call.error", _TYPE.STRING, "the status's message", lambda call, _: call.status.message if call.status else ""
    ),
    Variable("call.failed", _TYPE.BOOL, "ended in anything but OK", lambda call, _: call.failed()),
    Variable("call.open", _TYPE.BOOL, "has no end yet", lambda call, _: call.end_ns is None),
    Variable(
        "call.waits",
        _TYPE.BOOL,
        "is meant to wait, as Task Wait",
        lambda call, _: meant_to_wait(call.service, call.method),
    ),
    Variable(
        "call.start",
        _TYPE.TIMESTAMP,
        "of its first frame",
        lambda call, _: _EPOCH + timedelta(microseconds=call.start_ns // 1000),
    ),
    Variable(
        "call.duration",
        _TYPE.DURATION,
        "to its end, or until now",
        lambda call, now_ns: timedelta(microseconds=_length_ns(call, now_ns) / 1000),
    ),
    Variable(
        "call.timeout",
        _TYPE.DURATION,
        "that its client gave it; 0s without",
        lambda call, _: timedelta(microseconds=(call.timeout_ns or 0) / 1000),
    ),
    Variable(
        "call.deadline_passed",
        _TYPE.BOOL,
        "it took longer than that",
        lambda call, now_ns: call.deadline_passed(now_ns),
    ),
    Variable("call.pod", _TYPE.STRING, "namespace/name, or its sandbox's id; empty: of none, or not known", _pod),
    Variable("call.container", _TYPE.STRING, "name, or its id", _container),
    Variable("call.request_bytes", _TYPE.INT, "of its messages", lambda call, _: call.request_bytes),
    Variable("call.response_bytes", _TYPE.INT, "", lambda call, _: call.response_bytes),
    Variable("call.messages", _TYPE.INT, "how many, both ways", lambda call, _: call.message_count),
    Variable("call.gap", _TYPE.BOOL, "bytes of its connection are missing", lambda call, _: call.gap),
    Variable("call.note", _TYPE.STRING, "what its state does not say", lambda call, _: call.note),
    Variable("call.connection", _TYPE.INT, "its number in the capture", lambda call, _: call.flow.id),
    Variable("call.stream", _TYPE.INT, "id in the connection", lambda call, _: call.stream_id),
    Variable("call.socket", _TYPE.STRING, "path", lambda call, _: call.flow.socket),
    Variable("call.client", _TYPE.STRING, "name of the process", lambda call, _: call.flow.client.name or ""),
    Variable("call.client_pid", _TYPE.INT, "0: not known", lambda call, _: call.flow.client.pid or 0),
    Variable("call.server", _TYPE.STRING, "name of the process", lambda call, _: call.flow.server.name or ""),
    Variable("call.server_pid", _TYPE.INT, "0: not known", lambda call, _: call.flow.server.pid or 0),
    Variable(
        "call.metadata",
        _TYPE.Map(_TYPE.STRING, _TYPE.DYN),
        "gRPC's request headers, ttrpc's metadata; of a name that comes twice the last",
        lambda call, _: dict(call.metadata),
    ),
)
"""What of a call has the same type in all methods. `call.id`, `request`, `response` and `event` are beside these."""

OTHERS: Final = {
    "call.id": "string: of the pod or container, as the line has it, whole",
    "request": "the first message of the client, typed by the method",
    "response": "the first message of the server, typed by the method",
    "event": "the event that a Forward carries",
}
_BY_NAME: Final = {variable.name: variable for variable in VARIABLES}
_MESSAGES: Final = ("request", "response", "event")
_ANY_TYPE: Final = "runtime.v1.VersionRequest"
"""Whose file has CRI's enumerations, by whose names their values can be written."""
_NAMED_METHOD: Final = re.compile(r"call\.method\s*==\s*[\"'](\w+)[\"']")
_PLACE: Final = re.compile(r"line (\d+), column (\d+)")
_ERROR: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")


class _Program(NamedTuple):
    """The expression for one method."""

    expression: cel.Expression
    variables: tuple[Variable, ...]
    request_type: str
    response_type: str


class Filter:
    """One expression. `errors` counts the calls of which it could not be evaluated; `first_error` says why."""

    def __init__(self, text: str, registry: Registry) -> None:
        """Compile. Raises PodwireError, with line and column, for what is no such expression."""
        self.errors = 0
        self.first_error = ""
        self._last_error = 0
        self._text = text
        self._registry = registry
        self._summarizer = Summarizer(registry, show_secrets=True)
        self._programs: dict[tuple[str, str], _Program | bool] = {}
        self._used = self._check()
        self._reads_messages = not self._used.isdisjoint(OTHERS)
        self._reads_request = not self._used.isdisjoint(("request", "event"))

    def wants(self, call: Call, now_ns: int) -> bool:
        """Tell whether a call is wanted, as it is at this time of the capture."""
        program = self._programs.get((call.service, call.method))
        if program is None:
            program = self._programs[call.service, call.method] = self._program(call.service, call.method)
        if isinstance(program, bool):
            return program
        data: dict[str, Any] = {variable.name: variable.get(call, now_ns) for variable in program.variables}
        if self._reads_messages:
            self._add_messages(call, program, data)
        result = program.expression.eval(data=data)
        value = result.value()
        if value is True or value is False:
            return bool(value)
        if call.number != self._last_error:  # a stream is asked of again with each message
            self.errors += 1  # an error's value is true in Python's sense; so is any that is no bool
            self._last_error = call.number
        self.first_error = self.first_error or re.sub(r"^[A-Z_]+: ", "", str(value))
        return False

    # -- compiling -----------------------------------------------------------------------------------------------

    def _check(self) -> frozenset[str]:
        """Return the names that the expression uses. Raises PodwireError."""
        whole = _variables() | {name: _TYPE.DYN for name in OTHERS}
        pool = self._registry.message_class(_ANY_TYPE).DESCRIPTOR.file.pool
        expression = _compile(cel.NewEnv(descriptor_pool=pool, variables=whole), self._text)
        if expression.return_type().name() not in ("BOOL", "DYN"):
            raise PodwireError(f"filter: it gives {expression.return_type().name()}, not true or false")
        envs = {
            name: cel.NewEnv(descriptor_pool=pool, variables={each: whole[each] for each in whole if each != name})
            for name in whole
        }
        used = frozenset(name for name, env in envs.items() if not _compiles(env, self._text))
        if used & {"request", "response"}:
            self._check_messages()
        return used

    def _check_messages(self) -> None:
        """Look for a method whose messages have the fields that are asked for. Raises PodwireError if none has."""
        names = set(_NAMED_METHOD.findall(self._text))
        furthest, reason = (0, 0), f"filter: no method is called {' or '.join(sorted(names))}"
        for service, method in self._methods():
            if names and method not in names:
                continue
            try:
                self._compile_for(service, method)
            except PodwireError as error:
                found = _PLACE.search(str(error))
                place = (int(found[1]), int(found[2])) if found is not None else (0, 0)
                if place > furthest:  # the one that had the most of the fields
                    furthest, reason = place, f"{error} ({service}/{method})"
            else:
                return
        raise PodwireError(reason)

    def _methods(self) -> Iterator[tuple[str, str]]:
        for service in self._registry.services():
            for name in self._registry.methods(service):
                method = self._registry.method(service, name)
                if method is not None and not method.input_type.startswith("google.protobuf."):  # it may hold anything
                    yield service, name

    def _compile_for(self, service: str, method: str) -> cel.Expression:
        """Compile with a method's own messages. Raises PodwireError."""
        variables = _variables() | {"call.id": _TYPE.STRING, "event": _TYPE.DYN}
        found = self._registry.method(service, method)
        if found is None:
            return _compile(cel.NewEnv(variables=variables | dict.fromkeys(_MESSAGES, _TYPE.DYN)), self._text)
        pool = self._registry.message_class(found.input_type).DESCRIPTOR.file.pool
        self._registry.message_class(found.output_type)  # builds it in the pool
        variables |= {"request": _TYPE(found.input_type), "response": _TYPE(found.output_type)}
        return _compile(cel.NewEnv(descriptor_pool=pool, variables=variables), self._text)

    def _program(self, service: str, method: str) -> _Program | bool:
        """Return the expression for a method, or its answer where the method alone decides."""
        try:
            expression = self._compile_for(service, method)
        except PodwireError:
            return False
        # && and || ignore what is missing on one side where the other decides.
        value = expression.eval(data={"call.service": service, "call.method": method}).value()
        if value is True or value is False:
            return bool(value)
        found = self._registry.method(service, method)
        types = (found.input_type, found.output_type) if found is not None else ("", "")
        return _Program(expression, tuple(v for v in VARIABLES if v.name in self._used), *types)

    # -- evaluating ----------------------------------------------------------------------------------------------

    def _add_messages(self, call: Call, program: _Program, data: dict[str, Any]) -> None:
        if "call.id" in self._used:
            data["call.id"] = self._summarizer.summarize(call).id
        for name, type_name, message in (
            ("request", program.request_type, call.request() if self._reads_request else None),
            ("response", program.response_type, call.response() if "response" in self._used else None),
        ):
            parsed = self._parsed(type_name, message)
            if parsed is None:
                continue
            data[name] = parsed
            if name == "request" and "event" in self._used and call.service in EVENT_CARRIERS:
                event = self._event(parsed)
                if event is not None:
                    data["event"] = event

    def _parsed(self, type_name: str, message: Message | None) -> Any:  # noqa: ANN401 # a message of a private pool
        if message is None or message.payload is None or not type_name:
            return None
        parsed = self._registry.parse(type_name, message.payload)
        return None if parsed.lenient else parsed.message

    def _event(self, request: Any) -> Any:  # noqa: ANN401 # as above
        packed = getattr(getattr(request, "envelope", None), "event", None)
        name = None if packed is None else self._registry.resolve_any(packed.type_url)
        return None if packed is None or name is None else self._registry.parse(name, packed.value).message


def _variables() -> dict[str, cel.Type]:
    return {variable.name: variable.type for variable in VARIABLES}


def _compile(env: cel.Env, text: str) -> cel.Expression:
    try:
        return env.compile(text)
    except RuntimeError as error:
        raise PodwireError(f"filter: {_reason(str(error))}") from None


def _compiles(env: cel.Env, text: str) -> bool:
    try:
        env.compile(text)
    except RuntimeError:
        return False
    return True


def _reason(text: str) -> str:
    """What the compiler says first, as one line."""
    found = _ERROR.search(text)
    if found is None:
        return " ".join(text.split())
    what = found[3].replace(" (in container '')", "")
    if "(uint, int)" in what or "(int, uint)" in what:
        what += "; an unsigned number is written 3u"
    return f"line {found[1]}, column {found[2]}: {what}"


# -- completion --------------------------------------------------------------------------------------------------


def complete(text: str, registry: Registry, service: str = "", method: str = "") -> list[str]:
    """Return what the last name in an expression that is being typed may go on as, fields of messages included.

    The method whose messages these are may be given; else it is the one that the expression names.
    """
    start = re.search(r"[\w.]*\Z", text)
    typed = start[0] if start is not None else ""
    root, dot, _ = typed.partition(".")
    if root not in ("request", "response") or not dot:
        return sorted(name for name in [*_BY_NAME, *OTHERS] if name.startswith(typed))
    named = _NAMED_METHOD.findall(text)
    found: set[str] = set()
    for each, name in _candidates(registry, service, method, named[-1] if named else ""):
        known = registry.method(each, name)
        if known is not None:
            message = known.input_type if root == "request" else known.output_type
            found |= set(_fields(registry.message_class(message).DESCRIPTOR, root, typed))
    return sorted(found)


def field_lines(registry: Registry, method: str = "") -> list[str]:
    """Return the fields that an expression can use, one a line, with their types; those of a method's messages too.

    Raises PodwireError for a method that no schema has.
    """
    names = {variable.name: f"{_type_name(variable.type)}: {variable.what}".rstrip(": ") for variable in VARIABLES}
    lines = [f"{name:<22} {what}" for name, what in {**names, **OTHERS}.items()]
    if not method:
        return lines
    candidates = list(_candidates(registry, "", "", method))
    if not candidates:
        raise PodwireError(f"no schema has a method {method}")
    for service, name in candidates:
        found = registry.method(service, name)
        if found is not None:
            lines.append(f"{service}/{name}")
            for root, message in (("request", found.input_type), ("response", found.output_type)):
                lines += [f"  {path}" for path in _all_fields(registry.message_class(message).DESCRIPTOR, root, ())]
    return lines


def _candidates(registry: Registry, service: str, method: str, named: str) -> Iterator[tuple[str, str]]:
    if service and method:
        yield service, method
    elif named:
        for each in registry.services():
            if named in registry.methods(each):
                yield each, named


def _fields(descriptor: Any, at: str, typed: str) -> Iterator[str]:  # noqa: ANN401 # stubs have another Descriptor
    for field in descriptor.fields:
        path = f"{at}.{field.name}"
        if typed.startswith(f"{path}.") and field.message_type is not None and not field.is_repeated:
            yield from _fields(field.message_type, path, typed)
        elif path.startswith(typed):
            yield path


def _all_fields(descriptor: Any, at: str, above: tuple[Descriptor, ...]) -> Iterator[str]:  # noqa: ANN401 # as above
    for field in descriptor.fields:
        path = f"{at}.{field.name}"
        message = field.message_type
        if field.is_repeated:
            yield f"{path} ({'map' if message is not None and message.GetOptions().map_entry else 'list'})"
        elif message is None or message in above or message.full_name.startswith("google.protobuf."):
            yield path
        else:
            yield from _all_fields(message, path, (*above, message))


def _type_name(kind: cel.Type) -> str:
    return str(kind.name()).lower()
