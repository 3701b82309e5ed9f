"""R1 and R3 to R8, each against a real relay between real sockets."""

from __future__ import annotations

import array
import hashlib
import os
import random
import resource
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.killing import cpu_seconds
from tests.tracer.relay.harness import (
    Relay,
    Server,
    answers,
    ask,
    connect,
    eventually,
    inode,
    main_target,
    running_relay,
)
from tracer.capture.flows import Flow, FlowClosed, FlowData, FlowEvent, FlowGap, FlowTable
from tracer.capture.packets import Packet
from tracer.capture.reader import open_capture
from tracer.capture.recorder import Limits
from tracer.relay.targets import Target

Serve = Callable[..., Server]


SPARE = 8
"""Descriptors of empty pipes that a worker may keep."""


def recorded(capture: Path) -> list[FlowEvent]:
    """What the capture tells, in order; nothing in it may be unreadable."""
    table = FlowTable()
    events: list[FlowEvent] = []
    last = 0
    with open_capture(str(capture)) as file:
        for item in file:
            assert isinstance(item, Packet), item
            events += table.feed(item)
            last = item.time_ns
    return events + table.finish(last)


def bytes_of(events: list[FlowEvent]) -> dict[tuple[int, int], bytes]:
    """By flow and direction."""
    found: dict[tuple[int, int], bytes] = {}
    for event in events:
        if isinstance(event, FlowData):
            key = event.flow.id, int(event.direction)
            found[key] = found.get(key, b"") + bytes(event.data)
    return found


def finish(relay: Relay) -> list[FlowEvent]:
    relay.leave()
    relay.wait_end()
    return recorded(relay.capture)


class Peer:
    """A server of this process, in the test's own hands."""

    def __init__(self, path: Path, backlog: int = 16) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(backlog)
        self.listener.settimeout(5)

    def accept(self) -> socket.socket:
        connection, _ = self.listener.accept()
        connection.settimeout(5)
        return connection

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()


def stuff(connection: socket.socket) -> int:
    """Send until nobody takes any more; returns how many bytes went."""
    connection.setblocking(False)
    sent = 0
    try:
        while True:
            sent += connection.send(bytes(1 << 16))
    except BlockingIOError:
        return sent


def send_for_ever(connection: socket.socket) -> None:
    while True:
        connection.send(bytes(1 << 16))


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


# --- R3 ---


def test_r3_the_relay_has_a_session_of_its_own_and_ignores_the_terminals_signals(folder: Path, serve: Serve) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        recorder = relay.recorder_pid()
        assert os.getsid(relay.pid) == relay.pid != os.getsid(0)
        assert os.getsid(recorder) == relay.pid
        for number in (signal.SIGINT, signal.SIGHUP):
            os.kill(relay.pid, number)
            os.kill(recorder, number)
        assert answers(path)
        for pid in (relay.pid, recorder):
            for fd in ("0", "1", "2"):
                assert os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/null"
        events = finish(relay)
    assert bytes_of(events)[1, 0] == b"hello"


def test_r3_sigterm_means_drain(folder: Path, serve: Serve) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path) as client:
            assert ask(client, b"one") == b"one"
            os.kill(relay.pid, signal.SIGTERM)
            assert relay.until("draining")["connections"] == 1
            assert ask(client, b"two") == b"two"
        relay.wait_end()


def test_r3_whoever_started_it_may_die(folder: Path, serve: Serve) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        relay.control.close()
        time.sleep(0.05)
        assert answers(path)
        os.kill(relay.pid, signal.SIGTERM)
        os.waitpid(relay.pid, 0)
        relay.pid = 0
    assert bytes_of(recorded(relay.capture))[1, 0] == b"hello"


# --- R4 ---


def test_r4_after_leaving_what_is_open_is_forwarded_unrecorded_until_it_ends(folder: Path, serve: Serve) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path) as client:
            assert ask(client, b"recorded") == b"recorded"
            relay.leave()
            assert relay.until("draining")["connections"] == 1
            assert relay.until("recorded")["status"] == 0
            assert ask(client, b"unseen" * 100_000) == b"unseen" * 100_000
            assert relay.ended is False
        relay.until("drained")
        relay.wait_end(1.0)
    assert bytes_of(recorded(relay.capture)) == {(1, 0): b"recorded", (1, 1): b"recorded"}


