"""Traffic without a pause between clients and servers of the tests, each in a process of its own.

`Traffic` is what a test uses: two sockets, a gRPC and a ttrpc server on them, clients on demand. Run as a module, this
is one such process: `python -m tests.e2e.traffic ROLE SOCKET ACCOUNT SEED`, which says "ready", goes on until its
standard input ends, and writes its account (messages.py) as JSON. No call waits for ever, and no process runs for ever.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from tests.e2e.messages import REQUEST, RESPONSE, STREAM, UNARY, Account, Source
from tests.e2e.ttrpc_peer import PATIENCE_S, TtrpcClient, TtrpcServer, Wire

ROOT = Path(__file__).resolve().parents[2]
MODULE = "tests.e2e.traffic"
SERVICE = "podwire.test.Traffic"
CONNECTIONS = 3
"""Of each protocol, at once."""
FRESH_A_SECOND = 200
"""New connections, of the client that makes one for each call."""
_FRESH_THREADS = 8
_FRESH_LARGEST = 4096
NICENESS = 10
"""On a machine of few cores, what makes all this traffic must not keep the recorder from running."""
_MOST_S = 100.0
_MOST_CALLS = 50_000
"""Of one connection."""


# --- what a test uses ---


@dataclass
class Traffic:
    """Servers on two sockets in `folder`, and clients when they are asked for; a context manager."""

    folder: Path
    grpc: Path = field(init=False)
    ttrpc: Path = field(init=False)
    servers: list[Peer] = field(init=False, default_factory=list)
    clients: list[Peer] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.grpc, self.ttrpc = self.folder / "grpc.sock", self.folder / "ttrpc.sock"

    def __enter__(self) -> Traffic:
        try:
            for role, path in (("grpc-server", self.grpc), ("ttrpc-server", self.ttrpc)):
                self.servers.append(self._peer(role, path, self.folder / f"{role}.account"))
            for server in self.servers:
                server.ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self, *roles: str) -> None:
        """Start these clients, by default six connections without a pause; return when each has had an answer."""
        for role in roles or ("grpc-client", "ttrpc-client"):
            path = self.grpc if role.startswith("grpc") else self.ttrpc
            account = self.folder / f"{role}-{len(self.clients)}.account"
            self.clients.append(self._peer(role, path, account))
        for client in self.clients:
            client.ready()

    def _peer(self, role: str, path: Path, account: Path) -> Peer:
        return Peer(account, role, str(path), str(account), str(len(self.clients)))

    def stop(self) -> Accounts:
        """End the clients, each after the call it is in, then the servers."""
        clients = [client.stop() for client in self.clients]
        return Accounts(clients, [server.stop() for server in self.servers])

    def kill(self) -> None:
        for peer in (*self.clients, *self.servers):
            peer.kill()


@dataclass(frozen=True)
class Accounts:
    """What clients and servers saw."""

    clients: list[dict[str, Any]]
    servers: list[dict[str, Any]]

    @property
    def errors(self) -> list[str]:
        return [error for each in (*self.clients, *self.servers) for error in each["errors"]]

    @property
    def calls(self) -> int:
        return sum(len(entries) for key, entries in self.of_clients().items() if key.endswith(RESPONSE))

    @property
    def size(self) -> int:
        """Bytes of all messages."""
        return sum(length for entries in self.of_clients().values() for _, length, _ in entries)

    def of_clients(self) -> dict[str, list[list[Any]]]:
        return _joined(self.clients, "messages")

    def of_servers(self) -> dict[str, list[list[Any]]]:
        return _joined(self.servers, "messages")

    def wires_of_clients(self) -> dict[str, Any]:
        return _joined(self.clients, "wires")

    def wires_of_servers(self) -> dict[str, Any]:
        return _joined(self.servers, "wires")

    def check(self) -> None:
        """No call failed, and both ends saw the same: each message once, in order, unaltered."""
        assert self.errors == []
        sent, received = self.of_clients(), self.of_servers()
        assert sent.keys() == received.keys()
        for key, entries in sent.items():
            assert entries == received[key], key
            assert [number for number, _, _ in entries] == list(range(len(entries))), key
        wires, theirs = self.wires_of_clients(), self.wires_of_servers()
        assert wires.keys() == theirs.keys()
        for name, wire in wires.items():
            assert (wire["sent"], wire["received"]) == (theirs[name]["received"], theirs[name]["sent"]), name


def _joined(accounts: list[dict[str, Any]], part: str) -> dict[str, Any]:
    return {key: value for account in accounts for key, value in account[part].items()}


class Peer:
    """One process of this module, or of another that speaks the same way; it writes its account there."""

    def __init__(self, account: Path, *arguments: str, module: str = MODULE) -> None:
        self.account = account
        command = [sys.executable, "-m", module, *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._is_ready = False

    def ready(self) -> None:
        if not self._is_ready:
            assert self.process.stdout is not None
            said = self.process.stdout.readline().strip()
            assert said == "ready", f"{self.process.args} said {said!r}"
            self._is_ready = True

    def stop(self) -> dict[str, Any]:
        """End its standard input; returns its account."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0, self.process.args
        account: dict[str, Any] = json.loads(self.account.read_text())
        return account

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


