"""A small ttrpc server and client over unix sockets: a thread a connection and a thread a call.

In: methods to answer, calls to make. Out: ttrpc frames. It knows nothing of messages.
"""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress

from dissectors.events import Direction
from dissectors.ttrpc import (
    TYPE_REQUEST,
    TYPE_RESPONSE,
    Frame,
    FrameReader,
    Response,
    build_frame,
    build_request,
    build_response,
    parse_request,
    parse_response,
)
from tracer.demo.rpc import OK, UNKNOWN, RpcError

Answer = Callable[[str, str, bytes], Iterator[bytes]]
"""Service, method and payload → one answer; raises RpcError."""

NAMESPACE = ("containerd-namespace-ttrpc", "k8s.io")


def serve(listener: socket.socket, answer: Answer) -> None:
    """Accept connections and answer their calls, for as long as the process lives."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve_connection, args=(connection, answer), daemon=True).start()


def serve_connection(connection: socket.socket, answer: Answer) -> None:
    """Answer the calls of one connection until it ends."""
    reader, sending = FrameReader(Direction.REQUEST), threading.Lock()

    def serve_call(frame: Frame) -> None:
        request = parse_request(frame.payload)
        try:
            (payload,) = answer(request.service, request.method, request.payload)
            response = build_response(OK, "", payload)
        except RpcError as error:
            response = build_response(error.code, error.message, b"")
        with sending, suppress(OSError):  # a client that has gone needs no answer
            connection.sendall(build_frame(frame.stream_id, TYPE_RESPONSE, 0, response))

    with connection, suppress(OSError):
        while data := connection.recv(65536):
            for frame in reader.feed(data):
                if isinstance(frame, Frame) and frame.type == TYPE_REQUEST:
                    threading.Thread(target=serve_call, args=(frame,), daemon=True).start()


def dial(path: str) -> socket.socket:
    """Return a connection to a unix socket."""
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(path)
    return connected


class TtrpcClient:
    """One connection to a ttrpc server; several threads may call at once."""

    def __init__(self, connected: socket.socket, metadata: tuple[tuple[str, str], ...] = (NAMESPACE,)) -> None:
        self._socket, self._metadata = connected, metadata
        self._ids = itertools.count(1, 2)
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Response]] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def call(self, service: str, method: str, payload: bytes, timeout_s: float = 0) -> bytes:
        """Return the answer's payload; 0 is no deadline, as in Wait. Raises RpcError, TimeoutError."""
        future: Future[Response] = Future()
        timeout_nano = int(timeout_s * 1e9)
        request = build_request(service, method, payload, timeout_nano=timeout_nano, metadata=self._metadata)
        with self._lock:
            stream_id = next(self._ids)
            self._waiting[stream_id] = future
            self._socket.sendall(build_frame(stream_id, TYPE_REQUEST, 0, request))
        response = future.result(timeout_s or None)
        if response.code != OK:
            raise RpcError(response.code, response.message)
        return response.payload

    def close(self) -> None:
        """Close the connection; calls that wait end with RpcError."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        reader = FrameReader(Direction.RESPONSE)
        with self._socket, suppress(OSError):
            while data := self._socket.recv(65536):
                for frame in reader.feed(data):
                    if isinstance(frame, Frame) and frame.stream_id in self._waiting:
                        self._waiting.pop(frame.stream_id).set_result(parse_response(frame.payload))
        for future in self._waiting.values():
            future.set_exception(RpcError(UNKNOWN, "ttrpc: closed"))
