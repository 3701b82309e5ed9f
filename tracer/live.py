"""A live trace, seen from whoever started it: what the relay tells, and the capture file as it grows.

It owns no traffic: when it dies, relay and recorder go on (R3). In: options of `podwire trace`. Out: lines for stderr
through `say`, and packets for a decoder. It knows nothing of how calls are shown.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from protos.errors import PodwireError
from tracer import discover, spool
from tracer.capture.growing import GrowingCapture, watched
from tracer.capture.journal_source import Source
from tracer.capture.monitor import Monitor, open_monitor
from tracer.capture.packets import Notice, Packet
from tracer.capture.recorder import Recorder
from tracer.capture.ring import Ring
from tracer.capture.room import Limits
from tracer.files import create_output
from tracer.relay import system
from tracer.relay.held import locked, make_runtime_folder, read_held, runtime_folder
from tracer.relay.relay import Plan
from tracer.relay.shared import Shared
from tracer.relay.start import start_relay
from tracer.relay.targets import FOLDER_HOPS, Target
from tracer.sessions import lost_with, mend_dead
from tracer.unit import give_unit

HINT_S = 10.0
"""Without a call for so long, a trace says how to make one."""
_SETTLE_S = 1.0
"""What the end of a trace may take: to give paths back, to write the capture out, to read it."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What to trace and when to stop."""

    targets: list[Target]
    limits: Limits
    duration_s: float = 0.0
    force: bool = False
    ring: Ring | None = None
    """The capture is a row of files."""
    monitor: str = ""
    """A vsockmon interface that is recorded too."""
    bundles: bool = True
    """Read the bundles that calls name, and keep them in the capture."""
    logs: Source | None = None
    """A log whose lines are recorded too."""


