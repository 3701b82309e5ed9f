"""What a successor makes of a worker's death between any two steps of a chunk, and of deaths in a row (R2)."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.tracer.relay.harness import Relay, Server, answers, ask, connect, eventually, main_target, running_relay
from tracer.relay import holder, system, takeover
from tracer.relay import shared as sh
from tracer.relay.pump import Context, Half
from tracer.relay.shared import Kind, RingReader, Shared

CHUNK = b"0123456789"
NUMBER = 7


@dataclass
class Dying:
    """A worker's side of one connection, done by hand up to some step; in the order of `Connection._forward`."""

    shared: Shared
    context: Context
    client: socket.socket
    upstream: socket.socket
    server: socket.socket
    half: Half

    def lay(self) -> None:
        room = self.context.ring.reserve(len(CHUNK))
        assert room is not None
        room[: len(CHUNK)] = CHUNK
        room.release()
        self.context.ring.lay(Kind.DATA, 0, len(CHUNK), NUMBER, 0, 1)

    def claim(self) -> None:
        self.shared.words[sh.ACTIVE] = self.half.active

    def splice_in(self) -> None:
        assert self.context.pipe is not None
        os.splice(self.half.source_fd, self.context.pipe.write_end, len(CHUNK))

    def count_in(self) -> None:
        self.shared.table[self.half.word_in] = len(CHUNK)

    def splice_out(self) -> None:
        assert self.context.pipe is not None
        os.splice(self.context.pipe.read_end, self.half.target_fd, len(CHUNK))

    def count_out(self) -> None:
        self.shared.table[self.half.word_out] = len(CHUNK)

    def commit(self) -> None:
        self.context.ring.commit(len(CHUNK), len(CHUNK))


STEPS = (Dying.lay, Dying.claim, Dying.splice_in, Dying.count_in, Dying.splice_out, Dying.count_out, Dying.commit)
SPLICED, DELIVERED = STEPS.index(Dying.splice_in), STEPS.index(Dying.splice_out)


@pytest.fixture
def dying() -> Iterator[Dying]:
    shared = Shared(1 << 20)
    epoll = select.epoll()
    context = Context(shared, epoll)
    sender, client = socket.socketpair()
    upstream, server = socket.socketpair()
    base = context.take_row(NUMBER, 1, client, upstream, 0)
    sender.send(CHUNK)
    yield Dying(shared, context, client, upstream, server, Half(0, base, client, upstream))
    for each in (sender, client, upstream, server):
        each.close()
    context.close()
    epoll.close()
    del context
    shared.close()


@pytest.mark.parametrize("steps", range(len(STEPS) + 1))
def test_a_death_after_any_step_is_told_from_the_pipe(dying: Dying, steps: int) -> None:
    for step in STEPS[:steps]:
        step(dying)
    dying.server.setblocking(False)
    shared, half, pipe = dying.shared, dying.half, dying.context.pipe
    assert pipe is not None
    found = takeover.count_again(shared)
    successor = Context(shared, dying.context.epoll)
    takeover.finish_record(shared, successor)
    spliced, delivered = steps > SPLICED, steps > DELIVERED
    assert shared.table[half.word_in] == (len(CHUNK) if spliced else 0)
    assert shared.table[half.word_out] == (len(CHUNK) if delivered else 0)
    assert found == (len(CHUNK) if spliced and not delivered else 0)
    assert shared.table[half.word_pipe] == (pipe.word if spliced and not delivered else 0)
    records = [(record.offset, bytes(record.payload)) for record in RingReader(shared).read()]
    assert records == ([(0, CHUNK)] if spliced else [])  # once, whether or not it was committed
    successor.close()


def test_a_record_laid_for_bytes_that_did_not_move_is_forgotten_by_the_next(dying: Dying) -> None:
    dying.lay()
    takeover.count_again(dying.shared)
    assert not takeover.finish_record(dying.shared, dying.context)
    assert dying.context.ring.control(Kind.FIN, 0, NUMBER, 0, 2, b"")
    assert [record.kind for record in RingReader(dying.shared).read()] == [Kind.FIN]


