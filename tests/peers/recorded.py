"""A recorder between two peers: passes their bytes on and keeps each read with its time, for a capture.

In: the paths of the socket that the client connects to and of the server's. Out: a capture file of podwire's writer.
"""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from tests.tracer.written import Written


class Recorder:
    """Listens at `front` and forwards each connection to `back`; a context manager, at whose end all is passed on."""

    def __init__(self, front: Path, back: Path) -> None:
        self._back = back
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(front))
        self._listener.listen()
        self._lock = threading.Lock()
        self._reads: list[tuple[int, int, bytes, int]] = []
        self._connections = 0
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Recorder:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:  # `_accept` adds to it until it has ended, and is the first
            thread.join()
        self._listener.close()

    def save(self, path: Path, hop: str) -> Path:
        """Write down what passed, as one socket of a hop."""
        written = Written()
        for connection in range(1, self._connections + 1):
            written.open(connection, hop, "/run/peers.sock")
        start = self._reads[0][3]
        for connection, direction, data, time_ns in self._reads:
            if data:
                written.send(connection, direction, data, time_ns - start)
            else:
                written.close(connection, direction, time_ns - start)
        return written.save(path, self._reads[-1][3] - start)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._back))
            self._connections += 1
            ends = _Ends(client, server)
            for direction in (0, 1):
                thread = threading.Thread(target=self._pass_on, args=(self._connections, direction, ends))
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, connection: int, direction: int, ends: _Ends) -> None:
        source, target = (ends.client, ends.server) if direction == 0 else (ends.server, ends.client)
        data = b"all"
        while data:
            try:
                data = source.recv(65_495)  # no more fits a packet
            except ConnectionResetError:
                data = b""
            with self._lock:
                self._reads.append((connection, direction, data, time.monotonic_ns()))
            try:
                target.sendall(data) if data else target.shutdown(socket.SHUT_WR)
            except OSError:
                data = b""  # the other side is gone; what it had sent is kept
        ends.done()


class _Ends:
    """Both sockets of a connection, closed when both directions have ended."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self._left = threading.Semaphore(1)

    def done(self) -> None:
        if not self._left.acquire(blocking=False):
            self.client.close()
            self.server.close()
