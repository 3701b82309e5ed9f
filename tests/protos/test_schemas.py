"""The schemas hold what the facts hold, nothing less and nothing more; the judge is protoc's own descriptor set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import (
    any_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from protos import generate
from protos.registry import Method, Registry

ROOT = Path(__file__).resolve().parents[2]
FACTS = ROOT / "tests" / "facts"
SCHEMAS = ROOT / "protos" / "schemas"
EMPTY = {"github.com/gogo/protobuf/gogoproto/gogo.proto", "types/fieldpath.proto"}
"""Files without a type or service of their own."""
TWICE = {"hypervisor/hypervisor.proto": "remote.proto", "runtimeoptions.proto": "types/runtimeoptions/v1/api.proto"}
"""Files that are not built, since another one has all of their names."""
LEFT_OUT = EMPTY | set(TWICE)

Json = dict[str, Any]

REMOVED_METHODS = {
    "kata-agent": [("grpc.AgentService", name) for name in ("ListProcesses", "StartTracing", "StopTracing")]
}
"""Methods that old agents still have: up to Kata 2.0 and 2.2."""


@pytest.fixture(scope="module")
def built() -> dict[str, FileDescriptorProto]:
    """The files of the bundled descriptor set, by path."""
    data = (ROOT / "protos" / "descriptors.binpb").read_bytes()
    return {file.name: file for file in FileDescriptorSet.FromString(data).file}


@pytest.fixture(scope="module", params=generate.FAMILIES)
def family(request: pytest.FixtureRequest) -> Json:
    loaded: Json = json.loads((FACTS / f"{request.param}.json").read_text(encoding="utf-8"))
    for service, method in REMOVED_METHODS.get(request.param, []):
        add_removed(loaded, service, method)
    return loaded


def add_removed(facts: Json, service: str, method: str) -> None:
    """Put a method that older versions had beside those of the newest, as the facts' differences describe it."""
    changes = [change for step in facts["differences"] for change in step.get("changed", ())]
    (removed,) = (each["removed"] for each in changes if each.get("service") == service and was_removed(each, method))
    (file,) = (file for file in facts["files"].values() if service in file.get("services", {}))
    file["services"][service]["methods"].append(removed)
    for name in (removed["input"], removed["output"]):
        if name in facts["legacy"]["messages"]:
            file["imports"] = sorted({*file["imports"], f"legacy/{name.rpartition('.')[0]}.proto"})
    facts["counts"]["methods"] += 1


def was_removed(change: Json, method: str) -> bool:
    return bool(change.get("removed", {}).get("name") == method)


def described_field(message: DescriptorProto, field: FieldDescriptorProto, entries: dict[str, DescriptorProto]) -> Json:
    """A field in the facts' own layout."""
    kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    label = "repeated" if field.label == FieldDescriptorProto.LABEL_REPEATED else "optional"
    shown: Json = {"name": field.name, "number": field.number, "type": kind, "label": label}
    if field.type_name in entries:
        key, value = entries[field.type_name].field
        shown |= {"type": "map", "key": described_field(message, key, {})["type"]}
        shown["value"] = described_field(message, value, {})["type"]
        if value.type_name:
            shown["value_type_name"] = value.type_name.removeprefix(".")
    elif field.type_name:
        shown["type_name"] = field.type_name.removeprefix(".")
    if field.proto3_optional:
        shown["proto3_optional"] = True
    elif field.HasField("oneof_index"):
        shown["oneof"] = message.oneof_decl[field.oneof_index].name
    if field.options.deprecated:
        shown["deprecated"] = True
    return shown


def described_message(message: DescriptorProto, full_name: str) -> Json:
    entries = {f".{full_name}.{nested.name}": nested for nested in message.nested_type if nested.options.map_entry}
    shown: Json = {"fields": [described_field(message, field, entries) for field in message.field]}
    if message.reserved_range:
        shown["reserved_ranges"] = [[each.start, each.end - 1] for each in message.reserved_range]
    if message.reserved_name:
        shown["reserved_names"] = list(message.reserved_name)
    return shown


