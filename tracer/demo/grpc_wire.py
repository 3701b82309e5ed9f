"""A small gRPC server and client over unix sockets, on the h2 package: a thread a connection and a thread a call.

In: methods to answer, calls to make. Out: HTTP/2 as gRPC has it (grpc/doc/PROTOCOL-HTTP2.md). It knows nothing of
messages but their length.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from urllib.parse import quote, unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from tracer.demo.rpc import CANCELLED, DEADLINE_EXCEEDED, OK, UNKNOWN, RpcError

Answer = Callable[[str, str, bytes], Iterator[bytes]]
"""Service, method and payload → answers; raises RpcError."""

_PREFIX = struct.Struct(">?I")
"""compressed, length: before each message."""
_CONTENT_TYPE = ("content-type", "application/grpc")
_UNESCAPED = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}"


class _Connection:
    """One HTTP/2 connection: h2's state, the socket, and a lock that keeps both in step."""

    def __init__(self, connection: socket.socket, client_side: bool) -> None:
        self._socket = connection
        self._lock = threading.Condition()
        self._h2 = H2Connection(H2Configuration(client_side=client_side, header_encoding="utf-8"))
        with self._lock:
            self._h2.initiate_connection()
            self._flush()

    def events(self) -> Iterator[Event]:
        """What the other side does, until it goes; what was received is given back to its flow-control window."""
        with suppress(OSError, ProtocolError):
            while data := self._socket.recv(65536):
                with self._lock:
                    events = self._h2.receive_data(data)
                    for event in events:
                        if isinstance(event, DataReceived) and event.flow_controlled_length:
                            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    self._flush()
                    self._lock.notify_all()  # a window may have opened, or a stream closed
                yield from events

    def open(self, headers: list[tuple[str, str]]) -> int:
        """Begin a stream; return its id."""
        with self._lock:
            stream_id = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream_id, headers)
            self._flush()
            return stream_id

    def headers(self, stream_id: int, headers: list[tuple[str, str]], *, end: bool = False) -> None:
        with self._lock:
            self._h2.send_headers(stream_id, headers, end_stream=end)
            self._flush()

    def message(self, stream_id: int, payload: bytes, *, end: bool = False) -> None:
        """Send one message, in frames as the windows allow."""
        data = _PREFIX.pack(False, len(payload)) + payload
        with self._lock:
            while data:
                room = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
                if not room:
                    self._lock.wait()
                    continue
                self._h2.send_data(stream_id, data[:room], end_stream=end and len(data) <= room)
                data = data[room:]
                self._flush()

    def reset(self, stream_id: int) -> None:
        """Cancel a stream; one that has ended is left as it is."""
        with self._lock, suppress(ProtocolError, OSError):
            self._h2.reset_stream(stream_id, ErrorCodes.CANCEL)
            self._flush()

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())


def serve(listener: socket.socket, answer: Answer) -> None:
    """Accept connections and answer their calls, for as long as the process lives."""
    while True:
        accepted, _ = listener.accept()
        threading.Thread(target=_serve_connection, args=(accepted, answer), daemon=True).start()


def _serve_connection(accepted: socket.socket, answer: Answer) -> None:
    connection = _Connection(accepted, client_side=False)
    requests: dict[int, tuple[str, bytearray]] = {}
    for event in connection.events():
        if isinstance(event, RequestReceived):
            requests[event.stream_id] = (_fields(event)[":path"], bytearray())
        elif isinstance(event, DataReceived):
            requests[event.stream_id][1].extend(event.data)
        elif isinstance(event, StreamEnded):
            path, data = requests.pop(event.stream_id)
            arguments = (connection, event.stream_id, path, bytes(data[_PREFIX.size :]), answer)
            threading.Thread(target=_serve_call, args=arguments, daemon=True).start()
        elif isinstance(event, StreamReset):
            requests.pop(event.stream_id, None)
    connection.close()


