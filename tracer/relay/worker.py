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
from functools import partial

from tracer.relay import priority, system, takeover
from tracer.relay import shared as sh
from tracer.relay.exchange import explain, peer_credentials
from tracer.relay.held import Held
from tracer.relay.listeners import YOUNG_S, Listener, Listeners, Timers
from tracer.relay.pump import Connection, Context
from tracer.relay.relay import Relay
from tracer.relay.shared import Kind
from tracer.relay.watch import Watcher

_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_RETRY_FIRST_S, _RETRY_MOST_S = 0.001, 0.050
_PACE_S = 0.1
"""How often, while there is something to do, it is looked at the wall clock and at how much there is."""
_CLOCK_STEP_NS = 1_000_000
"""A wall clock that differs by more was set, not slewed."""
_RESERVE = 64
"""Descriptors kept aside, and given up to serve what is queued when they run out; a quarter of a low limit."""
_OWED_S = 0.010
_QUIET_TURNS = 50
"""With fewer in that time, waking at once is what matters (priority.py)."""
_HOLDER_AGAIN_S = 1.0
_EVENTS = 64
"""Most that one turn takes."""
_BARREN_UNRECORDED, _BARREN_DIRECT = 3, 6
"""After so many deaths in a row without a chunk forwarded between: nothing is recorded any more; the paths are given
back (R2)."""


