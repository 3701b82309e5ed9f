"""Calls and findings as JSON, one object a line: the shape is docs/json.md, and `v` its version.

In: updates. Out: lines, written through the function it is given; ASCII only, so that they are safe on any terminal.
Nothing in them depends on when the capture was read: a trace and its file give the same bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from dissectors.events import Direction, Metadata, Status
from dissectors.masking import EVIDENCE, mask_metadata
from dissectors.render import Renderer
from protos.registry import Registry
from tracer.calls import Call, CallUpdate, Finding, Message, Update
from tracer.capture.flows import Endpoint, Flow
from tracer.logs import Logged
from tracer.output import JSON_VERSION
from tracer.output.bundles import bundle_object
from tracer.output.codes import reset_name, status_name
from tracer.output.fields import EVENT_CARRIERS, EVENT_ID_PATHS, ID_PATHS
from tracer.output.logs import shown_message
from tracer.output.summary import said_twice
from tracer.output.units import Stamps
from tracer.story.place import Container, Place, Pod

STATUS_TYPE = "google.rpc.Status"
KEPT_CONNECTIONS = 4096
"""Connections whose rendered ends are kept; a trace of weeks sees more."""
KEPT_BODIES = 256
"""What was rendered of so many messages of a method's side is kept: half of all are the very bytes of one before."""
KEPT_LENGTH = 512
"""Bytes of a message so kept, at most."""
SIDES = ("request", "response")
ENDS = ("client", "server")

_quote = json.encoder.encode_basestring_ascii

JSONObject = dict[str, Any]