def described_enum(enum: EnumDescriptorProto) -> Json:
    return {"values": {value.name: value.number for value in enum.value}}


def described_file(file: FileDescriptorProto) -> Json:
    """A file of a descriptor set in the facts' own layout."""
    shown: Json = {"package": file.package, "syntax": file.syntax, "imports": sorted(file.dependency)}
    messages: Json = {}
    enums: Json = {f"{file.package}.{enum.name}": described_enum(enum) for enum in file.enum_type}
    waiting = [(f"{file.package}.{message.name}", message) for message in file.message_type]
    while waiting:
        full_name, message = waiting.pop()
        messages[full_name] = described_message(message, full_name)
        enums |= {f"{full_name}.{enum.name}": described_enum(enum) for enum in message.enum_type}
        waiting += [
            (f"{full_name}.{nested.name}", nested) for nested in message.nested_type if not nested.options.map_entry
        ]
    services = {
        f"{file.package}.{service.name}": {
            "methods": [
                {
                    "name": method.name,
                    "input": method.input_type.removeprefix("."),
                    "output": method.output_type.removeprefix("."),
                    "client_streaming": method.client_streaming,
                    "server_streaming": method.server_streaming,
                }
                for method in service.method
            ]
        }
        for service in file.service
    }
    for kind, named in (("messages", messages), ("enums", enums), ("services", services)):
        if named:
            shown[kind] = named
    return shown


def by_name(items: dict[str, Json], lists: str) -> Json:
    """Named things with their list (fields, methods) as a mapping by name, so that a difference names itself."""
    return {
        name: {key: value for key, value in item.items() if key not in (lists, "last_seen")}
        | {lists: {each["name"]: each for each in item[lists]}}
        for name, item in items.items()
    }


def test_each_file_of_the_facts_is_built_with_nothing_missing_and_nothing_invented(
    family: Json, built: dict[str, FileDescriptorProto]
) -> None:
    for path, facts in family["files"].items():
        if path in EMPTY:
            assert not any(facts.get(kind) for kind in ("messages", "enums", "services"))
        assert (path in built) is (path not in LEFT_OUT)
        if path in EMPTY:
            continue
        ours = described_file(built[TWICE.get(path, path)])
        assert ours["package"] == facts["package"]
        assert ours["syntax"] == facts["syntax"]
        assert set(ours["imports"]) == set(facts["imports"]) - LEFT_OUT
        assert by_name(ours.get("messages", {}), "fields") == by_name(facts.get("messages", {}), "fields")
        assert by_name(ours.get("services", {}), "methods") == by_name(facts.get("services", {}), "methods")
        assert ours.get("enums", {}) == facts.get("enums", {})


def test_what_only_older_versions_define_is_built_too(family: Json, built: dict[str, FileDescriptorProto]) -> None:
    legacy = family.get("legacy", {})
    assert set(legacy) <= {"messages", "services"}
    for kind, lists in (("messages", "fields"), ("services", "methods")):
        for name, facts in legacy.get(kind, {}).items():
            file = described_file(built[f"legacy/{name.rpartition('.')[0]}.proto"])
            assert by_name({name: file[kind][name]}, lists) == by_name({name: facts}, lists)


def since(family: str, version: str) -> list[Json]:
    """Changes of fields from a version on, as the facts list them."""
    facts = json.loads((FACTS / f"{family}.json").read_text(encoding="utf-8"))
    versions = [compared["version"] for compared in facts["compared"]]
    later = [step for step in facts["differences"] if versions.index(step["from"]) >= versions.index(version)]
    return [change for step in later for change in step.get("changed", ()) if "message" in change]


@pytest.mark.parametrize(("family_name", "version"), [("kata-agent", "2.2.0"), ("nri", "v0.3.0")])
def test_a_field_of_an_older_version_is_never_taken_for_another(
    registry: Registry, family_name: str, version: str
) -> None:
    changes = since(family_name, version)
    assert changes
    for change in changes:
        fields = registry.message_class(change["message"]).DESCRIPTOR.fields_by_number
        if "removed" in change:  # its number is nobody's: it is shown as unknown
            assert change["removed"]["number"] not in fields
        elif "was" in change:  # renamed, at most
            was, now = ({key: value for key, value in change[key].items() if key != "name"} for key in ("was", "now"))
            assert was == now


