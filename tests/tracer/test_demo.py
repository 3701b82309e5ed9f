"""The demo ends by itself and keeps its capture; its stand-ins speak what real clients and servers understand."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from protos.registry import Registry
from tracer.demo.content import IMAGE, MISSING_PROGRAM, POD_CONFIG
from tracer.demo.cri_server import RUNTIME_SERVICE
from tracer.demo.run import run_client, socket_folder, stand_in, trace_command

PODWIRE = (sys.executable, "-P", "-m", "tracer.cli")

HOPS = ("cri", "task", "agent", "events")
CRI_CALLS = Counter(
    Version=1, Status=1, GetContainerEvents=1, ListPodSandbox=1, RunPodSandbox=1, PodSandboxStatus=1, ImageStatus=1,
    PullImage=1, CreateContainer=2, StartContainer=2, ContainerStatus=3, ExecSync=2, RemoveContainer=2,
    ListContainerStats=1, StopContainer=1, StopPodSandbox=1, RemovePodSandbox=1,
)  # fmt: skip
TASK_CALLS = Counter(Create=3, Connect=2, Start=4, Wait=4, Exec=2, Stats=1, Kill=2, Delete=4, Shutdown=1)
"""Two tasks that run and one that does not start, with two execs."""
AGENT_CALLS = Counter(
    Check=1, CreateSandbox=1, CreateContainer=3, StartContainer=2, ExecProcess=2, WaitProcess=4, ReadStdout=4,
    ReadStderr=4, SignalProcess=2, StatsContainer=1, RemoveContainer=2, DestroySandbox=1,
)  # fmt: skip
"""The same in the guest: one exec prints to stdout, one to stderr, and each stream that is read ends with an error."""
EVENTS = 2 * 4 + 2 * 3
"""create, start, exit, delete of a task; exec-added, exec-started, exit of an exec."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with socket_folder() as path:
        yield path


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def processes_naming(text: str) -> dict[int, list[str]]:
    """The processes in whose command line a text occurs, whoever runs them."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if any(text in word for word in command):
                    found[int(entry.name)] = command
    return found


def check_demo(capture: Path, environment: dict[str, str] | None = None, prefix: tuple[str, ...] = ()) -> None:
    """Run the demo and hold what it prints and leaves against its story."""
    start = time.monotonic()
    command = [*prefix, *PODWIRE, "demo", "--json", "-w", str(capture)]
    demo = subprocess.run(command, capture_output=True, timeout=30, env=environment, cwd="/")
    taken = time.monotonic() - start
    assert demo.returncode == 0, demo.stderr.decode()
    assert taken < 10
    lines = demo.stderr.decode().splitlines()
    assert "stand-in" in lines[0]
    assert any(str(capture) in line for line in lines)
    assert any(f"podwire decode -v {capture}" in line for line in lines)
    assert capture.stat().st_mode & 0o7777 == 0o600

    shown = [json.loads(line) for line in demo.stdout.splitlines()]
    calls = [each for each in shown if each["kind"] == "call"]
    others = [each for each in shown if each["kind"] != "call"]
    assert all("refused" in each["reason"] and "guest boots" in each["reason"] for each in others), others
    assert len(others) <= 1
    by_hop = {hop: Counter(call["method"] for call in calls if call["hop"] == hop) for hop in HOPS}
    # The answer to Shutdown, and with it the call's end, may be lost with the shim's process; the call is seen.
    assert by_hop == dict(zip(HOPS, (CRI_CALLS, TASK_CALLS, AGENT_CALLS, Counter(Forward=EVENTS)), strict=True))
    assert {call["hop"] for call in calls} == set(HOPS)
    created = [call for call in calls if (call["hop"], call["method"]) == ("agent", "CreateContainer")]
    (agent,) = {call["server"]["name"] for call in calls if call["hop"] == "agent"}
    assert agent == f"kata-agent-{next(call['id'] for call in calls if call['method'] == 'CreateSandbox')[:13]}"
    specs = [call["messages"][0]["body"]["OCI"] for call in created]
    assert [spec["Process"]["Args"][0] for spec in specs] == ["/pause", "/bin/web", MISSING_PROGRAM]
    assert all(spec["Mounts"] and spec["Linux"]["Namespaces"] and spec["Annotations"] for spec in specs)
    failed = Counter((c["hop"], c["method"], c["status"]["name"]) for c in calls if c["status"] and c["status"]["code"])
    assert failed == Counter(
        {
            ("agent", "CreateContainer", "INTERNAL"): 1,
            ("agent", "ReadStdout", "INTERNAL"): 3,
            ("agent", "ReadStderr", "INTERNAL"): 3,
            ("task", "Create", "UNKNOWN"): 1,
            ("cri", "StartContainer", "UNKNOWN"): 1,
            ("cri", "ContainerStatus", "NOT_FOUND"): 1,
        }
    )
    assert Counter(call["state"] for call in calls if call["method"] != "Shutdown") == Counter(
        ended=len(calls) - 2, cancelled=1
    )

    decoded = subprocess.run([*PODWIRE, "decode", "--json", str(capture)], capture_output=True, check=True)
    assert decoded.stdout == demo.stdout
    check_story(capture)
    (sockets,) = {os.path.dirname(call["socket"]) for call in calls if call["hop"] == "cri"}
    assert not Path(sockets).exists()
    assert wait_until(lambda: not processes_naming(sockets), 2), processes_naming(sockets)


def check_story(capture: Path) -> None:
    """Hold the pod's story over the three hops, and the innermost error, against what the demo does."""
    done = subprocess.run([*PODWIRE, "pods", "--json", str(capture)], capture_output=True, check=True)
    (pod,) = [json.loads(line) for line in done.stdout.splitlines()]
    failures = {each["name"]: each["failures"] for each in pod["containers"]}
    assert failures["web"] == pod["failures"] == []
    start = failures["metrics"][0]
    assert (start["hop"], start["method"]) == ("cri", "StartContainer")
    assert (start["innermost"]["hop"], start["innermost"]["method"]) == ("agent", "CreateContainer")
    assert MISSING_PROGRAM in start["innermost"]["status"]["message"]

    done = subprocess.run([*PODWIRE, "story", "web-0", str(capture)], capture_output=True, text=True, check=True)
    lines = [line[23:].split() for line in done.stdout.splitlines()[1:]]  # hop, the branch, method …
    hops = Counter(words[0] for words in lines)
    assert hops["task"] == TASK_CALLS.total()
    assert hops["agent"] == AGENT_CALLS.total()
    guests = [number for number, words in enumerate(lines) if words[:3] == ["agent", "└", "CreateContainer"]]
    assert len(guests) == 3
    assert {words[2] for words in lines if words[:2] == ["task", "└"]} >= {"Create", "Start", "Exec", "Kill", "Delete"}
    callers = {words[1] for words in lines if words[0] == "task" and words[1] != "└"}
    assert callers <= {"Stats"} | set(TASK_CALLS)


