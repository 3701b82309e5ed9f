"""Every message type of the schemas: what goes in comes out, and no bytes make the renderer raise."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st

from dissectors.render import JSONObject, Renderer
from protos.registry import Registry
from tests.dissectors.messages import random_message
from tracer.output.meaning import Meanings

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = Registry.bundled()
RENDERER = Renderer(REGISTRY, show_secrets=True)
EXPLAINED = Renderer(REGISTRY, Meanings(), show_secrets=True)


def type_names() -> list[str]:
    names = []
    for file in FileDescriptorSet.FromString((ROOT / "protos" / "descriptors.binpb").read_bytes()).file:
        waiting = [(file.package, message) for message in file.message_type]
        while waiting:
            scope, message = waiting.pop()
            if not message.options.map_entry:
                names.append(f"{scope}.{message.name}")
                waiting += [(names[-1], nested) for nested in message.nested_type]
    return sorted(names)


TYPE_NAMES = type_names()
PACKAGES = sorted({name.rpartition(".")[0] for name in TYPE_NAMES})


def as_json(shown: JSONObject) -> str:
    """Fit for any JSON writer: no NaN, no lone surrogate, only JSON's own types."""
    text = json.dumps(shown, allow_nan=False, ensure_ascii=False)
    assert json.loads(text.encode("utf-8")) == shown
    return text


def without_any(name: str) -> bool:
    """Whether no Any can be in a message of this type."""
    seen, waiting = set(), [REGISTRY.message_class(name).DESCRIPTOR]
    while waiting:
        descriptor = waiting.pop()
        if descriptor.full_name == "google.protobuf.Any":
            return False
        if descriptor not in seen:
            seen.add(descriptor)
            waiting += [field.message_type for field in descriptor.fields if field.message_type is not None]
    return True


def test_there_are_types_to_try() -> None:
    assert len(TYPE_NAMES) > 600
    assert 400 < sum(map(without_any, TYPE_NAMES)) < len(TYPE_NAMES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_message_is_shown_as_json_format_shows_it(package: str) -> None:
    for name in TYPE_NAMES:
        if name.rpartition(".")[0] != package or not without_any(name):
            continue
        for seed in range(4):
            message = random_message(REGISTRY.message_class(name), seed)
            shown = RENDERER.to_json(name, message.SerializeToString())
            as_json(shown)
            theirs = MessageToDict(message, preserving_proto_field_name=True)
            if not isinstance(theirs, dict):  # a Timestamp and the like: not an object in the proto JSON mapping
                theirs = {"value": theirs}
            assert shown == theirs, name


@pytest.mark.parametrize("package", PACKAGES)
def test_a_message_with_any_is_shown_whole(package: str) -> None:
    inside_name = "containerd.events.TaskExit"
    inside = random_message(REGISTRY.message_class(inside_name), 1)
    expected = {"@type": inside_name} | MessageToDict(inside, preserving_proto_field_name=True)

    def fill_any(message: object) -> None:
        message.type_url, message.value = inside_name, inside.SerializeToString()  # type: ignore[attr-defined]

    for name in TYPE_NAMES:
        if name.rpartition(".")[0] != package or without_any(name):
            continue
        for seed in range(2):
            message = random_message(REGISTRY.message_class(name), seed, fill_any)
            text = as_json(RENDERER.to_json(name, message.SerializeToString()))
            marks = message.SerializeToString().count(inside_name.encode())
            assert text.count(json.dumps(expected, ensure_ascii=False)[1:-1]) == marks


@pytest.mark.parametrize("package", PACKAGES)
def test_damaged_messages_are_shown_all_the_same(package: str) -> None:
    rng = random.Random(package)
    for name in TYPE_NAMES:
        if name.rpartition(".")[0] != package:
            continue
        data = bytearray(random_message(REGISTRY.message_class(name), 0).SerializeToString()[:2000])
        for _ in range(6):
            for _ in range(rng.randint(1, 4) if data else 0):
                data[rng.randrange(len(data))] = rng.randrange(256)
            cut = bytes(data[: rng.randint(0, len(data))])
            as_json(RENDERER.to_json(name, cut))
            assert all(isinstance(line, str) for line in EXPLAINED.to_text(name, cut))


@settings(max_examples=300)
@given(data=st.binary(max_size=200), name=st.sampled_from(TYPE_NAMES))
def test_any_bytes_are_shown(data: bytes, name: str) -> None:
    as_json(RENDERER.to_json(name, data))
    EXPLAINED.to_text(name, data)
    as_json({"guess": RENDERER.guess_json(data)})
    RENDERER.guess_text(data)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_message_is_read_by_wire_type_where_its_schema_is_not_known(package: str) -> None:
    for name in TYPE_NAMES:
        if name.rpartition(".")[0] == package:
            message = random_message(REGISTRY.message_class(name), 3)
            guess = RENDERER.guess_json(message.SerializeToString())
            as_json({"guess": guess})
            numbers = {field["field"] for field in guess if "field" in field}  # type: ignore[index,operator] # a dict
            assert numbers == {field.number for field, _ in message.ListFields()}


@settings(max_examples=300)
@given(url=st.sampled_from(TYPE_NAMES) | st.text(max_size=30), data=st.binary(max_size=200))
def test_a_lying_type_url_is_shown(url: str, data: bytes) -> None:
    message = REGISTRY.message_class("google.protobuf.Any")(type_url=url, value=data)
    shown = RENDERER.to_json("google.protobuf.Any", message.SerializeToString())
    as_json(shown)
    assert shown.get("@type", "") == url


@settings(max_examples=200)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    )
)
def test_json_in_an_any_comes_out_as_it_went_in(value: object) -> None:
    url = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
    message = REGISTRY.message_class("google.protobuf.Any")(type_url=url, value=json.dumps(value).encode())
    assert RENDERER.to_json("google.protobuf.Any", message.SerializeToString()) == {"@type": url, "value": value}


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x00" * 500_000,
        b"\x78\x01" * 500_000,  # a field that the type does not have
        b"\x7b" * 1_000_000,
        b"\x7b\x7c" * 500_000,
        bytes(1_000_000),
    ],
    ids=["empty messages", "unknown numbers", "open groups", "empty groups", "zeros"],
)
def test_a_megabyte_made_to_hurt_is_shown_in_time(data: bytes) -> None:
    start = time.process_time()
    text = as_json(RENDERER.to_json("runtime.v1.ListContainersResponse", data))
    EXPLAINED.to_text("runtime.v1.ListContainersResponse", data)
    RENDERER.guess_text(data)
    as_json({"guess": RENDERER.guess_json(data)})
    assert time.process_time() - start < 20
    assert len(text) < 20 * len(data)