def test_bytes_sent_from_a_peek_are_taken_off_the_source(dying: Dying) -> None:
    dying.upstream.send(CHUNK[:4])
    dying.shared.table[dying.half.word_out] = 4
    takeover.count_again(dying.shared)
    assert dying.shared.table[dying.half.word_in] == 4
    assert dying.client.recv(100) == CHUNK[4:]


def test_bytes_sent_from_a_peek_that_were_taken_off_already_are_no_fault(dying: Dying) -> None:
    dying.upstream.send(CHUNK)
    assert dying.client.recv(100) == CHUNK
    dying.client.setblocking(False)
    dying.shared.table[dying.half.word_out] = len(CHUNK)
    takeover.count_again(dying.shared)
    assert dying.shared.table[dying.half.word_in] == len(CHUNK)


def test_a_process_is_not_dead_because_there_is_no_descriptor_to_watch_it_by(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = iter([OSError(errno.EMFILE, ""), OSError(errno.ENOMEM, ""), 77, ProcessLookupError(errno.ESRCH, "")])

    def pidfd_open(_pid: int) -> int:
        given = next(opened)
        if isinstance(given, OSError):
            raise given
        return given

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    assert holder._Watched(1).fd == 77
    assert holder._Watched(1).fd == -1


def test_a_successor_that_cannot_be_cloned_at_once_is_cloned_later(monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = iter([OSError(errno.EAGAIN, ""), OSError(errno.ENOMEM, ""), None])
    shared = Shared(1 << 20)

    def clone() -> int:
        if refusal := next(refusals):
            raise refusal
        return os.fork()

    def be_worker(_relay: object, succeeding: bool) -> None:
        assert succeeding
        shared.words[sh.WORKER_PID] = os.getpid()

    monkeypatch.setattr(system, "clone_sharing_descriptors", clone)
    one = holder.Holder(SimpleNamespace(shared=shared), be_worker)  # type: ignore[arg-type] # all it needs here
    one._succeed()
    pid = shared.words[sh.WORKER_PID]
    assert os.waitpid(pid, 0) == (pid, 0)
    assert shared.words[sh.DEATHS] == 1
    del one
    shared.close()


def has_another_holder(relay: Relay, old: int) -> bool:
    return any(name == "podwire-holder" and pid != old for pid, name in relay.processes().items())


def kill_worker(relay: Relay) -> None:
    deaths = len([said for said in relay.told if said["event"] == "succeeded"])
    os.kill(relay.process("worker"), signal.SIGKILL)
    relay.until("succeeded", deaths=deaths + 1)


def test_a_client_accepted_by_a_dead_worker_is_served(folder: Path) -> None:
    path = folder / "s.sock"
    with socket.socket(socket.AF_UNIX) as full, running_relay(folder, [main_target(path)]) as relay:
        full.bind(str(path))
        full.listen(0)
        relay.until("taken")
        with connect(path) as first, connect(path) as second:  # the second waits: the server's backlog is full
            relay.listen(0.1)
            kill_worker(relay)
            second.sendall(b"hello")
            for client in (first, second):
                upstream, _ = full.accept()
                with upstream:
                    upstream.sendall(b"served")
                    assert client.recv(10) == b"served"


def test_paths_listeners_and_connections_outlive_a_worker(folder: Path, serve: Callable[..., Server]) -> None:
    path, later = folder / "s.sock", folder / "later.sock"
    server = serve(path).ready()
    with running_relay(folder, [main_target(path), main_target(later)]) as relay:
        relay.until("taken")
        with connect(path) as client:
            assert ask(client, b"before") == b"before"
            kill_worker(relay)
            assert ask(client, b"after") == b"after"
        assert answers(path)
        serve(later).ready()  # a path that is watched and not there yet
        relay.until("taken", path=str(later))
        server.kill()
        relay.until("retired", path=str(path), reason="its server ended")
        relay.leave()
        relay.wait_end()
    assert not os.path.exists(path)


def test_r2_deaths_in_a_row_without_a_chunk_turn_recording_off_and_then_give_the_paths_back(
    folder: Path, serve: Callable[..., Server]
) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path) as client:
            assert ask(client, b"x") == b"x"
            for _ in range(4):  # the first of them had forwarded
                kill_worker(relay)
            relay.until("failed", text="the relay died 3 times in a row: it goes on, unrecorded")
            for _ in range(3):
                kill_worker(relay)
            relay.until("draining")
            assert answers(path)  # the server itself
            assert ask(client, b"still") == b"still"


def test_a_holder_that_dies_is_there_again_and_knows_the_worker(folder: Path, serve: Callable[..., Server]) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path) as client:
            for _ in range(3):
                holder = relay.process("holder")
                os.kill(holder, signal.SIGKILL)
                assert eventually(lambda old=holder: has_another_holder(relay, old))
                kill_worker(relay)
                assert ask(client, b"x") == b"x"