def test_demo_tells_its_story_and_leaves_only_its_capture(tmp_path: Path) -> None:
    check_demo(tmp_path / "demo.pcapng")


@pytest.mark.root
def test_demo_needs_no_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("without root the other test is this one")
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv to become another user")
    nobody = "65534"
    # The interpreter may lie in a folder of root's: this lets the user read it, and write nothing more than he may.
    caps = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--bounding-set=-all,+dac_read_search")
    prefix = ("setpriv", f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups", *caps)
    with socket_folder() as place:
        os.chown(place, int(nobody), int(nobody))
        environment = {"PATH": os.environ["PATH"], "HOME": str(place), "XDG_RUNTIME_DIR": str(place)}
        check_demo(place / "demo.pcapng", environment, ("nice", *prefix))


def test_grpcio_understands_the_stand_in_server(folder: Path) -> None:
    registry = Registry.bundled()
    with stand_in(folder), grpc.insecure_channel(f"unix:{folder}/containerd.sock") as channel:

        def call(method: str, service: str = RUNTIME_SERVICE, **fields: object) -> object:
            types = registry.method(service, method)
            assert types is not None
            request = registry.message_class(types.input_type)(**fields)  # type: ignore[call-arg] # made from a schema
            answer = registry.message_class(types.output_type)
            rpc = channel.unary_unary(f"/{service}/{method}", type(request).SerializeToString, answer.FromString)
            return rpc(request, timeout=10)

        assert call("Version").runtime_name == "stand-in"  # type: ignore[attr-defined] # made from a schema
        with pytest.raises(grpc.RpcError) as caught:
            call("ContainerStatus", container_id="é%")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert '"é%": not found' in caught.value.details()
        with pytest.raises(grpc.RpcError) as caught:
            call("ReopenContainerLog", container_id="x")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        pod = call("RunPodSandbox", config=POD_CONFIG)
        long_name = "x" * 300_000  # more than a window: both ends have to give bytes back
        call("PullImage", "runtime.v1.ImageService", image={"image": IMAGE + long_name})
        answer = call("ImageStatus", "runtime.v1.ImageService", image={"image": IMAGE + long_name})
        assert answer.image.repo_tags == [IMAGE + long_name]  # type: ignore[attr-defined] # made from a schema
        call("StopPodSandbox", pod_sandbox_id=pod.pod_sandbox_id)  # type: ignore[attr-defined] # made from a schema
        call("RemovePodSandbox", pod_sandbox_id=pod.pod_sandbox_id)  # type: ignore[attr-defined] # made from a schema
        assert not list((folder / "s").iterdir())


def test_shims_end_with_a_runtime_that_is_killed(folder: Path) -> None:
    with stand_in(folder, mute=("CreateContainer",)):
        client = run_client(folder)
        try:
            assert wait_until(lambda: any((folder / "s").iterdir()), 5)
            assert len(processes_naming(f"{folder}/s/")) == 1
            (server,) = (
                pid for pid, words in processes_naming(str(folder)).items() if "tracer.demo.cri_server" in words
            )
            os.kill(server, signal.SIGKILL)
            assert wait_until(lambda: not processes_naming(f"{folder}/s/"), 3)
        finally:
            client.kill()
            client.wait()


@contextmanager
def traced(folder: Path, capture: Path) -> Iterator[list[str]]:
    """A trace of the stand-in, and a client that is at work by then; both end with the block. Gives the trace's output
    and what it said, once it has ended."""
    inode = (folder / "containerd.sock").stat().st_ino
    trace = subprocess.Popen(trace_command(folder, str(capture)), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    client, said = None, list[str]()
    try:
        assert wait_until(lambda: (folder / "containerd.sock").stat().st_ino != inode, 5)
        client = run_client(folder)
        yield said
    finally:
        trace.send_signal(signal.SIGINT)
        said += (text.decode() for text in trace.communicate())
        if client is not None:
            client.kill()
            client.wait()
    assert trace.returncode == 0, said[1]


def test_an_agent_that_hangs_is_the_innermost_of_three_hops(folder: Path, tmp_path: Path) -> None:
    capture = tmp_path / "hung.pcapng"

    def hung() -> list[tuple[str, str, bool]]:
        done = subprocess.run([*PODWIRE, "stuck", "--json", str(capture)], capture_output=True, check=True)
        calls = map(json.loads, done.stdout.splitlines())
        return [(each["hop"], each["method"], each["innermost"]) for each in calls if not each["meant_to_wait"]]

    with stand_in(folder, mute=("SignalProcess",)), traced(folder, capture):
        chain = [("cri", "StopContainer", False), ("task", "Kill", False), ("agent", "SignalProcess", True)]
        assert wait_until(lambda: hung() == chain, 20), hung()


def test_a_call_that_is_never_answered_is_shown_as_open(folder: Path, tmp_path: Path) -> None:
    capture = tmp_path / "hung.pcapng"

    def stuck() -> list[str]:
        command = [*PODWIRE, "stuck", str(capture)]
        lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
        ends = [number for number, line in enumerate(lines) if line.startswith("meant to wait")]
        return lines[1 : ends[0] if ends else None]

    with stand_in(folder, mute=("Kill",)), traced(folder, capture) as said:
        assert wait_until(lambda: any(" Kill " in line for line in stuck()), 8)
        time.sleep(1.2)
        hung = stuck()
        assert ["StopContainer" in line for line in hung] == [True, False], hung  # the oldest first
        assert [" Kill " in line for line in hung] == [False, True], hung
    out, err = said
    assert "draining" in err
    for method in ("StopContainer", "Kill"):
        assert [line for line in out.splitlines() if method in line and " open " in line], out
    decoded = subprocess.run([*PODWIRE, "decode", "--json", str(capture)], capture_output=True, check=True).stdout
    open_calls = [call for call in map(json.loads, decoded.splitlines()) if call.get("state") == "open"]
    waiting = {"Wait", "GetContainerEvents", "WaitProcess", "ReadStdout", "ReadStderr"}
    assert {"StopContainer", "Kill", *waiting} == {call["method"] for call in open_calls}
    assert wait_until(lambda: not processes_naming(str(folder)), 2), processes_naming(str(folder))