def test_r4_a_duration_ends_it_in_the_same_way(folder: Path, serve: Serve) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    with running_relay(folder, [main_target(path)], duration_s=0.3) as relay:
        relay.until("taken")
        assert answers(path)
        relay.wait_end(3.0)
    assert answers(path)


@pytest.mark.parametrize("packets", [1, 4, 5])
def test_r4_a_number_of_packets_ends_it_with_exactly_as_many_in_the_file(
    folder: Path, serve: Serve, packets: int
) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    with running_relay(folder, [main_target(path)], limits=Limits(packets=packets)) as relay:
        relay.until("taken")
        with connect(path) as client:
            for _ in range(10):
                ask(client, b"hello")
            relay.until("limit")
        relay.wait_end()
    with open_capture(str(relay.capture)) as file:
        assert len([item for item in file if isinstance(item, Packet)]) == packets


# --- R5 ---


def test_r5_no_reply_is_recorded_before_its_request(folder: Path, serve: Serve) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        clients = [connect(path) for _ in range(4)]
        for turn in range(200):
            for client in clients:
                client.sendall(b"%03d" % turn)
            for client in clients:
                assert client.recv(3) == b"%03d" % turn
        for client in clients:
            client.close()
        events = finish(relay)
    seen = {(flow, direction): 0 for flow in range(1, 5) for direction in (0, 1)}
    last = 0
    for event in events:
        if isinstance(event, FlowData):
            assert event.time_ns >= last
            last = event.time_ns
            seen[event.flow.id, int(event.direction)] += len(event.data)
            assert seen[event.flow.id, 1] <= seen[event.flow.id, 0]
    assert set(seen.values()) == {600}
    assert abs(last - time.time_ns()) < 10e9


def test_r5_a_clock_that_was_set_is_a_record_of_its_own() -> None:
    from tracer.relay import shared as sh
    from tracer.relay.pump import Context
    from tracer.relay.worker import Worker

    shared = sh.Shared(1 << 20)
    with select.epoll() as epoll:
        worker = Worker.__new__(Worker)  # only its clock: setting this machine's would hit everybody
        worker._context = Context(shared, epoll)
        worker._clock_told = 0
        shared.words[sh.CLOCK_OFFSET] = time.time_ns() - time.monotonic_ns() - 5_000_000_000
        worker._check_clock()
        worker._check_clock()
        records = list(sh.RingReader(shared).read())
        assert [record.kind for record in records] == [sh.Kind.CLOCK]
        assert abs(int(bytes(records[0].payload)) - 5_000_000_000) < 100_000_000
        # The times of what follows do not jump: they go on from the offset fixed at the start.
        assert abs(records[0].time_ns + 5_000_000_000 - time.time_ns()) < 1e9
        for record in records:
            record.payload.release()
        worker._context.close()
        del worker, records, record
    shared.close()


# --- R6 ---


def test_r6_a_half_close_passes_through(folder: Path) -> None:
    path = folder / "s.sock"
    with Peer(path) as server, running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path) as client, server.accept() as upstream:
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert upstream.recv(100) == b"question"
            assert upstream.recv(100) == b""
            upstream.sendall(b"answer")
            assert client.recv(100) == b"answer"
            upstream.close()
            assert client.recv(100) == b""
        events = finish(relay)
    ends = [(int(event.direction), event.reset) for event in events if isinstance(event, FlowClosed)]
    assert ends == [(0, False), (1, False)]


def test_r6_backpressure_passes_through_and_every_byte_arrives(folder: Path) -> None:
    path = folder / "s.sock"
    data = random.Random(2).randbytes(5 << 20)
    with Peer(path) as server, running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path) as client, server.accept() as upstream:
            sender = threading.Thread(target=client.sendall, args=(data,))
            sender.start()
            time.sleep(0.2)
            assert sender.is_alive()  # nobody has read: the sender waits
            got = bytearray()
            while len(got) < len(data):
                got += upstream.recv(random.Random(len(got)).randrange(1, 100_000))
            sender.join()
            assert bytes(got) == data
        events = finish(relay)
    assert bytes_of(events)[1, 0] == data


