"""Real traffic of containerd, its shims and clients, decoded whole, against containerd's own account of it."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dissectors.events import Direction, Status
from dissectors.render import Renderer
from protos.registry import Registry
from tracer.calls import Call, CallUpdate, Finding, State
from tracer.capture.flows import FlowData, FlowTable
from tracer.capture.packets import Notice, Packet
from tracer.capture.reader import open_capture
from tracer.output.codes import STATUS
from tracer.pipeline import Decoder

CAPTURES = Path(__file__).parents[2] / "captures"
NAMES = sorted(path.name.removesuffix(".facts.json") for path in CAPTURES.glob("*.facts.json"))

OF_ANOTHER_STATUS_ON_THE_WIRE = {
    ("ctrd2-busy", "containerd.services.content.v1.Content/Read"),
    ("ctrd2-edge", "containerd.services.events.v1.Events/Subscribe"),
    ("ctrd2-edge", "containerd.services.tasks.v1.Tasks/List"),
    ("ctrd2-edge", "runtime.v1.RuntimeService/ExecSync"),
    ("ctrd2-edge", "runtime.v1.RuntimeService/ListContainerStats"),
}
"""Handlers that ended after their client had gone, or whose answer was too large: captures/README.md."""
NOT_COUNTED_BY_CONTAINERD = {("ctrd16-pod", "runtime.v1.RuntimeService/ListPodSandboxMetrics")}


class Decoded:
    """All that came out of one capture."""

    def __init__(self, name: str) -> None:
        self.calls: list[Call] = []
        self.findings: list[Finding] = []
        self.notices: list[Notice] = []
        decoder = Decoder()
        with open_capture(str(CAPTURES / f"{name}.pcapng.gz")) as capture:
            for item in capture:
                if isinstance(item, Notice):
                    self.notices.append(item)
                for update in decoder.feed(item):
                    self._take(update)
        for update in decoder.finish():
            self._take(update)
        self.open = decoder.open_calls()

    def _take(self, update: CallUpdate | Finding) -> None:
        if isinstance(update, Finding):
            self.findings.append(update)
        elif update.kind == "opened":
            self.calls.append(update.call)

    def by_method(self, hop: str) -> Counter[str]:
        return Counter(f"{call.service}/{call.method}" for call in self.calls if call.hop == hop)

    def statuses(self, hop: str) -> dict[str, Counter[int]]:
        found: dict[str, Counter[int]] = {}
        for call in self.calls:
            if call.hop == hop:
                counts = found.setdefault(f"{call.service}/{call.method}", Counter())
                if call.status is not None:
                    counts[call.status.code] += 1
        return found


@cache
def decoded(name: str) -> Decoded:
    return Decoded(name)


def facts(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((CAPTURES / f"{name}.facts.json").read_text())
    return read


def wire(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((CAPTURES / f"{name}.wire.json").read_text())
    return read


def test_there_are_recordings() -> None:
    assert {"ctrd2-pod", "ctrd16-pod", "ctrd2-busy", "ctrd2-edge", "ctrd2-nri"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_it_is_malformed_or_missing(name: str) -> None:
    found = [finding for finding in decoded(name).findings if finding.kind != "notice"]
    if name == "ctrd2-edge":  # three clients that spoke no protocol of their socket
        found = [finding for finding in found if finding.flow not in foreign_flows(name)]
    assert found == []
    assert decoded(name).notices == []


def foreign_flows(name: str) -> set[object]:
    return {finding.flow for finding in decoded(name).findings if finding.kind == "malformed"}


def test_what_is_no_such_protocol_is_shown_and_nothing_is_invented() -> None:
    flows = foreign_flows("ctrd2-edge")
    assert [call for call in decoded("ctrd2-edge").calls if call.flow in flows] == []
    said = {
        (finding.flow.hop, finding.evidence[:4]): finding.reason
        for finding in decoded("ctrd2-edge").findings
        if finding.kind == "malformed" and finding.flow is not None
    }
    assert said.keys() == {("cri", b"GET "), ("events", b"PRI "), ("events", b"hell"), ("task", bytes(4))}
    assert "HTTP/1" in said["cri", b"GET "]
    assert "HTTP/2" in said["events", b"PRI "]
    assert "text" in said["events", b"hell"]


@pytest.mark.parametrize("name", NAMES)
def test_grpc_calls_by_method_are_those_that_containerd_counted(name: str) -> None:
    counted = {method: told["started"] for method, told in facts(name)["grpc_by_containerd_metrics"].items()}
    seen = decoded(name).by_method("cri")
    for other, method in NOT_COUNTED_BY_CONTAINERD:
        if other == name:
            assert seen.pop(method) > 0
    assert seen == counted


@pytest.mark.parametrize("name", NAMES)
def test_status_by_method_is_what_containerd_answered(name: str) -> None:
    seen = decoded(name).statuses("cri")
    differing = set()
    for method, told in facts(name)["grpc_by_containerd_metrics"].items():
        handled = {_code(code): count for code, count in told.get("handled", {}).items()}
        if seen[method] != handled:
            differing.add((name, method))
    assert differing == {each for each in OF_ANOTHER_STATUS_ON_THE_WIRE if each[0] == name}


@pytest.mark.parametrize("name", NAMES)
def test_messages_by_method_are_those_that_containerd_counted(name: str) -> None:
    sent: Counter[str] = Counter()
    for call in decoded(name).calls:
        if call.hop == "cri" and call.state is State.ENDED and call.status == Status(0, "", b""):
            sent[f"{call.service}/{call.method}"] += call.response_count
    for method, told in facts(name)["grpc_by_containerd_metrics"].items():
        if told.get("handled", {}).keys() == {"OK"} and (name, method) not in OF_ANOTHER_STATUS_ON_THE_WIRE:
            streamed = method.endswith(("/GetContainerEvents", "/Subscribe"))
            assert streamed or sent[method] == told.get("msg_sent", 0), method


@pytest.mark.parametrize("name", NAMES)
def test_calls_and_statuses_of_all_hops_agree_with_the_second_opinion(name: str) -> None:
    told = wire(name)
    hops = {"cri": told["grpc_calls"], **{hop: told["ttrpc_calls"].get(hop, {}) for hop in ("task", "events")}}
    for hop, methods in hops.items():
        assert decoded(name).by_method(hop) == {method: each["calls"] for method, each in methods.items()}
        statuses = {method: {int(k): n for k, n in each["status"].items()} for method, each in methods.items()}
        seen = decoded(name).statuses(hop)
        for method, counts in statuses.items():
            # A client cancelled, and the trailers that were under way already came all the same.
            late = sum(counts.values()) - seen[method].total()
            assert 0 <= late <= cancelled(name, method)
            assert seen[method] + Counter({0: late}) == counts, method


def cancelled(name: str, method: str) -> int:
    """How many calls of a method their client cancelled."""
    calls = (call for call in decoded(name).calls if call.state is State.CANCELLED)
    return sum(f"{call.service}/{call.method}" == method for call in calls)


@pytest.mark.parametrize("name", NAMES)
def test_every_connection_with_a_call_is_one_of_its_hop(name: str) -> None:
    connections = wire(name)["connections"]
    flows = {call.flow.id: call.flow for call in decoded(name).calls}
    for hop, count in Counter(flow.hop for flow in flows.values()).items():
        assert count <= connections[hop]


@pytest.mark.parametrize("name", NAMES)
def test_every_call_has_an_end_where_the_recording_has_every_connection_to_its_end(name: str) -> None:
    assert decoded(name).open == []
    assert all(call.end_ns is not None and call.end_ns >= call.start_ns for call in decoded(name).calls)


def test_calls_that_were_waiting_when_containerd_was_restarted_are_cut() -> None:
    cut = Counter(call.method for call in decoded("ctrd2-busy").calls if call.hop == "task" and call.state is State.CUT)
    assert cut == {"Wait": 18}


@pytest.mark.parametrize("name", NAMES)
def test_the_first_create_of_every_pod_is_there(name: str) -> None:
    creates = {
        call.flow.comment["server_shim_id"]: call
        for call in reversed(decoded(name).calls)
        if call.hop == "task" and call.method == "Create"
    }
    assert set(facts(name)["pods"]) <= creates.keys()


NRI_API = "nri.pkg.api.v1alpha1"
REGISTRY = Registry.bundled()
NRI = {"nri plugin service": 1, "nri runtime service": 2}
"""Channel of what the second opinion counts apart."""


@pytest.mark.parametrize("name", ["ctrd2-nri", "ctrd2-edge"])
@pytest.mark.parametrize("side", NRI)
def test_what_plugins_and_the_runtime_asked_of_each_other_agrees_with_the_second_opinion(name: str, side: str) -> None:
    told = wire(name)["ttrpc_calls"][side]
    calls = [call for call in decoded(name).calls if call.flow.channel == NRI[side]]
    assert Counter(f"{call.service}/{call.method}" for call in calls) == {
        method: each["calls"] for method, each in told.items()
    }
    for method, each in told.items():
        statuses = Counter(
            str(call.status.code) for call in calls if call.method == method.rpartition("/")[2] and call.status
        )
        assert statuses == each["status"], method


def test_a_plugin_logged_the_requests_that_it_was_seen_to_get() -> None:
    first = min(call.flow.id for call in decoded("ctrd2-nri").calls if call.hop == "nri")
    asked = Counter(
        call.method for call in decoded("ctrd2-nri").calls if call.flow.id == first and call.flow.channel == 1
    )
    late = {"Configure": 1, "CreateContainer": 1}  # it logs no Configure, and the last was asked when it was stopped
    logged = Counter(facts("ctrd2-nri")["requests_logged_by_logger_plugin"])
    assert asked == logged + Counter(late)


def test_the_runtime_calls_plugins_and_plugins_call_the_runtime() -> None:
    calls = [call for call in decoded("ctrd2-nri").calls if call.hop == "nri"]
    callers = {(call.flow.channel, call.flow.client.name == "containerd") for call in calls}
    assert callers == {(1, True), (2, False)}
    assert {(call.flow.channel, call.service.rpartition(".")[2]) for call in calls} == {(1, "Plugin"), (2, "Runtime")}


@pytest.mark.parametrize("name", ["ctrd2-nri", "ctrd2-edge"])
def test_every_message_of_nri_is_typed_and_no_field_of_it_is_unknown(name: str) -> None:
    registry = Registry.bundled()
    renderer = Renderer(registry)
    bodies = []
    for call in decoded(name).calls:
        method = registry.method(call.service, call.method)
        if call.hop == "nri" and method is not None:
            types = method.input_type, method.output_type
            bodies += [renderer.to_json(types[each.direction], each.payload) for each in call.messages if each.payload]
    assert len(bodies) > 40
    text = json.dumps(bodies)
    assert "@unknown" not in text
    assert "@error" not in text


def nri_answers(name: str) -> list[tuple[Any, Any]]:
    """Container asked for and adjustment answered, of each CreateContainer that a plugin answered with OK."""
    types = (f"{NRI_API}.CreateContainerRequest", f"{NRI_API}.CreateContainerResponse")
    pairs = []
    for call in decoded(name).calls:
        if (call.flow.channel, call.method, call.status) == (1, "CreateContainer", Status(0, "", b"")):
            sides: list[Any] = []
            for message, type_name in zip((call.request(), call.response()), types, strict=True):
                assert message is not None
                assert message.payload is not None
                sides.append(REGISTRY.parse(type_name, message.payload).message)
            pairs.append((sides[0].container, sides[1].adjust))
    return pairs


def test_what_plugins_added_to_a_container_is_what_was_found_in_it() -> None:
    told = facts("ctrd2-nri")
    adjustments = [adjust for container, adjust in nri_answers("ctrd2-nri") if container.name == "work"]
    added = [f"{each.key}={each.value}" for adjust in adjustments for each in adjust.env]
    limits = [each for adjust in adjustments for each in adjust.rlimits if each.type == "RLIMIT_NOFILE"]
    devices = [each.path for adjust in adjustments for each in adjust.linux.devices]
    assert added == [told["nri_env_seen_in_container"]]
    assert [[str(each.soft), str(each.hard)] for each in limits] == [told["nri_nofile_seen_in_container"]]
    assert (devices == ["/dev/nri-null"]) == told["nri_device_seen_in_container"]


def test_a_container_that_a_plugin_refused_was_not_made() -> None:
    refused = [call for call in decoded("ctrd2-nri").calls if call.flow.channel == 1 and call.status and call.failed()]
    assert [(call.method, call.status and call.status.message) for call in refused] == [
        ("CreateContainer", 'failed to parse type: "nosuchlimit"')
    ]
    failed = [call for call in decoded("ctrd2-nri").calls if call.hop == "cri" and call.failed()]
    assert facts("ctrd2-nri")["create_refused_by_plugin_status"] == 1  # crictl's
    assert any("nosuchlimit" in call.status.message for call in failed if call.status)


def test_containers_and_pods_that_plugins_were_told_of_are_those_of_the_recording() -> None:
    told = facts("ctrd2-nri")
    asked = {container.id for container, _ in nri_answers("ctrd2-nri") if container.name in ("work", "quick")}
    assert asked <= set(told["containers"])
    assert {container.pod_sandbox_id for container, _ in nri_answers("ctrd2-nri")} <= set(told["pods"])


@pytest.mark.parametrize("name", ["ctrd2-nri", "ctrd2-edge"])
def test_plugins_have_the_connections_and_the_bytes_that_the_recorder_counted(name: str) -> None:
    told = facts(name)["recorder"]
    flows = FlowTable()
    moved = Counter[Direction]()
    connections = set()
    with open_capture(str(CAPTURES / f"{name}.pcapng.gz")) as capture:
        for item in capture:
            for event in flows.feed(item) if isinstance(item, Packet) else ():
                if event.flow.hop == "nri" and isinstance(event, FlowData):
                    connections.add(event.flow.id)
                    moved[event.direction] += len(event.data)
    assert len(connections) == told["connections"]["nri"]
    assert moved == {
        Direction.REQUEST: told["bytes"]["nri"]["to_server"],
        Direction.RESPONSE: told["bytes"]["nri"]["to_client"],
    }


def test_a_message_of_over_a_megabyte_is_whole() -> None:
    largest = max(
        (message for call in decoded("ctrd2-edge").calls for message in call.messages), key=lambda each: each.length
    )
    assert largest.length > 1_000_000
    assert largest.payload is not None
    assert len(largest.payload) == largest.length


def _code(name: str) -> int:
    """The number of a code as Go writes it: `DeadlineExceeded`."""
    return [code.replace("_", "").lower() for code in STATUS].index(name.lower().replace("canceled", "cancelled"))


def test_a_capture_of_podwires_own_is_whole_and_knows_who_spoke() -> None:
    own = decoded("own16-pod")
    assert (own.notices, own.findings, own.open) == ([], [], [])
    assert Counter(call.hop for call in own.calls) == {"cri": 21, "task": 69, "events": 14}
    names = {(call.hop, call.flow.client.name.split("-")[0], call.flow.server.name.split("-")[0]) for call in own.calls}
    assert names == {
        ("cri", "python3", "containerd"),
        ("task", "containerd", "shim"),
        ("events", "shim", "containerd"),
    }
