"""Load for a relay: a server and clients that do as little as they can, a process with blocking sockets for each
connection and each side, so that what differs between two runs is what lies between them.

A connection says hello (one byte each way, so that everything on its way is there), waits for its start, and then
makes its round trips one after the other.

Clients, servers and what lies between are sessions of their own, as they are services of their own on a node: the
kernel shares a core out among sessions (autogroup), and one that shared its peer's would be scheduled otherwise.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import socket
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from tests.bench import processes

BLOCK = random.Random(1).randbytes(256 << 10)
HELLO = b"\n"
_PATIENCE_S = 5.0
_QUEUE = 128


@dataclass(frozen=True, slots=True)
class Talk:
    """What one connection does: so many round trips of so many bytes there and back."""

    trips: int
    request: int
    reply: int

    @property
    def size(self) -> int:
        """Bytes of both directions."""
        return 2 * len(HELLO) + self.trips * (self.request + self.reply)

    def stream(self, direction: int) -> bytes:
        """All the bytes of one direction."""
        return HELLO + b"".join(_pieces((self.request, self.reply)[direction])) * self.trips


@dataclass(frozen=True, slots=True)
class Result:
    """Of all connections that ran at once: each round trip, and from the first one's start to the last one's end."""

    trips_ns: list[int]
    seconds: float


class Server:
    """Answers so many bytes to so many, until its connection ends; ended by pid with the context."""

    def __init__(self, path: Path, talk: Talk) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(_QUEUE)
        self._process = multiprocessing.Process(target=_serve, args=(listener, talk))
        self._process.start()
        listener.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        if self._process.pid:
            processes.end(self._process.pid)


class Clients:
    """Connections that have said hello, and go on when `run` says so; closed with the context."""

    def __init__(self, path: Path, talk: Talk, connections: int) -> None:
        wait, self._start = os.pipe()
        self._links: list[Connection] = []
        self._processes: list[multiprocessing.Process] = []
        for _ in range(connections):
            ours, theirs = multiprocessing.Pipe()
            inherited = [self._start, *(link.fileno() for link in self._links), ours.fileno()]
            process = multiprocessing.Process(target=_ask, args=(path, talk, wait, theirs, inherited))
            process.start()
            self._processes.append(process)
            theirs.close()
            self._links.append(ours)
        os.close(wait)
        for link in self._links:
            link.recv()

    def run(self) -> Result:
        """All round trips of all connections; once."""
        os.close(self._start)
        self._start = -1
        done: list[tuple[int, int, list[int]]] = [link.recv() for link in self._links]
        seconds = (max(end for _, end, _ in done) - min(begin for begin, _, _ in done)) / 1e9
        return Result([trip for _, _, trips in done for trip in trips], seconds)

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        for process, link in zip(self._processes, self._links, strict=True):
            process.kill()
            process.join()
            link.close()
        if self._start >= 0:
            os.close(self._start)


def _serve(listener: socket.socket, talk: Talk) -> None:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    reply = _pieces(talk.reply)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            try:
                _answer(connection, talk.request, reply)
            finally:
                os._exit(0)
        connection.close()


def _answer(connection: socket.socket, request: int, reply: list[bytes]) -> None:
    gc.disable()
    connection.sendall(connection.recv(len(HELLO)))
    buffer = bytearray(min(request, len(BLOCK)))
    while _receive(connection, request, buffer):
        for piece in reply:
            connection.sendall(piece)


def _ask(path: Path, talk: Talk, start: int, link: Connection, inherited: list[int]) -> None:
    for fd in inherited:
        os.close(fd)
    gc.disable()
    now, request, size = time.perf_counter_ns, _pieces(talk.request), talk.reply
    buffer = bytearray(min(size, len(BLOCK)))
    trips = [0] * talk.trips
    with _connect(path) as connection:
        connection.sendall(HELLO)
        connection.recv(len(HELLO))
        link.send(None)
        os.read(start, 1)  # until it is closed
        begin = then = now()
        for number in range(talk.trips):
            for piece in request:
                connection.sendall(piece)
            if not _receive(connection, size, buffer):
                raise EOFError("the server is gone")
            after = now()
            trips[number] = after - then
            then = after
        link.send((begin, then, trips))
        signal.pause()


def _connect(path: Path) -> socket.socket:
    """Whoever listens there may have been started just now."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            if time.monotonic() > until:
                raise
            time.sleep(0.002)
        else:
            return connection


def _receive(connection: socket.socket, size: int, buffer: bytearray) -> bool:
    """Take so many bytes off the connection; False if it has ended."""
    while size > 0:
        length = connection.recv_into(buffer, min(size, len(buffer)))
        if not length:
            return False
        size -= length
    return True


def _pieces(size: int) -> list[bytes]:
    whole, rest = divmod(size, len(BLOCK))
    return [BLOCK] * whole + [BLOCK[:rest]] * (rest > 0)
