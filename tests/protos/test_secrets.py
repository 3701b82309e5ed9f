"""The table of secrets and the schemas: what sounds like a secret has a row, and no row is about nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorSet

import protos
from protos.secrets import OTHERS, SECRET_NAME, SECRET_PATH, SECRETS, SOUNDS_SECRET, may_hold_secrets

TEXT = (FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_BYTES)
NO_SECRETS = frozenset({"google.protobuf", "ttrpc"})
"""The schemas of schemas; ttrpc's own messages, which are taken apart before anything is shown or masked."""


def messages() -> Iterator[tuple[str, DescriptorProto]]:
    """Every message type of the bundled schemas, with its full name."""
    data = Path(protos.__file__).with_name("descriptors.binpb").read_bytes()
    for file in FileDescriptorSet.FromString(data).file:
        if file.package not in NO_SECRETS:
            waiting = [(f"{file.package}.{each.name}", each) for each in file.message_type]
            while waiting:
                name, message = waiting.pop()
                yield name, message
                waiting += [(f"{name}.{each.name}", each) for each in message.nested_type]


MESSAGES = dict(messages())


def test_every_field_that_sounds_like_a_secret_has_a_row() -> None:
    fields = [
        f"{name}.{field.name}"
        for name, message in MESSAGES.items()
        for field in message.field
        if field.type in TEXT and SOUNDS_SECRET.search(field.name)
        if field.name not in SECRETS.get(name, {}) and OTHERS not in SECRETS.get(name, {})
    ]
    assert fields == []


def test_every_row_is_about_a_field_of_text_that_there_is() -> None:
    for name, row in SECRETS.items():
        fields = {field.name: field for field in MESSAGES[name].field}
        for field in row.keys() - {OTHERS}:
            assert fields[field].type in TEXT or fields[field].type_name in (
                f".{name}.{each.name}" for each in MESSAGES[name].nested_type if each.options.map_entry
            )


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "Passwd",
        "passphrase",
        "secret",
        "token",
        "credential",
        "Authorization",
        "cookie",
        "private key",
        "api-key",
        "auth",
        "last-applied-configuration",
        "initdata",
        "init_data",
        "apikey",
    ],
)
def test_no_message_with_the_name_of_a_secret_is_passed_over(name: str) -> None:
    assert SECRET_NAME.search(name.encode())
    assert may_hold_secrets(b"\x0a" + name.encode())


@pytest.mark.parametrize("path", [b"a/kubernetes.io~secret/b", b"a/kubernetes.io~projected/b"])
def test_no_message_with_a_secret_path_is_passed_over(path: bytes) -> None:
    assert SECRET_PATH.search(path)
    assert may_hold_secrets(path)
