"""What the detail shows of a call, copies of it, and what of it is masked; what a terminal is sent at all."""

from __future__ import annotations

import pytest

from dissectors.render import Renderer
from protos.errors import PodwireError
from protos.registry import Registry
from tests.tracer.made import FLOW, MS, REQUEST, START, made_flow, message, opened
from tracer.calls import Call, CallTracker, CallUpdate
from tracer.output.units import Clock
from tracer.tui.call_command import call_command
from tracer.tui.detail import TABS, Detail
from tracer.tui.loader import Loaded
from tracer.tui.paint import PLAIN, Paint

REGISTRY = Registry.bundled()


def made_call(method: str, request: str, protocol: str = "grpc", **fields: object) -> Call:
    payload = REGISTRY.message_class(f"runtime.v1.{request}")(**fields).SerializeToString()
    metadata = (("authorization", "Bearer hush-hush"),)
    tracker = CallTracker()
    events = [opened(1, method, metadata=metadata), message(1, REQUEST, payload)]
    (first, *_) = tracker.feed(made_flow() if protocol == "grpc" else FLOW, protocol, START + MS, events)
    assert isinstance(first, CallUpdate)
    return first.call


def detail_of(call: Call, *, show_secrets: bool = False) -> Detail:
    detail = Detail(REGISTRY, Renderer(REGISTRY, show_secrets=show_secrets), Clock(utc=True))
    detail.show(Loaded(call, "x.pcapng"))
    return detail


def shown(detail: Detail) -> str:
    found = []
    for detail.tab in TABS:
        found += ["".join(text for text, _ in line.spans) for line in detail.lines()]
    return "\n".join(found)


@pytest.mark.parametrize("show", [False, True])
def test_secrets_are_masked_in_every_tab_unless_they_are_to_be_shown(show: bool) -> None:
    config = {"envs": [{"key": "PASSWORD", "value": b"hush-hush"}], "metadata": {"name": "web"}}
    call = made_call("CreateContainer", "CreateContainerRequest", config=config)
    text = shown(detail_of(call, show_secrets=show))
    assert ("hush-hush" in text) is show
    assert "PASSWORD" in text
    assert '"web"' in text
    assert call.messages[0].payload is not None
    assert b"hush-hush" in call.messages[0].payload  # a copy was masked


def test_a_call_is_copied_as_a_command() -> None:
    def command(call: Call) -> str:
        return call_command(call, REGISTRY, Renderer(REGISTRY))

    on = "crictl -r unix:///run/containerd/containerd.sock"
    assert command(made_call("ListPodSandbox", "ListPodSandboxRequest")) == f"{on} pods"
    stop = made_call("StopContainer", "StopContainerRequest", container_id="abc", timeout=30)
    assert command(stop) == f"{on} stop --timeout 30 abc"
    spaced = made_call("ExecSync", "ExecSyncRequest", container_id="abc", cmd=["sh", "-c", "echo 'a b'; true"])
    assert command(spaced) == f"""{on} exec --sync abc sh -c 'echo '"'"'a b'"'"'; true'"""
    raw = command(made_call("ExecSync", "ExecSyncRequest", container_id="abc", cmd=["\x1b[31m"]))
    assert raw.isprintable()
    assert raw.startswith("grpcurl ")
    assert r"[31m" in raw
    with pytest.raises(PodwireError, match="no client speaks ttrpc"):
        command(made_call("ListPodSandbox", "ListPodSandboxRequest", protocol="ttrpc"))
    with pytest.raises(PodwireError, match="no schema has its method"):
        command(made_call("Unheard", "ListPodSandboxRequest"))


@pytest.mark.parametrize("unicode", [True, False])
def test_no_control_character_gets_through(unicode: bool) -> None:
    strip = Paint(unicode=unicode).strip([("a\x1b[31mb\x07\u202e\x9b", PLAIN), ("…→█", PLAIN)], 60)
    text = "".join(segment.text for segment in strip)
    assert text.isprintable()
    assert "\\x1b[31m" in text
    assert len(text) == 60
    assert text.isascii() is not unicode


def test_wide_characters_do_not_push_a_line_over_its_end() -> None:
    strip = Paint().strip([("日本" * 40, PLAIN)], 21)
    assert strip.cell_length == sum(segment.cell_length for segment in strip) == 21
