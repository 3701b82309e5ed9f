"""The private containerd and its oracles can be trusted: a pod's life works untraced and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from protos.registry import Registry
from tests.e2e import strace
from tests.e2e.containerd import Containerd, wait_until
from tests.e2e.cri import EVENTS, CriClient, Pod, pod_life, topics

ECHO = """
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
accepted, _ = server.accept()
os.writev(client.fileno(), [b"ab", b'"c\\n'])
assert accepted.recvmsg(100)[0] == b'ab"c\\n'
accepted.sendmsg([bytes(3000)])
while len(os.read(client.fileno(), 1000)) == 1000 and os.write(accepted.fileno(), b"x"): pass
"""


@pytest.mark.root
@pytest.mark.containerd
@pytest.mark.parametrize("api", ["runtime.v1", "runtime.v1alpha2"])
def test_pod_life_matches_containerds_own_count(containerd: Containerd, registry: Registry, api: str) -> None:
    before = Counter(containerd.settled_metrics())
    with CriClient(containerd.address, registry) as client:
        events = client.stream(EVENTS, "Subscribe")
        pod = pod_life(client, f"life-{containerd.token}", containerd.cgroup_parent, api)
        assert wait_until(lambda: list(topics(events)).count("/tasks/delete") == 2, 5)
        events.cancel()
        # A call whose client has gone still counts as OK, once its handler has ended.
        expected = Counter(
            (f"{each.service}/{each.method}", each.code.replace("Canceled", "OK")) for each in client.calls
        )
    assert wait_until(lambda: Counter(containerd.metrics()) - before == expected, 5)
    assert wait_until(lambda: not containerd.shims(), 5)
    assert not containerd.shim_socket(pod.sandbox_id).exists()


@pytest.mark.root
@pytest.mark.containerd
def test_clean_leaves_nothing_of_a_running_pod(make_containerd: Callable[[], Containerd], registry: Registry) -> None:
    server = make_containerd()
    with CriClient(server.address, registry) as client:
        pod = Pod(client, f"running-{server.token}", server.cgroup_parent)
        pod.run()
        pod.start_container()
    assert list(server.shims()) == [pod.sandbox_id]
    assert server.shim_socket(pod.sandbox_id).is_socket()
    server.kill()
    server.start()
    with CriClient(server.address, registry) as client:
        answer = client.call("runtime.v1.RuntimeService", "ContainerStatus", container_id=pod.container_id)
        assert answer.status.state == 1  # CONTAINER_RUNNING: a kill of containerd leaves its pods running
    assert server.left_behind()
    server.clean()
    assert wait_until(lambda: not server.left_behind(), 3), server.left_behind()


def test_strace_reader_finds_both_ends_of_a_connection(tmp_path: Path) -> None:
    output, path = tmp_path / "strace.txt", str(tmp_path / "s")
    subprocess.run([*strace.wrapper(str(output)), sys.executable, "-c", ECHO, path], check=True)
    with output.open() as lines:
        client, server = strace.connections(lines)
    assert (server.path, client.path, client.inode) == (path, "", server.peer)
    assert client.written == server.read == b'ab"c\n'
    assert server.written == bytes(3000) + b"xxx"
    assert server.written.startswith(client.read)


def test_strace_reader_joins_interrupted_calls() -> None:
    lines = [
        r'7  read(5<UNIX-STREAM:[2->1,"\x2f\x73"]>,  <unfinished ...>',
        r'8  write(4<UNIX-STREAM:[1->2]>, "\x68\x69", 2 <unfinished ...>',
        r'7  <... read resumed>"\x68\x69", 100) = 2',
        r"8  <... write resumed>)              = 2",
        r"8  read(4<UNIX-STREAM:[1->2]>, 0x7ffe, 100) = -1 EAGAIN (Resource temporarily unavailable)",
    ]
    server, client = strace.connections(lines)
    assert (server.path, server.read, server.pids) == ("/s", b"hi", {7})
    assert (client.written, client.read, client.pids) == (b"hi", b"", {8})