@dataclass(slots=True, eq=False, repr=False)  # its method is a signal handler, which `signal` looks up and prints
class Live:
    """One running trace. Use it as a context manager: leaving gives every path back."""

    options: Options
    capture: str
    """Path of the file that grows."""
    say: Say
    older: dict[str, discover.Older] = field(default_factory=dict)
    """By path of each named socket: who was connected before, and so is not seen; until it is told."""
    when_taken: dict[str, Callable[[], None]] = field(default_factory=dict)
    """By path: what is to be done once it is ours, once."""
    control: socket.socket = field(init=False)
    ended: bool = False
    """The capture is complete."""
    failed: bool = False
    """It ended in another way than by being told to."""
    draining: int = 0
    """Connections open when the paths were given back, which the relay goes on forwarding."""
    screen: bool = False
    """Whoever shows it is a screen, which stays when the trace has come to its limit, and goes at the first signal."""
    signalled: bool = False
    _started: bool = False
    _gone: bool = False
    _worker: int = 0
    _recorders: int = 0
    vanished: str = ""
    """The folder of a named socket, if it was removed and nothing else is left to trace."""
    _left: bool = False
    _detached: bool = False
    _taken: set[str] = field(default_factory=set)
    _held: set[str] = field(default_factory=set)
    _handlers: dict[int, Any] = field(default_factory=dict)
    """Of signals, as they were before."""
    _file: GrowingCapture | None = None

    def start(self) -> None:
        """Open the file, start relay and recorder. Raises PodwireError where that cannot be."""
        folder = runtime_folder()
        try:
            make_runtime_folder(folder)
        except OSError as error:
            raise PodwireError(f"{folder}: {error.strerror}") from error
        limits, ring, bundles = self.options.limits, self.options.ring, self.options.bundles
        logs = self.options.logs
        first = self.capture if ring is None else ring.name(1)
        with locked(folder):
            self._mend()
            spool.remove_forgotten()
            discover.refuse_second_tracer(self.options.targets)
            packets = open_monitor(self.options.monitor) if self.options.monitor else None
            fd = create_output(first, name=f"-w {first}")
            keep = [fd] if packets is None else [fd, packets.fileno()]
            keep += [] if logs is None else logs.descriptors()

            def record(shared: Shared, link: socket.socket) -> None:
                monitor = None if packets is None else Monitor(packets)
                first_fd = fd if ring is None else None
                Recorder(first_fd, limits, link, ring, monitor, logs, bundles=bundles).run(shared)

            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._handlers[number] = signal.signal(number, self._signalled)
            plan = Plan(self.options.targets, folder, self.capture, self.options.duration_s, self.options.force)
            worker, self.control = start_relay(plan, record, keep if ring is None else keep[1:])
            self._worker = worker
            for each in keep:
                os.close(each)
            if packets is not None:
                packets.detach()
            if self._left:
                self._tell_to_leave()
            while not self._started and not self._gone:
                self._hear()
        self._file = GrowingCapture(first, ring)

    def _await_end(self) -> None:
        """Wait until the relay holds nothing: a process that was killed closes one descriptor after the other, and the
        one that it told us by may go before the one that says that it runs."""
        until = time.monotonic() + _SETTLE_S
        while time.monotonic() < until and any(
            held.alive and held.pid == self.session for held in read_held(runtime_folder())
        ):
            time.sleep(0.005)

    def _mend(self) -> None:
        for held in discover.dead_relays():
            if lost := lost_with(held):
                self.say(f"podwire {held.pid} was killed: {lost}")
            for path, left in mend_dead(held):
                self.say(f"{path}: mended what podwire {held.pid} left when it died ({left.value})")

    def leave(self) -> None:
        """Tell the relay to give its paths back and to finish the capture."""
        if not self._left:
            self._left = True
            if self._worker:  # a signal may come before there is one
                self._tell_to_leave()

    def _tell_to_leave(self) -> None:
        with suppress(OSError):  # it may be gone
            self.control.send(b"leave")

    def hear(self) -> bool:
        """Take one message of the relay, for who waits on `control` himself; whether there can be more."""
        self._hear()
        return not self._gone

    def packets(self) -> Iterator[list[Packet | Notice]]:
        """What the capture file gets, in batches, until it is complete; an empty batch at least every half second."""
        file = self._file
        assert file is not None
        with self._watch() as changed:
            poll = select.poll()
            poll.register(self.control, select.POLLIN)
            poll.register(changed, select.POLLIN)
            until = float("inf")
            while not self.ended and time.monotonic() < until:
                for fd, _ in poll.poll(500):
                    if fd == self.control.fileno():
                        self._hear()
                    else:
                        os.read(fd, 65536)
                if self._left and until == float("inf"):
                    until = time.monotonic() + _SETTLE_S
                yield file.read_available()
        if not self.ended:
            self.say("the capture is still being written: podwire decode prints the rest")
        while batch := file.read_available():
            yield batch
        yield list(file.finish())
        if file.row is not None and file.row.lost:
            self.say(f"{file.row.lost} bytes of the capture were overwritten before they were read, and are not shown")

    @property
    def session(self) -> int:
        """What `status`, `attach` and `stop` know it by."""
        return self._worker

    def detach(self) -> bool:
        """Hear what is traced, then let go of a relay that goes on recording; False if it was told to leave by then."""
        until = time.monotonic() + _SETTLE_S
        while self.older and not self._left and not self._gone and time.monotonic() < until:
            if select.select([self.control], [], [], 0.1)[0]:
                self._hear()
        if self._left or self._gone:
            return False
        self._let_go()
        self._detached = True
        return True

    def close(self) -> None:
        """Leave, and let go; the relay goes on with what is open, and is gone if nothing is. Nothing after `detach`."""
        if self._detached:
            return
        self.leave()
        until = time.monotonic() + _SETTLE_S
        while not self._gone and not (self.ended and self.draining) and time.monotonic() < until:
            if select.select([self.control], [], [], 0.1)[0]:
                self._hear()
        if self._gone and self._worker:
            os.waitpid(self._worker, 0)
        self._let_go()

    def _let_go(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._file is not None:
            self._file.close()
        self.control.close()

    # --- what the relay tells ---

    def _on_started(self, pid: int) -> None:
        self._started = True

    def _on_recorder(self, pid: int, holder: int) -> None:
        self._recorders += 1
        if self._recorders > 1:
            self.say("the recorder was killed; another goes on where it was")
        elif reason := give_unit(self._worker, [self._worker, holder, pid]):
            self.say(f"the relay has no systemd unit of its own: {reason}")

    def _hear(self) -> None:
        try:
            message = self.control.recv(65536)
        except ConnectionResetError:  # it ended before it read what we had told it
            message = b""
        if not message:
            self._gone = True
            if not self._left:
                self.failed = True
                self.say("the relay was killed: the connections through it are lost, and so is the end of the capture")
                os.waitpid(self._worker, 0)
                self._await_end()
                self._worker = 0
                self._mend()
            self.ended = True
            return
        said = json.loads(message)
        handler = getattr(self, f"_on_{said.pop('event')}", None)
        if handler is not None:
            handler(**said)

    def _on_taken(self, hop: str, path: str, number: int, missed: int) -> None:
        again = path in self._taken
        self._taken.add(path)
        self._held.add(path)
        older = self.older.pop(path, None)
        if missed:
            self._on_missed(hop, path, missed)
        elif older is not None:
            self.say(f"{hop} {path}: {_told(older)}")
        elif again and self._is_main(hop):
            self.say(f"{hop} {path}: its server started again; tracing it")
        act = self.when_taken.pop(path, None)
        if act is not None:
            act()

    def _on_missed(self, hop: str, path: str, count: int) -> None:
        what = "1 connection was" if count == 1 else f"{count} connections were"
        self.say(f"{hop} {path}: {what} made before it was traced and not seen")

    def _is_main(self, hop: str) -> bool:
        return hop not in FOLDER_HOPS

    def _on_refused(self, hop: str, path: str, reason: str) -> None:
        self.older.pop(path, None)
        self.say(f"{hop} {path}: not traced: {reason}")

    def _on_retired(self, hop: str, path: str, reason: str) -> None:
        self._held.discard(path)
        if reason != "left" and self._is_main(hop):
            self.say(f"{hop} {path}: {reason}")

    def _on_vanished(self, hop: str, folder: str, required: bool) -> None:
        if required and not self._held:
            self.vanished = folder
            self.leave()
        else:
            self.say(f"{hop} {folder}: the folder was removed; it is looked for again")

    def _on_failed(self, text: str) -> None:
        self.say(text)

    def _on_disk(self, text: str) -> None:
        self.say(text)

    def _on_log(self, text: str) -> None:
        self.say(text)

    def _on_direct(self, text: str) -> None:
        self.say(text)

    def _on_indirect(self, text: str) -> None:
        self.say(text)

    def _on_mounted(self, path: str, pids: list[int]) -> None:
        pods = ", ".join(discover.container_name(pid) for pid in pids)
        self.say(f"{path}: still mounted in {pods}: the relay serves it until that is gone")

    def _on_limit(self, text: str) -> None:
        self.say(text)
        if "stopped" in text:
            self.failed = True
        self._left = True

    def _on_draining(self, connections: int) -> None:
        self._left = True
        self.draining = connections

    def _on_drained(self) -> None:
        self.draining = 0

    def _on_recorded(self, status: int) -> None:
        self.ended = True
        if status:
            self.failed = True
            self.say(f"the recorder ended with status {status}: the capture is not complete; traffic goes on")

    # --- signals, the file ---

    def _signalled(self, _number: int, _frame: object) -> None:
        """The paths are given back at once, even while stdout is blocked; a second signal breaks that off too."""
        if self._left and (self.signalled or not self.screen):
            raise KeyboardInterrupt
        self.signalled = True
        self.leave()

    @contextmanager
    def _watch(self) -> Iterator[int]:
        fd = system.inotify_init()
        try:
            system.inotify_add_watch(fd, watched(self.capture), system.IN_MODIFY)
            yield fd
        finally:
            os.close(fd)


def _told(older: discover.Older) -> str:
    """What a trace says of a socket at its start."""
    if not older.count:
        return "tracing"
    ones = "one is" if older.count == 1 else "ones are"
    text = f"tracing new connections; {older.count} older {ones} not seen"
    if older.clients:
        names = (f"{each.label}, pid {each.pid}: {discover.how_to_reopen(each)}" for each in older.clients)
        text += f" ({'; '.join(names)})"
    return text


def spool_folder() -> str:
    """Where captures without a name lie: `/var/lib/podwire` for root, else the user's state folder; made, 0700."""
    folder = spool.spool_path()
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        raise PodwireError(f"{folder}: {error.strerror}: name a file with -w FILE") from error
    return folder
