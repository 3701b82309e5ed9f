"""Messages as trees: each node has the very bytes that it was read from, and nothing that comes on the wire raises."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from protos.registry import Registry
from tracer.tui.tree import MOST_DEPTH, Node, TreeMaker

REGISTRY = Registry.bundled()
CREATE = "containerd.task.v3.CreateTaskRequest"


def tree(name: str, payload: bytes) -> list[Node]:
    return TreeMaker(REGISTRY).tree(name, payload)


def message(name: str, **fields: Any) -> bytes:
    return REGISTRY.message_class(name)(**fields).SerializeToString()


def flat(nodes: list[Node]) -> list[Node]:
    return [each for node in nodes for each in (node, *flat(node.children))]


def test_a_node_has_the_bytes_of_its_field() -> None:
    payload = message("containerd.task.v3.KillRequest", id="abc", signal=15, all=True)
    nodes = tree("containerd.task.v3.KillRequest", payload)
    assert [(node.name, node.value, node.raw) for node in nodes] == [
        ("id", '"abc"', ""),
        ("signal", "SIGTERM", "15"),
        ("all", "true", ""),
    ]
    assert [payload[node.start : node.end] for node in nodes] == [b"\x0a\x03abc", b"\x18\x0f", b"\x20\x01"]


def test_what_lies_in_a_message_lies_in_its_bytes() -> None:
    payload = message(CREATE, id="x", rootfs=[{"type": "overlay", "options": ["a", "b"]}, {"type": "bind"}])
    mounts = [node for node in tree(CREATE, payload) if node.name == "rootfs"]
    assert [child.value for child in mounts[0].children] == ['"overlay"', '"a"', '"b"']
    for node in mounts:
        assert all(node.start < child.start and child.end <= node.end for child in node.children)
    assert payload[mounts[1].children[0].start :] == b"\x0a\x04bind"


def test_an_any_is_unfolded_in_place() -> None:
    options = message("containerd.runc.v1.Options", binary_name="runc-x")
    payload = message(CREATE, options={"type_url": "containerd.runc.v1.Options", "value": options})
    (node,) = tree(CREATE, payload)
    assert node.value == "(containerd.runc.v1.Options)"
    assert [(child.name, child.value) for child in node.children] == [("binary_name", '"runc-x"')]
    assert payload[node.children[0].start : node.children[0].end] == options


def test_an_oci_spec_in_an_any_is_unfolded() -> None:
    url = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
    payload = message(CREATE, options={"type_url": url, "value": b'{"process":{"args":["sh","-c"]}}'})
    names = [(node.name, node.value) for node in flat(tree(CREATE, payload))]
    assert ("[1]", '"-c"') in names


def test_times_and_enums_say_what_they_mean() -> None:
    name = "containerd.task.v3.StateResponse"
    found = {node.name: node for node in tree(name, message(name, status=2, exited_at={"seconds": 3, "nanos": 5}))}
    assert (found["status"].value, found["status"].raw) == ("RUNNING", "2")
    assert found["exited_at"].value == "1970-01-01T00:00:03.000000005Z"
    assert [child.value for child in found["exited_at"].children] == ["3", "5"]


def test_negative_numbers_and_maps() -> None:
    nodes = flat(tree("google.protobuf.Duration", message("google.protobuf.Duration", seconds=-2)))
    assert [node.value for node in nodes] == ["-2"]
    name = "runtime.v1.PodSandboxConfig"
    (labels,) = tree(name, message(name, labels={"app": "web"}))
    assert labels.value == '"app": "web"'


def test_what_does_not_parse_is_said_where_it_lies() -> None:
    payload = message("containerd.task.v3.KillRequest", id="abc") + b"\x1a\x7fxy"
    nodes = tree("containerd.task.v3.KillRequest", payload)
    assert nodes[0].value == '"abc"'
    assert nodes[1].wrong
    assert "127 bytes are announced, 2 are there" in nodes[1].value
    assert payload[nodes[1].start : nodes[1].end] == b"\x1a\x7fxy"


def test_fields_without_a_schema_are_shown_by_their_wire_types() -> None:
    nodes = tree("", b"\x08\x96\x01\x12\x02hi\x1d\x01\x00\x00\x00")
    assert [(node.name, node.value) for node in nodes] == [("field 1", "150"), ("field 2", '"hi"'), ("field 3", "1")]


def test_deep_nesting_ends() -> None:
    payload = b""
    for _ in range(MOST_DEPTH * 2):
        inner = payload or b"\x1a\x00"
        value = b"\x0a" + _varint(len(inner)) + inner
        payload = b"\x32" + _varint(len(value)) + value
    assert any("deep" in node.value for node in flat(tree("google.protobuf.Value", payload)))


@given(st.binary(max_size=200), st.sampled_from([CREATE, "google.protobuf.Any", "google.protobuf.Value", ""]))
def test_no_bytes_raise_and_ranges_nest(payload: bytes, name: str) -> None:
    def check(nodes: list[Node], start: int, end: int) -> None:
        for node in nodes:
            assert start <= node.start <= node.end <= end
            assert node.name.isprintable()
            assert node.value.isprintable()
            check(node.children, node.start, node.end)

    nodes = tree(name, payload)
    check(nodes, 0, len(payload))
    assert not payload or nodes[-1].end == len(payload)


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])
