"""R3 to R8 and R10, each against a real relay between real sockets."""

from __future__ import annotations

import array
import os
import random
import select
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.tracer.relay.harness import (
    answers,
    ask,
    connect,
    eventually,
    main_target,
    running_relay,
)
from tests.tracer.relay.peers import Peer, Serve, bytes_of, finish, recorded, send_for_ever, stuff
from tracer.capture.flows import Flow, FlowClosed, FlowData, FlowEvent
from tracer.capture.packets import Packet
from tracer.capture.reader import open_capture
from tracer.capture.room import Limits
from tracer.relay.targets import Target

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


@pytest.mark.parametrize("recording", [True, False])
def test_r7_a_vmm_gets_passfd_and_the_descriptor_apart_though_both_had_come(folder: Path, recording: bool) -> None:
    """A stand-in of Dragonball's, which reads the line without room for descriptors, then the port with one."""
    path = folder / "kata.hvsock"
    with Peer(path) as vmm, running_relay(folder, [Target("agent", str(folder), "", True, False)]) as relay:
        relay.until("taken")
        with connect(path) as client, vmm.accept() as upstream:
            if not recording:
                relay.leave()
                relay.until("draining")
            read, write = os.pipe()
            worker = relay.process("worker")
            os.kill(worker, signal.SIGSTOP)  # so that both messages lie in its socket
            try:
                client.sendall(b"passfd\n")
                socket.send_fds(client, [b"1027 keep"], [write])
            finally:
                os.kill(worker, signal.SIGCONT)
            os.close(write)
            assert eventually(lambda: len(upstream.recv(200, socket.MSG_PEEK)) == len(b"passfd\n1027 keep"))
            assert upstream.recv(7) == b"passfd\n"
            data, fds, _, _ = socket.recv_fds(upstream, 100, 4)
            assert (data, len(fds)) == (b"1027 keep", 1)
            upstream.sendall(b"OK 1073741825\n")
            assert client.recv(100) == b"OK 1073741825\n"
            os.write(fds[0], b"stdout of a container")
            os.close(fds[0])
            assert os.read(read, 100) == b"stdout of a container"
            assert os.read(read, 100) == b""  # no copy of it stayed with us
            os.close(read)
        events = finish(relay) if recording else []
    if recording:
        assert bytes_of(events)[1, 0] == b"passfd\n1027 keep"


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
