"""Captures written by the recorder's own writer, for tests that need one with a given content."""

from __future__ import annotations

from pathlib import Path

from dissectors.ttrpc_frames import build_frame
from dissectors.ttrpc_messages import build_request, build_response
from protos.registry import Registry
from tests.tracer.made import START, TASK
from tracer.capture.conversation import CaptureWriter

REQUEST_TYPE, RESPONSE_TYPE = 1, 2


class Written:
    """A capture in memory; every connection is one of containerd to a shim unless said otherwise."""

    def __init__(self) -> None:
        self.parts = bytearray()
        self.writer = CaptureWriter(self.parts.extend)
        self.writer.start(START, "")
        self.offsets: dict[tuple[int, int], int] = {}
        self.registry = Registry.bundled()

    def open(self, connection: int, hop: str = "task", socket: str = "/run/containerd/s/abc", at: int = 0) -> None:
        """A connection, with the two processes named."""
        interface = self.writer.interface(socket, f"{hop} {socket}")
        client = self.writer.endpoint(("client", connection), "containerd")
        server = self.writer.endpoint(("server", connection), "shim-9f57c2b6")
        comment = {"client": {"name": "containerd", "pid": 401, "unit": "containerd.service"}, "server": {"pid": 900}}
        self.writer.open(connection, interface, hop, client, server, START + at, comment)

    def send(self, connection: int, direction: int, data: bytes, at: int) -> None:
        """Bytes of one direction, `at` nanoseconds after START."""
        offset = self.offsets.get((connection, direction), 0)
        self.writer.data(connection, direction, offset, START + at, data)
        self.offsets[connection, direction] = offset + len(data)

    def lose(self, connection: int, direction: int, count: int) -> None:
        """Bytes that are not in the capture."""
        self.offsets[connection, direction] = self.offsets.get((connection, direction), 0) + count

    def ask(
        self,
        connection: int,
        stream_id: int,
        method: str,
        at: int,
        timeout_ns: int = 0,
        service: str = TASK,
        **fields: object,
    ) -> None:
        """A request by ttrpc, of Task v3 unless said otherwise."""
        found = self.registry.method(service, method)
        assert found is not None
        payload = self.registry.message_class(found.input_type)(**fields).SerializeToString()
        request = build_request(service, method, payload, timeout_ns)
        self.send(connection, 0, build_frame(stream_id, REQUEST_TYPE, 0, request), at)

    def answer(self, connection: int, stream_id: int, at: int, code: int = 0, text: str = "") -> None:
        """Its response, empty."""
        self.send(connection, 1, build_frame(stream_id, RESPONSE_TYPE, 0, build_response(code, text, b"")), at)

    def close(self, connection: int, direction: int, at: int) -> None:
        """The end of one direction."""
        self.writer.close(connection, direction, self.offsets.get((connection, direction), 0), START + at, False)

    def save(self, path: Path, at: int) -> Path:
        """Finish the capture and write it down."""
        self.writer.finish(START + at)
        path.write_bytes(self.parts)
        return path
