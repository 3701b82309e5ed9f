"""What the stand-ins' servers and clients share: messages by name, methods by name, errors with gRPC's codes.

In: a method's name and a payload. Out: payloads. It knows nothing of how either gets over a socket.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any

from protos.registry import Registry

OK, CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, NOT_FOUND, UNIMPLEMENTED, INTERNAL = 0, 1, 2, 4, 5, 12, 13
"""gRPC's status codes that occur here; ttrpc uses the same."""

Proto = Any
"""A message: its class is made from a schema at run time, so no checker knows its fields."""

Method = Callable[[Proto], Proto]
"""Takes the request; returns the answer, or an iterator of answers for a server-streaming method."""


class RpcError(Exception):
    """A call that ended with a status other than OK."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"status {code}: {message}")
        self.code, self.message = code, message


class Schemas:
    """Messages by their full names, for several threads."""

    def __init__(self) -> None:
        self._registry = Registry.bundled()
        self._lock = threading.Lock()

    def make(self, full_name: str, **fields: object) -> Proto:
        """Return a new message. Raises KeyError for an unknown name, ValueError for an unknown field."""
        with self._lock:
            message_class = self._registry.message_class(full_name)
        return message_class(**fields)

    def types(self, service: str, method: str) -> tuple[str, str]:
        """Return the names of a method's input and output. Raises RpcError UNIMPLEMENTED."""
        with self._lock:
            found = self._registry.method(service, method)
        if found is None:
            raise RpcError(UNIMPLEMENTED, f"unknown method {method} for service {service}")
        return found.input_type, found.output_type

    def any(self, type_url: str, message: Proto) -> Proto:
        """Return an Any as containerd makes them: its type URL is the bare name, without a host and a slash."""
        return self.make("google.protobuf.Any", type_url=type_url, value=message.SerializeToString())


class Methods:
    """The methods that a server answers; those in `mute` are never answered, as by a server that hangs."""

    def __init__(self, schemas: Schemas, mute: Collection[str] = ()) -> None:
        self._schemas, self._mute = schemas, frozenset(mute)
        self._methods: dict[str, dict[str, Method]] = {}

    def add(self, service: str, methods: dict[str, Method]) -> None:
        self._methods[service] = methods

    def answer(self, service: str, name: str, payload: bytes) -> Iterator[bytes]:
        """Yield the answers to one request. Raises RpcError."""
        method = self._methods.get(service, {}).get(name)
        if method is None:
            raise RpcError(UNIMPLEMENTED, f"unknown method {name} for service {service}")
        if name in self._mute:
            threading.Event().wait()
        request = self._schemas.make(self._schemas.types(service, name)[0])
        request.ParseFromString(payload)
        answer = method(request)
        for message in answer if isinstance(answer, Iterator) else (answer,):
            yield message.SerializeToString()
