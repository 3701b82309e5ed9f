"""What `-v` adds below a call's line: who called whom, metadata, and every message whole."""

from __future__ import annotations

from dissectors.events import Metadata
from dissectors.masking import mask_metadata
from dissectors.render import Renderer
from protos.registry import Registry
from tracer.calls import Call
from tracer.output.bundles import bundle_lines
from tracer.output.codes import status_name
from tracer.output.escape import escape
from tracer.output.peers import peer_text
from tracer.output.units import duration, size

INDENT = 8
DETAILS_TYPE = "google.rpc.Status"


class VerboseDetails:
    """Renders the whole of a call, all of it escaped."""

    def __init__(self, registry: Registry, renderer: Renderer) -> None:
        self._registry = registry
        self._renderer = renderer

    def lines(self, call: Call) -> list[str]:
        """Return the lines below the call's own: connection, metadata, messages, status."""
        flow = call.flow
        name = escape(f"{call.service}/{call.method}") if call.service else "start not seen"
        socket = f", {escape(flow.socket)}" if flow.socket else ""
        channel = f", channel {flow.channel}" if flow.channel else ""
        lines = [
            f"    call {call.number}: {name}",
            f"    connection {flow.id}{channel}, stream {call.stream_id}, {call.protocol}{socket}",
            f"    client {peer_text(flow.client)} → server {peer_text(flow.server)}",
        ]
        if call.timeout_ns is not None:
            lines.append(f"    deadline {duration(call.timeout_ns)}")
        lines += self._metadata("metadata", call.metadata)
        found = self._registry.method(call.service, call.method)
        types = (found.input_type, found.output_type) if found is not None else ("", "")
        before = 0
        answered = False
        for message in call.messages:
            if message.direction and not answered:
                answered = True
                lines += self._metadata("response metadata", call.response_metadata)
            if message.number != before + 1:
                lines.append(f"    … {message.number - before - 1} messages not kept")
            before = message.number
            side = "response" if message.direction else "request"
            after = duration(message.time_ns - call.start_ns)
            note = f" ({escape(message.note)})" if message.note else ""
            type_name = types[message.direction]
            named = type_name or "(no schema has it)"
            lines.append(f"    {side} +{after} {size(message.length)} {named}{note}")
            if message.payload is None:
                continue
            if type_name:
                lines += [escape(line) for line in self._renderer.to_text(type_name, message.payload, INDENT)]
            else:
                lines += [escape(line) for line in self._renderer.guess_text(message.payload, INDENT)]
        if not answered:
            lines += self._metadata("response metadata", call.response_metadata)
        for bundle in call.bundles:
            lines += bundle_lines(bundle, show_secrets=self._renderer.show_secrets)
        lines += self._metadata("trailers", call.trailers)
        if call.status is not None and call.status.code:
            lines.append(f"    status {status_name(call.status.code)} {escape(call.status.message)}".rstrip())
            if call.status.details:
                rendered = self._renderer.to_text(DETAILS_TYPE, call.status.details, INDENT)
                lines += [escape(line) for line in rendered]
        return lines

    def _metadata(self, title: str, metadata: Metadata) -> list[str]:
        if not metadata:
            return []
        lines = [f"    {title}"]
        for key, value in metadata if self._renderer.show_secrets else mask_metadata(metadata):
            lines.append(f"        {escape(key)}: {value.hex() if isinstance(value, bytes) else escape(value)}")
        return lines