def test_a_holder_that_cannot_be_cloned_is_cloned_later(
    folder: Path, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clone, refusals = folder / "s.sock", system.clone_sharing_descriptors, [errno.EAGAIN, errno.ENOMEM]

    def refused_twice() -> int:
        if refusals:
            raise OSError(refusals.pop(), "refused")
        return clone()

    monkeypatch.setattr(system, "clone_sharing_descriptors", refused_twice)
    serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("failed", text="no holder: refused: if this relay is killed, its connections are lost")
        assert eventually(lambda: "podwire-holder" in relay.processes().values())
        with connect(path) as client:
            assert ask(client, b"before") == b"before"
            kill_worker(relay)
            assert ask(client, b"after") == b"after"


def test_a_holder_that_cannot_be_watched_is_watched_later(
    folder: Path, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pidfd_open, refusals = folder / "s.sock", os.pidfd_open, [errno.EMFILE]

    def refused_once(pid: int) -> int:
        if refusals:
            raise OSError(refusals.pop(), "refused")
        return pidfd_open(pid)

    monkeypatch.setattr(os, "pidfd_open", refused_once)
    serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        holder = relay.process("holder")
        os.kill(holder, signal.SIGKILL)  # seen once it is watched
        assert eventually(lambda: has_another_holder(relay, holder))
        assert answers(path)


def test_r2_a_worker_that_hangs_is_replaced(folder: Path, serve: Callable[..., Server]) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path) as client:
            assert ask(client, b"x") == b"x"
            os.kill(relay.process("worker"), signal.SIGSTOP)
            assert ask(client, b"y") == b"y"
            relay.until("succeeded", deaths=1)


def test_r2_an_idle_worker_that_is_stopped_is_left_alone(folder: Path, serve: Callable[..., Server]) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        relay.listen(0.3)
        worker = relay.process("worker")
        os.kill(worker, signal.SIGSTOP)
        relay.listen(0.6)
        assert relay.process("worker") == worker
        os.kill(worker, signal.SIGCONT)
        assert answers(path)


def switches(relay: Relay) -> int:
    """How often its processes went to sleep so far."""
    text = "".join(Path(f"/proc/{pid}/status").read_text() for pid in relay.processes())
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("voluntary_ctxt_switches"))


def test_r4_a_relay_that_drains_a_hundred_connections_sleeps(folder: Path, serve: Callable[..., Server]) -> None:
    path = folder / "s.sock"
    serve(path, backlog=128).ready()
    with running_relay(folder, [main_target(path)]) as relay, contextlib.ExitStack() as stack:
        relay.until("taken")
        clients = [stack.enter_context(connect(path)) for _ in range(100)]
        assert all(ask(client, b"x") == b"x" for client in clients)
        relay.leave()
        relay.until("recorded")
        relay.listen(1.0)
        before = switches(relay)
        relay.listen(3.0)
        assert switches(relay) - before <= 3
        assert all(ask(client, b"x") == b"x" for client in clients)
