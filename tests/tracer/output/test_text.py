"""One line a call: what it shows, when it comes, and that nothing of the wire acts on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dissectors.events import CallEnded, Malformed, Skipped, Status
from dissectors.render import Renderer
from protos.registry import Registry
from tests.tracer.made import (
    FLOW,
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
from tracer.cli.decode import Correlated
from tracer.output.look import Look
from tracer.output.summary import KEPT, Summarizer
from tracer.output.text import TextPrinter
from tracer.output.units import Clock
from tracer.output.verbose import VerboseDetails
from tracer.story.correlate import Correlator

if TYPE_CHECKING:
    from tests.tracer.output.conftest import Make


class Page(list[str]):
    """Lines as they were written, without their line ends."""

    def write(self, text: str) -> None:
        assert text.endswith("\n")
        self.append(text[:-1])

    def without_time(self) -> list[str]:
        return [line[16:] for line in self]


PLAIN = Look(colour=False, unicode=True)


class Printed(Told):
    def __init__(
        self, registry: Registry, look: Look = PLAIN, *, verbose: bool = False, show_secrets: bool = False
    ) -> None:
        self.page = Page()
        details = VerboseDetails(registry, Renderer(registry, show_secrets=show_secrets)) if verbose else None
        self.text = TextPrinter(
            self.page.write,
            Summarizer(registry, show_secrets=show_secrets),
            look=look,
            clock=Clock(utc=True),
            details=details,
            show_secrets=show_secrets,
        )
        super().__init__(self.text)


@pytest.fixture
def printed(registry: Registry) -> Printed:
    return Printed(registry)


def run_pod(make: Make, name: str = "web-0") -> bytes:
    return make(
        "runtime.v1.RunPodSandboxRequest",
        {"config": {"metadata": {"name": name, "namespace": "shop", "uid": "u1"}}, "runtime_handler": "kata"},
    )


def test_a_call_is_one_line_when_it_ends(printed: Printed, make: Make) -> None:
    printed.at(0, opened(1, "RunPodSandbox"), message(1, REQUEST, run_pod(make)))
    assert printed.page == []
    answer = make("runtime.v1.RunPodSandboxResponse", {"pod_sandbox_id": POD})
    printed.at(123.4567, message(1, RESPONSE, answer), ended(1))
    assert printed.page == [
        "14:58:01.000000   cri    9f57c2b6405e1 RunPodSandbox        OK        123.456ms  "
        "shop/web-0 runtime kata → 9f57c2b6405e1"
    ]


def test_a_call_that_was_open_before_the_capture_says_so(printed: Printed) -> None:
    printed.at(0, opened(1, "Version")._replace(seen=False))
    printed.at(1, ended(1))
    assert printed.page[-1].endswith("(begun before the capture)")


def test_each_message_of_a_stream_has_a_line_when_it_comes(printed: Printed, make: Make, registry: Registry) -> None:
    events = "containerd.services.events.v1.Events"
    started = make("containerd.events.TaskStart", {"container_id": POD, "pid": 7})
    event = registry.message_class("google.protobuf.Any")(type_url="containerd.events.TaskStart", value=started)  # type: ignore[call-arg]
    of_type = registry.message_class("containerd.types.Envelope")
    envelope = of_type(topic="/tasks/start", event=event).SerializeToString()  # type: ignore[call-arg]
    printed.at(0, opened(1, "Subscribe", events), message(1, REQUEST, b""))
    assert printed.page == ["14:58:01.000000 · cri                  Events/Subscribe     #1              0µs  → 0 B"]
    printed.at(2, message(1, RESPONSE, envelope))
    assert printed.page[1:] == [
        "14:58:01.002000 · cri    9f57c2b6405e1 Events/Subscribe     #2          2.000ms  ← /tasks/start pid 7"
    ]
    printed.at(3, ended(1))
    assert len(printed.page) == 3


def test_a_stream_that_goes_both_ways_is_told_apart(printed: Printed, make: Make) -> None:
    content = "containerd.services.content.v1.Content"
    piece = make(
        "containerd.services.content.v1.WriteContentRequest", {"action": "WRITE", "ref": "layer", "data": "AAAA"}
    )
    done = make("containerd.services.content.v1.WriteContentResponse", {"action": "WRITE", "offset": "3"})
    printed.at(0, opened(1, "Write", content), message(1, REQUEST, piece))
    printed.at(1, message(1, RESPONSE, done))
    assert [line[60:] for line in printed.page] == [
        "#1              0µs  → WRITE layer offset 0 data 3 B",
        "#2          1.000ms  ← WRITE offset 3",
    ]


def test_a_method_that_no_schema_has_is_a_stream_once_a_side_has_said_two_things(printed: Printed) -> None:
    printed.at(0, opened(1, "Watch", "x.Y"), message(1, REQUEST, b"a"))
    printed.at(1, message(1, RESPONSE, b"bb"))
    assert printed.page == []
    printed.at(2, message(1, RESPONSE, b"ccc"))
    assert printed.page == ["14:58:01.002000 · cri                  Y/Watch              #3          2.000ms  ← 3 B"]


def test_a_message_of_a_stream_that_does_not_parse_says_so(printed: Printed) -> None:
    printed.at(0, opened(1, "GetContainerEvents"), message(1, RESPONSE, b"\xff"))
    assert "← (does not parse: " in printed.page[0]


@pytest.mark.parametrize(
    ("service", "method", "request_type", "asked", "response_type", "answered", "line"),
    [
        (
            "runtime.v1.RuntimeService",
            "CreateContainer",
            "runtime.v1.CreateContainerRequest",
            {"pod_sandbox_id": POD, "config": {"metadata": {"name": "nginx"}, "image": {"image": "nginx:1.27"}}},
            "runtime.v1.CreateContainerResponse",
            {"container_id": "ab" * 32},
            "9f57c2b6405e1 CreateContainer      OK          1.000ms  nginx image nginx:1.27 → ababababababa",
        ),
        (
            "runtime.v1.RuntimeService",
            "ExecSync",
            "runtime.v1.ExecSyncRequest",
            {"container_id": POD, "cmd": ["sh", "-c", "exit 3"], "timeout": "10"},
            "runtime.v1.ExecSyncResponse",
            {"exit_code": 3, "stdout": "aGVsbG8="},
            "9f57c2b6405e1 ExecSync             OK          1.000ms  sh -c 'exit 3' timeout 10s → exit 3 stdout 5 B",
        ),
        (
            "runtime.v1alpha2.ImageService",
            "PullImage",
            "runtime.v1alpha2.PullImageRequest",
            {"image": {"image": "busybox"}},
            "runtime.v1alpha2.PullImageResponse",
            {"image_ref": "sha256:1"},
            "              v1alpha2/PullImage   OK          1.000ms  busybox → sha256:1",
        ),
        (
            TASK,
            "Kill",
            "containerd.task.v3.KillRequest",
            {"id": POD, "exec_id": "probe", "signal": 9, "all": True},
            "google.protobuf.Empty",
            {},
            "9f57c2b6405e1 Kill                 OK          1.000ms  exec probe SIGKILL all",
        ),
        (
            TASK,
            "Delete",
            "containerd.task.v3.DeleteRequest",
            {"id": POD},
            "containerd.task.v3.DeleteResponse",
            {"pid": 71},
            "9f57c2b6405e1 Delete               OK          1.000ms  → pid 71 exit 0",
        ),
        (
            TASK,
            "State",
            "containerd.task.v3.StateRequest",
            {"id": POD},
            "containerd.task.v3.StateResponse",
            {"id": POD, "pid": 71, "status": "RUNNING"},
            "9f57c2b6405e1 State                OK          1.000ms  → RUNNING pid 71",
        ),
        (
            "containerd.services.content.v1.Content",
            "Read",
            "containerd.services.content.v1.ReadContentRequest",
            {"digest": "sha256:" + "0123456789abcdef" * 4, "offset": "7", "size": "512"},
            "containerd.services.content.v1.ReadContentResponse",
            {"data": "aGVsbG8="},
            "              Content/Read         OK          1.000ms  "
            "sha256:0123456789ab offset 7 size 512 → 1 message, 7 B",
        ),
        (
            "containerd.services.containers.v1.Containers",
            "Get",
            "containerd.services.containers.v1.GetContainerRequest",
            {"id": "redis"},
            "containerd.services.containers.v1.GetContainerResponse",
            {"container": {"id": "redis", "image": "redis:7", "runtime": {"name": "io.containerd.runc.v2"}}},
            "redis         Containers/Get       OK          1.000ms  → image redis:7 runtime io.containerd.runc.v2",
        ),
        (
            "grpc.AgentService",
            "ExecProcess",
            "grpc.ExecProcessRequest",
            {"container_id": POD, "exec_id": "probe", "process": {"Args": ["ls", "-l"]}},
            "google.protobuf.Empty",
            {},
            "9f57c2b6405e1 ExecProcess          OK          1.000ms  exec probe ls -l",
        ),
        (
            "grpc.AgentService",
            "WaitProcess",
            "grpc.WaitProcessRequest",
            {"container_id": POD, "exec_id": POD},
            "grpc.WaitProcessResponse",
            {"status": 1},
            "9f57c2b6405e1 WaitProcess          OK          1.000ms  → exit 1",
        ),
        (
            "grpc.AgentService",
            "ReadStdout",
            "grpc.ReadStreamRequest",
            {"container_id": POD, "len": 32768},
            "grpc.ReadStreamResponse",
            {"data": "aGVsbG8="},
            "9f57c2b6405e1 ReadStdout           OK          1.000ms  len 32768 → data 5 B",
        ),
        (
            "grpc.Health",
            "Check",
            "grpc.CheckRequest",
            {},
            "grpc.HealthCheckResponse",
            {"status": "SERVING"},
            "              Health/Check         OK          1.000ms  → SERVING",
        ),
        (
            "nri.pkg.api.v1alpha1.Plugin",
            "CreateContainer",
            "nri.pkg.api.v1alpha1.CreateContainerRequest",
            {"pod": {"id": "p", "name": "web-0", "namespace": "shop"}, "container": {"id": POD, "name": "web"}},
            "nri.pkg.api.v1alpha1.CreateContainerResponse",
            {"adjust": {"env": [{"key": "A"}], "args": ["b"]}},
            "9f57c2b6405e1 CreateContainer      OK          1.000ms  shop/web-0 web → adjust env,args updates 0",
        ),
        (
            "nri.pkg.api.v1alpha1.Plugin",
            "StateChange",
            "nri.pkg.api.v1alpha1.StateChangeEvent",
            {"event": "STOP_POD_SANDBOX", "pod": {"id": POD, "name": "web-0", "namespace": "shop"}},
            "nri.pkg.api.v1alpha1.Empty",
            {},
            "9f57c2b6405e1 StateChange          OK          1.000ms  STOP_POD_SANDBOX shop/web-0",
        ),
    ],
)
def test_each_method_shows_the_fields_that_matter(
    printed: Printed,
    make: Make,
    service: str,
    method: str,
    request_type: str,
    asked: dict[str, object],
    response_type: str,
    answered: dict[str, object],
    line: str,
) -> None:
    printed.at(0, opened(1, method, service), message(1, REQUEST, make(request_type, asked)))
    printed.at(1, message(1, RESPONSE, make(response_type, answered)), ended(1))
    assert [shown[9:] for shown in printed.page.without_time() if shown[0] != "·"] == [line]


@pytest.mark.parametrize(
    ("url", "value", "shown"),
    [
        ("Process", b'{"args": ["sh", "-c", "exit 3"], "cwd": "/"}', " sh -c 'exit 3'"),
        ("Process", b'{"args": ["a", 1, null, "\\n"]}', " a 1 None '\\n'"),
        ("Process", b'{"args": 5}', ""),
        ("Process", b"[]", ""),
        ("Process", b'{"args"', ""),
        ("Spec", b'{"args": ["sh"]}', ""),
    ],
)
def test_an_exec_shows_the_command_line_inside_of_its_any(
    printed: Printed, registry: Registry, url: str, value: bytes, shown: str
) -> None:
    request = registry.message_class("containerd.task.v3.ExecProcessRequest")(id=POD, exec_id="probe")
    spec: Any = request.spec  # type: ignore[attr-defined] # made at run time from the schema
    spec.type_url, spec.value = f"types.containerd.io/opencontainers/runtime-spec/1/{url}", value
    printed.at(0, opened(1, "Exec", TASK), message(1, REQUEST, request.SerializeToString()))
    printed.at(1, message(1, RESPONSE), ended(1))
    (line,) = printed.page
    assert line.partition("exec probe")[2] == shown


def test_a_forwarded_event_is_shown_as_the_event_that_it_is(printed: Printed, registry: Registry, make: Make) -> None:
    exited = make("containerd.events.TaskExit", {"container_id": POD, "id": "probe", "pid": 71, "exit_status": 137})
    envelope = registry.message_class("containerd.services.events.ttrpc.v1.ForwardRequest")()
    envelope.envelope.topic = "/tasks/exit"  # type: ignore[attr-defined] # made at run time from the schema
    envelope.envelope.event.type_url = "containerd.events.TaskExit"  # type: ignore[attr-defined] # as above
    envelope.envelope.event.value = exited  # type: ignore[attr-defined] # as above
    flow = made_flow(2, "events")
    forward = opened(1, "Forward", "containerd.services.events.ttrpc.v1.Events")
    printed.at(0, forward, message(1, REQUEST, envelope.SerializeToString()), flow=flow, protocol="ttrpc")
    printed.at(1, message(1, RESPONSE), ended(1), flow=flow, protocol="ttrpc")
    assert printed.page.without_time() == [
        "  events 9f57c2b6405e1 /tasks/exit          OK          1.000ms  exec probe pid 71 exit 137 (SIGKILL)"
    ]


def test_a_failure_has_a_sign_its_status_and_its_message(printed: Printed) -> None:
    printed.at(0, opened(1, "StopContainer"))
    printed.at(1, ended(1, 5, "no such container"))
    (line,) = printed.page.without_time()
    assert line.startswith("E cri ")
    assert line.endswith("NOT_FOUND 1.000ms  — no such container".replace("1.000ms", "  1.000ms"))


def test_the_kill_that_finds_nothing_after_an_exec_is_no_failure(printed: Printed) -> None:
    printed.at(0, opened(1, "Kill", TASK), opened(3, "Delete", TASK))
    printed.at(1, ended(1, 5, "not found"), ended(3, 5, "not found"))
    assert [line[0] for line in printed.page.without_time()] == [" ", "E"]


@pytest.mark.parametrize(
    ("end", "sign", "said"),
    [
        (reset(1, 8), "-", "cancelled"),
        (reset(1, 11), "E", "reset       1.000ms  — ENHANCE_YOUR_CALM by the client"),
        (CallEnded(1, RESPONSE, 0, None, None, ()), "E", "ended       1.000ms  — ended without a status"),
        (CallEnded(1, RESPONSE, 0, Status(4, "slow", b""), None, ()), "E", "DEADLINE_EXCEEDED   1.000ms  — slow"),
    ],
)
def test_an_end_without_an_answer_says_which(printed: Printed, end: CallEnded, sign: str, said: str) -> None:
    printed.at(0, opened(1))
    printed.at(1, end)
    (line,) = printed.page.without_time()
    assert line[0] == sign
    assert said in line


def test_a_call_without_an_answer_gets_a_line_after_a_second_and_one_at_its_end(printed: Printed, make: Make) -> None:
    printed.at(0, opened(1, "RunPodSandbox", timeout_ns=240 * SECOND), message(1, REQUEST, run_pod(make)))
    printed.at(300, opened(3), ended(3))
    printed.at(900, opened(5))
    printed.at(1500, ended(5))
    printed.at(2500, message(1, RESPONSE), ended(1))
    assert printed.page.without_time() == [
        "  cri                  Version              OK              0µs",
        "… cri                  RunPodSandbox        open         1.000s  shop/web-0 runtime kata deadline in 3m59s",
        "  cri                  Version              OK        600.000ms",
        "  cri                  RunPodSandbox        OK           2.500s  shop/web-0 runtime kata",
    ]


def test_time_alone_brings_out_the_line_of_an_unanswered_call(printed: Printed) -> None:
    printed.at(0, opened(1, "Wait", TASK))
    printed.text.tick(START + SECOND - 1)
    assert printed.page == []
    printed.text.tick(START + SECOND)
    printed.text.tick(START + 5 * SECOND)
    assert printed.page.without_time() == ["… cri                  Wait                 waiting      1.000s"]


def test_the_lines_are_the_same_however_often_the_time_is_told(registry: Registry) -> None:
    often, seldom = Printed(registry), Printed(registry)
    for printed in (often, seldom):
        printed.at(0, opened(1))
        for tick in range(1, 4 if printed is often else 1):
            printed.text.tick(START + tick * SECOND)
        printed.at(3500, ended(1))
    assert often.page == seldom.page
    assert len(seldom.page) == 2


def test_what_is_open_at_the_end_is_listed_with_its_age_and_its_deadline(printed: Printed) -> None:
    printed.at(0, opened(1, "ExecSync", timeout_ns=2 * SECOND), opened(3, "GetContainerEvents"))
    printed.text.finish(START + 5 * SECOND)
    assert printed.page.without_time() == [
        "… cri                  ExecSync             open         5.000s  "
        "(open at the end of the capture) deadline passed 3.000s ago",
        "… cri                  GetContainerEvents   waiting      5.000s  (open at the end of the capture)",
    ]


def test_a_call_that_was_cut_says_by_whom(printed: Printed) -> None:
    printed.at(0, opened(1), opened(3, "GetContainerEvents"))
    printed.closed(10, REQUEST)
    printed.closed(11, RESPONSE)
    assert printed.page.without_time() == [
        "E cri                  Version              cut        11.000ms  — the client closed the connection",
        "- cri                  GetContainerEvents   cut        11.000ms  — the client closed the connection",
    ]


def test_dropped_messages_and_gaps_are_said(printed: Printed) -> None:
    printed.at(0, opened(1, "Subscribe", "containerd.services.events.v1.Events"), opened(3))
    printed.at(1, *[message(1, RESPONSE, b"") for _ in range(100)])
    printed.tracker.gap(FLOW)
    printed.at(2, ended(1), ended(3))
    *messages, first, second = printed.page.without_time()
    assert len(messages) == 100
    assert first.startswith("≠")
    assert first.endswith("→ 100 messages, 0 B (36 messages of the middle not kept) (bytes missing)")
    assert second.endswith("(bytes missing)")


def test_findings_have_a_line_with_hop_connection_offset_and_reason(printed: Printed) -> None:
    flow = made_flow(7, "task")
    printed.at(0, opened(1), flow=flow)
    printed.at(
        1,
        Malformed(REQUEST, 40, "not a ttrpc header", b"GET /\r\n", 1),
        Skipped(RESPONSE, 9, 25, "no frame"),
        flow=flow,
    )
    printed.text.update(Finding("notice", START, "an unknown block", offset=1024))
    assert printed.page.without_time() == [
        r"! task   malformed, connection 7, from the client, at byte 40 (call 1): not a ttrpc header: GET /\r\n",
        "≠ task   gap 25 bytes, connection 7, from the server, at byte 9: no frame",
        "*        notice, capture at byte 1024: an unknown block",
    ]


def test_hostile_text_from_the_wire_never_reaches_the_terminal(registry: Registry, make: Make) -> None:
    evil = "\x1b]0;owned\x07\u202e\n"
    printed = Printed(registry, verbose=True)
    flow = made_flow(3, "cri", socket=evil)
    flow.client = flow.client._replace(name=evil, command=evil, unit=evil)
    printed.at(
        0,
        opened(1, "RunPodSandbox", metadata=((evil, evil), ("k-bin", b"\x1b"))),
        message(1, REQUEST, run_pod(make, evil)),
        flow=flow,
    )
    printed.at(1, message(1, RESPONSE, None, evil), ended(1, 2, evil), flow=flow)
    printed.at(2, opened(3, evil, evil), message(3, REQUEST, evil.encode()), ended(3), flow=flow)
    printed.at(3, Malformed(REQUEST, 0, evil, evil.encode(), None), flow=flow)
    assert len(printed.page) > 20
    for line in printed.page:
        assert line.isprintable(), line


def test_verbose_shows_everything_that_the_line_leaves_out(registry: Registry, make: Make) -> None:
    printed = Printed(registry, verbose=True)
    metadata = (("user-agent", "grpc-go"), ("trace-bin", b"\x01\x02"))
    printed.at(0, opened(1, "RunPodSandbox", timeout_ns=240 * SECOND, metadata=metadata))
    printed.at(1, message(1, REQUEST, run_pod(make)))
    printed.at(2, message(1, RESPONSE, None, "lost in a gap"), ended(1, 13, "boom"))
    assert printed.page[1:] == [
        "    call 1: runtime.v1.RuntimeService/RunPodSandbox",
        "    connection 1, stream 1, grpc, /run/containerd/containerd.sock",
        "    client kubelet (pid 812, uid 0, /usr/bin/kubelet, kubelet.service) → "
        "server containerd (pid 401, uid 0, /usr/bin/containerd, containerd.service)",
        "    deadline 4m00s",
        "    metadata",
        "        user-agent: grpc-go",
        "        trace-bin: 0102",
        f"    request +1.000ms {len(run_pod(make))} B runtime.v1.RunPodSandboxRequest",
        "        config:",
        "          metadata:",
        '            name: "web-0"',
        '            uid: "u1"',
        '            namespace: "shop"',
        '        runtime_handler: "kata"',
        "    response +2.000ms 0 B runtime.v1.RunPodSandboxResponse (lost in a gap)",
        "    status INTERNAL boom",
    ]


def test_the_details_of_a_rich_error_are_shown(registry: Registry) -> None:
    info = registry.message_class("google.rpc.ErrorInfo")(reason="QUOTA", domain="registry.example")
    status = registry.message_class("google.rpc.Status")(code=8, message="slow down")
    details: Any = status.details  # type: ignore[attr-defined] # made at run time from the schema
    details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=info.SerializeToString())
    printed = Printed(registry, verbose=True)
    printed.at(0, opened(1))
    printed.at(1, ended(1, 8, "slow down", status.SerializeToString()))
    assert printed.page[-5:] == [
        '        message: "slow down"',
        "        details:",
        '          - @type: "type.googleapis.com/google.rpc.ErrorInfo"',
        '            reason: "QUOTA"',
        '            domain: "registry.example"',
    ]


def test_without_unicode_or_colour_the_signs_still_tell(registry: Registry) -> None:
    printed = Printed(registry, Look(False, False))
    printed.at(0, opened(1))
    printed.at(2000, ended(1, 14, "gone"))
    assert all(line.isascii() for line in printed.page)
    assert [line[16:].split()[0] for line in printed.page] == ["...", "E"]


def test_colour_is_added_to_a_sign_never_in_its_place(registry: Registry) -> None:
    plain, coloured = Printed(registry), Printed(registry, Look(True, True))
    for printed in (plain, coloured):
        printed.at(0, opened(1), opened(3))
        printed.at(1, ended(1, 14, "gone"), ended(3))
    assert coloured.page == [f"\x1b[31m{plain.page[0]}\x1b[0m", plain.page[1]]


def test_a_method_that_no_schema_has_is_shown_with_its_sizes(printed: Printed) -> None:
    printed.at(0, opened(1, "Do", "acme.v1.Thing"), message(1, REQUEST, bytes(1500)))
    printed.at(1, message(1, RESPONSE, bytes(7)), ended(1))
    assert printed.page.without_time()[0].endswith("Thing/Do             OK          1.000ms  1.5 kB (no schema) → 7 B")


def test_a_call_whose_start_was_not_seen_says_so(printed: Printed) -> None:
    printed.at(0, opened(1, "", "", seen=False), message(1, RESPONSE, bytes(7)), ended(1))
    assert "(start not seen)" in printed.page[0]


def test_a_payload_that_does_not_parse_is_said_on_its_line(printed: Printed) -> None:
    printed.at(0, opened(1, "RunPodSandbox"), message(1, REQUEST, b"\xff\xff"), ended(1))
    assert "(does not parse: " in printed.page[0]


def test_messages_seen_before_are_shown_as_the_first_time(registry: Registry, make: Make) -> None:
    printed = Printed(registry)
    for number in range(2, 3 * KEPT):
        pid = number // 2 if number % 2 else number
        asked = make("containerd.task.v3.StateRequest", {"id": POD})
        answered = make("containerd.task.v3.StateResponse", {"pid": pid})
        printed.at(number, opened(1, "State", TASK), message(1, REQUEST, asked))
        printed.at(number, message(1, RESPONSE, answered), ended(1))
        assert f" {POD[:13]} " in printed.page[-1]
        assert printed.page[-1].endswith(f" pid {pid}")


def test_a_line_of_a_log_is_escaped_and_cut_with_its_length(printed: Printed) -> None:
    printed.text.update(Finding("notice", START, "log", FLOW, RESPONSE, 5, 9, text='{"a":"\x1b"}'))
    printed.text.update(Finding("notice", START, "log", FLOW, RESPONSE, 14, 2000, text="x" * 2000))
    first, second = printed.page.without_time()
    assert first == r'* cri    notice, connection 1, from the server, at byte 5: log: {"a":"\x1b"}'
    assert second.endswith("log: " + "x" * 1000 + " … (2000 bytes)")


@pytest.mark.parametrize("show_secrets", [False, True])
def test_secrets_are_masked_unless_they_are_asked_for(registry: Registry, make: Make, show_secrets: bool) -> None:
    printed = Printed(registry, verbose=True, show_secrets=show_secrets)
    config = {"config": {"envs": [{"key": "KEY", "value": "aHVudGVyMg=="}], "metadata": {"name": "main"}}}
    asked = make("runtime.v1.CreateContainerRequest", config)
    metadata = (("authorization", "Bearer hunter2"), ("user-agent", "crictl"))
    printed.at(0, opened(1, "CreateContainer", metadata=metadata), message(1, REQUEST, asked), ended(1))
    answered = make("runtime.v1.ExecResponse", {"url": "http://127.0.0.1:4242/exec/hunter2"})
    printed.at(1, opened(3, "Exec"), message(3, RESPONSE, answered), ended(3))
    printed.at(2, opened(5, "Do", "acme.v1.Thing"), message(5, REQUEST, b"\x0a\x07hunter2"), ended(5))
    printed.at(3, Malformed(REQUEST, 40, "no frame", b"\0" * 10 + b"hunter2", 9))
    text = "\n".join(printed.page)
    assert "KEY" in text
    assert "crictl" in text
    assert "/exec/" in text
    assert text.replace(" ", "").count("hunter2") == (6 if show_secrets else 0)


def test_the_column_of_names_has_the_last_characters_of_a_long_one(registry: Registry, make: Make) -> None:
    page = Page()
    text = TextPrinter(page.write, Summarizer(registry), look=PLAIN, clock=Clock(utc=True), names=True)
    told = Told(Correlated(Correlator(registry).update, text))
    config = {"config": {"metadata": {"name": "coredns-5d78c9869d-x\x1b[1m", "namespace": "kube-system"}}}
    asked = make("runtime.v1.RunPodSandboxRequest", config)
    answered = make("runtime.v1.RunPodSandboxResponse", {"pod_sandbox_id": POD})
    told.at(0, opened(1, "RunPodSandbox"), message(1, REQUEST, asked))
    told.at(1, message(1, RESPONSE, answered), ended(1), opened(3), ended(3))
    assert page.without_time() == [
        "  cri    9f57c2b6405e1 …c9869d-x\\x1b[1m RunPodSandbox        OK          1.000ms  "
        "kube-system/coredns-5d78c9869d-x\\x1b[1m → 9f57c2b6405e1",
        "  cri                                   Version              OK              0µs",
    ]
