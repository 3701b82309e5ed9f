"""NRI traced live: a plugin and its runtime call each other through an exchanged socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tracer.cli.live import Start, run
from tests.tracer.cli.nri import PLUGIN, RUNTIME, Refused, Runtime

LONG = "x" * 20_000
"""A label that makes a message of many frames."""
StartPlugin = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "nri.sock"


@pytest.fixture
def runtime(path: Path) -> Iterator[Runtime]:
    made = Runtime(path)
    yield made
    made.close()


@pytest.fixture
def start_plugin(path: Path) -> Iterator[StartPlugin]:
    running: list[subprocess.Popen[bytes]] = []

    def start(name: str) -> subprocess.Popen[bytes]:
        running.append(subprocess.Popen([sys.executable, "-m", "tests.tracer.cli.nri", str(path), name]))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()


def test_a_plugin_and_its_runtime_are_traced_through_an_exchanged_socket(
    folder: Path, path: Path, runtime: Runtime, start_plugin: StartPlugin, trace: Start
) -> None:
    inode = path.stat().st_ino
    traced = trace("-w", str(folder / "x.pcapng"), "--json", "--show-secrets", "--socket", f"nri={path}")
    traced.wait_for(lambda: path.stat().st_ino != inode)
    process = start_plugin("adder")
    end = runtime.accept()
    end.call("Configure", config="a: 1", runtime_name="stand-in")
    end.call("Synchronize", pods=[{"id": "p1", "labels": {"long": LONG}}])
    adjusted = end.call("CreateContainer", pod={"id": "p1"}, container={"id": "c1", "name": "web"})
    with pytest.raises(Refused):
        end.call("CreateContainer", pod={"id": "p1"}, container={"id": "c2", "name": "refused"})
    traced.wait_for(lambda: len(traced.printed()) == 6)
    process.kill()
    assert end.ended.wait(20)
    assert traced.interrupt() == 0
    assert path.stat().st_ino == inode

    calls = [json.loads(line) for line in traced.printed()]
    assert [each["kind"] for each in calls] == ["call"] * 6
    by_plugin, by_runtime = ([each for each in calls if each["service"] == service] for service in (RUNTIME, PLUGIN))
    assert {(each["hop"], each["protocol"], each["channel"]) for each in by_plugin} == {("nri", "ttrpc", 2)}
    assert {(each["hop"], each["protocol"], each["channel"]) for each in by_runtime} == {("nri", "ttrpc", 1)}
    assert {(each["client"]["pid"], each["server"]["pid"]) for each in by_plugin} == {(process.pid, os.getpid())}
    assert {(each["client"]["pid"], each["server"]["pid"]) for each in by_runtime} == {(os.getpid(), process.pid)}

    assert [shown(each) for each in by_plugin] == [
        ("RegisterPlugin", 0, {"plugin_name": "adder", "plugin_idx": "10"}, {}),
        ("UpdateContainers", 0, {"update": [{"container_id": "other"}]}, {}),
    ]
    assert [shown(each) for each in by_runtime] == [
        ("Configure", 0, {"config": "a: 1", "runtime_name": "stand-in"}, {"events": 12}),
        ("Synchronize", 0, {"pods": [{"id": "p1", "labels": {"long": LONG}}]}, {}),
        (
            "CreateContainer",
            0,
            {"pod": {"id": "p1"}, "container": {"id": "c1", "name": "web"}},
            {"adjust": {"env": [{"key": "ADDED_BY", "value": "adder"}]}},
        ),
        ("CreateContainer", 2, {"pod": {"id": "p1"}, "container": {"id": "c2", "name": "refused"}}, None),
    ]
    # What the trace shows is what the two had of each other, and in the order in which they had it.
    assert runtime.registered == ["10-adder"]
    assert runtime.updated == ["other"]
    assert adjusted.adjust.env[0].value == "adder"
    update, create = by_plugin[1], by_runtime[2]
    assert create["time"] < update["time"]
    assert calls.index(update) < calls.index(create)
    assert run("decode", "--json", "--show-secrets", str(folder / "x.pcapng")).stdout == traced.out.read_text()


def shown(call: dict[str, Any]) -> tuple[str, int, Any, Any]:
    sides = {each["direction"]: each["body"] for each in call["messages"]}
    assert call["stream"] % 2 == 1
    return call["method"], call["status"]["code"], sides["request"], sides.get("response")


def test_a_plugin_that_does_not_answer_and_is_killed_leaves_a_call_that_was_cut(
    folder: Path, path: Path, runtime: Runtime, start_plugin: StartPlugin, trace: Start
) -> None:
    inode = path.stat().st_ino
    traced = trace("-w", str(folder / "x.pcapng"), "--json", "--socket", f"nri={path}")
    traced.wait_for(lambda: path.stat().st_ino != inode)
    process = start_plugin("sleeper")
    end = runtime.accept()
    traced.wait_for(lambda: len(traced.printed()) == 1)  # it is registered
    with pytest.raises(TimeoutError):
        end.call("StateChange", patience=0.5, event="START_CONTAINER")
    stuck = run("stuck", str(folder / "x.pcapng")).stdout.splitlines()
    assert len(stuck) == 2
    assert "StateChange" in stuck[1]
    process.kill()
    traced.wait_for(lambda: len(traced.printed()) == 2)
    assert traced.interrupt() == 0
    cut = json.loads(traced.printed()[1])
    assert (cut["method"], cut["state"], cut["ended_by"], cut["channel"]) == ("StateChange", "cut", "server", 1)
    assert cut["note"] == "the server closed the connection"
