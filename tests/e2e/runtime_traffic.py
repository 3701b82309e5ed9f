"""Calls to a real containerd and to a shim, one after another, each answer held against what it has to be.

Run as a module, in a process of its own, like the peers of traffic.py: Content Write and Read of 300 KB and ExecSync
over CRI's socket, State over the shim's own. It goes on until its standard input ends, and writes how many it made.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import grpc

from protos.registry import Registry
from tests.e2e.containerd import NAMESPACE
from tests.e2e.cri import CriClient, Pod
from tests.e2e.traffic import NICENESS, Client
from tests.e2e.ttrpc_peer import TtrpcClient

MODULE = "tests.e2e.runtime_traffic"
CONTENT = "containerd.services.content.v1"
TASK = "containerd.task.v2"
SIZE = 300_000
_PIECE = 100_000
_STATE_PAUSE_S = 0.005
"""It is answered within a millisecond: without a pause it would be nearly all that passes."""
_RUNNING = 2  # containerd.v1.types.Status, of a task
_METADATA = (("containerd-namespace", NAMESPACE),)
_TTRPC_METADATA = (("containerd-namespace-ttrpc", NAMESPACE),)


class Content:
    """containerd's content store over one gRPC connection."""

    def __init__(self, address: str, registry: Registry) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        self._channel = grpc.insecure_channel(f"unix:{address}", options=options)
        self._registry = registry

    def _class(self, name: str) -> type[Any]:
        return self._registry.message_class(f"{CONTENT}.{name}")

    def write(self, data: bytes) -> str:
        """Store it, in pieces; returns the digest that containerd found."""
        request, answer = self._class("WriteContentRequest"), self._class("WriteContentResponse")
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        pieces = [
            request(action=1, ref=digest, total=len(data), offset=at, data=data[at : at + _PIECE])
            for at in range(0, len(data), _PIECE)
        ]
        # Without the label containerd would collect what nothing refers to.
        commit = request(action=2, ref=digest, total=len(data), offset=len(data), expected=digest)
        commit.labels["containerd.io/gc.root"] = "podwire's tests"
        rpc = self._channel.stream_stream(f"/{CONTENT}.Content/Write", request.SerializeToString, answer.FromString)
        answers = list(rpc(iter([*pieces, commit]), timeout=20, metadata=_METADATA))
        found: str = answers[-1].digest
        return found

    def read(self, digest: str) -> bytes:
        request, answer = self._class("ReadContentRequest"), self._class("ReadContentResponse")
        rpc = self._channel.unary_stream(f"/{CONTENT}.Content/Read", request.SerializeToString, answer.FromString)
        return b"".join(part.data for part in rpc(request(digest=digest), timeout=20, metadata=_METADATA))

    def delete(self, digest: str) -> None:
        request = self._class("DeleteContentRequest")
        rpc = self._channel.unary_unary(f"/{CONTENT}.Content/Delete", request.SerializeToString)
        rpc(request(digest=digest), timeout=20, metadata=_METADATA)

    def close(self) -> None:
        self._channel.close()


def content(client: Client, address: str) -> None:
    """Write 300 KB, read them again: containerd's digest and ours of both are the same."""
    store, source = Content(address, Registry.bundled()), random.Random(7)
    for number in client.numbers():
        data = source.randbytes(SIZE)
        digest = store.write(data)
        read = store.read(digest)
        assert read == data, f"{len(read)} bytes of sha256:{hashlib.sha256(read).hexdigest()} instead of {digest}"
        store.delete(digest)
        client.account.messages["content"] = number + 1
        client.answered(number)
    store.close()


def execute(client: Client, address: str, container_id: str) -> None:
    """ExecSync: its output is what was asked for."""
    with CriClient(address, Registry.bundled()) as cri:
        pod = Pod(cri, "", "", container_id=container_id)
        for number in client.numbers():
            answer = pod.exec("echo", str(number))
            assert answer == (0, b"%d\n" % number, b""), answer
            client.account.messages["exec"] = number + 1
            client.answered(number)


def state(client: Client, shim_socket: str, container_id: str) -> None:
    """State: the container runs, as the process that it always was."""
    registry = Registry.bundled()
    request = registry.message_class(f"{TASK}.StateRequest")(id=container_id).SerializeToString()
    answer_class = registry.message_class(f"{TASK}.StateResponse")
    pids = set()
    with TtrpcClient(shim_socket) as shim:
        for number in client.numbers():
            answer: Any = answer_class.FromString(shim.call(f"{TASK}.Task", "State", request, _TTRPC_METADATA))
            pids.add(answer.pid)
            assert (answer.id, answer.status, len(pids)) == (container_id, _RUNNING, 1), answer
            client.account.messages["state"] = number + 1
            time.sleep(_STATE_PAUSE_S)
            client.answered(number)


def main(address: str, shim_socket: str, container_id: str, account: str) -> None:
    os.nice(NICENESS)
    client = Client(0)
    client.run("content", lambda: content(client, address))
    client.run("exec", lambda: execute(client, address, container_id))
    client.run("state", lambda: state(client, shim_socket, container_id))
    client.until_stopped()
    Path(account).write_text(json.dumps(client.account.as_json()))


if __name__ == "__main__":
    main(*sys.argv[1:])
