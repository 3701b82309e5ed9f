"""A ttrpc client and server of the tests' own: blocking, one call at a time on a connection, and exact about bytes.

In: a socket's path. Out: answers, and what went over each connection each way, as a count and a running SHA-256. They
know nothing of relays and captures; their frames are built by the dissectors' own layouts.
"""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterable
from types import TracebackType

from dissectors.ttrpc import (
    HEADER,
    TYPE_REQUEST,
    TYPE_RESPONSE,
    build_frame,
    build_request,
    build_response,
    parse_request,
    parse_response,
)

PATIENCE_S = 20.0
"""A call that takes longer hangs, and is an error."""


class TtrpcError(Exception):
    """An answer with another status than OK, or none."""


class Wire:
    """One end of a connection: reads and writes frames, and keeps account of every byte."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.sent, self.received = hashlib.sha256(), hashlib.sha256()
        self.sent_bytes = self.received_bytes = 0

    def write(self, data: bytes) -> None:
        self.sent.update(data)
        self.sent_bytes += len(data)
        self.socket.sendall(data)

    def read_frame(self) -> tuple[int, int, bytes] | None:
        """(stream id, type, payload); None at the connection's end. Raises TtrpcError if that is within a frame."""
        head = self._read(HEADER.size)
        if not head:
            return None
        length, stream_id, kind, _ = HEADER.unpack(head)
        payload = self._read(length)
        if len(payload) < length:
            raise TtrpcError("the connection ended within a frame")
        return stream_id, kind, payload

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size and (part := self.socket.recv(size - len(data))):
            data += part
        if 0 < len(data) < size:
            raise TtrpcError(f"the connection ended {size - len(data)} bytes early")
        self.received.update(data)
        self.received_bytes += len(data)
        return bytes(data)

    def digests(self) -> dict[str, list[int | str]]:
        """What this end sent and received."""
        return {
            "sent": [self.sent_bytes, self.sent.hexdigest()],
            "received": [self.received_bytes, self.received.hexdigest()],
        }


class TtrpcClient:
    """One connection. Close it, or use it as a context manager."""

    def __init__(self, path: str) -> None:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE_S)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            raise
        self.wire = Wire(connection)
        self._stream_id = 1

    def __enter__(self) -> TtrpcClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, service: str, method: str, payload: bytes, metadata: Iterable[tuple[str, str]] = ()) -> bytes:
        """Make a unary call; return its answer's payload. Raises TtrpcError or OSError."""
        request = build_request(service, method, payload, 0, metadata)
        self.wire.write(build_frame(self._stream_id, TYPE_REQUEST, 0, request))
        frame = self.wire.read_frame()
        if frame is None:
            raise TtrpcError("the connection ended before the answer")
        stream_id, kind, data = frame
        if (stream_id, kind) != (self._stream_id, TYPE_RESPONSE):
            raise TtrpcError(f"stream {stream_id}, type {kind} in answer to stream {self._stream_id}")
        self._stream_id += 2
        answer = parse_response(data)
        if answer.code:
            raise TtrpcError(f"status {answer.code}: {answer.message}")
        return answer.payload

    def close(self) -> None:
        self.wire.socket.close()


Serve = Callable[[bytes], bytes]
"""Answers one request's payload."""


class TtrpcServer:
    """Listens at a path and serves each connection in a thread; `ended` is told of each connection that has ended, and
    with which error, if any."""

    def __init__(self, path: str, serve: Serve, ended: Callable[[Wire, Exception | None], None]) -> None:
        self._serve, self._ended = serve, ended
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(512)
        self._threads: list[threading.Thread] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def wait(self, seconds: float) -> int:
        """Until every connection has ended; returns how many have not."""
        for thread in self._threads:
            thread.join(seconds)
        return sum(thread.is_alive() for thread in self._threads)

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            thread = threading.Thread(target=self._connection, args=(Wire(connection),), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _connection(self, wire: Wire) -> None:
        error = None
        try:
            while (frame := wire.read_frame()) is not None:
                stream_id, kind, data = frame
                if kind != TYPE_REQUEST:
                    raise TtrpcError(f"type {kind} from a client")
                answer = build_response(0, "", self._serve(parse_request(data).payload))
                wire.write(build_frame(stream_id, TYPE_RESPONSE, 0, answer))
        except Exception as raised:
            error = raised
        finally:
            wire.socket.close()
            self._ended(wire, error)
