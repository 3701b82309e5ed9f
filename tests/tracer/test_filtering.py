"""Filters: what matches, what cannot be told, what is refused and where, and what a name can go on as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format

from dissectors.events import Event
from protos.errors import PodwireError
from protos.registry import Registry
from tests.tracer.made import (
    FLOW,
    MS,
    POD,
    REQUEST,
    RESPONSE,
    RUNTIME,
    SECOND,
    START,
    TASK,
    ended,
    made_flow,
    message,
    opened,
    reset,
)
from tracer.calls import Call, CallTracker
from tracer.filtering import OTHERS, VARIABLES, Filter, complete, field_lines

REGISTRY = Registry.bundled()
EVENTS = "containerd.services.events.ttrpc.v1.Events"


def packed(type_name: str, fields: dict[str, Any]) -> bytes:
    return json_format.ParseDict(fields, REGISTRY.message_class(type_name)()).SerializeToString()


def call(*events: Event, flow: Any = FLOW, took: int = 3 * MS) -> Call:
    """The call that these events make, all but the first `took` later."""
    tracker = CallTracker()
    updates = tracker.feed(flow, "grpc", START, list(events[:1]))
    tracker.feed(flow, "grpc", START + took, list(events[1:]))
    made = updates[0]
    assert made.kind == "opened"
    return made.call


CREATE = packed(
    "runtime.v1.CreateContainerRequest",
    {"pod_sandbox_id": POD, "config": {"image": {"image": "nginx:1"}, "envs": [{"key": "A", "value": "Yg=="}]}},
)
METADATA = (("user-agent", "crictl"), ("x-bin", b"\1"))
CREATED = call(
    opened(5, "CreateContainer", timeout_ns=SECOND, metadata=METADATA), message(5, REQUEST, CREATE), ended(5, 5, "gone")
)
OPEN = call(opened(1, "Wait", TASK))
EXIT = call(
    opened(1, "Forward", EVENTS),
    message(
        1,
        REQUEST,
        REGISTRY.message_class("containerd.services.events.ttrpc.v1.ForwardRequest")(
            envelope={
                "event": {
                    "type_url": "containerd.events.TaskExit",
                    "value": packed("containerd.events.TaskExit", {"exit_status": 9, "container_id": POD}),
                }
            }
        ).SerializeToString(),
    ),
    ended(1),
)


@pytest.mark.parametrize(
    ("expression", "which"),
    [
        ('call.method == "CreateContainer"', CREATED),
        ('call.method == "Wait"', OPEN),
        ('call.service.startsWith("runtime.v1.")', CREATED),
        ("call.number == 1 && call.stream == 5", CREATED),
        ('call.hop == "cri" && call.protocol == "grpc" && call.status == "NOT_FOUND" && call.error == "gone"', CREATED),
        ('call.state == "open" && call.open && call.waits && !call.failed', OPEN),
        ("call.failed", CREATED),
        ('call.duration > duration("2ms") && call.duration < duration("4ms") && call.failed', CREATED),
        ('call.duration >= duration("2s") && call.open', OPEN),
        ('call.timeout == duration("1s") && !call.deadline_passed', CREATED),
        ('call.start == timestamp("2026-11-23T14:58:01Z") && call.failed', CREATED),
        ("call.request_bytes > 80 && call.response_bytes == 0 && call.messages == 1 && call.failed", CREATED),
        ('call.client == "kubelet" && call.client_pid == 812 && call.server_pid == 401 && call.stream == 5', CREATED),
        ('call.socket.endsWith("containerd.sock") && call.connection == 1 && !call.gap && call.note != ""', None),
        ('call.metadata["user-agent"] == "crictl"', CREATED),
        (f'call.id == "{POD}" && call.method == "CreateContainer"', CREATED),
        ('request.config.image.image.contains("nginx")', CREATED),
        ('request.config.envs.exists(env, env.key == "A")', CREATED),
        ("event.exit_status == 9", EXIT),
        (f'call.id == "{POD}" && call.method == "Forward"', EXIT),
        ("false", None),
    ],
)
def test_what_matches(expression: str, which: Call | None) -> None:
    found = Filter(expression, REGISTRY)
    matches = [each for each in (CREATED, OPEN, EXIT) if found.wants(each, START + 2 * SECOND)]
    assert matches == ([] if which is None else [which])


def test_every_variable_can_be_asked_of_every_call() -> None:
    cut = call(opened(1), reset(1, 8))
    for variable in VARIABLES:
        found = Filter(f"{variable.name} == {variable.name}", REGISTRY)
        for each in (CREATED, OPEN, EXIT, cut):
            assert found.wants(each, START)
            assert found.errors == 0


def test_what_cannot_be_told_is_no_match_and_is_counted_with_its_first_reason() -> None:
    found = Filter("request.config.envs[7].key == 'A'", REGISTRY)
    assert not found.wants(CREATED, START)
    assert not found.wants(CREATED, START)
    assert found.errors == 1
    tracker = CallTracker()
    tracker.feed(FLOW, "grpc", START, [opened(1)])
    second = tracker.feed(FLOW, "grpc", START, [opened(3, "CreateContainer")])[0]
    assert second.kind == "opened"
    assert not found.wants(second.call, START)
    assert found.errors == 2
    assert "index=7" in found.first_error


def test_a_message_that_is_not_there_is_told_as_such() -> None:
    found = Filter("response.pid == 1u", REGISTRY)
    assert not found.wants(call(opened(1, "Create", TASK)), START)
    assert found.errors == 1


def test_other_methods_are_known_by_their_names_and_nothing_of_their_calls_is_read() -> None:
    found = Filter('request.container_id == "a" && call.method == "StartContainer"', REGISTRY)
    broken = call(opened(1, "StopContainer"), message(1, REQUEST, b"\xff"), ended(1))
    assert not found.wants(broken, START)
    assert found.errors == 0


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ('call.metod == "x"', "line 1, column 5: undeclared reference to 'call.metod'"),
        ("call.method == 3", "line 1, column 13: found no matching overload"),
        ("call.method ==", "line 1, column 15: Syntax error"),
        ('call.failed &&\n  call.bytes > 3', "line 2, column 7: undeclared reference"),
        ('call.method == "CreateContainer" && request.config.imag.image == ""', "column 51: undefined field 'imag'"),
        ("request.no_such_field == 1", "line 1, column 8: undefined field 'no_such_field'"),
        ('call.method == "Wait" && response.exit_status == 3', "written 3u"),
        ('call.method == "Creat" && request.id == ""', "no method is called Creat"),
        ("1 + 2", "it gives INT, not true or false"),
        ("", "line 1, column"),
    ],
)  # fmt: skip
def test_a_wrong_expression_is_refused_with_its_place(expression: str, reason: str) -> None:
    with pytest.raises(PodwireError, match=r"^filter: ") as refused:
        Filter(expression, REGISTRY)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_numbers_of_enumerations_have_their_names() -> None:
    status = packed("runtime.v1.ContainerStatusResponse", {"status": {"state": "CONTAINER_EXITED"}})
    answered = call(opened(1, "ContainerStatus"), message(1, RESPONSE, status), ended(1))
    assert Filter("response.status.state == runtime.v1.ContainerState.CONTAINER_EXITED", REGISTRY).wants(
        answered, START
    )


def test_names_go_on() -> None:
    completed: Callable[[str], list[str]] = lambda text: complete(text, REGISTRY)  # noqa: E731 # short in what follows
    assert completed("call.du") == ["call.duration"]
    assert completed("call.failed && re") == ["request", "response"]
    assert completed('call.method == "CreateContainer" && request.config.ima') == ["request.config.image"]
    assert "request.config.image.image" in completed('call.method == "CreateContainer" && request.config.image.')
    assert complete("request.pod_sand", REGISTRY, RUNTIME, "CreateContainer") == ["request.pod_sandbox_id"]
    assert completed("request.") == []
    assert completed("") == sorted([variable.name for variable in VARIABLES] + list(OTHERS))


def test_the_fields_are_listed_those_of_a_method_too() -> None:
    lines = field_lines(REGISTRY)
    assert [line.split()[0] for line in lines] == [variable.name for variable in VARIABLES] + list(OTHERS)
    more = field_lines(REGISTRY, "RunPodSandbox")
    assert "  request.config.metadata.namespace" in more
    assert "  response.pod_sandbox_id" in more
    with pytest.raises(PodwireError, match="no schema has a method Nothing"):
        field_lines(REGISTRY, "Nothing")


def test_a_flow_without_names_can_be_asked() -> None:
    flow = made_flow()
    flow.client = flow.client._replace(name="", pid=None)
    assert Filter('call.client == "" && call.client_pid == 0', REGISTRY).wants(call(opened(1), flow=flow), START)
