"""The JSON output and its page in docs/ say the same; nothing in it depends on when it was read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dissectors.events import CallMetadata, Event, Malformed, Skipped
from dissectors.render import Renderer
from protos.registry import Registry
from tests.tracer.made import (
    FLOW,
    MS,
    POD,
    REQUEST,
    RESPONSE,
    SECOND,
    START,
    TASK,
    Told,
    ended,
    made_flow,
    message,
    opened,
    reset,
)
from tracer.calls import Finding
from tracer.capture.bundle import Bundle, BundleFile
from tracer.capture.flows import Flow
from tracer.logs import Logged
from tracer.output.jsonlines import KEPT_BODIES, JsonPrinter
from tracer.story.correlate import Correlator
from tracer.story.place import Container, Pod

if TYPE_CHECKING:
    from tests.tracer.output.conftest import Make

DOC = Path(__file__).parents[3] / "docs" / "json.md"


class Printed(Told):
    def __init__(self, registry: Registry, *, show_secrets: bool = False, messages: bool = False) -> None:
        self.lines: list[str] = []
        renderer = Renderer(registry, show_secrets=show_secrets)
        self.json = JsonPrinter(self.lines.append, registry, renderer, messages=messages)
        super().__init__(self.json)

    def objects(self) -> list[dict[str, Any]]:
        assert all(line.endswith("\n") and line.isascii() and "\n" not in line[:-1] for line in self.lines)
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def printed(registry: Registry) -> Printed:
    return Printed(registry)


def tell_everything(printed: Printed, make: Make) -> None:
    """A story in which every key has something to say."""
    asked = make("runtime.v1.RunPodSandboxRequest", {"config": {"metadata": {"name": "web"}}})
    answered = make("runtime.v1.RunPodSandboxResponse", {"pod_sandbox_id": POD})
    metadata = (("user-agent", "grpc-go"), ("trace-bin", b"\x01"))
    printed.at(0, opened(1, "RunPodSandbox", timeout_ns=SECOND, metadata=metadata), message(1, REQUEST, asked))
    printed.at(1, CallMetadata(1, 0, (("content-type", "application/grpc"),)), message(1, RESPONSE, answered))
    printed.at(2, ended(1)._replace(metadata=(("took", "2ms"),)))
    packed = make("google.rpc.Status", {"code": 5, "message": "gone", "details": []})
    details = packed + b"\x1a\x13\x0a\x0bacme.v1.Box\x12\x04\x08\x01\x10\x02"
    printed.at(3, opened(3, timeout_ns=MS), opened(5), opened(7, "Do", "acme.v1.Thing"), opened(9))
    printed.at(4, message(7, REQUEST, b"\x08\x01"), message(3, RESPONSE, None, "lost"), ended(7))
    printed.at(5, ended(3, 4, "slow", details))
    files = (
        BundleFile("config.json", "file", 78, b'{"annotations":{"io.kubernetes.cri.container-type":"sandbox",'
                   b'"io.kubernetes.cri.sandbox-id":"x"}}'),
        BundleFile("address", "file", 9, b"unix:///x"),
        BundleFile("log", "file", 2, b"\xff\xfe"),
        BundleFile("work", "link", note="/var"),
    )  # fmt: skip
    printed.tracker.open_calls()[0].bundles = (Bundle(1, 3, POD, "/run/b", files),)
    printed.tracker.gap(FLOW)
    printed.closed(5.5, REQUEST)
    printed.at(6, reset(5, 8), Malformed(REQUEST, 40, "no frame", b"GET /", 9), Skipped(RESPONSE, 9, 25, "lost"))
    printed.json.update(Finding("notice", START, "cut in the middle", offset=1024, fatal=True))
    printed.json.finish()


def tell_of_a_container(printed: Printed, make: Make) -> None:
    """A start with a call that it causes, and may wait longer, of a container that is known by names."""
    correlator = Correlator(Registry.bundled())

    def at(after_ms: float, *events: Event, flow: Flow = FLOW) -> None:
        for update in printed.tracker.feed(flow, "grpc", START + int(after_ms * MS), list(events)):
            correlator.update(update)
            printed.json.update(update)

    task = made_flow(2, "task", socket="/run/containerd/s/1")
    pod = {"metadata": {"name": "web", "namespace": "shop", "uid": "u", "attempt": 1}}
    config = {"metadata": {"name": "main"}, "image": {"image": "busybox:1"}}
    create = {"pod_sandbox_id": POD, "config": config, "sandbox_config": pod}
    asked = make("runtime.v1.CreateContainerRequest", create)
    answered = make("runtime.v1.CreateContainerResponse", {"container_id": "c1"})
    at(20, opened(21, "CreateContainer"), message(21, REQUEST, asked), message(21, RESPONSE, answered), ended(21))
    asked = make("runtime.v1.ExecSyncRequest", {"container_id": "c1"})
    at(21, opened(23, "ExecSync", timeout_ns=SECOND), message(23, REQUEST, asked))
    execs = make("containerd.task.v3.ExecProcessRequest", {"id": "c1", "exec_id": "e1"})
    at(22, opened(1, "Exec", TASK), message(1, REQUEST, execs), ended(1), flow=task)
    at(23, ended(23))


def documented() -> dict[str, dict[str, bool]]:
    """Keys by the heading of their table in docs/json.md; True: always there."""
    tables: dict[str, dict[str, bool]] = {}
    heading = ""
    for line in DOC.read_text().splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
        elif row := re.match(r"\| `(\w+)` \|([^|]*)\|", line):
            tables.setdefault(heading, {})[row[1]] = "optional" not in row[2]
    return tables


def produced(objects: list[dict[str, Any]]) -> dict[str, list[set[str]]]:
    """The sets of keys that were seen, by the same headings."""
    found: dict[str, list[set[str]]] = {}

    def see(heading: str, shown: dict[str, Any] | None) -> None:
        if shown is not None:
            found.setdefault(heading, []).append(set(shown))

    for shown in objects:
        see("JSON output", {key: shown[key] for key in ("v", "kind")})
        rest = {key: value for key, value in shown.items() if key not in ("v", "kind")}
        see(shown["kind"] if shown["kind"] in ("call", "log") else "gap, malformed, notice", rest)
        see("status", shown.get("status"))
        see("reset", shown.get("reset"))
        see("pod, container", shown.get("pod"))
        see("pod, container", shown.get("container"))
        see("client, server", shown.get("client"))
        see("client, server", shown.get("server"))
        for each in shown.get("messages", ()):
            see("message", each)
        for each in shown.get("bundles", ()):
            see("bundle", each)
            for file in each["files"]:
                see("file", file)
    return found


def test_every_key_is_documented_and_every_documented_key_is_produced(
    printed: Printed, registry: Registry, make: Make
) -> None:
    inside = FLOW.inner(1, RESPONSE)
    printed.at(0, opened(1, "Configure", "nri.Plugin"), Malformed(REQUEST, 8, "no frame", b"?", 1), flow=inside)
    printed.json.update(Finding("notice", START, "log", FLOW, RESPONSE, 5, 4, text="line"))
    pod = Pod(POD, "web-0", "default")
    container = Container("3c" * 32, START, "main", own_pod=pod)
    printed.json.update(Logged(START, "kubelet", None, "", "", b"x", cut=False))
    printed.json.update(Logged(START, "kubelet", 7, "kubelet.service", "info", b"x", True, pod, container))
    tell_everything(printed, make)
    tell_of_a_container(printed, make)
    tables = documented()
    stuck = set(tables.pop("podwire stuck --json"))
    assert stuck == {"age_ns", "meant_to_wait", "deadline_left_ns", "innermost"}
    del (
        tables["podwire status --json"],
        tables["podwire stats --json"],
        tables["podwire diff --json"],
        tables["connection"],
        tables["message of a stream"],
    )  # held by their own tests
    del tables["podwire pods --json"], tables["container of a pod"], tables["failure"]  # held by its own test
    assert set(tables.pop("how")) == {"how", "trace", "identity", "time"}
    unmasked = Printed(registry, show_secrets=True)
    tell_everything(unmasked, make)
    seen = produced(printed.objects() + unmasked.objects())
    assert seen.keys() == tables.keys()
    for heading, keys in tables.items():
        assert set().union(*seen[heading]) == set(keys), heading
        always = {key for key, required in keys.items() if required}
        for shown in seen[heading]:
            assert always <= shown, heading


def test_calls_inside_of_a_connection_have_its_number_their_channel_and_their_own_client(printed: Printed) -> None:
    for channel, asks in ((2, REQUEST), (1, RESPONSE)):
        flow = FLOW.inner(channel, asks)
        printed.at(channel, opened(1), ended(1), Malformed(REQUEST, 8, "no frame", b"?", None), flow=flow)
    seen = {(each["connection"], each["channel"], each["client"]["name"]) for each in printed.objects()}
    assert seen == {(1, 1, "containerd"), (1, 2, "kubelet")}


def test_a_call_is_one_object_when_it_ends(printed: Printed, make: Make) -> None:
    tell_everything(printed, make)
    first = printed.objects()[0]
    assert first == {
        "v": 1,
        "kind": "call",
        "call": 1,
        "state": "ended",
        "time": "2026-11-23T14:58:01.000000000Z",
        "duration_ns": 2 * MS,
        "hop": "cri",
        "protocol": "grpc",
        "service": "runtime.v1.RuntimeService",
        "method": "RunPodSandbox",
        "id": POD,
        "status": {"code": 0, "name": "OK"},
        "connection": 1,
        "socket": "/run/containerd/containerd.sock",
        "client": {
            "address": "198.18.0.2",
            "port": 40001,
            "name": "kubelet",
            "pid": 812,
            "uid": 0,
            "command": "/usr/bin/kubelet",
            "unit": "kubelet.service",
        },
        "server": {
            "address": "198.18.0.1",
            "port": 8080,
            "name": "containerd",
            "pid": 401,
            "uid": 0,
            "command": "/usr/bin/containerd",
            "unit": "containerd.service",
        },
        "stream": 1,
        "seen_start": True,
        "request_bytes": 9,
        "response_bytes": 66,
        "messages": [
            {
                "number": 1,
                "direction": "request",
                "after_ns": 0,
                "offset": 0,
                "length": 9,
                "type": "runtime.v1.RunPodSandboxRequest",
                "body": {"config": {"metadata": {"name": "web"}}},
            },
            {
                "number": 2,
                "direction": "response",
                "after_ns": MS,
                "offset": 0,
                "length": 66,
                "type": "runtime.v1.RunPodSandboxResponse",
                "body": {"pod_sandbox_id": POD},
            },
        ],
        "dropped_messages": 0,
        "timeout_ns": SECOND,
        "ended_by": "server",
        "metadata": [["user-agent", "grpc-go"], ["trace-bin", "AQ=="]],
        "response_metadata": [["content-type", "application/grpc"]],
        "trailers": [["took", "2ms"]],
    }


def test_calls_come_in_the_order_of_their_ends_then_the_open_ones(printed: Printed, make: Make) -> None:
    tell_everything(printed, make)
    told = [(shown["kind"], shown.get("call"), shown.get("state")) for shown in printed.objects()]
    assert told == [
        ("call", 1, "ended"),
        ("call", 4, "ended"),
        ("call", 2, "deadline_exceeded"),
        ("call", 3, "cancelled"),
        ("malformed", 5, None),
        ("gap", None, None),
        ("notice", None, None),
        ("call", 5, "open"),
    ]


def test_an_open_call_has_no_duration_and_no_end(printed: Printed) -> None:
    printed.at(0, opened(1, "Version", timeout_ns=MS))
    printed.json.tick(START + 60 * SECOND)
    printed.json.finish(START + 60 * SECOND)
    (shown,) = printed.objects()
    assert (shown["state"], shown["duration_ns"], shown["status"]) == ("open", None, None)
    assert not {"ended_by", "deadline_passed"} & set(shown)


def test_each_message_of_a_stream_is_an_object_when_it_comes_if_asked_for(registry: Registry, make: Make) -> None:
    printed = Printed(registry, messages=True)
    events = [make("runtime.v1.ContainerEventResponse", {"container_id": f"c{number}"}) for number in range(3)]
    printed.at(0, opened(1, "GetContainerEvents"), message(1, REQUEST))
    printed.at(1, opened(3), message(3, REQUEST), message(3, RESPONSE), ended(3))  # no stream
    for number, event in enumerate(events):
        printed.at(10 * number + 10, message(1, RESPONSE, event))
    came = printed.objects()
    assert [(each["kind"], each["call"]) for each in came] == [("message", 1), ("call", 2), *[("message", 1)] * 3]
    assert came[2]["time"] == "2026-11-23T14:58:01.010000000Z"
    printed.at(50, ended(1))
    call = printed.objects()[-1]
    assert call["kind"] == "call"
    assert [each["message"] for each in came if each["kind"] == "message"] == call["messages"]
    assert [each["message"]["body"] for each in came[2:]] == [{"container_id": f"c{number}"} for number in range(3)]
    assert set(came[0]) - {"v", "kind"} < set(call) | {"message"}
    assert documented()["message of a stream"].keys() == {"call", "time", "message"}
    as_in_a_call = re.search(r"^\| (`hop`, .*) \| \| as in a call \|$", DOC.read_text(), re.MULTILINE)
    assert as_in_a_call is not None
    missing = {"channel"}  # where there is one
    assert set(re.findall(r"`(\w+)`", as_in_a_call[1])) - missing == set(came[0]) - {
        "v",
        "kind",
        "call",
        "time",
        "message",
    }


def test_a_stream_that_no_schema_has_is_one_from_a_side_s_second_message_on(registry: Registry) -> None:
    printed = Printed(registry, messages=True)
    printed.at(0, opened(1, "Do", "acme.v1.Thing"), message(1, REQUEST, b"1"), message(1, RESPONSE, b"2"))
    assert printed.objects() == []
    printed.at(1, message(1, RESPONSE, b"3"))
    assert [each["message"]["number"] for each in printed.objects()] == [3]


def test_messages_that_are_not_kept_were_shown_when_they_came(registry: Registry) -> None:
    printed = Printed(registry, messages=True)
    printed.at(0, opened(1, "GetContainerEvents"), *[message(1, RESPONSE)] * 100, ended(1))
    *came, call = printed.objects()
    assert [each["message"]["number"] for each in came] == list(range(1, 101))
    assert call["dropped_messages"] == 36


def test_dropped_messages_show_as_a_jump_of_the_numbers(printed: Printed) -> None:
    printed.at(0, opened(1, "GetContainerEvents"), *[message(1, RESPONSE) for _ in range(70)], ended(1))
    (shown,) = printed.objects()
    assert shown["dropped_messages"] == 6
    assert [each["number"] for each in shown["messages"]] == [*range(1, 33), *range(39, 71)]


def test_a_payload_that_does_not_parse_is_kept_beside_its_error(printed: Printed) -> None:
    printed.at(0, opened(1, "RunPodSandbox"), message(1, REQUEST, b"\xff\xff"), ended(1))
    (shown,) = printed.objects()
    assert shown["messages"][0]["body"].keys() == {"@error", "@base64"}


def test_text_that_is_no_unicode_stays_valid_json(printed: Printed) -> None:
    flow = made_flow(2, socket="/run/\udcff\x1b\u202e")
    printed.at(0, opened(1), ended(1, 2, 'quote " and \x07'), flow=flow)
    (shown,) = printed.objects()
    assert shown["status"]["message"] == 'quote " and \x07'


def test_the_container_of_a_forwarded_event_is_the_id(printed: Printed, registry: Registry, make: Make) -> None:
    envelope = registry.message_class("containerd.services.events.ttrpc.v1.ForwardRequest")()
    envelope.envelope.event.type_url = "containerd.events.TaskOOM"  # type: ignore[attr-defined] # made at run time
    envelope.envelope.event.value = make("containerd.events.TaskOOM", {"container_id": POD})  # type: ignore[attr-defined] # as above
    forward = opened(1, "Forward", "containerd.services.events.ttrpc.v1.Events")
    printed.at(0, forward, message(1, REQUEST, envelope.SerializeToString()), ended(1))
    assert printed.objects()[0]["id"] == POD


def test_messages_seen_before_are_shown_as_the_first_time(printed: Printed, make: Make) -> None:
    for number in range(2, 3 * KEPT_BODIES):
        pid = number // 2 if number % 2 else number
        asked = make("containerd.task.v3.StateRequest", {"id": f"{POD}{pid}"})
        answered = make("containerd.task.v3.StateResponse", {"pid": pid})
        printed.at(number, opened(1, "State", TASK), message(1, REQUEST, asked))
        printed.at(number, message(1, RESPONSE, answered), ended(1))
        shown = json.loads(printed.lines[-1])
        assert shown["id"] == f"{POD}{pid}"
        assert [each["body"] for each in shown["messages"]] == [{"id": f"{POD}{pid}"}, {"pid": pid}]


def test_secrets_are_masked_unless_they_are_asked_for(registry: Registry, make: Make) -> None:
    asked = make("runtime.v1.PullImageRequest", {"auth": {"password": "hunter2", "server_address": "reg"}})
    for show_secrets in (False, True):
        printed = Printed(registry, show_secrets=show_secrets)
        metadata = (("authorization", "Bearer hunter2"), ("user-agent", "crictl"))
        image = "runtime.v1.ImageService"
        printed.at(0, opened(1, "PullImage", image, metadata=metadata), message(1, REQUEST, asked), ended(1))
        printed.at(1, opened(3, "Do", "acme.v1.Thing"), message(3, REQUEST, b"\x0a\x07hunter2"), ended(3))
        printed.at(2, Malformed(REQUEST, 40, "no frame", b"\0" * 10 + b"hunter2", 9))
        pull, unknown, malformed = printed.objects()
        if show_secrets:
            assert pull["messages"][0]["body"]["auth"]["password"] == "hunter2"
            assert pull["metadata"][0] == ["authorization", "Bearer hunter2"]
            assert unknown["messages"][0]["body_base64"] == "CgdodW50ZXIy"
            assert malformed["evidence_base64"] == "AAAAAAAAAAAAAGh1bnRlcjI="
        else:
            assert pull["messages"][0]["body"]["auth"] == {"password": "*******", "server_address": "reg"}
            assert pull["metadata"] == [["authorization", "**************"], ["user-agent", "crictl"]]
            assert unknown["messages"][0]["body_base64"] == "CgcqKioqKioq"
            assert unknown["messages"][0]["guess"][0]["text"] == "*******"
            assert malformed["evidence_base64"] == "AAAAAAAAAAAAAA=="
