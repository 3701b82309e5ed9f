"""A user's own .proto folder and descriptor set: they win over ours, and what is wrong with them is one clear line."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

from protos.errors import PodwireError
from protos.registry import Registry

needs_protoc = pytest.mark.skipif(not importlib.util.find_spec("grpc_tools"), reason="needs grpcio-tools")


@pytest.fixture
def registry() -> Registry:
    """One of its own: these tests add to it."""
    return Registry.bundled()


def write(folder: Path, name: str, body: str) -> Path:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f'syntax = "proto3";\n{body}\n', encoding="utf-8")
    return target


def descriptor_file(name: str, package: str, *fields: str, imports: tuple[str, ...] = ()) -> FileDescriptorProto:
    file = FileDescriptorProto(name=name, package=package, syntax="proto3", dependency=imports)
    message = file.message_type.add(name="Thing")
    for number, field in enumerate(fields, 1):
        message.field.add(
            name=field,
            number=number,
            type=FieldDescriptorProto.TYPE_STRING,
            label=FieldDescriptorProto.LABEL_OPTIONAL,
        )
    return file


def save(path: Path, *files: FileDescriptorProto) -> str:
    path.write_bytes(FileDescriptorSet(file=files).SerializeToString())
    return str(path)


@needs_protoc
def test_a_folder_adds_its_services_and_messages(registry: Registry, tmp_path: Path) -> None:
    write(
        tmp_path,
        "mine/api.proto",
        "package mine; message Ask { string q = 1; } service S { rpc Do(Ask) returns (Ask); }",
    )
    registry.add_proto_dir(str(tmp_path))
    method = registry.method("mine.S", "Do")
    assert method is not None
    assert method.input_type == "mine.Ask"
    assert "mine.S" in registry.services()
    assert registry.resolve_any("x/mine.Ask") == "mine.Ask"


@needs_protoc
def test_a_folder_may_import_the_well_known_types_and_what_we_ship(registry: Registry, tmp_path: Path) -> None:
    body = (
        'import "google/protobuf/any.proto"; import "google/rpc/status.proto";'
        'import "google/protobuf/descriptor.proto";'
        "package mine; message Ask { google.protobuf.Any any = 1; google.rpc.Status status = 2; }"
        "extend google.protobuf.FieldOptions { string note = 50001; }"
    )
    write(tmp_path, "api.proto", body)
    registry.add_proto_dir(str(tmp_path))
    assert [field.name for field in registry.message_class("mine.Ask").DESCRIPTOR.fields] == ["any", "status"]


@needs_protoc
def test_a_users_schema_wins_over_ours_by_name_and_leaves_the_rest(registry: Registry, tmp_path: Path) -> None:
    registry.message_class("runtime.v1.VersionRequest")
    registry.method("runtime.v1.RuntimeService", "Version")
    body = (
        "package runtime.v1; message VersionRequest { string version = 1; string more = 2; } message New {}"
        "service RuntimeService { rpc Version(VersionRequest) returns (New); }"
    )
    write(tmp_path, "api.proto", body)
    registry.add_proto_dir(str(tmp_path))
    assert "more" in registry.message_class("runtime.v1.VersionRequest").DESCRIPTOR.fields_by_name
    method = registry.method("runtime.v1.RuntimeService", "Version")
    assert method is not None
    assert method.output_type == "runtime.v1.New"
    assert registry.has_message("runtime.v1.StatusRequest")
    # A service is taken whole from the uppermost schema that has it.
    assert registry.method("runtime.v1.RuntimeService", "Status") is None


def test_of_two_descriptor_sets_the_last_added_wins(registry: Registry, tmp_path: Path) -> None:
    registry.add_descriptor_set(save(tmp_path / "a", descriptor_file("a.proto", "mine", "old", "both")))
    registry.add_descriptor_set(save(tmp_path / "b", descriptor_file("a.proto", "mine", "new")))
    assert [field.name for field in registry.message_class("mine.Thing").DESCRIPTOR.fields] == ["new"]


def test_a_schema_that_is_added_counts_for_types_parsed_before(registry: Registry, tmp_path: Path) -> None:
    for name in ("first", "second"):
        registry.add_descriptor_set(save(tmp_path / name, descriptor_file(f"{name}.proto", "mine", name)))
        message = registry.parse("mine.Thing", b"\x0a\x01x").message
        assert message is not None
        assert [field.name for field, _ in message.ListFields()] == [name]


def test_a_descriptor_set_without_its_imports_takes_ours(registry: Registry, tmp_path: Path) -> None:
    file = descriptor_file("a.proto", "mine", "id", imports=("google/protobuf/timestamp.proto",))
    file.message_type[0].field.add(
        name="at", number=9, type=FieldDescriptorProto.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp", label=1
    )
    registry.add_descriptor_set(save(tmp_path / "a", file))
    parsed = registry.parse("mine.Thing", bytes.fromhex("0a02fffe4a020805"))
    assert parsed.lenient
    assert parsed.message.at.seconds == 5  # type: ignore[union-attr]


def test_a_default_that_is_no_escaped_bytes_does_not_stop_the_second_parse(registry: Registry, tmp_path: Path) -> None:
    file = descriptor_file("a.proto", "mine", "id")
    file.syntax = "proto2"
    file.message_type[0].field[0].default_value = "\\"
    registry.add_descriptor_set(save(tmp_path / "a", file))
    made = registry.message_class("mine.Thing", lenient=True)
    assert made.FromString(b"\x0a\x01\xff").id == b"\xff"  # type: ignore[attr-defined]


def test_names_without_a_package_are_found(registry: Registry, tmp_path: Path) -> None:
    registry.add_descriptor_set(save(tmp_path / "a", descriptor_file("a.proto", "", "id")))
    assert registry.resolve_any("Thing") == "Thing"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: folder / "none", "No such file or directory"),
        (lambda folder: folder, "Is a directory"),
        (lambda folder: Path(save(folder / "empty")), "is no descriptor set"),
        (lambda folder: write(folder, "text", "hello"), "is no descriptor set"),
        (
            lambda folder: Path(save(folder / "a", descriptor_file("a.proto", "a", imports=("gone.proto",)))),
            "gone.proto is imported but not there",
        ),
        (
            lambda folder: Path(save(folder / "a", descriptor_file("a.proto", "a", "x", "x"))),
            "a.proto does not build: ",
        ),
        (
            lambda folder: Path(
                save(folder / "a", descriptor_file("a.proto", "a", "x"), descriptor_file("b.proto", "a", "x"))
            ),
            "b.proto does not build: ",
        ),
        (
            lambda folder: Path(
                save(
                    folder / "a",
                    descriptor_file("a.proto", "a", "x", imports=("b.proto",)),
                    descriptor_file("b.proto", "b", "x", imports=("a.proto",)),
                )
            ),
            " does not build: ",
        ),
    ],
    ids=["missing", "folder", "empty", "text", "import", "one name twice", "one type twice", "circle"],
)
def test_a_bad_descriptor_set_is_one_line_and_adds_nothing(
    registry: Registry, tmp_path: Path, make: object, reason: str
) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    services = registry.services()
    with pytest.raises(PodwireError) as caught:
        registry.add_descriptor_set(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert registry.services() == services
    assert not registry.has_message("a.Thing")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (None, "no such folder"),
        ({}, "holds no .proto file"),
        ({"a.proto": "message {"}, "protoc refuses it: a.proto:2:"),
        ({"a.proto": 'import "gone.proto";'}, "protoc refuses it: gone.proto: File not found."),
        ({"a.proto": "message A {}", "b.proto": "message A {}"}, "protoc refuses it: b.proto:2:"),
    ],
    ids=["missing", "empty", "syntax", "import", "one name in two files"],
)
@needs_protoc
def test_a_bad_folder_is_one_line(
    registry: Registry, tmp_path: Path, files: dict[str, str] | None, reason: str
) -> None:
    folder = tmp_path / "protos"
    for name, body in (files or {}).items():
        write(folder, name, body)
    if files == {}:
        folder.mkdir()
    with pytest.raises(PodwireError) as caught:
        registry.add_proto_dir(str(folder))
    assert str(caught.value).startswith(f"{folder}: {reason}")
    assert "\n" not in str(caught.value)


def test_without_grpcio_tools_the_error_names_the_extra(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a.proto", "message A {}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PodwireError, match=r"pip install 'podwire\[proto\]'"):
        registry.add_proto_dir(str(tmp_path))
