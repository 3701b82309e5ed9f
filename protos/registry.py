"""The registry: names of methods and types to schemas, and payloads to messages.

In: names as they stand on the wire, and bytes. Out: types, methods, parsed messages. It refuses to know which protocol
the bytes came by and how they are shown.

Schemas lie in layers, each with a pool of its own: the bundled ones at the bottom, a user's own above, the last added
on top. A name is taken from the uppermost layer that has it: a user's schema wins over ours, and nothing clashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError, Message

from protos.errors import PodwireError
from protos.schema_set import Method, SchemaSet

__all__ = ["Method", "Parsed", "Registry"]

_HERE = Path(__file__).parent
_OTHER_NAMES = {"cri.runtimeoptions.v1.Options": "runtimeoptions.v1.Options"}
"""Names that older versions gave to the same message (containerd 1.4 and before)."""


class Parsed(NamedTuple):
    """What became of a payload."""

    message: Message | None
    """None: it does not parse; `error` says why."""
    lenient: bool
    """A string in it is not UTF-8: the message is of a class whose strings, and keys of maps, are bytes."""
    error: str


class Registry:
    """Every known service and message. `Registry.bundled()` makes one; not safe for use by several threads at once."""

    def __init__(self, bundled: SchemaSet) -> None:
        self._bundled = bundled
        self._layers = [bundled]
        self._methods: dict[str, dict[str, Method]] = {}
        self._parsers: dict[str, Callable[[bytes], Message]] = {}

    @classmethod
    def bundled(cls) -> Registry:
        """Return a registry of the schemas that podwire brings; each file is built when a name in it is asked for."""
        try:
            data = _HERE.joinpath("descriptors.binpb").read_bytes()
        except FileNotFoundError:
            raise PodwireError(f"{_HERE}/descriptors.binpb is missing: not built yet (pip install -e .)") from None
        return cls(SchemaSet(FileDescriptorSet.FromString(data).file))

    @classmethod
    def with_own(cls, proto_dirs: Iterable[str], descriptor_sets: Iterable[str]) -> Registry:
        """Return one of the bundled schemas with a user's own on top. Raises PodwireError."""
        registry = cls.bundled()
        for path in proto_dirs:
            registry.add_proto_dir(path)
        for path in descriptor_sets:
            registry.add_descriptor_set(path)
        return registry

    def add_proto_dir(self, path: str) -> None:
        """Put the .proto files below a folder, their import root, on top. Raises PodwireError, having added nothing."""
        from protos.user_schemas import compile_folder  # few need it, and it brings subprocess

        self._add(path, compile_folder(path, str(_HERE / "schemas")))

    def add_descriptor_set(self, path: str) -> None:
        """Put a serialised FileDescriptorSet on top. Raises PodwireError, having added nothing."""
        from protos.user_schemas import read_descriptor_set

        self._add(path, read_descriptor_set(path))

    def _add(self, path: str, found: list[FileDescriptorProto]) -> None:
        layer = SchemaSet(found, self._imported)
        try:
            layer.build()
        except PodwireError as error:
            raise PodwireError(f"{path}: {error}") from error
        self._layers.insert(0, layer)
        self._methods.clear()
        self._parsers.clear()

    def _imported(self, name: str) -> FileDescriptorProto | None:
        """A file that a user's set imports without bringing it."""
        if name == descriptor_pb2.DESCRIPTOR.name:
            return FileDescriptorProto.FromString(descriptor_pb2.DESCRIPTOR.serialized_pb)
        return self._bundled.file(name)

    def services(self) -> list[str]:
        """Return the full names of all services, sorted."""
        return sorted({service for layer in self._layers for service in layer.services()})

    def methods(self, service: str) -> list[str]:
        """Return the names of a service's methods, sorted; none of a service that no schema has."""
        self.method(service, "")
        return sorted(self._methods.get(service, ()))

    def method(self, service: str, method: str) -> Method | None:
        """Return a method by its service's full name and its own, or None."""
        methods = self._methods.get(service)
        if methods is None:
            for layer in self._layers:
                methods = layer.methods(service)
                if methods is not None:
                    self._methods[service] = methods
                    break
            else:
                return None
        return methods.get(method)

    def resolve_any(self, type_url: str) -> str | None:
        """Return the full name of the message that a type URL names, or None if no schema has it.

        It is what follows the last slash: containerd's URLs have no slash at all, grpc-go's have a host before it.
        """
        name = type_url.rpartition("/")[2]
        name = _OTHER_NAMES.get(name, name)
        return name if self.has_message(name) else None

    def has_message(self, full_name: str) -> bool:
        """Tell whether a schema has this message."""
        return self._layer(full_name) is not None

    def message_class(self, full_name: str, *, lenient: bool = False) -> type[Message]:
        """Return the class of a message, or the one whose strings are bytes. Raises KeyError for an unknown name."""
        layer = self._layer(full_name)
        found = (layer.lenient if lenient else layer).message_class(full_name) if layer else None
        if found is None:
            raise KeyError(full_name)
        return found

    def _layer(self, full_name: str) -> SchemaSet | None:
        for layer in self._layers:
            if layer.message_class(full_name) is not None:
                return layer
        return None

    def parse(self, full_name: str, data: bytes) -> Parsed:
        """Parse a payload. Never raises on content, nor for an unknown name: `error` says it."""
        parser = self._parsers.get(full_name)
        try:
            if parser is None:
                parser = self._parsers[full_name] = self.message_class(full_name).FromString
            parsed: Parsed = tuple.__new__(Parsed, (parser(data), False, ""))  # half the time that `Parsed()` takes
            return parsed
        except KeyError:
            return Parsed(None, False, f"no schema has {full_name}")
        except DecodeError:
            pass  # it may be no more than one string that is not UTF-8: it fails the whole message
        try:
            return Parsed(self.message_class(full_name, lenient=True).FromString(data), True, "")
        except DecodeError:
            return Parsed(None, False, f"does not parse as {full_name}")
