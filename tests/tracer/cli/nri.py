"""A stand-in for both ends of NRI's socket: a runtime that calls its plugins, and a plugin, a process of its own.

Frames are put together and taken apart here with struct alone, as NRI's own multiplexer and ttrpc do it.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from dissectors.ttrpc_messages import build_request, build_response, parse_request, parse_response
from protos.registry import Registry

API = "nri.pkg.api.v1alpha1"
PLUGIN, RUNTIME = f"{API}.Plugin", f"{API}.Runtime"
CHANNELS = {PLUGIN: 1, RUNTIME: 2}
MUX, TTRPC = struct.Struct(">II"), struct.Struct(">IIBB")
REGISTRY = Registry.bundled()
PIECE = 3000
"""Bytes of a frame of the multiplexer at most: messages go in several, as large ones do."""

Handler = Callable[[str, Any], tuple[int, Any]]
"""Takes a method's name and its request; returns status code and response."""


class Refused(Exception):
    """An answer with another status than OK."""


class End:
    """One end of a plugin's connection: serves one service and calls the other."""

    def __init__(self, connection: socket.socket, serves: str, handler: Handler) -> None:
        self._socket, self._serves, self._handler = connection, serves, handler
        self._calls = RUNTIME if serves == PLUGIN else PLUGIN
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[bytes]] = {}
        self._stream_id = -1
        self._buffers = {1: b"", 2: b""}
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def call(self, method: str, *, patience: float = 20.0, **fields: Any) -> Any:
        """Call the other side; raises Refused or, after so many seconds, TimeoutError."""
        found = REGISTRY.method(self._calls, method)
        assert found is not None
        payload = REGISTRY.message_class(found.input_type)(**fields).SerializeToString()
        with self._lock:
            self._stream_id += 2
            future = self._waiting[self._stream_id] = Future()
            self._send(CHANNELS[self._calls], self._stream_id, 1, build_request(self._calls, method, payload))
        return REGISTRY.message_class(found.output_type).FromString(future.result(patience))

    def _send(self, channel: int, stream_id: int, kind: int, content: bytes) -> None:
        frame = TTRPC.pack(len(content), stream_id, kind, 0) + content
        pieces = [frame[at : at + PIECE] for at in range(0, len(frame), PIECE)]
        self._socket.sendall(b"".join(MUX.pack(channel, len(piece)) + piece for piece in pieces))

    def _read(self) -> None:
        with self._socket, self._socket.makefile("rb") as stream:
            while head := stream.read(MUX.size):
                channel, length = MUX.unpack(head)
                self._buffers[channel] += stream.read(length)
                self._take(channel)
        self.ended.set()

    def _take(self, channel: int) -> None:
        buffer = self._buffers[channel]
        while len(buffer) >= TTRPC.size:
            length, stream_id, kind, _ = TTRPC.unpack_from(buffer)
            content = buffer[TTRPC.size : TTRPC.size + length]
            if len(content) < length:
                break
            buffer = buffer[TTRPC.size + length :]
            if kind == 1:
                threading.Thread(target=self._answer, args=(channel, stream_id, content), daemon=True).start()
            else:
                answer = parse_response(content)
                future = self._waiting.pop(stream_id)
                if answer.code:
                    future.set_exception(Refused(answer.message))
                else:
                    future.set_result(answer.payload)
        self._buffers[channel] = buffer

    def _answer(self, channel: int, stream_id: int, content: bytes) -> None:
        request = parse_request(content)
        found = REGISTRY.method(request.service, request.method)
        assert found is not None
        code, answer = self._handler(
            request.method, REGISTRY.message_class(found.input_type).FromString(request.payload)
        )
        payload = b"" if code else answer.SerializeToString()
        with self._lock:
            self._send(channel, stream_id, 2, build_response(code, "refused" if code else "", payload))


def message(name: str, **fields: Any) -> Any:
    return REGISTRY.message_class(f"{API}.{name}")(**fields)


class Runtime:
    """Listens for plugins, as containerd does."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.registered: list[str] = []
        self.updated: list[str] = []

    def accept(self) -> End:
        connection, _ = self._listener.accept()
        return End(connection, RUNTIME, self._serve)

    def close(self) -> None:
        self._listener.close()

    def _serve(self, method: str, request: Any) -> tuple[int, Any]:
        if method == "RegisterPlugin":
            self.registered.append(f"{request.plugin_idx}-{request.plugin_name}")
            return 0, message("Empty")
        self.updated += [each.container_id for each in request.update]
        return 0, message("UpdateContainersResponse")


def plugin(path: str, name: str) -> None:
    """A plugin: adds a variable to each container, refuses those called `refused`, updates another one meanwhile, and
    ends when it is told to shut down. It never answers StateChange."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)

    def serve(method: str, request: Any) -> tuple[int, Any]:
        if method == "Configure":
            return 0, message("ConfigureResponse", events=12)
        if method == "CreateContainer":
            if request.container.name == "refused":
                return 2, None
            end.call("UpdateContainers", update=[{"container_id": "other"}])
            return 0, message("CreateContainerResponse", adjust={"env": [{"key": "ADDED_BY", "value": name}]})
        if method == "StateChange":
            threading.Event().wait()
        return 0, message("Empty" if method == "Shutdown" else f"{method}Response")

    end = End(connection, PLUGIN, serve)
    end.call("RegisterPlugin", plugin_name=name, plugin_idx="10")
    end.ended.wait()


if __name__ == "__main__":
    plugin(*sys.argv[1:])
