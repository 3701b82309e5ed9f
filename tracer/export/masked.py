"""What a redaction masks in each call, in words: which fields of its messages, which of its metadata.

In: updates, in the order of the capture. Out: at a call's end `request config.envs[].value (2), metadata token`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from dissectors.events import Direction
from dissectors.json_value import JSONValue
from dissectors.masking import is_secret_name
from dissectors.redact import Messages
from dissectors.render import Renderer
from protos.registry import Registry
from tracer.calls import Call, Message, Update
from tracer.output.escape import escape


class Masked:
    """Looks at every message as it comes. What is kept is of open calls."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._messages = Messages(registry)
        self._plain = Renderer(registry, show_secrets=True)
        self._shown = Renderer(registry)
        self._found: dict[int, Counter[str]] = {}

    def __call__(self, update: Update) -> str:
        """Take what changed; return what is masked in a call that has ended."""
        if update.kind == "message":
            self._message(update.call, update.message)
        if update.kind != "ended":
            return ""
        call = update.call
        found = self._found.pop(call.number, Counter())
        for name, _ in (*call.metadata, *call.response_metadata, *call.trailers):
            if is_secret_name(name):
                found[f"metadata {escape(name)}"] += 1
        details = b"" if call.status is None or call.protocol != "ttrpc" else call.status.details
        if self._messages.masker.mask("google.rpc.Status", details) != details:
            found["details of the status"] += 1
        return ", ".join(f"{what} ({count})" if count > 1 else what for what, count in found.items())

    def _message(self, call: Call, message: Message | None) -> None:
        if message is None or not message.payload:
            return
        payload, side = message.payload, message.direction.name.lower()
        masked = self._messages.mask(call.service, call.method, message.direction, payload)
        if masked == payload:
            return
        found = self._found.setdefault(call.number, Counter())
        method = self._registry.method(call.service, call.method)
        if method is None or not any(masked):
            found[f"{side}, all text and bytes"] += 1
            return
        kind = method.output_type if message.direction is Direction.RESPONSE else method.input_type
        shown = dict(_leaves(self._shown.to_json(kind, payload), "", ""))
        for place, (value, path) in _leaves(self._plain.to_json(kind, payload), "", ""):
            if shown.get(place, (None, ""))[0] != value:
                found[f"{side} {escape(path)}"] += 1


def _leaves(value: JSONValue, place: str, path: str) -> Iterator[tuple[str, tuple[JSONValue, str]]]:
    """Each leaf of a document: where it is, its value, and its path without the numbers of entries."""
    if isinstance(value, dict):
        for key, inside in value.items():
            yield from _leaves(inside, f"{place}.{key}", f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for number, inside in enumerate(value):
            yield from _leaves(inside, f"{place}[{number}]", f"{path}[]")
    else:
        yield place, (value, path)
