"""The bytes of a capture are those that the processes read and wrote, as strace saw them."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from dissectors.events import Direction
from protos.registry import Registry
from tests.e2e import strace
from tests.e2e.containerd import SHIM_SOCKETS, Containerd, wait_until
from tests.e2e.cri import EVENTS, CriClient, pod_life, topics
from tests.e2e.tracing import Trace
from tracer.capture.flows import FlowData, FlowGap, FlowTable
from tracer.capture.packets import Notice, Packet
from tracer.capture.reader import open_capture

pytestmark = [
    pytest.mark.root,
    pytest.mark.containerd,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

Bytes = tuple[str, bytes, bytes]
"""Path of the socket, what its client sent, what its server sent."""


def in_capture(path: Path) -> Counter[Bytes]:
    """The connections of a capture on which there was a byte."""
    table = FlowTable()
    sent: dict[int, tuple[bytearray, bytearray]] = defaultdict(lambda: (bytearray(), bytearray()))
    sockets: dict[int, str] = {}
    with open_capture(str(path)) as capture:
        for packet in capture:
            if isinstance(packet, Notice) and packet.bundle is not None:
                continue
            assert isinstance(packet, Packet), packet
            for event in table.feed(packet):
                assert not isinstance(event, FlowGap), event
                if isinstance(event, FlowData):
                    sent[event.flow.id][event.direction].extend(event.data)
                    sockets[event.flow.id] = event.flow.socket
    both = Direction.REQUEST, Direction.RESPONSE
    return Counter((sockets[number], *(bytes(sent[number][each]) for each in both)) for number in sent)


def in_strace(path: Path, sockets: set[str]) -> Counter[Bytes]:
    """The connections to these sockets, by what the server's end read and wrote."""
    with path.open() as lines:
        ends = [end for end in strace.connections(lines) if end.path in sockets]
    return Counter((end.path, bytes(end.read), bytes(end.written)) for end in ends)


def test_capture_has_the_bytes_of_every_connection(
    make_containerd: Callable[..., Containerd], registry: Registry, tmp_path: Path
) -> None:
    output, capture = tmp_path / "strace.txt", tmp_path / "strace.pcapng"
    containerd = make_containerd(wrapper=strace.wrapper(str(output)))
    with Trace(containerd, capture) as trace:
        seen_from = output.stat().st_size
        with CriClient(containerd.address, registry) as client:
            events = client.stream(EVENTS, "Subscribe")
            pod = pod_life(client, f"strace-{containerd.token}", containerd.cgroup_parent)
            assert wait_until(lambda: list(topics(events)).count("/tasks/delete") == 2, 10)
            events.cancel()
        assert wait_until(lambda: not containerd.shims(), 10)
        trace.stop()
    containerd.clean()
    # What came before the trace (images, readiness) is not the trace's: the fixture's last call ended before it began.
    rest = tmp_path / "rest.txt"
    with output.open("rb") as file:
        file.seek(seen_from)
        rest.write_bytes(file.read())
    task = str(containerd.shim_socket(pod.sandbox_id))
    expected = in_strace(rest, {task, containerd.events_address, containerd.address})
    captured = in_capture(capture)
    assert {path for path, _, _ in captured} == {task, containerd.events_address, containerd.address}
    assert Path(task).parent == SHIM_SOCKETS
    assert {(path, len(up), len(down)) for path, up, down in captured} == {
        (path, len(up), len(down)) for path, up, down in expected
    }
    assert captured == expected
