"""Calls and findings as JSON, one object a line: the shape is docs/json.md, and `v` its version.

In: updates. Out: lines, written through the function it is given; ASCII only, so that they are safe on any terminal.
Nothing in them depends on when the capture was read: a trace and its file give the same bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from dissectors.events import Direction, Metadata, Status
from dissectors.render import Renderer
from protos.registry import Registry
from tracer.calls import Call, CallUpdate, Finding, Message, Update
from tracer.capture.flows import Endpoint, Flow
from tracer.output.codes import reset_name, status_name
from tracer.output.fields import EVENT_CARRIERS, EVENT_ID_PATHS, ID_PATHS
from tracer.output.units import Stamps

VERSION = 1
STATUS_TYPE = "google.rpc.Status"
KEPT_CONNECTIONS = 4096
"""Connections whose rendered ends are kept; a trace of weeks sees more."""
SIDES = ("request", "response")

JSONObject = dict[str, Any]


class JsonPrinter:
    """Print a call when it has ended, a finding when it comes, and at the end the calls that are still open."""

    def __init__(self, write: Callable[[str], object], registry: Registry, renderer: Renderer) -> None:
        self._write = write
        self._registry = registry
        self._renderer = renderer
        self._stamps = Stamps()
        self._encode = json.JSONEncoder(separators=(",", ":")).encode
        self._open: dict[int, Call] = {}
        self._connections: dict[int, JSONObject] = {}
        self._types: dict[tuple[str, str], tuple[str, str, bool]] = {}

    def update(self, update: Update) -> None:
        """Take what changed."""
        if isinstance(update, CallUpdate):
            if update.kind == "opened":
                self._open[update.call.number] = update.call
            elif update.kind == "ended":
                self._open.pop(update.call.number, None)
                self._write(self._encode(self.call(update.call)) + "\n")
        else:
            self._write(self._encode(self.finding(update)) + "\n")

    def tick(self, now_ns: int) -> None:
        """Nothing here depends on time."""

    def finish(self, end_ns: int | None = None) -> None:
        """Print the calls that have no end in this capture, in the order of their starts."""
        for number in sorted(self._open):
            self._write(self._encode(self.call(self._open[number])) + "\n")
        self._open.clear()

    def call(self, call: Call) -> JSONObject:
        """The object of one call, as docs/json.md has it."""
        input_type, output_type, streamed = self._method_types(call.service, call.method)
        messages = [self._message(call, message, input_type, output_type) for message in call.messages]
        shown: JSONObject = {
            "v": VERSION,
            "kind": "call",
            "call": call.number,
            "state": call.state.value,
            "time": self._stamps.text(call.start_ns),
            "duration_ns": None if call.end_ns is None else call.end_ns - call.start_ns,
            "hop": call.hop,
            "protocol": call.protocol,
            "service": call.service,
            "method": call.method,
            "id": _identity(call, messages, streamed=streamed),
            "status": None if call.status is None else self._status(call.status),
            **self._connection(call.flow),
            "stream": call.stream_id,
            "seen_start": call.seen_start,
            "request_bytes": call.request_bytes,
            "response_bytes": call.response_bytes,
            "messages": messages,
            "dropped_messages": call.dropped_messages,
        }
        if call.timeout_ns is not None:
            shown["timeout_ns"] = call.timeout_ns
        if call.end_ns is not None and call.deadline_passed(call.end_ns):
            shown["deadline_passed"] = True
        if call.ended_by is not None:
            shown["ended_by"] = "client" if call.ended_by is Direction.REQUEST else "server"
        if call.reset is not None:
            shown["reset"] = {"code": call.reset, "name": reset_name(call.reset)}
        if call.gap:
            shown["gap"] = True
        if call.note:
            shown["note"] = call.note
        if call.metadata:
            shown["metadata"] = _metadata(call.metadata)
        if call.response_metadata:
            shown["response_metadata"] = _metadata(call.response_metadata)
        if call.trailers:
            shown["trailers"] = _metadata(call.trailers)
        return shown

    def finding(self, finding: Finding) -> JSONObject:
        """The object of a gap, of malformed bytes or of a notice."""
        shown: JSONObject = {
            "v": VERSION,
            "kind": finding.kind,
            "time": self._stamps.text(finding.time_ns),
            "reason": finding.reason,
        }
        if finding.flow is not None:
            shown["hop"] = finding.flow.hop
            shown |= self._connection(finding.flow)
        if finding.direction is not None:
            shown["direction"] = SIDES[finding.direction]
        if finding.offset is not None:
            shown["offset"] = finding.offset
        if finding.length:
            shown["length"] = finding.length
        if finding.evidence:
            shown["evidence_base64"] = base64.b64encode(finding.evidence).decode()
        if finding.call is not None:
            shown["call"] = finding.call.number
        if finding.fatal:
            shown["fatal"] = True
        return shown

    def _method_types(self, service: str, method: str) -> tuple[str, str, bool]:
        types = self._types.get((service, method))
        if types is None:
            found = self._registry.method(service, method)
            types = ("", "", False)
            if found is not None:
                types = (found.input_type, found.output_type, found.server_streaming)
            self._types[service, method] = types
        return types

    def _message(self, call: Call, message: Message, input_type: str, output_type: str) -> JSONObject:
        type_name = output_type if message.direction else input_type
        shown: JSONObject = {
            "number": message.number,
            "direction": SIDES[message.direction],
            "after_ns": message.time_ns - call.start_ns,
            "offset": message.offset,
            "length": message.length,
        }
        if message.note:
            shown["note"] = message.note
        if message.payload is not None:
            if type_name:
                shown["type"] = type_name
                shown["body"] = self._renderer.to_json(type_name, message.payload)
            else:
                shown["body_base64"] = base64.b64encode(message.payload).decode()
        return shown

    def _status(self, status: Status) -> JSONObject:
        shown: JSONObject = {"code": status.code, "name": status_name(status.code)}
        if status.message:
            shown["message"] = status.message
        if status.details:
            shown["details"] = self._renderer.to_json(STATUS_TYPE, status.details).get("details", [])
        return shown

    def _connection(self, flow: Flow) -> JSONObject:
        shown = self._connections.get(flow.id)
        if shown is None:
            shown = {"connection": flow.id}
            if flow.socket:
                shown["socket"] = flow.socket
            shown["client"] = _endpoint(flow.client)
            shown["server"] = _endpoint(flow.server)
            if len(self._connections) >= KEPT_CONNECTIONS:
                self._connections.clear()
            self._connections[flow.id] = shown
        return shown


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


def _metadata(metadata: Metadata) -> list[list[str]]:
    return [[key, base64.b64encode(value).decode() if isinstance(value, bytes) else value] for key, value in metadata]


def _identity(call: Call, messages: list[JSONObject], *, streamed: bool) -> str:
    """The id of the pod or container that a call is about, out of what is rendered already: its request's, else its
    response's, but for a stream of many."""
    paths: tuple[str, ...]
    if call.service in EVENT_CARRIERS and call.method == "Forward":
        paths = tuple(f"envelope.event.{path}" for path in EVENT_ID_PATHS)
    else:
        paths = ID_PATHS.get(call.service, ())
    for side in SIDES[:1] if streamed else SIDES:
        body = next((message.get("body") for message in messages if message["direction"] == side), None)
        for path in paths:
            value: Any = body
            for name in path.split("."):
                value = value.get(name) if isinstance(value, dict) else None
            if isinstance(value, str) and value:
                return value
    return ""