class Worker:
    """Runs until its work is done; begins anew, or (`succeeding`) goes on where a dead one stopped."""

    def __init__(self, relay: Relay, start_holder: Callable[[Relay], int], *, succeeding: bool) -> None:
        self._relay, self._start_holder, self._succeeding = relay, start_holder, succeeding
        shared, plan = relay.shared, relay.plan
        self._shared, self._held = shared, relay.held
        self._words = shared.words
        held = salvaged = None
        clients: list[tuple[int, socket.socket]] = []
        if succeeding:
            # Before anything is opened, since there may be no descriptor left: what no record names is closed.
            takeover.close_epoll(shared)
            takeover.close_half_closed(shared)
            held = relay.held.read()
            salvaged = takeover.count_again(shared)
            clients = takeover.sort_descriptors(takeover.known(shared, held, relay.descriptors))
            relay.homes.reopen(held.homes)
        self._epoll = select.epoll()
        self._words[sh.EPOLL] = self._epoll.fileno()
        self._context = Context(shared, self._epoll)
        self._timers = Timers()
        self._listeners = Listeners(
            self._context, relay.homes, relay.held, self._timers, relay.tell, self._accept, force=plan.force
        )
        self._watcher = Watcher(plan.targets, self._listeners)
        self._listeners.look_for_folder = self._watcher.look_for
        self._connections: dict[int, Connection] = {}
        self._reserved = False
        self._hurries = 0
        self._quiet, self._tick = True, self._words[sh.TICK]
        self._leaving = False
        self._pace_at = time.monotonic() + _PACE_S
        self._clock_told = 0
        self._suspects: set[int] = set()
        """Listeners one of whose upstream connections has ended."""
        if held is not None:
            self._go_on(held, salvaged or 0, clients)

    # --- the loop ---

    def run(self) -> None:
        """Relay until told to leave and the last connection has ended."""
        handlers, epoll, words, timers = self._context.handlers, self._epoll, self._words, self._timers
        owed, suspects, monotonic = self._context.owed, self._suspects, time.monotonic
        self._start()
        self._keep_reserve()
        tick = words[sh.TICK]
        while not self._leaving or not self._over():
            try:
                ready = epoll.poll(timers.wait(), _EVENTS)
            except InterruptedError:
                continue
            tick += 1
            words[sh.TICK] = tick
            for fd, events in ready:
                handler = handlers.get(fd)
                if handler is not None:
                    try:
                        handler(events)
                    except Exception as error:  # a fault of ours must not stop the traffic of the others
                        self.tell("failed", text=f"{type(error).__name__}: {error} (descriptor {fd}, closed)")
                        self._abandon(fd)
            now = monotonic()
            if now >= timers.due or now >= self._pace_at or suspects or owed:  # not in nearly every turn
                try:
                    timers.run_due()
                    self._between_turns(now)
                except OSError as error:
                    if error.errno not in _NO_DESCRIPTORS:
                        raise
                    self._look_with_the_reserve()
        self._end()

    def _start(self) -> None:
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGXCPU):
            signal.signal(number, lambda *_: None)
        self._handle(wake_read, lambda _events: self._signalled(wake_read))
        self._handle(self._relay.control.fileno(), lambda _events: self._told())
        self._handle(self._relay.recorder.fileno(), lambda _events: self._recorder_says())
        priority.be_ordinary()
        if not self._leaving:
            self._watch()
        if self._succeeding:
            self._watch_holder(self._words[sh.HOLDER_PID])
        else:
            self._have_holder()
            self.tell("started", pid=os.getpid())
        for connection in list(self._connections.values()):
            connection.go_on()
        self._words[sh.WORKER_PID] = os.getpid()

    def _watch(self) -> None:
        """Have the folders watched, and take what is there."""
        plan = self._relay.plan
        self._set_priority()
        self._handle(self._watcher.fd, lambda _events: self._something_appeared())
        self._words[sh.INOTIFY] = self._watcher.fd
        if not self._succeeding:
            self._words[sh.STATE] = sh.State.TRACING
            for target in plan.targets:
                if not target.name:
                    self._held.write({"watching": target.folder, "hop": target.hop})
        try:
            self._watcher.start(again=self._succeeding)
        except OSError as error:
            self.tell("failed", text=f"{error.filename}: {explain(error, str(error.filename))}")
        if self._words[sh.UNTIL_NS]:
            self._timers.after((self._words[sh.UNTIL_NS] - time.monotonic_ns()) / 1e9, self.leave)

    def _something_appeared(self) -> None:
        self._watcher.read()
        self._hurries += 1  # the holder has seen to it
        self._timers.after(priority.MOMENT_S, partial(self._rest, self._hurries))

    def _rest(self, hurry: int) -> None:
        if hurry == self._hurries:  # nothing has appeared since
            self._set_priority()

    def _set_priority(self) -> None:
        if self._quiet and not self._leaving:
            priority.hurry()
        else:
            priority.be_ordinary()

    def _go_on(self, held: Held, salvaged: int, clients: list[tuple[int, socket.socket]]) -> None:
        """Take over: listeners, connections, what was on its way."""
        shared, words = self._shared, self._words
        self._listeners.leaving = words[sh.STATE] >= sh.State.DRAINING
        running = words[sh.RECORDER_STATE] == sh.RecorderState.RUNNING
        self._context.recording = running and words[sh.BARREN] < _BARREN_UNRECORDED
        self._held.end_line()
        record = takeover.finish_record(shared, self._context)
        self._listeners.go_on(held, self._relay.plan.targets)
        for base in takeover.rows(shared):
            self._adopt(base)
        for number, client in clients:
            listener = self._listeners.numbered(number)
            if listener is None:
                client.close()
            else:
                listener.waiting.add(client)
                self._timers.after(0, partial(self._connect, listener, client, _RETRY_FIRST_S))
        words[sh.SALVAGED] += bool(salvaged or record)
        self.tell("succeeded", deaths=words[sh.DEATHS], pipe=salvaged, record=record)
        if self._listeners.leaving:
            self.leave()  # once more, from its beginning: all of it can be done twice
        elif not self._context.recording:
            self.tell("failed", text=f"the relay died {words[sh.BARREN]} times in a row: it goes on, unrecorded")
            if words[sh.BARREN] >= _BARREN_DIRECT:
                self._timers.after(0, self.leave)

    def _adopt(self, base: int) -> None:
        table = self._shared.table
        try:
            client = socket.socket(fileno=table[base + sh.S_CLIENT])
            upstream = socket.socket(fileno=table[base + sh.S_UPSTREAM])
        except OSError as error:
            self.tell("failed", text=f"connection {table[base + sh.S_NUMBER]} is lost: {error.strerror}")
            table[base + sh.S_STATE] = sh.Row.CLOSING
            takeover.close_half_closed(self._shared)
            return
        self._relay_connection(base, self._listeners.numbered(table[base + sh.S_LISTENER]), client, upstream)

    def _have_holder(self) -> None:
        self._words[sh.WORKER_PID] = os.getpid()
        try:
            pid = self._start_holder(self._relay)
        except OSError as error:
            self.tell("failed", text=f"no holder: {error.strerror}: if this relay is killed, its connections are lost")
            if error.errno != errno.ENOSYS:
                self._timers.after(_HOLDER_AGAIN_S, self._have_holder)
            return
        self._watch_holder(pid)

    def _watch_holder(self, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:  # dead already
            self._timers.after(0, self._have_holder)
            return
        except OSError:  # it lives, and there is no descriptor to watch it by
            self._timers.after(_HOLDER_AGAIN_S, partial(self._watch_holder, pid))
            return
        self._handle(pidfd, lambda _events: self._holder_died(pid, pidfd))

    def _holder_died(self, pid: int, pidfd: int) -> None:
        self._ignore(pidfd)
        os.close(pidfd)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        self._have_holder()

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
        done = self._words[sh.RECORDER_STATE] != sh.RecorderState.RUNNING and not self._words[sh.RECORDER_PID]
        return self._leaving and done and not self._connections and not len(self._listeners)

    def _between_turns(self, now: float) -> None:
        context = self._context
        if context.owed:
            context.pay()
            if context.owed:
                self._timers.after(_OWED_S, lambda: None)
        for number in self._suspects:
            self._listeners.check_number(number)
        self._suspects.clear()
        if now >= self._pace_at:
            self._pace_at = now + _PACE_S
            self._check_clock()
            tick = self._words[sh.TICK]
            quiet, self._tick = tick - self._tick < _QUIET_TURNS, tick
            if quiet != self._quiet:
                self._quiet = quiet
                self._set_priority()

    def _check_clock(self) -> None:
        by = time.time_ns() - self._context.now_ns()
        if abs(by - self._clock_told) > _CLOCK_STEP_NS:
            self._clock_told = by
            self._context.record(Kind.CLOCK, 0, 0, 0, str(by).encode())

    def _end(self) -> None:
        self._words[sh.STATE] = sh.State.ENDED
        self._watcher.close()
        self._relay.homes.remove()
        self._held.remove()
        self._context.close()
        self.tell("ended")
        with suppress(OSError):  # if it is our own child: nobody else would reap it
            holder = self._words[sh.HOLDER_PID]
            if os.waitpid(holder, os.WNOHANG) == (0, 0):
                os.kill(holder, signal.SIGKILL)
                os.waitpid(holder, 0)

    # --- whoever started it, signals, the recorder ---

    def tell(self, event: str, **what: object) -> None:
        """A line to whoever started it; dropped if they do not read."""
        self._relay.tell(event, **what)

    def _told(self) -> None:
        try:
            message = self._relay.control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            # Whoever started it is gone without a word: traffic and capture go on, SIGTERM ends them (R3).
            self._ignore(self._relay.control.fileno())
        elif message == b"leave":
            self.leave()

    def _signalled(self, wake_read: int) -> None:
        for number in os.read(wake_read, 4096):
            if number == signal.SIGTERM:
                self.leave()
            elif number == signal.SIGUSR1:
                self.cut()
            elif number == signal.SIGXCPU:
                self._quiet = False
                self._set_priority()

    def _recorder_says(self) -> None:
        try:
            message = self._relay.recorder.recv(4096)
        except BlockingIOError:
            return
        if not message:
            self._ignore(self._relay.recorder.fileno())
            return
        said = json.loads(message)
        if "server" in said:
            self._listeners.server_is(said["listener"], said["server"])
        for what in ("disk", "log"):
            if what in said:
                self.tell(what, text=said[what])
        if "limit" in said:
            self.tell("limit", text=said["limit"])
            self.leave()
        if "ended" in said and self._words[sh.RECORDER_PID]:
            self._words[sh.RECORDER_PID] = 0  # a holder says it again if it is not sure
            for fd in self._relay.keep:
                os.close(fd)
            self._context.recording = False
            self._context.owed.clear()
            if self._words[sh.RECORDER_STATE] == sh.RecorderState.RUNNING:
                self._words[sh.RECORDER_STATE] = sh.RecorderState.FAILED  # one died after the other
            self.tell("recorded", status=0 if said["ended"] else 1)
            self.leave()

    def leave(self) -> None:
        """Give the paths back, finish the capture, go on forwarding what is open (R4)."""
        if self._leaving:
            return
        self._leaving = True
        self._words[sh.STATE] = sh.State.DRAINING
        self._words[sh.INOTIFY] = 0
        self._set_priority()
        self._ignore(self._watcher.fd)
        self._listeners.leave_all()
        self._context.record(Kind.END, 0, 0, 0)
        self._context.recording = False
        self._held.write({"draining": len(self._connections)})
        self.tell("draining", connections=len(self._connections))

    def cut(self) -> None:
        """Do not wait for what is open: close it. Containers whose shims it led to are removed by containerd."""
        self.leave()
        for connection in list(self._connections.values()):
            connection.close()

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
        pid, _, _ = peer_credentials(client)
        number = self._words[sh.ACCEPTED] + 1
        try:
            base = self._context.take_row(number, listener.number, client, upstream, pid)
        except OSError:
            upstream.close()
            self._out_of_descriptors(listener)
            self._connect_later(listener, client, _RETRY_MOST_S)
            return
        self._words[sh.ACCEPTED] = number
        listener.waiting.discard(client)
        self._relay_connection(base, listener, client, upstream)

    def _relay_connection(
        self, base: int, listener: Listener | None, client: socket.socket, upstream: socket.socket
    ) -> None:
        """Relay the connection whose row is made; its listener is None if its path was given up meanwhile."""
        table = self._shared.table
        for one in (client, upstream):
            one.setblocking(False)
        inode = os.fstat(upstream.fileno()).st_ino
        if listener is not None:
            listener.upstreams.add(inode)
        connection = Connection(
            self._context, base, client, upstream, lambda ended: self._closed(listener, ended, inode)
        )
        if table[base + sh.S_STATE] == sh.Row.MADE:
            about = table[base + sh.S_LISTENER], *peer_credentials(client)
            self._context.record(Kind.OPEN, 0, connection.number, 0, b"%d,%d,%d,%d" % about)
            table[base + sh.S_STATE] = sh.Row.OPEN
        self._connections[connection.number] = connection

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

    def _closed(self, listener: Listener | None, connection: Connection, inode: int) -> None:
        self._connections.pop(connection.number, None)
        if listener is not None:
            listener.upstreams.discard(inode)
            self._suspects.add(listener.number)
        if self._leaving and not self._connections:
            self.tell("drained")

    # --- R1: descriptors ---

    def _keep_reserve(self) -> bool:
        """Have the last descriptors kept aside, by a limit below the hard one; False if they are in use."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard - min(_RESERVE, hard // 4), hard))
        try:
            os.close(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            self._use_reserve()
            return False
        self._reserved = True
        return True

    def _use_reserve(self) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._reserved = False

    def _out_of_descriptors(self, listener: Listener) -> None:
        """New connections go direct from now on; the reserve serves those that are queued with us."""
        if self._reserved:
            self._use_reserve()  # first: giving back asks the kernel who listens, which takes one
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

    def _look_with_the_reserve(self) -> None:
        """Who listens could not be looked at, as that takes a descriptor: the next look has one."""
        if self._reserved:
            self._use_reserve()
            self._timers.after(1.0, self._try_again)

    def _try_again(self) -> None:
        if self._leaving:
            return
        if not self._keep_reserve():
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
