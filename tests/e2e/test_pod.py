"""A pod's life on a real containerd, traced: everything is there, typed and timed, and other readers see the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from protos.registry import Registry
from tests.e2e.containerd import Containerd, wait_until
from tests.e2e.cri import EVENTS, ClientCall, CriClient, Pod, ServerStream, pod_life, topics
from tests.e2e.tracing import PODWIRE, Trace

pytestmark = [pytest.mark.root, pytest.mark.containerd]

SCHEMAS = Path(__file__).resolve().parents[2] / "protos" / "schemas"
LARGE = 16 * 1024 * 1024 - 64
"""Bytes of a string: with its field's header and the message's frame just below what containerd's server takes."""
CLOCK_S = 0.005
"""time.time() of a client in Python against the relay's clock."""

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


@dataclass
class Traced:
    """One traced run, and the accounts to hold it against."""

    pod: Pod
    client: list[ClientCall]
    metrics: Counter[tuple[str, str]]
    topics: Counter[str]
    log: str
    trace: Trace
    calls: list[dict[str, Any]]

    def hop(self, hop: str) -> list[dict[str, Any]]:
        return [call for call in self.calls if call["hop"] == hop]


@pytest.fixture(scope="module", params=["runtime.v1", "runtime.v1alpha2"])
def traced(
    request: pytest.FixtureRequest,
    containerd: Containerd,
    registry: Registry,
    tmp_path_factory: pytest.TempPathFactory,
) -> Traced:
    return trace_a_pod(request.param, containerd, registry, tmp_path_factory.mktemp("pod") / "pod.pcapng")


def trace_a_pod(api: str, containerd: Containerd, registry: Registry, capture: Path) -> Traced:
    before, logged = Counter(containerd.settled_metrics()), containerd.log.stat().st_size
    with Trace(containerd, capture) as trace:
        with CriClient(containerd.address, registry) as client:
            events = client.stream(EVENTS, "Subscribe")
            pod = pod_life(client, f"traced-{containerd.token}", containerd.cgroup_parent, api)
            client.call(f"{api}.RuntimeService", "Version", version="v" * LARGE)
            wait_for_deletes(events, 2)
            events.cancel()
        assert wait_until(lambda: not containerd.shims(), 5)
        # The handler of the cancelled stream ends, and is counted, a moment later.
        assert wait_until(lambda: sum((Counter(containerd.metrics()) - before).values()) == len(client.calls), 5)
        metrics = Counter(containerd.metrics()) - before
        taken = trace.stop()
    assert taken < 3, "an end takes about a second"
    log = containerd.log.read_bytes()[logged:].decode(errors="replace")
    return Traced(pod, client.calls, metrics, Counter(topics(events)), log, trace, trace.calls())


def wait_for_deletes(events: ServerStream, count: int) -> None:
    assert wait_until(lambda: list(topics(events)).count("/tasks/delete") == count, 5)


def service_method(call: dict[str, Any]) -> str:
    return f"{call['service']}/{call['method']}"


def code_of(call: dict[str, Any]) -> str:
    """As containerd's metrics and the client have it: NOT_FOUND → NotFound; a cancelled call has no status."""
    if call["state"] == "cancelled":
        return "Canceled"
    name: str = call["status"]["name"]
    return name if name == "OK" else "".join(word.capitalize() for word in name.split("_"))


