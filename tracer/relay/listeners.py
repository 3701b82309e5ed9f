"""The paths that are ours: taking them as they appear, following their servers' lives, giving them back.

In: what the watcher sees, servers that end, connects that are refused. Out: listeners in epoll, and lines to the
session. Connections are the worker's; it is told of each client through `accepted`.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import json
import math
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tracer.relay import mounts, sockdiag
from tracer.relay.exchange import Exchange, Homes, Refused, explain, peer_credentials, take
from tracer.relay.held import Held, HeldFile, HeldSocket
from tracer.relay.pump import Context
from tracer.relay.shared import Kind
from tracer.relay.targets import Target

YOUNG_S = 0.020
"""A server binds, then listens: a twin this young that does not listen yet is waited for (E6)."""
LINGER_S = 0.100
"""After the path was given back: a client that had looked it up just before may still come to us."""
MOUNT_CHECK_S = 5.0
"""How often it is looked whether a container still has our inode mounted (E8)."""
_PART_OF_A_SCAN = 20

Tell = Callable[..., None]


class Timers:
    """What is to be done later, by CLOCK_MONOTONIC seconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self.due = math.inf
        """When the next one is, by CLOCK_MONOTONIC."""

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do `act` in so many seconds."""
        heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._count), act))
        self.due = self._heap[0][0]

    def wait(self) -> float:
        """Seconds until the next is due; -1 if there is none."""
        return max(0.0, self.due - time.monotonic()) if self._heap else -1

    def run_due(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()
        self.due = self._heap[0][0] if self._heap else math.inf


@dataclass(slots=True)
class Listener:
    """One path of ours, with its socket."""

    target: Target
    exchange: Exchange
    listening: socket.socket
    credentials: tuple[int, int] | None
    since: float
    upstreams: set[int] = field(default_factory=set)
    """Socket inodes of our own connections to its server."""
    missed: int = 0
    """Connections found so far that did not come through us."""
    waiting: set[socket.socket] = field(default_factory=set)
    """Clients accepted whose upstream is not connected yet."""
    credentials_seen: bool = False
    pidfd: int = -1
    mounted_by: list[int] = field(default_factory=list)
    """Processes whose mount namespaces still have our inode, seen after leaving."""
    retired: bool = False
    """The path is not ours any more."""

    @property
    def number(self) -> int:
        """Of the exchange."""
        return self.exchange.number


def _is_of(held: HeldSocket, target: Target) -> bool:
    """Whether this socket was taken for this target, whose folder may have a `*` in it."""
    parts, wanted = held.folder.split("/"), target.folder.split("/")
    same = len(parts) == len(wanted) and all(want in ("*", part) for part, want in zip(parts, wanted, strict=True))
    return same and held.hop == target.hop and target.matches(held.name)


class Listeners:
    """All of them; the watcher's observer."""

    def __init__(
        self,
        context: Context,
        homes: Homes,
        held: HeldFile,
        timers: Timers,
        tell: Tell,
        accepted: Callable[[Listener], None],
        *,
        force: bool,
    ) -> None:
        self._context, self._homes, self._held, self._timers = context, homes, held, timers
        self._tell, self._accepted, self._force = tell, accepted, force
        self._by_path: dict[str, Listener] = {}
        self._by_number: dict[int, Listener] = {}
        self._left_alone: dict[str, tuple[int, int]] = {}
        self._numbers = itertools.count(1)
        self.leaving = False
        self.look_for_folder: Callable[[str], None] = lambda _folder: None
        """The watcher's; set once there is one."""

    def __len__(self) -> int:
        return len(self._by_number)

    # --- what the watcher sees ---

    def appeared(self, target: Target, folder: str, name: str, *, initial: bool) -> None:
        """A socket of a known name: a new one, a new generation of one (E3), or our own."""
        path = f"{folder.rstrip('/')}/{name}"
        try:
            status = os.lstat(path)
        except OSError:
            return
        inode = (status.st_ino, status.st_dev)
        have = self._by_path.get(path)
        if have is not None:
            if inode in (have.exchange.inode, have.exchange.twin):
                return
            self._end(have, "its server started again")
        if self.leaving or self._left_alone.get(path) == inode:
            return
        self._left_alone.pop(path, None)
        if initial and not target.existing:
            self._left_alone[path] = inode
            self._held.left_alone(path, inode)
            return
        self._take(target, folder, name)

    def changed(self, folder: str, name: str) -> None:
        """A server sets mode or owner by path after it has bound: that hits ours, and goes to its own file too (E6)."""
        listener = self._by_path.get(f"{folder.rstrip('/')}/{name}")
        if listener is not None and not listener.exchange.given_back and listener.exchange.path_is_ours():
            try:
                listener.exchange.copy_attributes_to_twin()
            except OSError as error:
                self._tell("failed", text=f"{listener.exchange.path}: attributes not copied: {error.strerror}")

    def gone(self, folder: str, name: str) -> None:
        """The name was removed: by its server, as it ends or before it binds anew."""
        listener = self._by_path.get(f"{folder.rstrip('/')}/{name}")
        if listener is not None and not listener.exchange.path_is_known():
            self._end(listener, "its path was removed")
        for home in self._homes.removed():
            for listener in [each for each in self._by_number.values() if each.exchange.home is home]:
                self._end(listener, "its folder was removed")
            self._homes.forget(home)

    def vanished(self, target: Target, folder: str) -> None:
        """A watched folder is gone, and what was in it."""
        for listener in list(self._by_path.values()):
            if listener.exchange.folder == folder:
                self._end(listener, "its folder was removed")
        if folder == target.folder:  # a VM's comes and goes with it
            self._tell("vanished", hop=target.hop, folder=folder, required=target.required)

    def unwatched(self, target: Target, folder: str, error: OSError) -> None:
        """A VM's folder cannot be watched."""
        self._tell("failed", text=f"{target.hop} {folder}: not watched: {error.strerror}")

    # --- after a takeover ---

    def go_on(self, held: Held, targets: list[Target]) -> None:
        """Go on with what a dead predecessor held; its listeners are open still. What it was doing at that moment is
        found by inode, as all else (E2)."""
        self._numbers = itertools.count(held.last_number + 1)
        self._left_alone = dict(held.left_alone)
        for number, socket_ in held.sockets.items():
            self._reopen(socket_, next((each for each in targets if _is_of(socket_, each)), None), number)

    def _reopen(self, held: HeldSocket, target: Target | None, number: int) -> None:
        home = self._homes.at(held.home)
        try:
            listening = socket.socket(fileno=held.listening)
            if target is None or home is None or not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise FileNotFoundError
            folder_fd = os.open(held.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise  # another successor may find some
            self._held.gone(number)  # given up at that very moment, or its folder is gone
            return
        exchange = Exchange(number, held.hop, held.folder, held.name, home, folder_fd, held.ours, held.twin)
        listener = self._add(target, exchange, listening, held.credentials)
        if not exchange.path_is_ours():
            exchange.given_back = exchange.path_is_known()
            if not exchange.given_back:
                self._end(listener, "its path was removed")
                return
            if not self.leaving and not exchange.retake():
                self._end(listener, "its path changed")
                return
        if held.server:
            self.server_is(number, held.server)
        self._timers.after(YOUNG_S, lambda: self._grown_up(listener))

    # --- taking ---

    def _take(self, target: Target, folder: str, name: str) -> None:
        path = f"{folder.rstrip('/')}/{name}"
        number = next(self._numbers)
        try:
            taken = take(number, target.hop, folder, name, self._homes, self._held.taken, force=self._force)
        except Refused as refused:
            self._held.gone(number)
            self._tell("refused", hop=target.hop, path=path, reason=str(refused))
            return
        listener = self._add(target, taken.exchange, taken.listener, taken.credentials)
        # Later in this turn: pods start together, and the next shim's socket may wait to be taken.
        self._timers.after(0, lambda: self._tell_taken(listener))
        self._timers.after(YOUNG_S, lambda: self._grown_up(listener))

    def _add(
        self, target: Target, exchange: Exchange, listening: socket.socket, credentials: tuple[int, int] | None
    ) -> Listener:
        listener = Listener(target, exchange, listening, credentials, time.monotonic())
        self._by_path[exchange.path] = self._by_number[exchange.number] = listener
        self._context.handlers[listening.fileno()] = lambda _events: self._accepted(listener)
        self._context.epoll.register(listening.fileno(), select.EPOLLIN)
        self._ask_who(listener)
        return listener

    def _ask_who(self, listener: Listener) -> None:
        """Tell the recorder of a socket; it answers with the process that listens (`server_is`)."""
        self._context.record(Kind.LISTENER, 0, 0, 0, self._describe(listener))

    def _tell_taken(self, listener: Listener) -> None:
        exchange = listener.exchange
        self._count_missed(listener)
        self._tell("taken", hop=exchange.hop, path=exchange.path, number=exchange.number, missed=listener.missed)

    def _count_missed(self, listener: Listener) -> int:
        """How many more of a shim's connections than before were found to have been made before the exchange."""
        if listener.target.name:
            return 0  # of the main sockets it is known who came first: a trace says it at its start
        before = listener.missed
        listener.missed = max(before, self._strangers(listener))
        return listener.missed - before

    def _describe(self, listener: Listener) -> bytes:
        exchange = listener.exchange
        return json.dumps(
            {
                "listener": exchange.number,
                "hop": exchange.hop,
                "path": exchange.path,
                "file": exchange.twin,
            }
        ).encode()

    def _strangers(self, listener: Listener) -> int:
        """Connections to the twin that did not come through us."""
        return len(sockdiag.client_sockets(*listener.exchange.twin) - listener.upstreams)

    def _grown_up(self, listener: Listener) -> None:
        """A server that has bound and not listened by now: put its socket back as it was."""
        exchange = listener.exchange
        if listener.retired or exchange.given_back:
            return
        if more := self._count_missed(listener):  # one that had looked the path up just before the swap
            self._tell("missed", hop=exchange.hop, path=exchange.path, count=more)
        server = sockdiag.find_listener(*exchange.twin)
        if server is not None or exchange.server_inode:
            exchange.server_inode = server.inode if server is not None else exchange.server_inode
            if self.check(listener) and listener.pidfd < 0:
                self._ask_who(listener)  # it did not listen yet when it was asked for first
        elif exchange.twin_listens():
            self._ask_who_listens(listener)
        elif exchange.path_is_ours():
            exchange.put_back()
            self._end(listener, "nobody listens on it")

    def _ask_who_listens(self, listener: Listener) -> None:
        """A server in another network namespace is in no table of ours: one connection to it tells its pid."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as probe:
            try:
                probe.connect(listener.exchange.upstream)
            except OSError:
                return
            self.server_is(listener.number, peer_credentials(probe)[0])

    def server_is(self, number: int, pid: int) -> None:
        """The process that holds the listener: watch for its end (E1). 0: nobody does, as far as the recorder saw."""
        listener = self._by_number.get(number)
        if listener is None or listener.retired or listener.pidfd >= 0:
            return
        try:
            listener.pidfd = os.pidfd_open(pid)
        except OSError:
            self.check(listener)
            return
        self._held.server(number, pid)
        self._context.handlers[listener.pidfd] = lambda _events: self._server_ended(listener)
        self._context.epoll.register(listener.pidfd, select.EPOLLIN)

    def _server_ended(self, listener: Listener) -> None:
        self._forget_pidfd(listener)
        if self.check(listener):
            self._ask_who(listener)  # a shim's socket is made by a `start` process that hands it on and ends

    def numbered(self, number: int) -> Listener | None:
        """The one with this number, None if its path was given up."""
        return self._by_number.get(number)

    def check_number(self, number: int) -> None:
        """One of its upstream connections has ended: is its server still there?"""
        listener = self._by_number.get(number)
        if listener is not None:
            self.check(listener)

    # --- E1: a path of ours never outlives the server behind it ---

    def check(self, listener: Listener) -> bool:
        """Whether anybody still listens behind the path; if not, it is given up at once."""
        if listener.retired:
            return False
        if listener.exchange.twin_listens():
            return True
        if not listener.exchange.server_inode and time.monotonic() - listener.since < YOUNG_S:
            return True
        known = bool(listener.exchange.server_inode)
        if not listener.exchange.given_back:
            if known:
                listener.exchange.drop()
            elif listener.exchange.path_is_ours():  # bound, and nobody listened yet: as in `_grown_up`, seen sooner
                listener.exchange.put_back()
        self._end(listener, "its server ended" if known else "nobody listens on it")
        return False

    def _end(self, listener: Listener, why: str) -> None:
        self._stop_listening(listener)
        listener.exchange.close()
        self._held.gone(listener.number)
        self._by_number.pop(listener.number, None)
        for client in list(listener.waiting):
            client.close()
        listener.waiting.clear()
        self._timers.after(LINGER_S, lambda: self.look_for_folder(listener.exchange.folder))
        self._tell("retired", hop=listener.target.hop, path=listener.exchange.path, reason=why)

    def _stop_listening(self, listener: Listener) -> None:
        listener.retired = True
        if self._by_path.get(listener.exchange.path) is listener:
            del self._by_path[listener.exchange.path]
        self._forget_pidfd(listener)
        fd = listener.listening.fileno()
        if self._context.handlers.pop(fd, None) is not None:
            self._context.epoll.unregister(fd)
        listener.listening.close()

    def _forget_pidfd(self, listener: Listener) -> None:
        if listener.pidfd >= 0:
            self._context.epoll.unregister(listener.pidfd)
            del self._context.handlers[listener.pidfd]
            os.close(listener.pidfd)
            listener.pidfd = -1

    # --- R1: no descriptors left ---

    def give_back_for_now(self) -> None:
        """New connections go direct until `take_again`; what is queued with us is still served."""
        for listener in list(self._by_path.values()):
            if not listener.exchange.given_back:
                listener.exchange.leave()

    def take_again(self) -> int:
        """Take the paths back; returns how many connections went direct meanwhile."""
        direct = 0
        for listener in list(self._by_path.values()):
            if listener.exchange.given_back:
                direct += self._strangers(listener)
                if not listener.exchange.retake():
                    self._end(listener, "its path changed while connections went direct")
        return direct

    # --- leaving (E2, R4, E8) ---

    def leave_all(self) -> None:
        """Give every path back. The listeners close a moment later, or when no container has them mounted."""
        self.leaving = True
        for listener in list(self._by_number.values()):
            if not listener.exchange.given_back:
                try:
                    listener.exchange.leave()
                except OSError as error:
                    reason = explain(error, listener.exchange.folder)
                    self._tell("failed", text=f"{listener.exchange.path} was not given back: {reason}")
            self._forget_pidfd(listener)
        self._timers.after(LINGER_S, self._look_for_mounts)

    def _look_for_mounts(self) -> None:
        """Main sockets are what pods mount; a shim's nobody does."""
        main = [each for each in self._by_number.values() if each.target.name]
        for listener in list(self._by_number.values()):
            if listener not in main:
                self._finish(listener)
        if main:
            self._scan(main, mounts.mounted_files(), {})

    def _scan(
        self, main: list[Listener], found: Iterator[mounts.Mounted | None], holders: dict[int, list[int]]
    ) -> None:
        """A slice of /proc at a time: a node has thousands of processes, and traffic waits for nobody (R1)."""
        part = list(itertools.islice(found, _PART_OF_A_SCAN))
        for mounted in filter(None, part):
            for listener in main:
                exchange = listener.exchange
                if mounts.names_file(mounted, f"{exchange.home.path}/{exchange.twin_name}", exchange.inode[1]):
                    holders.setdefault(listener.number, []).append(mounted.pid)
        if part:
            self._timers.after(0.001, lambda: self._scan(main, found, holders))
            return
        for listener in main:
            if listener.number not in holders:
                self._finish(listener)
            elif not listener.mounted_by:
                self._tell("mounted", path=listener.exchange.path, pids=holders[listener.number])
            listener.mounted_by = holders.get(listener.number, [])
        if holders:
            self._timers.after(MOUNT_CHECK_S, self._look_for_mounts)

    def _finish(self, listener: Listener) -> None:
        self._accepted(listener)  # who came before the path was given back
        if listener.waiting:
            self._timers.after(LINGER_S, lambda: self._finish(listener))
        else:
            self._end(listener, "left")