# --- what such a process is ---


class Client:
    """Threads that make calls until they are told to stop."""

    def __init__(self, seed: int) -> None:
        self.account = Account()
        self.stopped = threading.Event()
        self.seed = seed
        self._threads: list[threading.Thread] = []
        self._answered = threading.Semaphore(0)

    def run(self, what: str, act: Callable[[], None]) -> None:
        """Do this in a thread of its own; an error of it is the account's."""

        def guarded() -> None:
            try:
                act()
            except Exception as error:
                self.account.fail(what, error)
                self._answered.release()

        self._threads.append(threading.Thread(target=guarded, name=what, daemon=True))
        self._threads[-1].start()

    def answered(self, number: int) -> None:
        """The calling thread has had an answer to its call of this number."""
        if number == 0:
            self._answered.release()

    def until_stopped(self) -> None:
        """Say "ready" when each thread has had an answer; return when all have ended."""
        for _ in self._threads:
            self._answered.acquire()
        print("ready", flush=True)
        wait_for_end_of_input()
        self.stopped.set()
        until = time.monotonic() + PATIENCE_S + 5
        for thread in self._threads:
            thread.join(max(0.1, until - time.monotonic()))
            if thread.is_alive():
                self.account.fail(thread.name, "it hangs")

    def numbers(self) -> Iterator[int]:
        """Of the calls of one connection, until told to stop."""
        for number in range(_MOST_CALLS):
            if self.stopped.is_set():
                return
            yield number


def wait_for_end_of_input() -> None:
    """Or for so long that whoever started this must be gone."""
    waiting = threading.Thread(target=sys.stdin.read, daemon=True)
    waiting.start()
    waiting.join(_MOST_S)


def grpc_client(path: str, seed: int) -> Account:
    """Connections each with a stream that stays open and, beside it, unary calls one after another."""
    client = Client(seed)
    # A pool of its own: grpcio would otherwise share one connection among all channels to the same address.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    channels = [grpc.insecure_channel(f"unix:{path}", options=options) for _ in range(CONNECTIONS)]
    for number, channel in enumerate(channels):
        client.run(f"unary calls on gRPC connection {number}", lambda n=number, c=channel: _unary(client, c, n))
        client.run(f"stream on gRPC connection {number}", lambda n=number, c=channel: _stream(client, c, n))
    client.until_stopped()
    for channel in channels:
        channel.close()
    return client.account


def _unary(client: Client, channel: grpc.Channel, connection: int) -> None:
    source = Source(client.seed * 1000 + connection * 2)
    call = channel.unary_unary(f"/{SERVICE}/Unary")
    for number in client.numbers():
        message = source.message(connection, UNARY, number)
        client.account.add(message, REQUEST)
        place = client.account.add(call(message, timeout=PATIENCE_S), RESPONSE)
        assert place == (connection, UNARY, number), place
        client.answered(number)


def _stream(client: Client, channel: grpc.Channel, connection: int) -> None:
    source = Source(client.seed * 1000 + connection * 2 + 1)
    answered = threading.Semaphore(1)

    def requests() -> Iterator[bytes]:
        for number in client.numbers():
            answered.acquire()
            if client.stopped.is_set():
                return
            message = source.message(connection, STREAM, number)
            client.account.add(message, REQUEST)
            yield message

    for number, answer in enumerate(channel.stream_stream(f"/{SERVICE}/Stream")(requests())):
        place = client.account.add(answer, RESPONSE)
        assert place == (connection, STREAM, number), place
        client.answered(number)
        answered.release()