def request_of(call: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = call["messages"][0]["body"]
    return body


def test_cri_calls_are_those_of_the_clients_own_list(traced: Traced) -> None:
    seen = Counter((service_method(call), code_of(call)) for call in traced.hop("cri"))
    assert seen == Counter((f"{call.service}/{call.method}", call.code) for call in traced.client)


def test_cri_calls_are_those_that_containerd_counted(traced: Traced) -> None:
    # containerd's handler of a stream whose client has gone ends with nil, so it counts as OK.
    seen = Counter((service_method(call), code_of(call).replace("Canceled", "OK")) for call in traced.hop("cri"))
    assert seen == traced.metrics


def test_cri_calls_lie_within_the_clients_times(traced: Traced) -> None:
    ordered = sorted(traced.client, key=lambda call: call.start)
    calls = sorted(traced.hop("cri"), key=lambda call: call["time"])
    for name in {f"{call.service}/{call.method}" for call in traced.client}:
        own = [call for call in ordered if f"{call.service}/{call.method}" == name and call.code != "Canceled"]
        seen = [call for call in calls if service_method(call) == name and call["state"] == "ended"]
        for mine, theirs in zip(own, seen, strict=True):
            start = datetime.fromisoformat(theirs["time"]).timestamp()
            assert mine.start - CLOCK_S <= start
            assert start + theirs["duration_ns"] / 1e9 <= mine.end + CLOCK_S


def test_every_call_is_typed_and_nothing_else_is_found(traced: Traced) -> None:
    assert {call["kind"] for call in traced.calls} == {"call"}
    assert {call["hop"] for call in traced.calls} == {"cri", "task", "events"}
    for call in traced.calls:
        assert call["seen_start"]
        for message in call["messages"]:
            assert "@error" not in json.dumps(message)
            assert "@unknown" not in json.dumps(message)


def test_shims_calls_begin_with_create_and_none_is_missed(traced: Traced, containerd: Containerd) -> None:
    task = sorted(traced.hop("task"), key=lambda call: call["call"])
    assert {call["socket"] for call in task} == {str(containerd.shim_socket(traced.pod.sandbox_id))}
    assert (task[0]["method"], request_of(task[0])["id"]) == ("Create", traced.pod.sandbox_id)
    created = [request_of(call)["id"] for call in task if call["method"] == "Create"]
    assert created == [traced.pod.sandbox_id, traced.pod.container_id]
    counted = Counter(call["method"] for call in task)
    assert [counted[method] for method in ("Create", "Start", "Exec", "Delete", "Update")] == [2, 4, 2, 4, 1]
    # A shim may be gone before its answer to Shutdown is: so it is with the wire, not with the trace.
    assert {call["state"] for call in task if call["method"] != "Shutdown"} == {"ended"}
    assert "not seen" not in traced.trace.said


def test_forwarded_events_are_those_that_subscribers_got(traced: Traced) -> None:
    forwarded = Counter(request_of(call)["envelope"]["topic"] for call in traced.hop("events"))
    assert forwarded == Counter({name: n for name, n in traced.topics.items() if name.startswith("/tasks/")})
    assert sum(forwarded.values()) == traced.log.count('msg="event forwarded"')


def test_each_bundle_is_with_the_create_that_named_it(traced: Traced) -> None:
    named = [call for call in traced.hop("task") if call["method"] == "Create"]
    roles = [(bundle["role"], bundle["sandbox"]) for call in named for bundle in call["bundles"]]
    assert roles == [("sandbox", traced.pod.sandbox_id), ("container", traced.pod.sandbox_id)]
    for call in named:
        (bundle,) = call["bundles"]
        files = {each["name"]: each for each in bundle["files"]}
        assert bundle["path"].endswith(f"/k8s.io/{call['id']}")
        assert files["config.json"]["json"]["annotations"]["io.kubernetes.cri.sandbox-id"] == traced.pod.sandbox_id
        assert all(each.split("=")[1].strip("*") == "" for each in files["config.json"]["json"]["process"]["env"])
        assert (files["log"]["kind"], files["rootfs"]["kind"], files["work"]["kind"]) == ("fifo", "directory", "link")
        assert files["bootstrap.json"]["kind"] == "file" or files["address"]["kind"] == "file"
        assert files["shim.pid"] == {"name": "shim.pid", "kind": "missing"}  # Kata's


def test_decode_prints_again_what_trace_printed(traced: Traced) -> None:
    decoded = subprocess.run([*PODWIRE, "decode", "--json", str(traced.trace.capture)], capture_output=True, check=True)
    assert decoded.stdout == traced.trace.out


def test_a_pods_messages_have_what_was_asked(traced: Traced) -> None:
    (run,) = (call for call in traced.hop("cri") if call["method"] == "RunPodSandbox")
    assert run["id"] == traced.pod.sandbox_id
    assert request_of(run)["config"]["metadata"]["name"] == traced.pod.name
    execs = [call for call in traced.hop("cri") if call["method"] == "ExecSync"]
    assert [call["messages"][1]["body"].get("exit_code", 0) for call in execs] == [0, 3]
    (spec, _) = (request_of(call)["spec"] for call in traced.hop("task") if call["method"] == "Exec")
    assert spec["value"]["args"] == ["echo", "hello"]


def test_an_exec_is_shown_from_cri_to_the_shim_and_its_events(traced: Traced) -> None:
    asked = next(
        call for call in traced.hop("cri") if call["method"] == "ExecSync" and "wrong" in str(request_of(call))
    )
    task = next(call for call in traced.hop("task") if call["method"] == "Exec" and "wrong" in str(request_of(call)))
    assert request_of(task)["spec"]["@type"] == "types.containerd.io/opencontainers/runtime-spec/1/Process"
    assert request_of(task)["spec"]["value"]["args"] == request_of(asked)["cmd"]
    exec_id = request_of(task)["exec_id"]
    events = [request_of(call)["envelope"]["event"] for call in traced.hop("events")]
    (started,) = (event for event in events if event.get("exec_id") == exec_id and "Started" in event["@type"])
    (exited,) = (event for event in events if event.get("id") == exec_id)
    assert started["@type"] == "containerd.events.TaskExecStarted"
    assert exited["@type"] == "containerd.events.TaskExit"
    assert (exited["pid"], exited["exit_status"]) == (started["pid"], 3)
    assert exited["container_id"] == asked["id"] == task["id"] == traced.pod.container_id
    starts, ends = (datetime.fromisoformat(call["time"]) for call in (asked, task))
    assert starts < ends < starts + timedelta(microseconds=asked["duration_ns"] // 1000)


def test_text_shows_what_hides_in_a_pods_messages(traced: Traced) -> None:
    command = [*PODWIRE, "decode", "-v", str(traced.trace.capture)]
    text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    lines = [line.strip() for line in text.splitlines()]
    assert "spec: (types.containerd.io/opencontainers/runtime-spec/1/Process)" in lines
    assert 'args: ["echo", "hello"]' in lines
    assert "bounding: CAP_CHOWN," in text
    assert "config (JSON):" in lines  # of Status, verbose
    assert any(line.startswith("stats: (io.containerd.cgroups.v") for line in lines)
    assert any(line.startswith("usage: ") and line.endswith("iB)") for line in lines)
    assert any("/tasks/exit" in line and line.endswith("exit 3") for line in lines)
    assert "signal: 9 (SIGKILL)" in lines


@pytest.mark.tshark
@needs_tshark
def test_tshark_sees_the_same_grpc_calls(traced: Traced) -> None:
    seen = {(call["connection"] - 1, call["stream"]): call for call in traced.hop("cri")}
    assert grpc_by_tshark(traced.trace.capture) == {
        key: (f"/{service_method(call)}", None if call["status"] is None else call["status"]["code"])
        for key, call in seen.items()
    }


@pytest.mark.tshark
@needs_tshark
def test_tshark_shows_grpc_calls_by_name_with_nothing_set(traced: Traced) -> None:
    shown = tshark(traced.trace.capture, "-Y", "grpc")
    for call in traced.hop("cri"):
        assert f"POST /{service_method(call)}" in shown


@pytest.mark.tshark
@needs_tshark
@pytest.mark.parametrize("options", [(), ("-o", f'uat:protobuf_search_paths:"{SCHEMAS}","TRUE"')])
def test_tshark_finds_nothing_wrong(traced: Traced, options: tuple[str, ...]) -> None:
    assert tshark(traced.trace.capture, *options, "-Y", "_ws.malformed || tcp.analysis.flags") == ""


@pytest.mark.parametrize("command", [["tcpdump", "-nr"], ["capinfos"]])
def test_other_readers_read_to_the_end(traced: Traced, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([*command, str(traced.trace.capture)], capture_output=True, text=True, check=True)
    assert done.stdout
    assert "truncated" not in done.stderr


def test_every_shims_create_is_seen_or_said_to_be_missed_when_pods_start_together(
    containerd: Containerd, registry: Registry, tmp_path: Path
) -> None:
    sandboxes: list[str] = []

    def live(number: int) -> None:
        with CriClient(containerd.address, registry) as client:
            pod = Pod(client, f"together-{number}-{containerd.token}", containerd.cgroup_parent)
            sandboxes.append(pod.run())
            pod.remove()

    with Trace(containerd, tmp_path / "together.pcapng") as trace:
        threads = [threading.Thread(target=live, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wait_until(lambda: not containerd.shims(), 5)
        trace.stop()
    task = sorted((call for call in trace.calls() if call["hop"] == "task"), key=lambda call: call["call"])
    firsts = {call["socket"]: call for call in reversed(task)}
    by_socket = {str(containerd.shim_socket(each)): each for each in sandboxes}
    missed = {socket for socket in by_socket if f"{socket}: 1 connection was made before" in trace.said}
    assert firsts.keys() | missed == by_socket.keys()  # seen + missed = all
    seen = {socket: call for socket, call in firsts.items() if socket not in missed}
    assert {socket: request_of(call)["id"] for socket, call in seen.items()} == {
        socket: by_socket[socket] for socket in seen
    }
    assert {call["method"] for call in seen.values()} <= {"Create"}


def tshark(capture: Path, *arguments: str) -> str:
    done = subprocess.run(["tshark", "-r", str(capture), *arguments], capture_output=True, text=True, check=True)
    assert not [line for line in done.stderr.splitlines() if "Running as user" not in line]
    return done.stdout


def grpc_by_tshark(capture: Path) -> dict[tuple[int, int], tuple[str, int | None]]:
    """(tcp.stream, HTTP/2 stream) → (path, grpc-status or None), out of `tshark -T fields` with our schemas loaded.

    A packet holds frames of several streams; its lists of stream ids, types and flags have an entry a frame. A request
    has one HEADERS frame, with the path; a response's last one, which ends the stream, has the status.
    """
    fields = ("tcp.stream", "tcp.dstport", "http2.streamid", "http2.type", "http2.flags", "http2.headers.path")
    fields += ("http2.header.name", "http2.header.value")
    options = ["-o", f'uat:protobuf_search_paths:"{SCHEMAS}","TRUE"', "-Y", "http2.type == 1", "-T", "fields"]
    options += ["-E", "aggregator=\x1f"]
    for name in fields:
        options += ["-e", name]
    paths: dict[tuple[int, int], str] = {}
    statuses: dict[tuple[int, int], int] = {}
    for line in tshark(capture, *options).splitlines():
        stream, port, ids, types, flags, path, names, values = (each.split("\x1f") for each in line.split("\t"))
        frames = zip(ids, types, flags, strict=True)
        headers = [(int(stream[0]), int(each), int(flag, 16)) for each, type_, flag in frames if type_ == "1"]
        if port == ["8080"]:
            paths |= {(tcp, each): name for (tcp, each, _), name in zip(headers, path, strict=True)}
        else:
            ends = [(tcp, each) for tcp, each, flag in headers if flag & 1]
            pairs = zip(names, values, strict=True)
            found = [int(value) for name, value in pairs if name == "grpc-status"]
            statuses |= dict(zip(ends, found, strict=True))
    return {key: (path, statuses.get(key)) for key, path in paths.items()}
