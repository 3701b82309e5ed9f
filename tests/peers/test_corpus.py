"""Every method of every service, with random messages, from one implementation that is not ours to another, recorded
between them: what comes out of the whole path to JSON is what went in.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dissectors.render import Renderer
from protos.hops import hop_of_service
from protos.registry import Registry
from tests.peers import grpc_peer, programs
from tests.peers.plan import SHAPES, Planned, make_plan
from tests.peers.recorded import Recorder
from tracer.capture.reader import open_capture
from tracer.output.jsonlines import JsonPrinter
from tracer.pipeline import Decoder

pytestmark = pytest.mark.timeout(600)  # the first test of a language builds its peer

REGISTRY = Registry.bundled()
REGISTRY.add_proto_dir(str(SHAPES))
OF_SHAPES = "podwire.peers.Shapes"
STREAMS = [OF_SHAPES, "containerd.services.streaming.v1.Streaming"]
"""Calls of every shape, and the one streaming service that shims have."""
some = settings(
    max_examples=4,
    phases=(Phase.explicit, Phase.generate),  # a smaller one tells no more: each call is one of its own
    suppress_health_check=(HealthCheck.function_scoped_fixture,),
)
Peers = Callable[[Path, Path, str], None]
"""Lets a plan's calls be made: takes the client's socket, the server's, and the plan's path."""


def services(*hops: str | None) -> list[str]:
    return [service for service in REGISTRY.services() if hop_of_service(service) in hops]


TTRPC_HOPS = {hop: services(hop) for hop in ("task", "events", "agent")}
GRPC = services("cri", None)


def decoded(capture: Path) -> list[dict[str, Any]]:
    """All that `podwire decode --json --messages --show-secrets` prints of a capture."""
    lines: list[str] = []
    decoder = Decoder()
    printer = JsonPrinter(lines.append, REGISTRY, Renderer(REGISTRY, show_secrets=True), messages=True)
    with open_capture(str(capture)) as packets:
        for packet in packets:
            for update in decoder.feed(packet):
                printer.update(update)
    for update in decoder.finish():
        printer.update(update)
    printer.finish()
    return [json.loads(line) for line in lines]


def check(objects: list[dict[str, Any]], plan: list[Planned], hop: str, protocol: str) -> None:
    """Each call is there, once, with what went in, in the order of its sides; messages of streams came before, one by
    one; and nothing else is there."""
    others = [each for each in objects if each["kind"] not in ("call", "message")]
    assert others == []
    calls = [each for each in objects if each["kind"] == "call"]
    seen = {(each["service"], each["method"]): each for each in calls}
    assert len(seen) == len(calls) == len(plan)
    came: dict[int, list[Any]] = {}
    for each in objects:
        if each["kind"] == "message":
            came.setdefault(each["call"], []).append(each["message"])
    for planned in plan:
        call = seen[planned.name]
        assert came.get(call["call"], []) == ([] if planned.kind == "unary" else call["messages"]), planned.name
        assert (call["state"], call["hop"], call["protocol"]) == ("ended", hop, protocol), planned.name
        assert call["status"]["code"] == planned.code, planned.name
        for side in ("request", "response"):
            messages = [each for each in call["messages"] if each["direction"] == side]
            shown = [(each["length"], each["body"]) for each in messages]
            assert shown == planned.shown(side), planned.name
            offsets = [each["offset"] for each in messages]
            assert offsets == sorted(set(offsets)), planned.name
        times = [each["after_ns"] for each in call["messages"]]
        assert [0, *times, call["duration_ns"]] == sorted([0, *times, call["duration_ns"]]), planned.name
        assert [each["number"] for each in call["messages"]] == list(range(1, len(call["messages"]) + 1))


def corpus(folder: Path, peers: Peers, plan: list[Planned], hop: str, protocol: str = "ttrpc") -> None:
    """Let peers make a plan's calls through a recorder, and check what podwire makes of it."""
    for left in folder.iterdir():
        left.unlink()
    text = folder / "plan"
    text.write_text("".join(f"{planned.line()}\n" for planned in plan))
    with Recorder(folder / "front", folder / "back") as recorder:
        peers(folder / "front", folder / "back", str(text))
    check(decoded(recorder.save(folder / "capture", hop)), plan, hop, protocol)


LANGUAGES = {"go": programs.go_peer, "rust": programs.rust_peer}
PAIRS = [(client, server) for client in LANGUAGES for server in LANGUAGES]


@pytest.mark.parametrize(("client", "server"), PAIRS, ids=[f"{client} calls {server}" for client, server in PAIRS])
@pytest.mark.parametrize("hop", TTRPC_HOPS)
@some
@given(seed=st.integers(0, 2**64))
def test_ttrpc(folder: Path, client: str, server: str, hop: str, seed: int) -> None:
    calling, serving = LANGUAGES[client](), LANGUAGES[server]()

    def peers(front: Path, back: Path, plan: str) -> None:
        with programs.serving(serving, str(back), plan):
            programs.call(calling, str(front), plan)

    corpus(folder, peers, make_plan(TTRPC_HOPS[hop] + STREAMS, random.Random(seed)), hop)


@pytest.mark.parametrize("caller", ["plugin", "runtime"])
@some
@given(seed=st.integers(0, 2**64))
def test_nri(folder: Path, caller: str, seed: int) -> None:
    peer = programs.go_peer()

    def peers(front: Path, back: Path, plan: str) -> None:
        if caller == "plugin":
            with programs.serving(peer, "--nri-runtime", str(back), plan):
                programs.call(peer, "--nri-plugin", str(front), plan)
        else:
            with (
                programs.calling(peer, "--nri-runtime", str(back), plan) as finished,
                programs.serving(peer, "--nri-plugin", str(front), plan),
            ):
                finished()

    corpus(folder, peers, make_plan(services("nri") + STREAMS, random.Random(seed)), "nri")


@some
@given(seed=st.integers(0, 2**64))
def test_grpc(folder: Path, seed: int) -> None:
    plan = make_plan(GRPC, random.Random(seed))

    def peers(front: Path, back: Path, _: str) -> None:
        with grpc_peer.serving(back, plan):
            grpc_peer.call(front, plan)

    corpus(folder, peers, plan, "cri", "grpc")


def test_no_method_of_any_service_is_left_out() -> None:
    tried = {*GRPC, *services("nri"), *STREAMS, *(service for hop in TTRPC_HOPS.values() for service in hop)}
    assert tried == set(REGISTRY.services())
    assert {hop for hop, names in TTRPC_HOPS.items() if names} == TTRPC_HOPS.keys()
    assert {planned.kind for planned in make_plan([OF_SHAPES], random.Random(1))} == {
        "unary",
        "client",
        "server",
        "both",
    }