def test_r6_what_a_dead_peer_had_sent_is_delivered_before_its_end(folder: Path) -> None:
    path = folder / "s.sock"
    data = random.Random(3).randbytes(150_000)
    with Peer(path) as server, running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path) as client, server.accept() as upstream:
            client.sendall(b"never read")
            upstream.sendall(data)
            select.select([upstream], [], [], 5)
            upstream.close()  # with bytes unread: a reset, on a socket that can send one
            client.settimeout(5)
            got = b""
            try:
                while part := client.recv(1 << 16):
                    got += part
            except ConnectionResetError:
                pass
            assert got == data
        events = finish(relay)
    assert bytes_of(events)[1, 1] == data
    assert (1, True) in [(int(event.direction), event.reset) for event in events if isinstance(event, FlowClosed)]


def test_r6_a_write_to_a_peer_that_is_gone_shows_as_its_reset(folder: Path) -> None:
    path = folder / "s.sock"
    with Peer(path) as server, running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path) as client, server.accept() as upstream:
            assert upstream.send(b"x" * 10) == 10
            assert client.recv(10) == b"x" * 10
            stuff(client)  # the relay has a full pipe for a server that does not read
            time.sleep(0.2)
            upstream.close()
            client.settimeout(5)
            with pytest.raises(ConnectionError):
                send_for_ever(client)
        events = finish(relay)
    assert (1, True) in [(int(event.direction), event.reset) for event in events if isinstance(event, FlowClosed)]


def test_r6_a_client_that_dies_is_seen_by_the_server_as_without_us(folder: Path) -> None:
    path = folder / "s.sock"
    with Peer(path) as server, running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path) as client, server.accept() as upstream:
            client.sendall(b"last words")
            client.close()
            assert upstream.recv(100) == b"last words"
            assert upstream.recv(100) == b""
            time.sleep(0.1)
            with pytest.raises(BrokenPipeError):  # both ways are closed, not one
                upstream.sendall(b"anybody?")


def test_r6_a_sender_of_single_bytes_is_recorded_byte_by_byte(folder: Path) -> None:
    path = folder / "s.sock"
    with Peer(path) as server, running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path) as client, server.accept() as upstream:
            for value in range(256):
                client.sendall(bytes([value]))
                assert upstream.recv(10) == bytes([value])
        events = finish(relay)
    pieces = [bytes(event.data) for event in events if isinstance(event, FlowData)]
    assert pieces == [bytes([value]) for value in range(256)]


# --- R7 ---


@pytest.mark.parametrize("recording", [True, False])
def test_r7_descriptors_pass_with_the_bytes_they_came_with(folder: Path, recording: bool) -> None:
    path = folder / "s.sock"
    with Peer(path) as server, running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path) as client, server.accept() as upstream:
            if not recording:
                relay.leave()
                relay.until("draining")
            read, write = os.pipe()
            client.sendall(b"plain ")
            time.sleep(0.02)
            socket.send_fds(client, [b"with a pipe"], [write])
            os.close(write)
            data, fds, _, _ = socket.recv_fds(upstream, 100, 4)
            while not fds:
                more, fds, _, _ = socket.recv_fds(upstream, 100, 4)
                data += more
            assert data == b"plain with a pipe"
            os.write(fds[0], b"through")
            os.close(fds[0])
            assert os.read(read, 10) == b"through"
            assert os.read(read, 10) == b""  # no copy of it stayed with us
            os.close(read)
        events = finish(relay) if recording else []
    if recording:
        assert bytes_of(events)[1, 0] == b"plain with a pipe"


def test_r7_as_many_descriptors_as_the_kernel_takes_pass(folder: Path) -> None:
    path = folder / "s.sock"
    with Peer(path) as server, running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path) as client, server.accept() as upstream:
            null = os.open("/dev/null", os.O_RDONLY)
            client.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 253))])
            os.close(null)
            _, fds, _, _ = socket.recv_fds(upstream, 10, 253)
            assert len(fds) == 253
            for fd in fds:
                os.close(fd)


# --- R8 ---


def opening(events: list[FlowEvent]) -> Flow:
    return events[0].flow