class JsonPrinter:
    """Print a call when it has ended, a finding when it comes, and at the end the calls that are still open.

    With `messages`, those of streams too, each when it comes.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        registry: Registry,
        renderer: Renderer,
        wanted: Callable[[Call, int], bool] | None = None,
        *,
        messages: bool = False,
    ) -> None:
        self.shown = 0
        """Calls printed that had ended."""
        self._wanted = wanted
        self._messages = messages
        self._now_ns = 0
        self._write = write
        self._registry = registry
        self._renderer = renderer
        self._show_secrets = renderer.show_secrets
        self._stamps = Stamps()
        # What is encoded was just made from bytes: it cannot contain itself.
        self._encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
        self._open: dict[int, Call] = {}
        self._connections: dict[Flow, str] = {}
        self._methods: dict[tuple[str, str], _Method] = {}

    def update(self, update: Update) -> None:
        """Take what changed."""
        if type(update) is Logged:
            if self._wanted is None:  # a filter asks for calls
                self._write(self.logged(update) + "\n")
            return
        if type(update) is not CallUpdate:
            if self._wanted is None or update.flow is None:  # type: ignore[union-attr] # told by its type
                self._write(self.finding(update) + "\n")  # type: ignore[arg-type] # as above
            return
        kind, time_ns, call, message = update
        self._now_ns = time_ns
        if kind == "ended":
            self._open.pop(call.number, None)
            if self._wanted is None or self._wanted(call, time_ns):
                self._write(self.call(call) + "\n")
                self.shown += 1
        elif kind == "opened":
            self._open[call.number] = call
        elif self._messages and message is not None:
            wanted = self._wanted is None or self._wanted(call, time_ns)
            if wanted and self._is_stream(call, message):
                self._write(self.streamed(call, message) + "\n")

    def tick(self, now_ns: int) -> None:
        """Nothing here depends on time."""

    def finish(self, end_ns: int | None = None) -> None:
        """Print the calls that have no end in this capture, in the order of their starts."""
        for _, call in sorted(self._open.items()):
            if self._wanted is None or self._wanted(call, end_ns or self._now_ns):
                self._write(self.call(call) + "\n")
        self._open.clear()

    def call(self, call: Call, **more: object) -> str:
        """The object of one call, as docs/json.md has it, with `more` at its end; no line end.

        It is put together from encoded pieces: a dict of dicts for the encoder costs three times as much.
        """
        method = self._methods.get((call.service, call.method)) or self._method(call.service, call.method)
        ids: list[str | None] = [None, None]  # in the first message of each side
        messages = ",".join([self._message(call, message, method, ids) for message in call.messages])
        identity = ids[0] or (ids[1] if method.id_sides > 1 else "") or ""
        start_ns, end_ns = call.start_ns, call.end_ns
        pieces = [
            f'{{"v":{JSON_VERSION},"kind":"call","call":{call.number},"state":"{call.state.value}",'
            f'"time":"{self._stamps.text(start_ns)}",'
            f'"duration_ns":{"null" if end_ns is None else end_ns - start_ns},'
            f'"hop":{_quote(call.hop)},"protocol":{_quote(call.protocol)},{method.names},"id":{_quote(identity)},'
            f'"status":{"null" if call.status is None else self._status(call.status)},{self._connection(call.flow)},'
            f'"stream":{call.stream_id},"seen_start":{"true" if call.seen_start else "false"},'
            f'"request_bytes":{call.request_bytes},"response_bytes":{call.response_bytes},'
            f'"messages":[{messages}],"dropped_messages":{call.dropped_messages}'
        ]
        if call.timeout_ns is not None:
            pieces.append(f'"timeout_ns":{call.timeout_ns}')
            if end_ns is not None and call.deadline_passed(end_ns):
                pieces.append('"deadline_passed":true')
        if call.ended_by is not None:
            pieces.append(f'"ended_by":"{ENDS[call.ended_by]}"')
        if call.reset is not None:
            pieces.append(f'"reset":{{"code":{call.reset},"name":"{reset_name(call.reset)}"}}')
        if call.gap:
            pieces.append('"gap":true')
        if call.note:
            pieces.append(f'"note":{_quote(call.note)}')
        if call.place is not None:
            pieces += _place(call.place)
        if call.metadata:
            pieces.append(f'"metadata":{self._metadata(call.metadata)}')
        if call.response_metadata:
            pieces.append(f'"response_metadata":{self._metadata(call.response_metadata)}')
        if call.trailers:
            pieces.append(f'"trailers":{self._metadata(call.trailers)}')
        if call.bundles:
            shown = [bundle_object(bundle, show_secrets=self._show_secrets) for bundle in call.bundles]
            pieces.append(f'"bundles":{self._encode(shown)}')
        if more:
            pieces.append(self._encode(more)[1:-1])
        return ",".join(pieces) + "}"

    def streamed(self, call: Call, message: Message) -> str:
        """The object of one message of a stream, at the time it came; no line end."""
        method = self._methods.get((call.service, call.method)) or self._method(call.service, call.method)
        return (
            f'{{"v":{JSON_VERSION},"kind":"message","call":{call.number},"time":"{self._stamps.text(message.time_ns)}",'
            f'"hop":{_quote(call.hop)},"protocol":{_quote(call.protocol)},{method.names},{self._connection(call.flow)},'
            f'"stream":{call.stream_id},"message":{self._message(call, message, method, [None, None])}}}'
        )

    def _is_stream(self, call: Call, message: Message) -> bool:
        found = self._registry.method(call.service, call.method)
        return said_twice(call, message) if found is None else found.client_streaming or found.server_streaming

    def logged(self, line: Logged) -> str:
        """The object of a line of a log; no line end."""
        shown: JSONObject = {
            "v": JSON_VERSION,
            "kind": line.kind,
            "time": self._stamps.text(line.time_ns),
            "source": line.source,
        }
        if line.pid is not None:
            shown["pid"] = line.pid
        if line.unit:
            shown["unit"] = line.unit
        if line.level:
            shown["level"] = line.level
        shown["text"] = shown_message(line, show_secrets=self._show_secrets).decode("utf-8", "backslashreplace")
        if line.cut:
            shown["cut"] = True
        return ",".join([self._encode(shown)[:-1], *_whom(line.pod, line.container)]) + "}"

    def finding(self, finding: Finding) -> str:
        """The object of a gap, of malformed bytes or of a notice; no line end."""
        shown: JSONObject = {
            "v": JSON_VERSION,
            "kind": finding.kind,
            "time": self._stamps.text(finding.time_ns),
            "reason": finding.reason,
        }
        if finding.direction is not None:
            shown["direction"] = SIDES[finding.direction]
        if finding.offset is not None:
            shown["offset"] = finding.offset
        if finding.length:
            shown["length"] = finding.length
        if finding.evidence:
            shown["evidence_base64"] = _base64(finding.evidence if self._show_secrets else finding.evidence[:EVIDENCE])
        if finding.call is not None:
            shown["call"] = finding.call.number
        if finding.fatal:
            shown["fatal"] = True
        if finding.text:
            shown["text"] = finding.text
        text = self._encode(shown)
        if finding.flow is None:
            return text
        return f'{text[:-1]},"hop":{_quote(finding.flow.hop)},{self._connection(finding.flow)}}}'

    def _method(self, service: str, method: str) -> _Method:
        names = f'"service":{_quote(service)},"method":{_quote(method)}'
        if service in EVENT_CARRIERS and method == "Forward":
            paths = tuple(tuple(f"envelope.event.{path}".split(".")) for path in EVENT_ID_PATHS)
        else:
            paths = tuple(tuple(path.split(".")) for path in ID_PATHS.get(service, ()))
        found = self._registry.method(service, method)
        if found is None:
            made = _Method(names, ("", ""), ("", ""), paths, 2, ({}, {}))
        else:
            types = found.input_type, found.output_type
            labels = f'"type":{_quote(types[0])},"body":', f'"type":{_quote(types[1])},"body":'
            made = _Method(names, types, labels, paths, 1 if found.server_streaming else 2, ({}, {}))
        self._methods[service, method] = made
        return made

    def _message(self, call: Call, message: Message, method: _Method, ids: list[str | None]) -> str:
        number, time_ns, direction, offset, length, payload, note = message
        noted = f',"note":{_quote(note)}' if note else ""
        body = ""
        if payload is not None:
            shown = method.shown[direction].get(payload) or self._body(method, direction, payload)
            body = shown[0]
            if ids[direction] is None:
                ids[direction] = shown[1]
        return (
            f'{{"number":{number},"direction":"{SIDES[direction]}","after_ns":{time_ns - call.start_ns},'
            f'"offset":{offset},"length":{length}{noted}{body}}}'
        )

    def _body(self, method: _Method, direction: Direction, payload: bytes) -> tuple[str, str]:
        """Return what an object has of a payload, from its comma on, and the id in it."""
        type_name = method.types[direction]
        if not type_name:
            payload = self._renderer.unknown(payload)
            guess = self._renderer.guess_json(payload)
            guessed = f',"guess":{self._encode(guess)}' if guess else ""
            return f',"body_base64":"{_base64(payload)}"{guessed}', ""
        body = self._renderer.to_json(type_name, payload)
        text = f",{method.labels[direction]}{self._encode(body) if body else '{}'}"
        shown = text, _identity(method.id_paths, body)
        if len(payload) <= KEPT_LENGTH:
            known = method.shown[direction]
            if len(known) >= KEPT_BODIES:
                known.clear()
            known[payload] = shown
        return shown

    def _metadata(self, metadata: Metadata) -> str:
        pairs = [
            f"[{_quote(key)},{_quote(value if isinstance(value, str) else _base64(value))}]"
            for key, value in (metadata if self._show_secrets else mask_metadata(metadata))
        ]
        return f"[{','.join(pairs)}]"

    def _status(self, status: Status) -> str:
        if not status.code and not status.message and not status.details:
            return '{"code":0,"name":"OK"}'
        shown: JSONObject = {"code": status.code, "name": status_name(status.code)}
        if status.message:
            shown["message"] = status.message
        if status.details:
            shown["details"] = self._renderer.to_json(STATUS_TYPE, status.details).get("details", [])
        return self._encode(shown)

    def _connection(self, flow: Flow) -> str:
        text = self._connections.get(flow)
        if text is None:
            socket = f'"socket":{_quote(flow.socket)},' if flow.socket else ""
            client, server = self._encode(_endpoint(flow.client)), self._encode(_endpoint(flow.server))
            channel = f'"channel":{flow.channel},' if flow.channel else ""
            text = f'"connection":{flow.id},{channel}{socket}"client":{client},"server":{server}'
            if len(self._connections) >= KEPT_CONNECTIONS:
                self._connections.clear()
            self._connections[flow] = text
        return text


class _Method(NamedTuple):
    """What is the same in all calls of a method."""

    names: str
    types: tuple[str, str]
    labels: tuple[str, str]
    id_paths: tuple[tuple[str, ...], ...]
    id_sides: int
    """How many sides are looked at for the id: not the answers of a stream, which are many."""
    shown: tuple[dict[bytes, tuple[str, str]], dict[bytes, tuple[str, str]]]
    """By side: what was made of payloads before."""


def _endpoint(endpoint: Endpoint) -> JSONObject:
    shown: JSONObject = {"address": endpoint.address, "port": endpoint.port}
    if endpoint.name:
        shown["name"] = endpoint.name
    if endpoint.pid is not None:
        shown["pid"] = endpoint.pid
    if endpoint.uid is not None:
        shown["uid"] = endpoint.uid
    if endpoint.command:
        shown["command"] = endpoint.command
    if endpoint.unit:
        shown["unit"] = endpoint.unit
    return shown


def _place(place: Place) -> list[str]:
    """What is known of a call's pod, container and exec by now, of its parent and its children."""
    container = place.container
    pieces = _whom(place.pod, container)
    if place.exec_id:
        pieces.append(f'"exec":{_quote(place.exec_id)}')
    image = place.image or (container.image if container is not None else "")
    if image:
        pieces.append(f'"image":{_quote(image)}')
    if place.parent is not None:
        pieces.append(f'"parent":{{"call":{place.parent.number},"how":"{place.how}"}}')
        if place.outlives():
            pieces.append('"outlives_parent":true')
    if place.children:
        children = ",".join([f'{{"call":{number},"how":"{how}"}}' for number, how in place.children])
        pieces.append(f'"children":[{children}]')
    return pieces


def _whom(pod: Pod | None, container: Container | None) -> list[str]:
    pieces = []
    if pod is not None:
        names = [("id", pod.id), ("namespace", pod.namespace), ("name", pod.name), ("uid", pod.uid)]
        pieces.append(_named("pod", names, pod.attempt))
    if container is not None:
        pieces.append(_named("container", [("id", container.id), ("name", container.name)], container.attempt))
    return pieces


def _named(what: str, names: list[tuple[str, str]], attempt: int | None) -> str:
    inner = [f'"{key}":{_quote(value)}' for key, value in names if value]
    if attempt is not None:
        inner.append(f'"attempt":{attempt}')
    return f'"{what}":{{{",".join(inner)}}}'


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _identity(paths: tuple[tuple[str, ...], ...], body: JSONObject) -> str:
    """The id of the pod or container that a rendered message is about; empty if there is none."""
    for path in paths:
        value: Any = body
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str) and value:
            return value
    return ""