def grpc_server(path: str, seed: int) -> Account:
    """Answers each message with one of its own."""
    account, sources = Account(), threading.local()
    seeds = count(seed + 500)

    def answer(message: bytes, _context: Any = None) -> bytes:
        if not hasattr(sources, "source"):
            sources.source = Source(next(seeds))
        response: bytes = sources.source.message(*account.add(message, REQUEST))
        account.add(response, RESPONSE)
        return response

    def unary(message: bytes, context: Any) -> bytes:
        try:
            return answer(message)
        except Exception as error:
            account.fail("gRPC server", error)
            raise

    def stream(messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        try:
            for message in messages:
                yield answer(message)
        except Exception as error:
            account.fail("gRPC server", error)
            raise

    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server = grpc.server(ThreadPoolExecutor(4 * CONNECTIONS))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    print("ready", flush=True)
    wait_for_end_of_input()
    server.stop(1).wait()
    return account


def ttrpc_client(path: str, seed: int) -> Account:
    """Connections with unary calls one after another."""
    client = Client(seed)
    for number in range(CONNECTIONS):
        connection = 100 + number
        client.run(f"ttrpc connection {connection}", lambda c=connection: _ttrpc(client, path, c))
    client.until_stopped()
    return client.account


def _ttrpc(client: Client, path: str, connection: int) -> None:
    source = Source(client.seed * 1000 + connection)
    with TtrpcClient(path) as peer:
        for number in client.numbers():
            _ask(client, peer, source.message(connection, UNARY, number))
            client.answered(number)
        client.account.wires[str(connection)] = peer.wire.digests()


def _ask(client: Client, peer: TtrpcClient, message: bytes) -> None:
    asked = client.account.add(message, REQUEST)
    place = client.account.add(peer.call(SERVICE, "Unary", message), RESPONSE)
    assert place == asked, place


def ttrpc_fresh(path: str, seed: int) -> Account:
    """A new connection for each call, two hundred a second, made by several threads so that none is waited for."""
    client = Client(seed)
    for thread in range(_FRESH_THREADS):
        client.run(f"fresh connections {thread}", lambda t=thread: _fresh(client, path, t))
    client.until_stopped()
    return client.account


def _fresh(client: Client, path: str, thread: int) -> None:
    source = Source(client.seed * 1000 + thread, _FRESH_LARGEST)
    pause = _FRESH_THREADS / FRESH_A_SECOND
    due = time.monotonic() + pause * thread / _FRESH_THREADS
    for number in client.numbers():
        connection = 1000 + number * _FRESH_THREADS + thread
        time.sleep(max(0.0, due - time.monotonic()))
        due += pause
        try:
            with TtrpcClient(path) as peer:
                _ask(client, peer, source.message(connection, UNARY, 0))
                client.account.wires[str(connection)] = peer.wire.digests()
        except Exception as error:
            client.account.fail(f"fresh connection {connection}", error)
        client.answered(number)


def ttrpc_server(path: str, seed: int) -> Account:
    """Answers each message with one of its own."""
    account, here = Account(), threading.local()
    seeds = count(seed + 700)

    def serve(message: bytes) -> bytes:
        if not hasattr(here, "source"):
            here.source = Source(next(seeds))
        connection, kind, number = account.add(message, REQUEST)
        here.connection = connection
        response: bytes = here.source.message(connection, kind, number)
        account.add(response, RESPONSE)
        return response

    def ended(wire: Wire, error: Exception | None) -> None:
        if error is not None:
            account.fail("ttrpc server", error)
        if hasattr(here, "connection"):  # else somebody only looked whether anybody answers
            account.wires[str(here.connection)] = wire.digests()

    server = TtrpcServer(path, serve, ended)
    print("ready", flush=True)
    wait_for_end_of_input()
    if left := server.wait(5):
        account.fail("ttrpc server", f"{left} connections did not end")
    return account


ROLES: dict[str, Callable[[str, int], Account]] = {
    "grpc-client": grpc_client,
    "grpc-server": grpc_server,
    "ttrpc-client": ttrpc_client,
    "ttrpc-fresh": ttrpc_fresh,
    "ttrpc-server": ttrpc_server,
}


def main(role: str, path: str, account: str, seed: str) -> None:
    os.nice(NICENESS)
    found = ROLES[role](path, int(seed))
    Path(account).write_text(json.dumps(found.as_json()))


if __name__ == "__main__":
    main(*sys.argv[1:])
