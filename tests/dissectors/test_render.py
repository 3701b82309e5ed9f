"""How payloads are shown as JSON: names, numbers, what is missing, damaged, unknown or too deep."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

from dissectors.json_value import JSON_TYPE_URLS
from dissectors.render import Renderer
from protos.registry import Registry

FACTS = Path(__file__).resolve().parents[1] / "facts"
REGISTRY = Registry.bundled()
RENDERER = Renderer(REGISTRY, show_secrets=True)
SPEC = "types.containerd.io/opencontainers/runtime-spec/1/Spec"


def shown(type_name: str, **fields: Any) -> Any:
    """What the renderer makes of a message with these fields."""
    return RENDERER.to_json(type_name, REGISTRY.message_class(type_name)(**fields).SerializeToString())


def shown_any(url: str, value: bytes) -> Any:
    return shown("google.protobuf.Any", type_url=url, value=value)


def field(number: int, value: bytes) -> bytes:
    """A length-delimited field, short enough for one byte of length."""
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


# -- fields ------------------------------------------------------------------------------------------------------------


def test_fields_that_are_not_set_are_left_out() -> None:
    assert RENDERER.to_json("runtime.v1.RunPodSandboxRequest", b"") == {}


def test_an_optional_field_that_is_set_to_its_default_is_shown() -> None:
    name = "containerd.runtime.bootstrap.v1.BootstrapParams"
    assert shown(name, socket_dir="", namespace="") == {"socket_dir": ""}


def test_an_empty_message_that_is_set_is_shown() -> None:
    assert RENDERER.to_json("runtime.v1.RunPodSandboxRequest", field(1, b"")) == {"config": {}}


def test_names_are_those_of_the_proto() -> None:
    assert shown("runtime.v1.StopContainerRequest", container_id="c") == {"container_id": "c"}


def test_numbers_of_64_bits_are_strings_and_smaller_ones_are_numbers() -> None:
    assert shown("runtime.v1.StopContainerRequest", timeout=30) == {"timeout": "30"}
    assert shown("runtime.v1.ExecSyncResponse", exit_code=-1) == {"exit_code": -1}


def test_bytes_are_base64() -> None:
    assert shown("runtime.v1.ExecSyncResponse", stdout=b"\x00\xff") == {"stdout": "AP8="}


def test_an_enum_is_shown_by_name_and_by_number_where_it_has_none() -> None:
    assert shown("runtime.v1.Container", state=1) == {"state": "CONTAINER_RUNNING"}
    assert shown("runtime.v1.Container", state=99) == {"state": 99}


def test_the_keys_of_a_map_are_sorted() -> None:
    labels = {name: "v" for name in "qwertyuiopasdfghjklzxcvbnm"}
    assert list(shown("runtime.v1.PodSandbox", labels=labels)["labels"]) == sorted(labels)


def test_doubles_that_json_has_no_number_for_are_strings() -> None:
    values = {"avg10": float("nan"), "avg60": float("inf"), "avg300": float("-inf")}
    assert shown("io.containerd.cgroups.v2.PSIData", **values) == {
        "avg10": "NaN",
        "avg60": "Infinity",
        "avg300": "-Infinity",
    }


def test_the_paths_of_a_field_mask_are_named_as_in_the_proto() -> None:
    mask = {"paths": ["snapshot_key", "labels.a"]}
    name = "containerd.services.containers.v1.UpdateContainerRequest"
    assert shown(name, update_mask=mask) == {"update_mask": "snapshot_key,labels.a"}


@pytest.mark.parametrize(
    ("seconds", "nanos", "text"),
    [
        (0, 0, "1970-01-01T00:00:00Z"),
        (1700000000, 5, "2023-11-14T22:13:20.000000005Z"),
        (1700000000, 500_000_000, "2023-11-14T22:13:20.500Z"),
        (-62135596800, 0, "0001-01-01T00:00:00Z"),
        (253402300799, 999_999_999, "9999-12-31T23:59:59.999999999Z"),
    ],
)
def test_a_timestamp_is_rfc_3339(seconds: int, nanos: int, text: str) -> None:
    name = "containerd.task.v2.DeleteResponse"
    assert shown(name, exited_at={"seconds": seconds, "nanos": nanos}) == {"exited_at": text}


@pytest.mark.parametrize(
    ("seconds", "nanos"), [(253402300800, 0), (-62135596801, 0), (0, -1), (0, 1_000_000_000), (2**63 - 1, 2**31 - 1)]
)
def test_a_timestamp_out_of_range_is_shown_in_its_parts(seconds: int, nanos: int) -> None:
    assert shown("containerd.task.v2.DeleteResponse", exited_at={"seconds": seconds, "nanos": nanos}) == {
        "exited_at": {"seconds": str(seconds), "nanos": nanos, "@error": "out of range"}
    }


@pytest.mark.parametrize(
    ("seconds", "nanos", "text"),
    [
        (0, 0, "0s"),
        (1, 500_000_000, "1.500s"),
        (0, -1_000, "-0.000001s"),
        (-3, -1, "-3.000000001s"),
        (315_576_000_000, 0, "315576000000s"),
        (315_576_000_001, 0, None),
        (1, -1, None),
        (0, 1_000_000_000, None),
        (-(2**63), 0, None),
    ],
)
def test_a_duration_is_seconds_with_a_fraction(seconds: int, nanos: int, text: str | None) -> None:
    parts = {"seconds": str(seconds), "nanos": nanos, "@error": "out of range"}
    assert shown("google.protobuf.Duration", seconds=seconds, nanos=nanos) == (
        parts if text is None else {"value": text}
    )


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"\x0a\x05ab", b"\xff", b"\x08"])
def test_what_does_not_parse_is_an_error_beside_its_bytes(payload: bytes) -> None:
    assert RENDERER.to_json("runtime.v1.VersionRequest", payload) == {
        "@error": "does not parse as runtime.v1.VersionRequest",
        "@base64": b64encode(payload).decode(),
    }


def test_what_is_a_message_of_another_type_is_read_by_wire_type_beside_its_error() -> None:
    payload = field(1, b"ok") + field(2, b"\xff\xff")  # the second is to be a message
    assert RENDERER.to_json("runtime.v1.CreateContainerRequest", payload) == {
        "@error": "does not parse as runtime.v1.CreateContainerRequest",
        "@base64": b64encode(payload).decode(),
        "@guess": [
            {"field": 1, "wire_type": "bytes", "value": "b2s=", "text": "ok"},
            {"field": 2, "wire_type": "bytes", "value": "//8="},
        ],
    }
    lied = shown_any(SPEC, b"\x08\x07")
    assert (lied["error"], lied["guess"]) == ("Expecting value: line 1 column 1 (char 0)", [varint(1, 7)])


def test_an_unknown_type_is_an_error_beside_its_bytes() -> None:
    assert RENDERER.to_json("no.such.Type", b"\x00") == {"@error": "no schema has no.such.Type", "@base64": "AA=="}


def test_a_string_that_is_not_utf8_is_marked_and_the_rest_is_as_ever() -> None:
    config = field(1, field(1, b"name")) + field(6, field(1, b"k") + field(2, b"v"))
    assert RENDERER.to_json("runtime.v1.CreateContainerRequest", field(1, b"a\xffb") + field(2, config)) == {
        "pod_sandbox_id": "a\\xffb",
        "config": {"metadata": {"name": "name"}, "envs": [{"key": "k", "value": "dg=="}]},
        "@not_utf8": ["pod_sandbox_id"],
    }


def test_a_map_with_keys_and_values_that_are_not_utf8_is_marked() -> None:
    pairs = field(2, field(1, b"b") + field(2, b"\xfe")) + field(2, field(1, b"\xff") + field(2, b"v"))
    pairs += field(2, field(1, b"a") + field(2, b"first")) + field(2, field(1, b"a") + field(2, b"last"))
    assert RENDERER.to_json("runtime.v1.ImageSpec", pairs) == {
        "annotations": {"a": "last", "b": "\\xfe", "\\xff": "v"},
        "@not_utf8": ["annotations"],
    }


def test_a_string_that_is_not_utf8_deep_inside_is_marked_where_it_is() -> None:
    resources = field(1, b"containerd.events.TaskStart") + field(2, field(1, b"\xff"))
    assert RENDERER.to_json("containerd.task.v2.UpdateTaskRequest", field(1, b"id") + field(2, resources)) == {
        "id": "id",
        "resources": {"@type": "containerd.events.TaskStart", "container_id": "\\xff", "@not_utf8": ["container_id"]},
    }


def test_times_and_any_are_shown_as_ever_in_a_message_with_a_string_that_is_not_utf8() -> None:
    inner = field(1, b"\x08\x05") + field(3, b"\xff") + field(4, field(1, b"\xfe") + field(2, b"x"))
    assert RENDERER.to_json("containerd.types.Envelope", inner) == {
        "timestamp": "1970-01-01T00:00:05Z",
        "topic": "\\xff",
        "event": {"@type": "\\xfe", "@not_utf8": ["@type"], "value_base64": "eA==", "error": "no schema has this type"},
        "@not_utf8": ["topic"],
    }


def test_unknown_fields_are_listed_with_their_wire_types() -> None:
    payload = bytes.fromhex("9806ac02 9906 0100000000000000 9a06 02abcd 9b06 0807 9c06 9d06 02000000")
    assert RENDERER.to_json("runtime.v1.VersionRequest", payload) == {
        "@unknown": [
            {"field": 99, "wire_type": "varint", "value": "300"},
            {"field": 99, "wire_type": "fixed64", "value": "1"},
            {"field": 99, "wire_type": "bytes", "value": "q80="},
            {"field": 99, "wire_type": "group", "value": [{"field": 1, "wire_type": "varint", "value": "7"}]},
            {"field": 99, "wire_type": "fixed32", "value": 2},
        ]
    }


def test_the_bytes_of_an_unknown_field_are_looked_into() -> None:
    payload = b"\x9a\x06" + b"\x09" + field(1, b"\x08\x07") + field(2, b"web") + b"\x9a\x06\x03web"
    inner = [
        {"field": 1, "wire_type": "bytes", "value": "CAc=", "message": [varint(1, 7)]},
        {"field": 2, "wire_type": "bytes", "value": "d2Vi", "text": "web"},
    ]
    assert RENDERER.to_json("runtime.v1.VersionRequest", payload) == {
        "@unknown": [
            {"field": 99, "wire_type": "bytes", "value": "CgIIBxIDd2Vi", "message": inner},
            {"field": 99, "wire_type": "bytes", "value": "d2Vi", "text": "web"},
        ]
    }


def test_a_message_that_no_schema_has_is_read_by_its_wire_types() -> None:
    assert RENDERER.guess_json(b"\x08\x07" + field(2, b"a b")) == [
        varint(1, 7),
        {"field": 2, "wire_type": "bytes", "value": "YSBi", "text": "a b"},
    ]
    assert RENDERER.guess_json(b"") == RENDERER.guess_json(b"GET / HTTP/1.1") == []
    assert RENDERER.guess_json(bytes(20)) == []


def test_what_an_any_of_an_unknown_type_holds_is_guessed_beside_its_bytes() -> None:
    assert shown_any("example.com/Mine", b"\x08\x07") == {
        "@type": "example.com/Mine",
        "value_base64": "CAc=",
        "error": "no schema has this type",
        "guess": [varint(1, 7)],
    }


def test_guesses_that_nest_without_end_or_fan_out_are_bounded() -> None:
    nested = b"\x08\x07"
    for _ in range(200):
        nested = b"\x0a" + varint_bytes(len(nested)) + nested
    inside: Any = RENDERER.guess_json(nested)
    for _ in range(63):
        (inside,) = inside
        inside = inside.get("message", [inside])
    assert "message" not in inside[0]
    wide = (b"\x0a\x04" + b"\x08\x01" * 2) * 8000
    guess: Any = RENDERER.guess_json(b"\x0a" + varint_bytes(len(wide)) + wide)
    assert len(guess[0]["message"]) == 1001
    assert guess[0]["message"][-1] == {"omitted": 7000}
    both: Any = RENDERER.guess_json((b"\x0a" + varint_bytes(len(wide)) + wide) * 12)
    assert json.dumps(both).count('"field"') == 10_000


def test_a_message_that_begins_like_text_is_no_text() -> None:
    inner = field(1, b"a" * 32)  # a line end, a blank, letters
    (guess,) = RENDERER.guess_json(field(1, inner))
    assert guess["message"][0]["text"] == "a" * 32  # type: ignore[index,call-overload] # a dict
    (guess,) = RENDERER.guess_json(field(1, b"\n\ttext\n"))
    assert guess["text"] == "\n\ttext\n"  # type: ignore[index,call-overload] # a dict


def varint(number: int, value: int) -> dict[str, Any]:
    return {"field": number, "wire_type": "varint", "value": str(value)}


def varint_bytes(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint_bytes(value >> 7)


def test_of_very_many_unknown_fields_the_first_are_shown_and_the_rest_counted() -> None:
    unknown = RENDERER.to_json("runtime.v1.VersionRequest", b"\x78\x01" * 1500)["@unknown"]
    assert isinstance(unknown, list)
    assert len(unknown) == 1001
    assert unknown[-1] == {"omitted": 500}


def test_unknown_groups_nested_too_deep_end_in_an_error() -> None:
    unknown: Any = RENDERER.to_json("runtime.v1.VersionRequest", b"\x7b" * 80 + b"\x7c" * 80)["@unknown"]
    for _ in range(64):
        unknown = unknown[0]["value"]
    assert unknown == [{"field": 15, "wire_type": "group", "value": {"@error": "nests more than 64 deep"}}]


def test_messages_nested_too_deep_end_in_an_error_beside_their_bytes(deep: Renderer) -> None:
    payload = b""
    for _ in range(90):
        payload = b"\x0a" + bytes([len(payload)] if len(payload) < 128 else [len(payload) & 127 | 128, 1]) + payload
    inside: Any = deep.to_json("deep.Node", payload)
    for _ in range(65):
        inside = inside["next"]
    assert inside["@error"] == "nests more than 64 deep"
    assert len(inside["@base64"]) > 20


def test_any_in_any_too_deep_ends_in_an_error_beside_its_bytes() -> None:
    made = REGISTRY.message_class("google.protobuf.Any")
    payload = b"innermost"
    for _ in range(100):
        payload = made(type_url="google.protobuf.Any", value=payload).SerializeToString()
    inside: Any = RENDERER.to_json("google.protobuf.Any", payload)
    for _ in range(64):
        assert list(inside) == ["@type", "value"]
        inside = inside["value"]
    assert list(inside) == ["@type", "value_base64", "error"]
    assert inside["error"] == "nests more than 64 deep"


# -- any ---------------------------------------------------------------------------------------------------------------


def test_an_any_shows_its_message_beside_its_type() -> None:
    options = REGISTRY.message_class("containerd.runc.v1.Options")(binary_name="runc", systemd_cgroup=True)
    name = "containerd.task.v2.CreateTaskRequest"
    any_options = {"type_url": "containerd.runc.v1.Options", "value": options.SerializeToString()}
    assert shown(name, id="c", options=any_options) == {
        "id": "c",
        "options": {"@type": "containerd.runc.v1.Options", "binary_name": "runc", "systemd_cgroup": True},
    }


def test_the_type_url_stays_as_it_came() -> None:
    url = "type.googleapis.com/containerd.events.TaskStart"
    assert shown_any(url, field(1, b"c")) == {"@type": url, "container_id": "c"}


def test_an_any_with_a_well_known_type_shows_it_as_value() -> None:
    assert shown_any("google.protobuf.Timestamp", b"\x08\x05") == {
        "@type": "google.protobuf.Timestamp",
        "value": "1970-01-01T00:00:05Z",
    }


def test_an_any_with_a_struct_keeps_its_keys_apart_from_ours() -> None:
    made = REGISTRY.message_class("google.protobuf.Struct")()
    made.update({"@type": "mine", "n": [1.5, None, {"deep": True}]})  # type: ignore[attr-defined]
    assert shown_any("google.protobuf.Struct", made.SerializeToString()) == {
        "@type": "google.protobuf.Struct",
        "value": {"@type": "mine", "n": [1.5, None, {"deep": True}]},
    }


def test_the_type_urls_that_carry_json_are_those_of_the_facts() -> None:
    facts = json.loads((FACTS / "any-typeurls.json").read_text(encoding="utf-8"))
    assert {url for entry in facts["json"] for url in entry["type_urls"]} == JSON_TYPE_URLS


def test_json_in_an_any_is_shown_as_json() -> None:
    assert shown_any(SPEC, b'{"ociVersion": "1.2", "n": [1, 2.5, null]}') == {
        "@type": SPEC,
        "value": {"ociVersion": "1.2", "n": [1, 2.5, None]},
    }


def test_a_type_that_no_schema_has_is_taken_for_json_if_it_is_json_whole() -> None:
    assert shown_any("example.com/Mine", b"[1]") == {"@type": "example.com/Mine", "value": [1]}


@pytest.mark.parametrize(
    ("url", "value", "reason"),
    [
        ("example.com/Mine", b"\x0a\x05", "no schema has this type"),
        ("example.com/Mine", b"12", "no schema has this type"),
        ("example.com/Mine", b"", "no schema has this type"),
        ("", b"x", "no schema has this type"),
        ("example.com/Mine", b'{"a": 1} more', "Extra data"),
        ("containerd.events.TaskStart", b"\x0a\xff", "does not parse as containerd.events.TaskStart"),
        ("containerd.events.TaskStart", b'{"id": 1}', "does not parse as containerd.events.TaskStart"),
        (SPEC, b"\x0a\x05", "Expecting value"),
        (SPEC, b"", "Expecting value"),
        (SPEC, b'{"a": "\xff"}', "can't decode byte 0xff"),
        (SPEC, b'{"a": NaN}', "NaN is no JSON"),
        (SPEC, b'{"a": 1e999}', "the number 1e999 is too large"),
        (SPEC, b"1" * 5000, "Exceeds the limit"),
        (SPEC, b"[" * 65 + b"]" * 65, "nests more than 64 deep"),
        (SPEC, b"[" * 100_000, "nests more than 64 deep"),
        (SPEC, b'{"a":' * 100_000, "nests more than 64 deep"),
    ],
)
def test_an_any_that_is_not_to_be_read_shows_its_bytes_and_why(url: str, value: bytes, reason: str) -> None:
    any_shown = shown_any(url, value)
    assert any_shown.pop("error").find(reason) >= 0
    assert any_shown == {"@type": url, "value_base64": b64encode(value).decode()}


def test_an_empty_any_is_empty() -> None:
    assert shown("containerd.task.v2.CreateTaskRequest", options={}) == {"options": {}}


def test_one_broken_any_leaves_the_others_whole() -> None:
    payloads = {
        "good": {"type_url": "containerd.events.TaskStart", "value": field(1, b"c")},
        "json": {"type_url": SPEC, "value": b"{}"},
        "unknown": {"type_url": "x.Y", "value": b"\x00"},
    }
    assert shown("containerd.services.diff.v1.ApplyRequest", payloads=payloads)["payloads"] == {
        "good": {"@type": "containerd.events.TaskStart", "container_id": "c"},
        "json": {"@type": SPEC, "value": {}},
        "unknown": {"@type": "x.Y", "value_base64": "AA==", "error": "no schema has this type"},
    }


def test_lone_surrogates_in_json_become_the_replacement_character() -> None:
    assert shown_any(SPEC, b'{"\\ud800": "a\\udc00b", "pair": "\\ud83d\\ude00"}')["value"] == {"�": "a�b", "pair": "😀"}
    assert shown_any(SPEC, b'"\\uD800"')["value"] == "�"


# -- a user's schemas --------------------------------------------------------------------------------------------------


def renderer_for(path: Path, file: FileDescriptorProto) -> Renderer:
    path.write_bytes(FileDescriptorSet(file=[file]).SerializeToString())
    registry = Registry.bundled()
    registry.add_descriptor_set(str(path))
    return Renderer(registry)


@pytest.fixture
def deep(tmp_path: Path) -> Renderer:
    """`deep.Node { Node next = 1; }`"""
    file = FileDescriptorProto(name="deep.proto", package="deep", syntax="proto3")
    file.message_type.add(name="Node").field.add(name="next", number=1, type=11, type_name=".deep.Node", label=1)
    return renderer_for(tmp_path / "deep", file)


@pytest.fixture
def old(tmp_path: Path) -> Renderer:
    """`old.Thing`, proto2: a string, a float, a group, an extension and maps by number and by bool."""
    file = FileDescriptorProto(name="old.proto", package="old", syntax="proto2")
    message = file.message_type.add(name="Thing")
    message.extension_range.add(start=100, end=200)
    kinds = (("name", 1, "STRING", 1), ("names", 2, "STRING", 3), ("ratio", 3, "FLOAT", 1))
    for name, number, kind, label in kinds:
        message.field.add(name=name, number=number, type=FieldDescriptorProto.Type.Value(f"TYPE_{kind}"), label=label)
    message.nested_type.add(name="Pair").field.add(name="left", number=1, type=5, label=1)
    message.field.add(name="pair", number=4, type=10, type_name=".old.Thing.Pair", label=1)
    for name, number, key in (("by_number", 5, 3), ("by_bool", 6, 8)):
        entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=key, label=1)
        entry.field.add(name="value", number=2, type=9, label=1)
        message.field.add(name=name, number=number, type=11, type_name=f".old.Thing.{entry.name}", label=3)
    file.extension.add(name="more", number=100, type=9, label=1, extendee=".old.Thing")
    return renderer_for(tmp_path / "old", file)


def test_strings_of_proto2_that_are_not_utf8_are_marked(old: Renderer) -> None:
    assert old.to_json("old.Thing", field(1, b"\xff") + field(2, b"fine") + field(2, b"\xfe")) == {
        "name": "\\xff",
        "names": ["fine", "\\xfe"],
        "@not_utf8": ["name", "names"],
    }


def test_floats_of_32_bits_are_shown_with_the_digits_they_have(old: Renderer) -> None:
    assert old.to_json("old.Thing", bytes.fromhex("1dcdcccc3d")) == {"ratio": 0.1}
    assert old.to_json("old.Thing", bytes.fromhex("1dffff7f7f")) == {"ratio": 3.4028235e38}


def test_groups_and_extensions_are_shown(old: Renderer) -> None:
    assert old.to_json("old.Thing", bytes.fromhex("23 0805 24") + b"\xa2\x06\x01x") == {
        "pair": {"left": 5},
        "[old.more]": "x",
    }


def test_keys_of_maps_that_are_no_strings_become_strings(old: Renderer) -> None:
    by_number = field(5, b"\x08\x0a" + field(2, b"ten")) + field(5, b"\x08\x02" + field(2, b"two"))
    by_bool = field(6, b"\x08\x01" + field(2, b"yes"))
    whole = old.to_json("old.Thing", by_number + by_bool)
    assert whole == {"by_number": {"2": "two", "10": "ten"}, "by_bool": {"true": "yes"}}
    assert list(whole["by_number"]) == ["2", "10"]  # type: ignore[arg-type]