def test_r8_clients_are_named_by_their_pid_and_servers_by_the_socket_they_hold(folder: Path, serve: Serve) -> None:
    path = folder / "s.sock"
    server = serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        assert answers(path)
        flow = opening(finish(relay))
    assert flow.client.pid == os.getpid()
    assert flow.server.pid == server.process.pid
    assert (flow.hop, flow.socket) == ("cri", str(path))
    assert flow.client.uid == os.getuid()


def test_r8_a_server_that_listens_a_moment_after_it_was_taken_is_named_too(folder: Path, serve: Serve) -> None:
    path = folder / ("5" * 64)
    with running_relay(folder, [Target("task", str(folder), "", False, False)]) as relay:
        server = serve(path, pause=0.012)
        relay.until("taken")
        server.ready()
        assert answers(path)
        flow = opening(finish(relay))
    assert flow.server.pid == server.process.pid


def test_r8_a_server_that_calls_itself_is_labelled_so(folder: Path) -> None:
    path = folder / "s.sock"
    with Peer(path) as server, running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path), server.accept():
            pass
        flow = opening(finish(relay))
    assert flow.comment["client"]["self"] is True  # type: ignore[index]


def test_r8_the_relay_asks_for_no_credentials_of_each_message(folder: Path) -> None:
    """SO_PASSCRED would change what a peek returns, and glue or split messages."""
    path = folder / "s.sock"
    with Peer(path) as server, running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path) as client, server.accept() as upstream:
            ask_one = threading.Thread(target=lambda: upstream.sendall(upstream.recv(10)))
            ask_one.start()
            assert ask(client, b"hello") == b"hello"
            ask_one.join()
            assert _passcred_of_all(relay.pid) == {0}


def _passcred_of_all(pid: int) -> set[int]:
    import ctypes

    found = set()
    pidfd = os.pidfd_open(pid)
    for entry in os.listdir(f"/proc/{pid}/fd"):
        fd = ctypes.CDLL(None).syscall(438, pidfd, int(entry), 0)  # pidfd_getfd
        if fd >= 0 and os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
            with socket.socket(fileno=fd) as ours:
                if ours.family == socket.AF_UNIX and ours.type == socket.SOCK_STREAM:
                    found.add(ours.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED))
        elif fd >= 0:
            os.close(fd)
    os.close(pidfd)
    return found


def test_a_new_shims_first_connection_is_seen(folder: Path) -> None:
    """The server binds, listens and is dialled at once, as containerd does: nothing is missed."""
    with running_relay(folder, [Target("task", str(folder), "", False, False)]) as relay:
        for number in range(20):
            path = folder / f"{number:064x}"
            with Peer(path) as server:
                time.sleep(0.005)
                with connect(path) as client, server.accept() as upstream:
                    client.sendall(b"Create")
                    assert upstream.recv(10) == b"Create"
                assert relay.until("taken", path=str(path))["missed"] == 0
            os.unlink(path)
        events = finish(relay)
    assert [bytes(event.data) for event in events if isinstance(event, FlowData)] == [b"Create"] * 20
    assert len({event.flow.socket for event in events}) == 20


# --- R10 ---


def test_r10_where_stores_may_be_reordered_a_lock_is_turned_twice_before_the_head_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tracer.relay import shared as sh

    turns: list[tuple[str, int]] = []

    class Lock:
        """Writes down what the head was at each turn."""

        def acquire(self) -> None:
            turns.append(("acquire", shared.words[sh.HEAD]))

        def release(self) -> None:
            turns.append(("release", shared.words[sh.HEAD]))

    monkeypatch.setattr(sh, "_STORES_STAY_IN_ORDER", False)
    shared = sh.Shared(1 << 20)
    writer = sh.RingWriter(shared)
    writer._lock = Lock()  # type: ignore[assignment] # what a real one does cannot be looked at
    assert writer.control(sh.Kind.FIN, 0, 1, 0, 1, b"")
    assert turns == [("acquire", 0), ("release", 0), ("acquire", 0), ("release", 0)]
    assert shared.words[sh.HEAD] == sh.RECORD_BYTES
    del writer
    shared.close()