def _serve_call(connection: _Connection, stream_id: int, path: str, payload: bytes, answer: Answer) -> None:
    _, service, method = path.split("/")
    head, code, text = [(":status", "200"), _CONTENT_TYPE], OK, ""
    with suppress(ProtocolError, OSError):  # a stream or a client that has gone needs no answer
        try:
            for message in answer(service, method, payload):
                if head:
                    connection.headers(stream_id, head)
                    head = []
                connection.message(stream_id, message)
        except RpcError as error:
            code, text = error.code, error.message
        # Without a message this is a response of trailers only: one HEADERS frame that is both.
        trailers = [*head, ("grpc-status", str(code)), ("grpc-message", quote(text, safe=_UNESCAPED))]
        connection.headers(stream_id, trailers, end=True)


class GrpcClient:
    """One connection to a gRPC server."""

    def __init__(self, path: str, user_agent: str) -> None:
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(path)
        self._connection = _Connection(connected, client_side=True)
        self._user_agent = user_agent
        self._streams: dict[int, SimpleQueue[bytes | RpcError]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def unary(self, service: str, method: str, payload: bytes, timeout_s: float) -> bytes:
        """Return the answer. Raises RpcError; after `timeout_s` it cancels the call and raises DEADLINE_EXCEEDED."""
        stream_id, answers = self._send(service, method, payload, timeout_s)
        until, answer = time.monotonic() + timeout_s, b""
        while True:
            try:
                item = answers.get(timeout=max(0, until - time.monotonic()))
            except Empty:
                self._connection.reset(stream_id)
                raise RpcError(DEADLINE_EXCEEDED, "context deadline exceeded") from None
            if isinstance(item, RpcError):
                if item.code == OK:
                    return answer
                raise item
            answer = item

    def stream(self, service: str, method: str, payload: bytes) -> tuple[int, SimpleQueue[bytes | RpcError]]:
        """Open a server-streaming call; its messages come to the queue, its status last."""
        return self._send(service, method, payload, None)

    def cancel(self, stream_id: int) -> None:
        self._connection.reset(stream_id)

    def close(self) -> None:
        self._connection.close()
        self._reader.join()

    def _send(
        self, service: str, method: str, payload: bytes, timeout_s: float | None
    ) -> tuple[int, SimpleQueue[bytes | RpcError]]:
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/{service}/{method}"),
            (":authority", "localhost"),
            _CONTENT_TYPE,
            ("user-agent", self._user_agent),
            ("te", "trailers"),
        ]
        if timeout_s is not None:
            headers.append(("grpc-timeout", f"{int(timeout_s * 1e6)}u"))
        answers: SimpleQueue[bytes | RpcError] = SimpleQueue()
        stream_id = self._connection.open(headers)
        self._streams[stream_id] = answers
        self._connection.message(stream_id, payload, end=True)
        return stream_id, answers

    def _read(self) -> None:
        buffers: dict[int, bytearray] = {}
        for event in self._connection.events():
            if isinstance(event, ConnectionTerminated):
                break
            if isinstance(event, DataReceived):
                buffer = buffers.setdefault(event.stream_id, bytearray())
                buffer += event.data
                for message in _messages(buffer):
                    self._streams[event.stream_id].put(message)
            elif isinstance(event, TrailersReceived | ResponseReceived):
                fields = _fields(event)
                if "grpc-status" in fields:
                    text = unquote(fields.get("grpc-message", ""))
                    self._streams.pop(event.stream_id).put(RpcError(int(fields["grpc-status"]), text))
            elif isinstance(event, StreamReset) and event.stream_id in self._streams:
                self._streams.pop(event.stream_id).put(RpcError(CANCELLED, "the server has reset the stream"))
        for answers in self._streams.values():
            answers.put(RpcError(UNKNOWN, "the connection has gone"))


def _fields(event: RequestReceived | ResponseReceived | TrailersReceived) -> dict[str, str]:
    """The header fields; h2's types say bytes, `header_encoding` makes them strings."""
    return {str(name): str(value) for name, value in event.headers}


def _messages(buffer: bytearray) -> Iterator[bytes]:
    """Take the whole messages out of the buffer."""
    while len(buffer) >= _PREFIX.size:
        end = _PREFIX.size + _PREFIX.unpack_from(buffer)[1]
        if len(buffer) < end:
            return
        yield bytes(buffer[_PREFIX.size : end])
        del buffer[:end]
