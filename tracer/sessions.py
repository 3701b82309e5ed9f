"""Sessions: the relays of this user that run, drain or died, by the files they keep and the memory they share (E9).

In: the runtime folder, /proc. Out: frozen facts of one moment, and signals to a session's worker. A session has the pid
of its relay's first process for a name, for as long as any process of it lives.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from protos.errors import PodwireError
from tracer import processes
from tracer.capture.ring import Ring
from tracer.relay import held as files
from tracer.relay import shared as sh
from tracer.relay.exchange import Left
from tracer.relay.held import Held, HeldSocket

TRACING, DRAINING, DEAD = "tracing", "draining", "dead"

_FATAL_HOPS = frozenset({"task", "agent"})
"""Who loses such a connection takes the other end for dead, and removes its containers."""


@dataclass(frozen=True, slots=True)
class Part:
    """One process of a relay."""

    name: str
    pid: int
    alive: bool


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection that goes through a relay."""

    number: int
    hop: str
    path: str
    """Of the socket."""
    client: int
    """Pid of who connected."""
    server: int
    """Pid of who listens, 0 if not known."""
    sandbox: str
    """The sandbox whose shim is at one of the ends; empty if none was found."""
    sent: int
    """Bytes from the client."""
    answered: int
    """Bytes to the client."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What the processes of a session have counted since it began."""

    packets: int
    """In the capture."""
    bytes: int
    lost_chunks: int
    """Reads that found no room in the ring, so that the capture has a gap."""
    lost_bytes: int
    dropped_bytes: int
    """What came out of the ring, and did not get into a file: its disk was full, or had less free than is kept."""
    dropped_connections: int
    """That came and went while that was so."""
    paused_ns: int
    """Since when it is so; 0: it is not."""
    direct: int
    """Connections that went past the relay."""
    accepted: int
    deaths: int
    """Workers that died, and were replaced."""
    recorder_deaths: int
    recorder: sh.RecorderState


@dataclass(frozen=True, slots=True)
class Session:
    """One relay, as it was when it was looked at."""

    held: Held
    connections: tuple[Connection, ...]
    parts: tuple[Part, ...]
    """The processes that there should be; none, if its memory could not be read."""
    counters: Counters | None
    """None if its memory could not be read: it is dead, or in another PID namespace."""

    @property
    def pid(self) -> int:
        """Its name."""
        return self.held.pid

    @property
    def capture(self) -> str:
        """Path of its capture."""
        return self.held.capture

    @property
    def state(self) -> str:
        """TRACING, DRAINING or DEAD."""
        if not self.held.alive:
            return DEAD
        return DRAINING if self.held.draining else TRACING

    @property
    def recording(self) -> bool:
        """More may come into its capture."""
        if self.state == DEAD:
            return False
        return self.counters is None or self.counters.recorder == sh.RecorderState.RUNNING

    @property
    def troubles(self) -> list[str]:
        """What is not as it should be, in words."""
        if self.state == DEAD:
            lost = lost_with(self.held)
            return [f"it was killed{f': {lost}' if lost else ''} (podwire doctor --mend gives back what it held)"]
        found = [f"its {part.name} (pid {part.pid}) is not there" for part in self.parts if not part.alive]
        if self.counters is None:
            found.append("its processes cannot be seen from here")
        elif self.counters.recorder == sh.RecorderState.FAILED:
            found.append("its recorder gave up: the capture is not complete; traffic goes on")
        elif self.recording and self.counters.paused_ns:
            found.append("its capture is paused: the disk has too little free; traffic goes on, unrecorded")
        return found


def read_sessions() -> list[Session]:
    """All sessions of this user, without one that ended while it was looked at."""
    looked_at = [_look_at(held) for held in files.read_held(files.runtime_folder())]
    return [each for each in looked_at if each.counters is not None or os.path.exists(each.held.file)]


def read_session(pid: int) -> Session | None:
    """The session of this name; None if there is none (any more)."""
    for held in files.read_held(files.runtime_folder()):
        if held.pid == pid:
            return _look_at(held)
    return None


def draining_text(connections: int) -> str:
    """What the end of a trace says of connections that are still open."""
    go = "connection goes" if connections == 1 else "connections go"
    return f"draining: {connections} {go} on through the relay, unrecorded, until they end"


def choose(sessions: Iterable[Session], named: str | None) -> Session:
    """The session of that name, or the only one. Raises PodwireError."""
    among = list(sessions)
    listed = ", ".join(f"{each.pid} ({each.state}, {each.capture})" for each in among)
    if named is not None:
        for session in among:
            if str(session.pid) == named:
                return session
        raise PodwireError(f"{named}: no such session" + (f"; there are: {listed}" if among else ""))
    if len(among) > 1:
        raise PodwireError(f"several sessions are running; name one: {listed}")
    if not among:
        raise PodwireError("no trace is running")
    return among[0]


