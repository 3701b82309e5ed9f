"""Wire and log on one time axis: a real containerd that logs to a real journald, and `podwire trace --journal`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from protos.registry import Registry
from tests.e2e.containerd import Containerd, missing_programs, wait_until
from tests.e2e.cri import CriClient, Pod
from tests.e2e.journald import Journald, missing
from tests.e2e.killing import RECORDER, RelayProcesses
from tests.e2e.tracing import PODWIRE, Trace

pytestmark = [pytest.mark.root, pytest.mark.containerd]

SECRET = "hunter2-it-is"
OWN_TIME = re.compile(r'^time="([^"]+)"')


@pytest.fixture(scope="module")
def journald() -> Iterator[Journald]:
    if os.geteuid() != 0:
        pytest.skip("a journald of one's own needs root")
    if lacks := [*missing(), *missing_programs()]:
        pytest.skip(f"containerd with a journald of its own needs {', '.join(lacks)}")
    with Journald() as journald:
        yield journald


@pytest.fixture(scope="module")
def logging_containerd(journald: Journald) -> Iterator[Containerd]:
    """A containerd whose stderr goes to that journald, as a unit's does."""
    with ExitStack() as stack:
        stream = stack.enter_context(journald.stream("containerd"))
        yield stack.enter_context(Containerd(stderr=stream.fileno()))


class Lived(NamedTuple):
    """A pod that came and went."""

    name: str
    sandbox: str
    container: str


def lacking(journald: Journald, before: Counter[str], capture: Path) -> list[str]:
    """The lines that journald has of the time between a capture's first and last object, and the capture has not.
    Fails if that has one that journald has not, or one twice."""
    told = decoded(capture, "--show-secrets")
    written = Counter(journald.messages()) - before
    shown = Counter(each["text"] for each in told if each["kind"] == "log")
    assert shown - written == Counter()
    times = [each["time"] for each in told]
    lines = [(OWN_TIME.search(text), text) for text in written - shown]
    return [text for found, text in lines if found is None or min(times) <= found[1] <= max(times)]


def live_a_pod(containerd: Containerd, registry: Registry, name: str) -> Lived:
    with CriClient(containerd.address, registry) as client:
        pod = Pod(client, f"{name}-{containerd.token}", containerd.cgroup_parent)
        lived = Lived(pod.name, pod.run(), pod.start_container())
        assert pod.exec("echo", "hi")[0] == 0
        pod.remove_container()
        pod.remove()
        assert wait_until(lambda: not containerd.shims(), 10)
    return lived


