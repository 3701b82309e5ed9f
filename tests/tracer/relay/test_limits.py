"""R1: nothing blocks the relay and nothing makes it spin; at its limits, connections go direct or bytes unrecorded."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.killing import cpu_seconds
from tests.tracer.relay.harness import (
    answers,
    ask,
    connect,
    eventually,
    inode,
    main_target,
    running_relay,
)
from tests.tracer.relay.peers import Peer, Serve, bytes_of, finish, recorded, stuff
from tracer.capture.flows import FlowClosed, FlowGap

SPARE = 8
"""Descriptors of empty pipes that a worker may keep."""


# --- R1 ---


def test_r1_a_peer_that_never_reads_holds_up_nobody_else(folder: Path) -> None:
    path = folder / "s.sock"
    with Peer(path) as server, running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path) as stuffed, server.accept() as deaf, connect(path) as client, server.accept() as upstream:
            stuff(stuffed)
            for turn in range(100):
                client.sendall(b"%d" % turn)
                assert upstream.recv(10) == b"%d" % turn
            # It waits as it would without us: nothing is read ahead without bound, and nobody spins.
            before = relay.cpu_seconds()
            time.sleep(0.5)
            assert relay.cpu_seconds() - before < 0.1
            assert deaf.recv(10) == bytes(10)


def test_r1_a_hung_up_peer_of_a_blocked_direction_does_not_spin(folder: Path) -> None:
    path = folder / "s.sock"
    with Peer(path) as server, running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path) as client, server.accept() as deaf:
            sent = stuff(client)
            client.close()
            before = relay.cpu_seconds()
            time.sleep(0.5)
            assert relay.cpu_seconds() - before < 0.1
            got = 0
            while data := deaf.recv(1 << 18):
                got += len(data)
            assert got == sent


def test_r1_a_full_backlog_is_tried_again(folder: Path) -> None:
    path = folder / "s.sock"
    with Peer(path, backlog=1) as server, running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        clients = [connect(path) for _ in range(12)]
        for number, client in enumerate(clients):
            client.sendall(b"%02d" % number)
        relay.listen(0.2)
        seen = set()
        for _ in clients:
            with server.accept() as upstream:
                seen.add(upstream.recv(2))
        assert seen == {b"%02d" % number for number in range(12)}
        for client in clients:
            assert client.recv(1) == b""
            client.close()


def test_r1_out_of_descriptors_new_connections_go_direct_and_nobody_hangs(folder: Path, serve: Serve) -> None:
    path = folder / "s.sock"
    serve(path, backlog=512).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        # As if that had been the hard limit from the start: a quarter of it is kept aside.
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (75, 100))
        clients = []
        for _ in range(120):
            client = connect(path)
            assert ask(client, b"hello") == b"hello"
            clients.append(client)
        relay.until("direct")
        before = relay.cpu_seconds()
        time.sleep(0.5)
        assert relay.cpu_seconds() - before < 0.2
        for client in clients:
            assert ask(client, b"still") == b"still"
            client.close()
        said = relay.until("indirect", 5.0)
        assert int(said["text"].split(": ")[1].split()[0]) >= 0
        assert answers(path)
        relay.leave()
        relay.wait_end()
    assert b"hello" in bytes_of(recorded(relay.capture))[1, 0]


def test_r1_ten_thousand_connections_one_after_another_leave_nothing_behind(folder: Path) -> None:
    path = folder / "s.sock"
    with Peer(path) as server, running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")

        def connections(numbers: range) -> None:
            for number in numbers:
                with connect(path) as client, server.accept() as upstream:
                    client.sendall(b"%05d" % number)
                    assert upstream.recv(10) == b"%05d" % number
                    upstream.sendall(b"answer")
                    assert client.recv(10) == b"answer"

        connections(range(100))
        time.sleep(0.2)
        files, memory = open_files(relay.pid), resident_kib(relay.pid)
        connections(range(100, 10_000))
        assert eventually(lambda: open_files(relay.pid) <= files + SPARE)
        # Only the ring is touched further along: about 230 bytes a connection.
        assert resident_kib(relay.pid) - memory < 6000
        events = finish(relay)
    assert sum(isinstance(event, FlowClosed) for event in events) == 2 * 10_000
    assert not [event for event in events if isinstance(event, FlowGap)]
    sent = bytes_of(events)
    assert [sent[flow, 0] for flow in range(1, 10_001)] == [b"%05d" % number for number in range(10_000)]
    assert {sent[flow, 1] for flow in range(1, 10_001)} == {b"answer"}


def test_r1_two_thousand_connections_at_once_are_relayed_and_cost_nothing_while_idle(
    folder: Path, many_files: None
) -> None:
    path = folder / "s.sock"
    count = 2000
    with Peer(path) as server, running_relay(folder, [main_target(path)]) as relay, ExitStack() as stack:
        relay.until("taken")
        pairs = [(stack.enter_context(connect(path)), stack.enter_context(server.accept())) for _ in range(count)]
        for client, _ in pairs:
            client.sendall(b"all at once")
        for _, upstream in pairs:
            upstream.sendall(upstream.recv(20))
        for client, _ in pairs:
            assert client.recv(20) == b"all at once"
        assert open_files(relay.pid) > 2 * count
        before = relay.cpu_seconds()
        time.sleep(0.5)
        assert relay.cpu_seconds() - before < 0.1
        relay.leave()
        assert relay.until("draining")["connections"] == count
        for client, upstream in pairs[::100]:
            client.sendall(b"drained")
            assert upstream.recv(20) == b"drained"
        stack.close()
        relay.wait_end(10.0)
        assert not [said for said in relay.told if said["event"] in ("direct", "failed")]
    sent = bytes_of(recorded(relay.capture))
    assert len(sent) == 2 * count
    assert set(sent.values()) == {b"all at once"}


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many descriptors in this process as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 8192:
        pytest.skip(f"needs more descriptors than the {hard} that are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_kib(pid: int) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1])


def test_r1_out_of_descriptors_a_dead_workers_successor_serves_who_is_connected(folder: Path, serve: Serve) -> None:
    path = folder / "s.sock"
    serve(path, backlog=512).ready()
    with running_relay(folder, [main_target(path)]) as relay, ExitStack() as stack:
        relay.until("taken")
        relay.until("recorder")  # so there is a holder
        ours = inode(path)
        # The worker alone keeps a quarter aside: its holder may always take what it needs.
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (75, 100))
        resource.prlimit(relay.process("holder"), resource.RLIMIT_NOFILE, (100, 100))
        clients = []
        for _ in range(120):
            clients.append(stack.enter_context(connect(path)))
            assert ask(clients[-1], b"hello") == b"hello"
        relay.until("direct")
        for deaths in range(1, 4):
            os.kill(relay.process("worker"), signal.SIGKILL)
            relay.until("succeeded", deaths=deaths)
            for client in clients:
                assert ask(client, b"still") == b"still"
        before = cpu_seconds(relay.process("worker"))
        time.sleep(0.5)
        assert cpu_seconds(relay.process("worker")) - before < 0.2
        stack.close()
        assert eventually(lambda: inode(path) == ours)
        with connect(path) as client:
            assert ask(client, b"seen again") == b"seen again"
        assert not [said for said in relay.told if said["event"] == "failed"]
        events = finish(relay)
    assert b"seen again" in bytes_of(events).values()


def test_r1_a_ring_without_room_costs_capture_never_traffic(folder: Path, serve: Serve) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    total = 80 << 20  # more than the ring holds
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        recorder = relay.recorder_pid()
        with connect(path) as client:
            assert ask(client, b"before") == b"before"
            time.sleep(0.1)
            os.kill(recorder, signal.SIGSTOP)
            try:
                piece = random.Random(1).randbytes(1 << 20)
                for _ in range(total >> 20):
                    sender = threading.Thread(target=client.sendall, args=(piece,))
                    sender.start()
                    got = bytearray()
                    while len(got) < len(piece):
                        got += client.recv(1 << 20)
                    sender.join()
                    assert hashlib.sha256(got).digest() == hashlib.sha256(piece).digest()
            finally:
                os.kill(recorder, signal.SIGCONT)
            assert eventually(lambda: ask(client, b"after") == b"after")
            time.sleep(0.5)
            assert ask(client, b"later") == b"later"
        events = finish(relay)
    sent = bytes_of(events)
    for direction in (0, 1):
        lost = sum(event.count for event in events if isinstance(event, FlowGap) and event.direction == direction)
        assert lost > 0
        assert lost + len(sent[1, direction]) == len(b"before") + total + len(b"after") + len(b"later")
        assert sent[1, direction].startswith(b"before")
        assert sent[1, direction].endswith(b"later")