def test_every_name_that_is_built_comes_from_the_facts(built: dict[str, FileDescriptorProto]) -> None:
    known: set[str] = set()
    for name in generate.FAMILIES:
        facts = json.loads((FACTS / f"{name}.json").read_text(encoding="utf-8"))
        for file in [*facts["files"].values(), facts.get("legacy", {})]:
            known |= {full for kind in ("messages", "enums", "services") for full in file.get(kind, {})}
    ours: set[str] = set()
    for path, built_file in built.items():
        if path not in generate.BY_HAND:
            described = described_file(built_file)
            ours |= {full for kind in ("messages", "enums", "services") for full in described.get(kind, {})}
    assert ours == known


def test_the_counts_are_those_that_the_facts_claim(family: Json, built: dict[str, FileDescriptorProto]) -> None:
    counts = dict.fromkeys(("services", "methods", "messages", "enums"), 0)
    for path in set(family["files"]) - EMPTY:
        described = described_file(built[TWICE.get(path, path)])
        for kind in ("services", "messages", "enums"):
            counts[kind] += len(described.get(kind, {}))
        counts["methods"] += sum(len(service["methods"]) for service in described.get("services", {}).values())
    assert counts == {kind: family["counts"][kind] for kind in counts}


@pytest.mark.parametrize(
    "theirs",
    [any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2],
    ids=lambda module: module.DESCRIPTOR.name,
)
def test_the_well_known_types_have_protobufs_own_names_and_numbers(
    theirs: Any, built: dict[str, FileDescriptorProto]
) -> None:
    file = FileDescriptorProto.FromString(theirs.DESCRIPTOR.serialized_pb)
    assert described_file(built[file.name]) == described_file(file)


def test_the_details_of_rich_errors_have_googles_own_names_and_numbers(built: dict[str, FileDescriptorProto]) -> None:
    theirs = pytest.importorskip("google.rpc.error_details_pb2", reason="needs googleapis-common-protos")
    file = FileDescriptorProto.FromString(theirs.DESCRIPTOR.serialized_pb)
    assert described_file(built[file.name]) == described_file(file)


def test_the_registry_knows_every_method_of_the_facts(family: Json, registry: Registry) -> None:
    parts = [*family["files"].values(), family.get("legacy", {})]
    for service, facts in ((name, item) for part in parts for name, item in part.get("services", {}).items()):
        assert service in registry.services()
        for method in facts["methods"]:
            streaming = (method["client_streaming"], method["server_streaming"])
            expected = Method(service, method["name"], method["input"], method["output"], *streaming)
            assert registry.method(service, method["name"]) == expected


def test_the_registry_makes_every_message_of_the_facts(family: Json, registry: Registry) -> None:
    parts = [*family["files"].values(), family.get("legacy", {})]
    for name, facts in ((name, item) for part in parts for name, item in part.get("messages", {}).items()):
        descriptor = registry.message_class(name).DESCRIPTOR
        assert descriptor.full_name == name
        assert {field.name: field.number for field in descriptor.fields} == {
            field["name"]: field["number"] for field in facts["fields"]
        }


def test_the_schemas_are_what_the_generator_writes() -> None:
    texts = generate.generate(FACTS)
    on_disk = {
        path.relative_to(SCHEMAS).as_posix(): path.read_text(encoding="utf-8") for path in SCHEMAS.rglob("*.proto")
    }
    assert {path: text for path, text in on_disk.items() if path not in generate.BY_HAND} == texts


def test_the_descriptor_set_is_built_from_the_schemas_as_they_are(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc", reason="needs grpcio-tools")
    target = tmp_path / "set.binpb"
    names = sorted(path.relative_to(SCHEMAS).as_posix() for path in SCHEMAS.rglob("*.proto"))
    assert protoc.main(["protoc", f"-I{SCHEMAS}", f"--descriptor_set_out={target}", *names]) == 0
    assert target.read_bytes() == (ROOT / "protos" / "descriptors.binpb").read_bytes()
