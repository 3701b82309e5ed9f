"""The files of one descriptor set, and a private pool that builds them when a name in them is first asked for.

In: FileDescriptorProtos. Out: descriptors, message classes, methods. A private pool, so that two sets may define one
name and nothing gets into protobuf's default pool. It refuses to know where the files come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from protos.errors import PodwireError


class Method(NamedTuple):
    """One method of a service; the types are full names without a leading dot."""

    service: str
    name: str
    input_type: str
    output_type: str
    client_streaming: bool
    server_streaming: bool


def resolve(path: str, descriptor: Any) -> FieldDescriptor | None:  # noqa: ANN401 # stubs have another Descriptor
    """Return the field that a dotted path leads to from a message's descriptor, or None where this schema has none."""
    field: FieldDescriptor | None = None
    for name in path.split("."):
        field = None if descriptor is None else descriptor.fields_by_name.get(name)
        if field is None:
            return None
        descriptor = field.message_type
    return field


class SchemaSet:
    """Files that belong together; `fallback` gives a file that they import and do not bring, or None."""

    def __init__(
        self, files: Iterable[FileDescriptorProto], fallback: Callable[[str], FileDescriptorProto | None] | None = None
    ) -> None:
        self._files = {file.name: file for file in files}
        self._fallback = fallback
        self._by_package: dict[str, list[FileDescriptorProto]] = {}
        for file in self._files.values():
            self._by_package.setdefault(file.package, []).append(file)
        self._pool = DescriptorPool()
        self._built: set[str] = set()
        self._classes: dict[str, type[Message]] = {}
        self._lenient: SchemaSet | None = None

    def file(self, name: str) -> FileDescriptorProto | None:
        """Return a file by its import path."""
        return self._files.get(name)

    def build(self) -> None:
        """Build every file now. Raises PodwireError, with protobuf's reason, for one that does not build."""
        for name in tuple(self._files):
            self._build(name)

    def _build(self, name: str) -> None:
        if name in self._built:
            return
        self._built.add(name)
        file = self._files.get(name)
        if file is None:
            file = self._fallback(name) if self._fallback else None
            if file is None:
                raise PodwireError(f"{name} is imported but not there (protoc writes it with --include_imports)")
            self._files[name] = file
        for dependency in file.dependency:
            self._build(dependency)
        try:
            self._pool.AddSerializedFile(file.SerializeToString())
        except TypeError as error:
            raise PodwireError(f"{name} does not build: {' '.join(str(error).split())}") from error

    def _packages(self, full_name: str) -> Iterator[list[FileDescriptorProto]]:
        """The files of each package that may hold the name: every prefix of it, the longest first."""
        package = full_name
        while package:
            package = package.rpartition(".")[0]
            if package in self._by_package:
                yield self._by_package[package]

    def descriptor(self, full_name: str) -> Descriptor | None:
        """Return a message's descriptor, or None when no file here has it."""
        for files in self._packages(full_name):
            for file in files:
                self._build(file.name)
            try:
                return self._pool.FindMessageTypeByName(full_name)
            except KeyError:
                continue
        return None

    def message_class(self, full_name: str) -> type[Message] | None:
        """Return a message's class, or None when no file here has it."""
        found = self._classes.get(full_name)
        if found is None and (descriptor := self.descriptor(full_name)) is not None:
            found = self._classes[full_name] = GetMessageClass(descriptor)
        return found

    def services(self) -> Iterator[str]:
        """Yield the full names of the services, in no order."""
        for file in self._files.values():
            for service in file.service:
                yield f"{file.package}.{service.name}" if file.package else service.name

    def methods(self, service: str) -> dict[str, Method] | None:
        """Return a service's methods by name, or None when no file here has the service."""
        package, _, name = service.rpartition(".")
        for file in self._by_package.get(package, ()):
            for item in file.service:
                if item.name == name:
                    return {
                        method.name: Method(
                            service,
                            method.name,
                            method.input_type.removeprefix("."),
                            method.output_type.removeprefix("."),
                            method.client_streaming,
                            method.server_streaming,
                        )
                        for method in item.method
                    }
        return None

    @property
    def lenient(self) -> SchemaSet:
        """The same files with every string as bytes: what is not UTF-8 parses there. Made when first needed."""
        if self._lenient is None:
            fallback = self._fallback
            self._lenient = SchemaSet(
                (_strings_as_bytes(file) for file in self._files.values()),
                lambda name: _strings_as_bytes(file) if fallback and (file := fallback(name)) else None,
            )
        return self._lenient


def _strings_as_bytes(file: FileDescriptorProto) -> FileDescriptorProto:
    changed = FileDescriptorProto()
    changed.CopyFrom(file)
    for message in changed.message_type:
        _change_message(message)
    for extension in changed.extension:
        _change_field(extension)
    return changed


def _change_message(message: DescriptorProto) -> None:
    for field in message.field:
        # A map's key cannot be bytes. On the wire a map is a repeated message of key and value, so let it be one.
        if message.options.map_entry and field.number == 1 and field.type == FieldDescriptorProto.TYPE_STRING:
            message.options.map_entry = False
        _change_field(field)
    for extension in message.extension:
        _change_field(extension)
    for nested in message.nested_type:
        _change_message(nested)


def _change_field(field: FieldDescriptorProto) -> None:
    if field.type == FieldDescriptorProto.TYPE_STRING:
        field.type = FieldDescriptorProto.TYPE_BYTES
        field.ClearField("default_value")
