"""The worker: one thread, one epoll loop, over all sockets of one relay.

In: a plan made before the fork, the shared memory, two sockets (to whoever started it, and to the recorder). Out:
traffic, records in the ring, and lines of JSON to whoever started it, dropped if nobody reads them. It ends with its
last connection after it was told to leave.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tracer.relay import priority, system
from tracer.relay import shared as sh
from tracer.relay.exchange import Homes, explain, peer_credentials
from tracer.relay.held import HeldFile
from tracer.relay.listeners import YOUNG_S, Listener, Listeners, Timers
from tracer.relay.pump import Connection, Context
from tracer.relay.shared import Kind, Shared
from tracer.relay.targets import Target
from tracer.relay.watch import Watcher

_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_RETRY_FIRST_S, _RETRY_MOST_S = 0.001, 0.050
_CLOCK_CHECK_S = 1.0
_CLOCK_STEP_NS = 1_000_000
"""A wall clock that differs by more was set, not slewed."""
_RESERVE = 64
"""Descriptors kept aside, and given up to serve what is queued when they run out; a quarter of a low limit."""
_OWED_S = 0.010


@dataclass(frozen=True, slots=True)
class Plan:
    """What a relay is to do, decided before it starts."""

    targets: list[Target]
    runtime_folder: str
    capture: str
    duration_s: float
    """Then it leaves by itself; 0 is never."""
    force: bool


class Worker:
    """Runs until its work is done."""

    def __init__(
        self, plan: Plan, shared: Shared, control: socket.socket, recorder: socket.socket, recorder_pid: int
    ) -> None:
        self._recorder_pid = recorder_pid
        self._plan, self._shared, self._control, self._recorder = plan, shared, control, recorder
        self._epoll = select.epoll()
        shared.words[sh.CLOCK_OFFSET] = time.time_ns() - time.monotonic_ns()
        self._context = Context(shared, self._epoll)
        self._timers = Timers()
        self._held = HeldFile(plan.runtime_folder, os.getpid(), plan.capture, shared.fd)
        self._homes = Homes(plan.runtime_folder, os.getpid())
        self._listeners = Listeners(
            self._context, self._homes, self._held, self._timers, self.tell, self._accept, force=plan.force
        )
        self._watcher = Watcher(plan.targets, self._listeners)
        self._listeners.look_for_folder = self._watcher.look_for
        self._connections: dict[int, Connection] = {}
        self._last_number = 0
        self._reserve: list[int] = []
        self._leaving = False
        self._recorder_done = False
        self._clock_checked = time.monotonic()
        self._clock_told = 0
        self._suspects: set[int] = set()
        """Listeners one of whose upstream connections has ended."""

    # --- the loop ---

    def run(self) -> None:
        """Relay until told to leave and the last connection has ended."""
        self._fill_reserve()
        handlers, epoll, words = self._context.handlers, self._epoll, self._shared.words
        words[sh.WORKER_PID], words[sh.RECORDER_PID] = os.getpid(), self._recorder_pid
        words[sh.STATE] = sh.State.TRACING
        self._start()
        while not self._over():
            try:
                ready = epoll.poll(self._timers.wait())
            except InterruptedError:
                continue
            words[sh.TICK] += 1
            for fd, events in ready:
                handler = handlers.get(fd)
                if handler is not None:
                    try:
                        handler(events)
                    except Exception as error:  # a fault of ours must not stop the traffic of the others
                        self.tell("failed", text=f"{type(error).__name__}: {error} (descriptor {fd}, closed)")
                        self._abandon(fd)
            self._timers.run_due()
            self._after_a_turn()
        self._end()

    def _start(self) -> None:
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGXCPU, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        priority.be_ordinary()
        priority.hurry()
        self._handle(wake_read, lambda _events: self._signalled(wake_read))
        self._reap()  # whoever ended before there was a handler
        self._handle(self._control.fileno(), lambda _events: self._told())
        self._handle(self._recorder.fileno(), lambda _events: self._recorder_says())
        self._handle(self._watcher.fd, lambda _events: self._watcher.read())
        for target in self._plan.targets:
            if not target.name:
                self._held.write({"watching": target.folder, "hop": target.hop})
        try:
            self._watcher.start()
        except OSError as error:
            self.tell("failed", text=f"{error.filename}: {explain(error, str(error.filename))}")
        if self._plan.duration_s:
            self._timers.after(self._plan.duration_s, self.leave)
        self.tell("started", pid=os.getpid())

    def _handle(self, fd: int, handler: Callable[[int], None]) -> None:
        self._context.handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def _ignore(self, fd: int) -> None:
        if self._context.handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _abandon(self, fd: int) -> None:
        for connection in list(self._connections.values()):
            if fd in (each.fileno() for each in connection.sockets):
                connection.close()
                return
        self._ignore(fd)

    def _over(self) -> bool:
        return self._leaving and self._recorder_done and not self._connections and not len(self._listeners)

    def _after_a_turn(self) -> None:
        context = self._context
        if context.owed:
            context.pay()
            if context.owed:
                self._timers.after(_OWED_S, lambda: None)
        for number in self._suspects:
            self._listeners.check_number(number)
        self._suspects.clear()
        now = time.monotonic()
        if now - self._clock_checked > _CLOCK_CHECK_S:
            self._clock_checked = now
            self._check_clock()

    def _check_clock(self) -> None:
        by = time.time_ns() - self._context.now_ns()
        if abs(by - self._clock_told) > _CLOCK_STEP_NS:
            self._clock_told = by
            self._context.record(Kind.CLOCK, 0, 0, 0, str(by).encode())

    def _end(self) -> None:
        self._watcher.close()
        self._release_reserve()
        self._homes.remove()
        self._held.remove()
        self._context.close()
        self.tell("ended")

    # --- whoever started it, signals, the recorder ---

    def tell(self, event: str, **what: object) -> None:
        """A line to whoever started it; dropped if they do not read."""
        with suppress(OSError):
            self._control.send(json.dumps({"event": event, **what}).encode())

    def _told(self) -> None:
        try:
            message = self._control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            # Whoever started it is gone without a word: traffic and capture go on, SIGTERM ends them (R3).
            self._ignore(self._control.fileno())
        elif message == b"leave":
            self.leave()

    def _signalled(self, wake_read: int) -> None:
        for number in os.read(wake_read, 4096):
            if number == signal.SIGTERM:
                self.leave()
            elif number == signal.SIGUSR1:
                self.leave()
                for connection in list(self._connections.values()):
                    connection.close()
            elif number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGXCPU:
                priority.be_ordinary()
                self._timers.after(priority.ORDINARY_S, self._hurry_again)

    def _hurry_again(self) -> None:
        if not self._leaving:
            priority.hurry()

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._recorder_pid:
                    self._recorder_ended(os.waitstatus_to_exitcode(status))

    def _recorder_ended(self, status: int) -> None:
        self._recorder_done = True
        if self._shared.words[sh.RECORDER_STATE] == sh.RecorderState.RUNNING:
            self._shared.words[sh.RECORDER_STATE] = sh.RecorderState.FAILED
        self._context.recording = False
        self._context.owed.clear()
        self.tell("recorded", status=status)
        self.leave()

    def _recorder_says(self) -> None:
        try:
            message = self._recorder.recv(4096)
        except BlockingIOError:
            return
        if not message:
            self._ignore(self._recorder.fileno())
            return
        said = json.loads(message)
        if "server" in said:
            self._listeners.server_is(said["listener"], said["server"])
        if "limit" in said:
            self.tell("limit", text=said["limit"])
            self.leave()

    def leave(self) -> None:
        """Give the paths back, finish the capture, go on forwarding what is open (R4)."""
        if self._leaving:
            return
        self._leaving = True
        priority.be_ordinary()  # no shim's socket is to be taken any more
        self._ignore(self._watcher.fd)
        self._listeners.leave_all()
        self._context.record(Kind.END, 0, 0, 0)
        self._context.recording = False
        self._shared.words[sh.STATE] = sh.State.DRAINING
        self._held.write({"draining": len(self._connections)})
        self.tell("draining", connections=len(self._connections))

    # --- connections ---

    def _accept(self, listener: Listener) -> None:
        while not listener.retired:
            try:
                client, _ = listener.listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    self._out_of_descriptors(listener)
                elif error.errno != errno.ECONNABORTED:
                    raise
                return
            client.setblocking(False)
            listener.waiting.add(client)
            self._connect(listener, client, _RETRY_FIRST_S)

    def _connect(self, listener: Listener, client: socket.socket, again_in: float) -> None:
        """Connect upstream for an accepted client; a full backlog is tried again by timer (R1)."""
        if client not in listener.waiting:
            return  # closed with its listener
        try:
            upstream = self._upstream(listener)
        except BlockingIOError:
            self._connect_later(listener, client, again_in)
            return
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                self._out_of_descriptors(listener)
                self._connect_later(listener, client, _RETRY_MOST_S)
            elif time.monotonic() - listener.since < YOUNG_S and not listener.retired:
                self._connect_later(listener, client, again_in)
            else:
                listener.waiting.discard(client)
                client.close()
                self._listeners.check(listener)
            return
        listener.waiting.discard(client)
        self._last_number += 1
        number = self._last_number
        self._shared.words[sh.ACCEPTED] = number
        pid, uid, gid = peer_credentials(client)
        self._context.record(Kind.OPEN, 0, number, 0, b"%d,%d,%d,%d" % (listener.number, pid, uid, gid))
        inode = os.fstat(upstream.fileno()).st_ino
        listener.upstreams.add(inode)
        self._connections[number] = connection = Connection(
            self._context, number, listener.number, client, upstream, lambda ended: self._closed(listener, ended, inode)
        )
        self._shared.table[connection.base + sh.S_PID] = pid

    def _connect_later(self, listener: Listener, client: socket.socket, again_in: float) -> None:
        self._timers.after(again_in, lambda: self._connect(listener, client, min(again_in * 2, _RETRY_MOST_S)))

    def _upstream(self, listener: Listener) -> socket.socket:
        upstream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with _acting_as(listener.credentials):
                upstream.connect(listener.exchange.upstream)
            if not listener.credentials_seen:
                listener.credentials_seen = True
                _, uid, gid = peer_credentials(upstream)
                if listener.credentials is None and (uid, gid) != (os.geteuid(), os.getegid()) and os.geteuid() == 0:
                    listener.credentials = (uid, gid)
                    upstream.close()
                    return self._upstream(listener)
        except BaseException:
            upstream.close()
            raise
        return upstream

    def _closed(self, listener: Listener, connection: Connection, inode: int) -> None:
        self._connections.pop(connection.number, None)
        listener.upstreams.discard(inode)
        self._suspects.add(listener.number)
        if self._leaving and not self._connections:
            self.tell("drained")

    # --- R1: descriptors ---

    def _fill_reserve(self) -> bool:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        want = min(_RESERVE, soft // 4)
        try:
            while len(self._reserve) < want:
                self._reserve.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return False
        return True

    def _release_reserve(self) -> None:
        for fd in self._reserve:
            os.close(fd)
        self._reserve.clear()

    def _out_of_descriptors(self, listener: Listener) -> None:
        """New connections go direct from now on; the reserve serves those that are queued with us."""
        if self._reserve:
            self._release_reserve()  # first: giving back asks the kernel who listens, which takes one
            self._listeners.give_back_for_now()
            self.tell("direct", text="no descriptors left: new connections go direct and are not seen")
            self._timers.after(1.0, self._try_again)
            return
        fd = listener.listening.fileno()
        if not listener.retired and fd in self._context.handlers:
            self._ignore(fd)  # a queue that cannot be served would wake us without end
            self._timers.after(_RETRY_MOST_S, lambda: self._listen_again(listener))

    def _listen_again(self, listener: Listener) -> None:
        if not listener.retired:
            self._handle(listener.listening.fileno(), lambda _events: self._accept(listener))
            self._accept(listener)

    def _try_again(self) -> None:
        if self._leaving:
            return
        if not self._fill_reserve():
            self._release_reserve()
            self._timers.after(1.0, self._try_again)
            return
        direct = self._listeners.take_again()
        self._shared.words[sh.DIRECT] += direct
        self.tell("indirect", text=f"descriptors are there again: {direct} connections went direct and are not seen")


@contextmanager
def _acting_as(credentials: tuple[int, int] | None) -> Iterator[None]:
    """Connect with these effective ids: what the server sees of us is fixed at connect(2) (E7).

    Files are still looked up as before: the twin lies in a folder that is ours alone.
    """
    if credentials is None:
        yield
        return
    uid, gid = os.geteuid(), os.getegid()
    os.setegid(credentials[1])
    try:
        os.seteuid(credentials[0])
        system.set_filesystem_uid(uid)
        try:
            yield
        finally:
            os.seteuid(uid)
    finally:
        os.setegid(gid)
