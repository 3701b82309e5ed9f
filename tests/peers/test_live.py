"""The peers through the real relay: `podwire trace` on a socket between two implementations that are not ours."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.peers import programs
from tests.peers.plan import SHAPES, Planned, make_plan
from tests.peers.test_corpus import STREAMS, TTRPC_HOPS, check, services
from tests.tracer.cli.live import Running, run

pytestmark = pytest.mark.timeout(600)  # the first test of a language builds its peer


OPTIONS = ("--json", "--messages", "--show-secrets", "--proto", str(SHAPES))


def written(folder: Path, plan: list[Planned]) -> str:
    text = folder / "plan"
    text.write_text("".join(f"{planned.line()}\n" for planned in plan))
    return str(text)


def tracing(folder: Path, hop: str, path: Path) -> Running:
    """A trace that has taken the socket."""
    inode = path.stat().st_ino
    options = ("-w", str(folder / "x.pcapng"), "--socket", f"{hop}={path}", *OPTIONS)
    trace = Running(folder, "trace", *options)
    trace.wait_for(lambda: path.stat().st_ino != inode)
    return trace


def ended(folder: Path, trace: Running, plan: list[Planned], hop: str) -> None:
    """All of the plan is printed while it is traced; the capture says the same."""
    trace.wait_for(lambda: sum('"kind":"call"' in line for line in trace.printed()) == len(plan))
    assert trace.interrupt() == 0
    check([json.loads(line) for line in trace.printed()], plan, hop, "ttrpc")
    assert run("decode", *OPTIONS, str(folder / "x.pcapng")).stdout == trace.out.read_text()


def test_a_go_client_of_a_rust_server(folder: Path) -> None:
    go, rust = programs.go_peer(), programs.rust_peer()
    plan = make_plan(TTRPC_HOPS["task"] + STREAMS, random.Random(4))
    path = folder / "x.sock"
    with programs.serving(rust, str(path), written(folder, plan)):
        trace = tracing(folder, "events", path)
        try:
            programs.call(go, str(path), written(folder, plan))
            ended(folder, trace, plan, "events")
        finally:
            trace.close()


def test_a_runtime_and_a_plugin_with_nri_s_own_multiplexer(folder: Path) -> None:
    go = programs.go_peer()
    plan = make_plan(services("nri") + STREAMS, random.Random(4))
    path, text = folder / "nri.sock", written(folder, plan)
    with programs.calling(go, "--nri-runtime", str(path), text) as finished:
        trace = tracing(folder, "nri", path)
        try:
            with programs.serving(go, "--nri-plugin", str(path), text):
                finished()
            ended(folder, trace, plan, "nri")
        finally:
            trace.close()