def send_signal(session: Session, number: signal.Signals) -> None:
    """Signal the worker that the session has now; nothing happens if there is none at this moment."""
    fd = _open_memory(session.held)
    if fd < 0:
        return
    try:
        pid = sh.snapshot(fd).words[sh.WORKER_PID]
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    finally:
        os.close(fd)
    try:
        if _is_of(pid, session.held):  # looked at once it is sure to stay the same process
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)


def killed_by_cutting(session: Session) -> list[tuple[str, str]]:
    """Sandbox (empty if not known) and socket of each connection whose loss kills containers."""
    fatal = {(each.sandbox, each.path) for each in session.connections if each.hop in _FATAL_HOPS}
    return sorted(fatal)


def mend_dead(held: Held) -> list[tuple[str, Left]]:
    """Mend what a dead relay left (E9), of its capture too; returns each path and what was done. Raises OSError."""
    Ring(held.capture).forget_begun()
    return files.mend(held)


def lost_with(held: Held) -> str:
    """What a relay that was killed whole took with it, in words (R3)."""
    sockets = held.left or list(held.sockets.values())  # after leaving, what was open went on through it
    if not sockets:
        return ""
    text = f"every connection through {_named(sockets)} is lost"
    shims = [each for each in sockets if each.hop in _FATAL_HOPS]
    if shims:
        text += f"; containers behind {_named(shims)} may be gone: containerd removes those of a shim it has lost"
    return text


def _named(sockets: list[HeldSocket]) -> str:
    return ", ".join(sorted({f"{each.hop} {each.path}" for each in sockets}))


def _look_at(held: Held) -> Session:
    fd = _open_memory(held) if held.alive else -1
    if fd < 0:
        return Session(held, (), (), None)
    try:
        words, rows = sh.snapshot(fd)
    finally:
        os.close(fd)
    connections = [_connection(row, held) for row in rows if row[sh.S_STATE] in (sh.Row.MADE, sh.Row.OPEN)]
    counters = Counters(
        words[sh.CAPTURE_PACKETS],
        words[sh.CAPTURE_BYTES],
        words[sh.LOST_CHUNKS],
        words[sh.LOST_BYTES],
        words[sh.DROPPED_BYTES],
        words[sh.DROPPED_CONNECTIONS],
        words[sh.PAUSED_NS],
        words[sh.DIRECT],
        words[sh.ACCEPTED],
        words[sh.DEATHS],
        words[sh.RECORDER_DEATHS],
        sh.RecorderState(words[sh.RECORDER_STATE]),
    )
    wanted = {"worker": words[sh.WORKER_PID], "holder": words[sh.HOLDER_PID]}
    if counters.recorder == sh.RecorderState.RUNNING:
        wanted["recorder"] = words[sh.RECORDER_PID]
    parts = [Part(name, pid, _is_of(pid, held)) for name, pid in wanted.items() if pid]
    connections.sort(key=lambda each: each.number)
    return Session(held, tuple(connections), tuple(parts), counters)


def _connection(row: memoryview, held: Held) -> Connection:
    listener = row[sh.S_LISTENER]
    at = held.sockets.get(listener) or held.given_up.get(listener)
    server = at.server if at is not None else 0
    return Connection(
        row[sh.S_NUMBER],
        at.hop if at is not None else "",
        at.path if at is not None else "",
        row[sh.S_PID],
        server,
        sandbox_of(server) or sandbox_of(row[sh.S_PID]),
        row[sh.S_IN0],
        row[sh.S_OUT1],
    )


def sandbox_of(pid: int) -> str:
    """The sandbox that a shim serves; empty if this process is none, or gone."""
    process = processes.describe(pid) if pid else None
    return process.sandbox if process is not None else ""


def _open_memory(held: Held) -> int:
    """The memory that the relay's processes share, through any one of them; -1 if none is to be seen."""
    for pid in (held.pid, *processes.pids()):
        if _is_of(pid, held):
            path = f"/proc/{pid}/fd/{held.memory}"
            with suppress(OSError):
                if os.readlink(path).startswith("/memfd:podwire"):
                    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return -1


def _is_of(pid: int, held: Held) -> bool:
    """Whether this process lives and belongs to that relay, which is a session of its own to the kernel too (R3)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return False
    return fields[0] not in (b"Z", b"X") and int(fields[3]) == held.pid