def followers(journald: Journald) -> list[int]:
    """The processes that follow that journal."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                command = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"-f" in command and str(journald.folder).encode() in command:
                found.append(int(entry))
    return found


def decoded(path: Path, *options: str) -> list[dict[str, Any]]:
    done = subprocess.run([*PODWIRE, "decode", "--json", *options, path], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def span(call: dict[str, Any]) -> tuple[datetime, datetime]:
    begin = datetime.fromisoformat(call["time"])
    return begin, datetime.fromtimestamp(begin.timestamp() + (call["duration_ns"] or 10**15) / 1e9, begin.tzinfo)


def test_lines_stand_on_the_time_axis_of_the_calls_and_name_their_pod(
    journald: Journald, logging_containerd: Containerd, registry: Registry, tmp_path: Path
) -> None:
    capture = tmp_path / "pod.pcapng"
    before = Counter(journald.messages())
    with Trace(logging_containerd, capture, "--journal", str(journald.folder)) as trace:
        assert wait_until(lambda: len(followers(journald)) == 1, 10)
        pod = live_a_pod(logging_containerd, registry, "axis")
        trace.stop()
    assert followers(journald) == []
    assert (
        b"".join(trace.out.splitlines(True))
        == subprocess.run([*PODWIRE, "decode", "--json", capture], capture_output=True, check=True).stdout
    ), "a trace and its file give the same"
    told = trace.calls()
    lines = [each for each in told if each["kind"] == "log"]
    assert {each["kind"] for each in told} == {"call", "log"}

    assert lacking(journald, before, capture) == []

    # A request's own line lies within its call.
    calls = [each for each in told if each["kind"] == "call" and each["hop"] == "cri"]
    for method, pattern in (
        ("RunPodSandbox", rf'msg="RunPodSandbox for &PodSandboxMetadata{{Name:{pod.name},'),
        ("CreateContainer", r'msg="CreateContainer within sandbox .* for container &ContainerMetadata'),
        ("StartContainer", r'msg="StartContainer for \\"[0-9a-f]{64}\\""'),
        ("StopPodSandbox", r'msg="StopPodSandbox for '),
    ):
        (call,) = [each for each in calls if each["method"] == method]
        found = [each for each in lines if re.search(pattern, each["text"])]
        assert found, method
        for line in found:
            begin, end = span(call)
            assert begin <= datetime.fromisoformat(line["time"]) <= end, (method, line["text"])
            if method == "RunPodSandbox":  # it may be read before the request that names its pod, or the answer
                assert line.get("pod", {}).items() <= call["pod"].items()
            else:
                assert line["pod"] == call["pod"], method
            assert (line["source"], line["pid"]) == ("containerd", logging_containerd.pid)
    told_story = subprocess.run(
        [*PODWIRE, "story", pod.name, capture], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert sum(" log    containerd" in line for line in told_story) >= sum("pod" in line for line in lines) > 10


@pytest.mark.tshark
@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_wireshark_reads_lines_and_calls_and_a_redacted_copy_has_no_secret(
    journald: Journald, logging_containerd: Containerd, registry: Registry, tmp_path: Path
) -> None:
    capture, clean = tmp_path / "pod.pcapng", tmp_path / "clean.pcapng"
    with Trace(logging_containerd, capture, "--journal", str(journald.folder)) as trace:
        live_a_pod(logging_containerd, registry, "shark")
        with journald.stream("kubelet") as stream:
            stream.sendall(f'E1129 17:13:24.123456 1 x.go:1] "pull" password="{SECRET}" pod="default/x"\n'.encode())
        trace.stop()
    lines = [each for each in trace.calls() if each["kind"] == "log"]
    assert SECRET.encode() not in trace.out
    assert SECRET.encode() in capture.read_bytes()
    frames = subprocess.run(
        ["tshark", "-r", capture, "-Y", "systemd_journal", "-T", "fields", "-e", "systemd_journal.message"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert len(frames) == len(lines) > 20
    done = subprocess.run([*PODWIRE, "verify", capture], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    subprocess.run([*PODWIRE, "redact", capture, clean], capture_output=True, check=True)
    assert SECRET.encode() not in clean.read_bytes()
    assert len([each for each in decoded(clean) if each["kind"] == "log"]) == len(lines)


def test_a_recorder_that_is_killed_loses_no_line_and_writes_none_twice(
    journald: Journald, logging_containerd: Containerd, registry: Registry, tmp_path: Path
) -> None:
    capture = tmp_path / "killed.pcapng"
    before = Counter(journald.messages())
    with Trace(logging_containerd, capture, "--journal", str(journald.folder)) as trace:
        assert trace.process is not None
        with journald.stream("kubelet") as stream, RelayProcesses.of(trace.process.pid) as relay:
            for number in range(5):
                assert wait_until(lambda: len(followers(journald)) == 1, 10)
                stream.sendall(f"line {number}\n".encode())
                live_a_pod(logging_containerd, registry, f"kill{number}")
                relay.kill(RECORDER, lambda count: count == 1, most=2)
        assert wait_until(lambda: len(followers(journald)) == 1, 10), "that of a dead recorder goes too"
        live_a_pod(logging_containerd, registry, "last")
        trace.stop()
    assert lacking(journald, before, capture) == []
    told = decoded(capture)
    shown = Counter(each["text"] for each in told if each["kind"] == "log")
    assert [shown[f"line {number}"] for number in range(5)] == [1] * 5


def test_a_journalctl_that_is_killed_is_said_and_holds_up_nothing(
    journald: Journald, logging_containerd: Containerd, registry: Registry, tmp_path: Path
) -> None:
    capture = tmp_path / "alone.pcapng"
    with Trace(logging_containerd, capture, "--journal", str(journald.folder)) as trace:
        assert wait_until(lambda: len(followers(journald)) == 1, 10)
        os.kill(followers(journald)[0], signal.SIGKILL)
        assert wait_until(lambda: "no more lines of the log" in trace.errors(), 10)
        live_a_pod(logging_containerd, registry, "alone")
        trace.stop()
    assert trace.said.count("no more lines of the log are recorded: journalctl has ended with status -9\n") == 1
    told = Counter(each["kind"] for each in decoded(capture))
    assert told["notice"] == 1
    assert told["call"] > 50
