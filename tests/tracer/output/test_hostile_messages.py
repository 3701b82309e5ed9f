"""Messages made to hurt, on their whole way to both outputs: shown with an error beside the raw bytes."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from dissectors.render import Renderer
from protos.registry import Registry
from tests.tracer.made import REQUEST, TASK, Told, ended, message, opened
from tracer.output.jsonlines import JsonPrinter
from tracer.output.look import Look
from tracer.output.meaning import Meanings
from tracer.output.summary import Summarizer
from tracer.output.text import TextPrinter
from tracer.output.units import Clock
from tracer.output.verbose import VerboseDetails

PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
MEGABYTES = 4 << 20


def nested(registry: Registry, depth: int) -> bytes:
    """Any in Any in Any …"""
    value = b"\xff"
    for _ in range(depth):
        value = registry.message_class("google.protobuf.Any")(
            type_url="google.protobuf.Any", value=value
        ).SerializeToString()
    return value


def both(registry: Registry, payload: bytes, service: str = TASK, method: str = "Exec") -> tuple[list[str], Any]:
    """The lines of a call with this request, and its JSON object's request."""
    lines: list[str] = []
    details = VerboseDetails(registry, Renderer(registry, Meanings(), show_secrets=True))
    look = Look(colour=False, unicode=True)
    text = TextPrinter(lines.append, Summarizer(registry), look=look, clock=Clock(utc=True), details=details)
    objects: list[str] = []
    for printer in (text, JsonPrinter(objects.append, registry, Renderer(registry, show_secrets=True))):
        told = Told(printer)
        told.at(0, opened(1, method, service), message(1, REQUEST, payload), protocol="ttrpc")
        told.at(1, ended(1), protocol="ttrpc")
    assert all(line[:-1].isprintable() for line in lines)
    return lines, json.loads(objects[0])["messages"][0]


@pytest.mark.parametrize(
    ("url", "value", "error"),
    [
        ("containerd.runc.v1.Options", b"\x0a\xff", "does not parse as containerd.runc.v1.Options"),
        (PROCESS, b'{"args": ["sh"', "Expecting ',' delimiter"),
        (PROCESS, b"\x0a\x02sh", "Expecting value"),
        ("containerd.events.TaskExit", b'{"args": []}', "does not parse as containerd.events.TaskExit"),
        (PROCESS, b"[" * MEGABYTES, "nests more than 64 deep"),
        (PROCESS, b"[" * 65 + b"]" * 65, "nests more than 64 deep"),
    ],
    ids=["malformed", "wrong JSON", "protobuf that says it is JSON", "JSON that says it is protobuf", "4 MB", "deep"],
)
def test_an_any_that_cannot_be_read_has_its_error_beside_its_bytes(
    registry: Registry, url: str, value: bytes, error: str
) -> None:
    request = registry.message_class("containerd.task.v3.ExecProcessRequest")(
        id="c", spec={"type_url": url, "value": value}
    )
    lines, shown = both(registry, request.SerializeToString())
    spec = shown["body"]["spec"]
    assert spec["error"].startswith(error)
    assert spec["value_base64"] == b64encode(value).decode()
    assert any(line.strip().startswith(f"error: {error}") for line in lines)
    assert any(line.strip().startswith("value_base64") for line in lines)


def test_any_in_any_is_read_up_to_64_deep(registry: Registry) -> None:
    for depth, error in ((60, "does not parse as google.protobuf.Any"), (200, "nests more than 64 deep")):
        request = registry.message_class("containerd.task.v3.ExecProcessRequest")()
        spec: Any = request.spec  # type: ignore[attr-defined] # made at run time from the schema
        spec.type_url, spec.value = "google.protobuf.Any", nested(registry, depth)
        lines, shown = both(registry, request.SerializeToString())
        assert lines[-1].strip() == f"error: {error}"
        inside, levels = shown["body"]["spec"], 0
        while "value" in inside:
            inside, levels = inside["value"], levels + 1
        assert (inside["error"], levels) == (error, min(depth, 63))


@pytest.mark.parametrize("unit", [b"\x78\x01", b"\xff", b"\x2a\x02[]"])
@pytest.mark.parametrize(("service", "method"), [(TASK, "Exec"), ("acme.Unknown", "Do")])
def test_a_message_of_four_megabytes_is_shown(registry: Registry, unit: bytes, service: str, method: str) -> None:
    lines, shown = both(registry, unit * (MEGABYTES // len(unit)), service, method)
    assert len(lines) < 20_000
    assert shown["length"] >= MEGABYTES - 4
    assert "peers take" in lines[0]
