"""Secrets are masked wherever a message can carry them, nothing else changes, and what can't be read is blanked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from dissectors.masking import Masker, mask_metadata, mask_unknown
from dissectors.masking_json import mask_json
from protos.registry import Registry
from protos.secrets import OTHERS, SECRETS, Rule

REGISTRY = Registry.bundled()
MASKER = Masker(REGISTRY)
PLAIN = {
    Rule.WHOLE: "hunter2",
    Rule.ENV: "NAME=hunter2",
    Rule.TOKEN: "http://127.0.0.1:1/exec/hunter2",
    Rule.JSON: '{"Env": ["NAME=hunter2"]}',
    Rule.PATH: "/pods/1/volumes/kubernetes.io~secret/hunter2",
    Rule.OPTIONS: "ro,password=hunter2",
    Rule.VALUES: "hunter2",
}
MASKED = {rule: text.replace("hunter2", "*******") for rule, text in PLAIN.items()}
ROWS = [
    (name, field, rule)
    for name, row in SECRETS.items()
    for field, rule in row.items()
    if field != OTHERS and rule is not Rule.KEEP
]


def packed(type_name: str, fields: dict[str, Any]) -> bytes:
    return json_format.ParseDict(fields, REGISTRY.message_class(type_name)()).SerializeToString()


def masked(type_name: str, payload: bytes) -> Any:
    """The message after masking, whose length has to stay."""
    after = MASKER.mask(type_name, payload)
    assert len(after) == len(payload)
    return REGISTRY.message_class(type_name).FromString(after)


def filled(type_name: str, field: str, text: str) -> Any:
    """A message with this text in one field, whatever that is: text, bytes, a list or a map of them."""
    message: Any = REGISTRY.message_class(type_name)()
    descriptor = message.DESCRIPTOR.fields_by_name[field]
    value = text.encode() if descriptor.type == FieldDescriptor.TYPE_BYTES else text
    if descriptor.message_type is not None:
        getattr(message, field)["key"] = text
    elif descriptor.is_repeated:
        getattr(message, field).append(value)
    else:
        setattr(message, field, value)
    return message


@pytest.mark.parametrize(("type_name", "field", "rule"), ROWS, ids=str)
def test_each_row_masks_its_field_and_lets_the_rest_stand(type_name: str, field: str, rule: Rule) -> None:
    payload = filled(type_name, field, PLAIN[rule]).SerializeToString()
    assert masked(type_name, payload) == filled(type_name, field, MASKED[rule])


def test_all_of_pull_credentials_but_the_server_is_masked_fields_of_the_future_too() -> None:
    auth = {"username": "me", "password": "pw", "auth": "bWU=", "identity_token": "t", "server_address": "reg"}
    payload = packed("runtime.v1.PullImageRequest", {"auth": auth, "image": {"image": "nginx"}})
    future = packed("runtime.v1.AuthConfig", auth) + b"\xfa\x01\x07hunter2"
    after = masked("runtime.v1.PullImageRequest", payload)
    assert json_format.MessageToDict(after, preserving_proto_field_name=True) == {
        "auth": {"username": "**", "password": "**", "auth": "****", "identity_token": "*", "server_address": "reg"},
        "image": {"image": "nginx"},
    }
    assert MASKER.mask("runtime.v1.AuthConfig", future).endswith(b"\xfa\x01\x07*******")


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
def test_a_containers_environment_is_masked_its_names_are_not(version: str) -> None:
    config = {"envs": [{"key": "PASSWORD", "value": "aHVudGVyMg=="}], "command": ["sh", "-c", "A=b"]}
    request = {"pod_sandbox_id": "p", "config": config}
    after = masked(
        f"runtime.{version}.CreateContainerRequest", packed(f"runtime.{version}.CreateContainerRequest", request)
    )
    assert after.config.envs[0].key == "PASSWORD"
    assert after.config.envs[0].value in (b"*******", "*" * len("aHVudGVyMg=="))  # v1alpha2 has text there
    assert list(after.config.command) == ["sh", "-c", "A=b"]


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [
        ("app", "web", "web"),
        ("acme.io/api-key", "hunter2", "*******"),
        ("kubectl.kubernetes.io/last-applied-configuration", '{"a":1}', "*******"),
        ("acme.io/config", '{"token": "abc", "n": 1}', '{"token": "***", "n": 1}'),
        ("io.kubernetes.cri.volume", "/v/kubernetes.io~projected/token-1/x", "/v/kubernetes.io~projected/*********"),
    ],
)
def test_annotations_are_masked_by_their_names_and_as_json(key: str, before: str, after: str) -> None:
    payload = packed("runtime.v1.RunPodSandboxRequest", {"config": {"annotations": {key: before, "x": "y"}}})
    message = masked("runtime.v1.RunPodSandboxRequest", payload)
    assert dict(message.config.annotations) == {key: after, "x": "y"}


def test_the_specification_in_an_any_has_its_environment_masked() -> None:
    spec = {"process": {"args": ["A=b"], "env": ["PATH=/bin", "KEY=hunter2"]}, "root": {"path": "rootfs"}}
    request: Any = REGISTRY.message_class("containerd.services.containers.v1.CreateContainerRequest")()
    request.container.id = "c"
    request.container.spec.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
    request.container.spec.value = json.dumps(spec).encode()
    after = masked("containerd.services.containers.v1.CreateContainerRequest", request.SerializeToString())
    assert json.loads(bytes(after.container.spec.value)) == {
        "process": {"args": ["A=b"], "env": ["PATH=****", "KEY=*******"]},
        "root": {"path": "rootfs"},
    }
    assert after.container.id == "c"


def test_an_any_of_a_known_type_is_masked_as_that_and_of_an_unknown_one_as_a_whole() -> None:
    request: Any = REGISTRY.message_class("containerd.services.transfer.v1.TransferRequest")()
    request.source.type_url = "containerd.types.transfer.AuthResponse"
    request.source.value = packed("containerd.types.transfer.AuthResponse", {"secret": "hunter2"})
    request.destination.type_url = "acme.v1.Box"
    request.destination.value = b"\x0a\x07hunter2"
    after = masked("containerd.services.transfer.v1.TransferRequest", request.SerializeToString())
    assert bytes(after.source.value).endswith(b"*******")
    assert bytes(after.destination.value) == b"\x0a\x07*******"
    assert after.destination.type_url == "acme.v1.Box"


def test_of_an_any_that_does_not_parse_its_value_alone_becomes_zeros() -> None:
    request: Any = REGISTRY.message_class("containerd.services.transfer.v1.TransferRequest")()
    request.source.type_url = "containerd.types.transfer.AuthResponse"
    request.source.value = b"\x12\xff\x01hunter2"
    after = masked("containerd.services.transfer.v1.TransferRequest", request.SerializeToString())
    assert after.source.type_url == "containerd.types.transfer.AuthResponse"
    assert bytes(after.source.value) == bytes(10)


def test_verbose_status_answers_are_masked_as_the_json_that_they_are() -> None:
    info = {"info": '{"runtimeSpec":{"process":{"env":["KEY=hunter2"]}},"pid":7}'}
    after = masked("runtime.v1.ContainerStatusResponse", packed("runtime.v1.ContainerStatusResponse", {"info": info}))
    assert after.info["info"] == '{"runtimeSpec":{"process":{"env":["KEY=*******"]}},"pid":7}'


def test_what_does_not_parse_comes_out_as_zeros() -> None:
    payload = b"\x0a\x01p\x12\xff\x01hunter2"
    assert MASKER.mask("runtime.v1.CreateContainerRequest", payload) == bytes(len(payload))
    assert MASKER.mask("runtime.v1.VersionRequest", payload) == payload


def test_fields_of_a_users_schema_go_by_their_names(tmp_path: Any) -> None:
    (tmp_path / "acme.proto").write_text(
        'syntax = "proto3"; package acme.v1;'
        "message Box { string db_password = 1; repeated string env = 2; string x = 3; }"
    )
    registry = Registry.bundled()
    registry.add_proto_dir(str(tmp_path))
    payload = b"\x0a\x07hunter2\x12\x09A=hunter2\x1a\x01y"
    assert Masker(registry).mask("acme.v1.Box", payload) == b"\x0a\x07*******\x12\x09A=*******\x1a\x01y"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"Env":["A=b","C"]}', '{"Env":["A=*","C"]}'),
        (r'{"env":["A\u003dbc"]}', r'{"env":["A\u003d**"]}'),
        ('{"envs":[{"key":"A","value":"b"}],"x":"c"}', '{"envs":[{"key":"A","value":"*"}],"x":"c"}'),
        ('{"env":[{"name":"A","valueFrom":{"f":"b"}}]}', '{"env":[{"name":"A","valueFrom":{"f":"*"}}]}'),
        ('{"env":{"name":"b"},"name":"c"}', '{"env":{"name":"*"},"name":"c"}'),
        ('{"auth":{"u":"a","n":12},"b":["c"]}', '{"auth":{"u":"*","n":11},"b":["c"]}'),
        (r'{"password":"a\"b","x":1}', r'{"password":"****","x":1}'),
        (r'{"a":"{\"env\":[\"K=v\"]}"}', '{"a":"' + "*" * 19 + '"}'),
        ('{"env":["A=hun', '{"env":["A=***'),
        ('{"env":["A=hun\\', '{"env":["A=***\\'),
        ('{"env":["A=b"]}]}{"env":["C=d"]}', '{"env":["A=*"]}]}{"env":["C=*"]}'),
    ],
)  # fmt: skip
def test_json_is_masked_in_place(before: str, after: str) -> None:
    data = bytearray(b"=" + before.encode() + b"=")
    mask_json(data, 1, len(data) - 1)
    assert data.decode() == "=" + after + "="


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["a", "env", "token", "x"]) | st.text(), inner),
)


@given(JSON)
def test_masked_json_is_json_of_the_same_shape(value: Any) -> None:
    before = json.dumps(value).encode()
    data = bytearray(before)
    mask_json(data, 0, len(data))
    assert len(data) == len(before)
    assert shape(json.loads(data)) == shape(value)


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(inside) for key, inside in value.items()}
    return [shape(inside) for inside in value] if isinstance(value, list) else type(value)


@given(st.binary(), st.sampled_from([name for name, _, _ in ROWS]))
def test_no_bytes_raise_and_every_length_stays(payload: bytes, type_name: str) -> None:
    assert len(MASKER.mask(type_name, payload)) == len(payload)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\x0a\x07hunter2", b"\x0a\x07*******"),
        (b"\x12\x0d\x08\x05\x12\x09\x0a\x07hunter2\x18\x07", b"\x12\x0d\x08\x05\x12\x09\x0a\x07*******\x18\x07"),
        (b"\x0a\x03\x08\xff\xff", b"\x0a\x03***"),
        (b"hunter2", bytes(7)),
        (b"", b""),
    ],
)
def test_what_no_schema_has_keeps_its_numbers_alone(before: bytes, after: bytes) -> None:
    assert mask_unknown(before) == after


def test_metadata_of_secret_names_is_masked() -> None:
    before = (("user-agent", "a"), ("Authorization", "Bearer x"), ("x-api-key-bin", b"abc"), ("cookie", "c"))
    after = (("user-agent", "a"), ("Authorization", "********"), ("x-api-key-bin", b"***"), ("cookie", "*"))
    assert mask_metadata(before) == after


def test_what_has_no_secret_is_not_copied() -> None:
    payload = packed("runtime.v1.RunPodSandboxRequest", {"config": {"labels": {"app": "web"}}})
    assert MASKER.mask("runtime.v1.RunPodSandboxRequest", payload) is payload
