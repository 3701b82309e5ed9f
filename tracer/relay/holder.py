"""The holder: it has every descriptor of the worker, does nothing with them, and is there when the worker dies.

It shares one descriptor table with the worker, so what that one accepts is here too at the same instant, and no
connection ends with it. It clones a successor at once, kills a worker that hangs (R2), and starts a recorder when there
is none. A holder that dies is cloned anew by the worker. It sleeps while the worker has nothing to do.

While a successor closes what no record names, the holder has no descriptor open.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from tracer.relay import priority, surroundings, system
from tracer.relay import shared as sh
from tracer.relay.relay import Relay, leave_process
from tracer.relay.shared import RecorderState

_LOOK_MS = 85
"""How often a busy worker's tick is looked at."""
_LOOKS = 3
"""So many looks without a tick, though something is ready for it: it hangs (R2: 250 ms). Looks and not time, since a
machine that stood still for a second has stopped the worker too."""
_TAKEOVER_S = 2.0
"""A successor that has not taken over by then hangs too."""
_RECORDERS = 3
"""So many recorders that die without taking a record out of the ring, and there is none any more."""
_PATIENCE = 8
"""After so many deaths in a row without a chunk forwarded, each successor comes a little later."""
_SCARCE = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_AGAIN_S = 0.010
_NESTED = 100_000
"""A process that is cloned goes on in the midst of its parent's calls, and its own successors in the midst of its."""


class Holder:
    """Runs until the worker has ended in order."""

    def __init__(self, relay: Relay, run_worker: Callable[[Relay, bool], None]) -> None:
        self._relay, self._run_worker = relay, run_worker
        self._words = relay.shared.words
        self._tail = 0
        self._in_vain = 0

    def run(self) -> None:
        """The one loop."""
        become("podwire-holder")
        priority.hurry()  # it sleeps; when it does not, everybody else's calls wait
        self._words[sh.HOLDER_PID] = os.getpid()
        if not self._words[sh.RECORDER_PID] and self._words[sh.RECORDER_STATE] == RecorderState.RUNNING:
            self._start_recorder()
        while self._watch():
            self._succeed()

    def _watch(self) -> bool:
        """Until the worker is dead; False if it had ended in order, and all is over."""
        words = self._words
        with _Watched(words[sh.WORKER_PID]) as worker, _Watched(words[sh.RECORDER_PID]) as recorder:
            poll = select.poll()
            if recorder.fd < 0 and words[sh.RECORDER_PID] and self._recorder_ended():  # while a holder was dead
                recorder.watch(words[sh.RECORDER_PID])
            for one in (worker, recorder):
                if one.fd >= 0:
                    poll.register(one.fd, select.POLLIN)
            epoll = words[sh.EPOLL]
            looks, tick, idle, hurried = 0, words[sh.TICK], False, False
            while worker.fd >= 0:
                inotify = 0 if hurried else words[sh.INOTIFY]
                # An idle worker's epoll wakes us when something is ready for it.
                ready = _wait(poll, {epoll if idle else 0, inotify} - {0}, None if idle else _LOOK_MS)
                if worker.fd in ready:
                    break
                if recorder.fd in ready:
                    poll.unregister(recorder.fd)
                    recorder.close()
                    if self._recorder_ended():
                        recorder.watch(words[sh.RECORDER_PID])
                        poll.register(recorder.fd, select.POLLIN)
                hurried = inotify in ready and inotify == words[sh.INOTIFY]  # it may have left while we slept
                if hurried:
                    priority.hurry(words[sh.WORKER_PID])
                if hurried or idle:
                    idle, looks, tick = False, 0, words[sh.TICK]
                elif words[sh.TICK] != tick:
                    looks, tick = 0, words[sh.TICK]
                elif not _is_ready(epoll):
                    idle = True
                else:
                    looks += 1
                    if looks >= _LOOKS:
                        worker.kill()
                        looks = 0
        _reap(words[sh.WORKER_PID])
        return words[sh.STATE] != sh.State.ENDED

    def _succeed(self) -> None:
        """Clone a successor, and wait until it has taken over, or has died too."""
        self._words[sh.DEATHS] += 1
        # A takeover sets ACTIVE to 0; each chunk sets it again.
        self._words[sh.BARREN] = 0 if self._words[sh.ACTIVE] else self._words[sh.BARREN] + 1
        time.sleep(min(1.0, 0.05 * max(0, self._words[sh.BARREN] - _PATIENCE)))
        pid = _tried_again(system.clone_sharing_descriptors)
        if pid == 0:
            leave_process(lambda: self._run_worker(self._relay, True))
        until = time.monotonic() + _TAKEOVER_S
        while self._words[sh.WORKER_PID] != pid:
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._words[sh.WORKER_PID] = pid  # dead before it said so
                return
            if time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.0005)

    # --- the recorder ---

    def _start_recorder(self) -> None:
        relay = self._relay
        self._tail = self._words[sh.TAIL]
        pid = _tried_again(os.fork)
        if pid == 0:
            leave_process(self._record)
        self._words[sh.RECORDER_PID] = pid
        relay.tell("recorder", pid=pid, holder=os.getpid())

    def _record(self) -> None:
        relay = self._relay
        become("podwire-record")
        priority.be_ordinary()
        with suppress(OSError):  # a user who was nice at the start has to stay so
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        link = relay.recorders_end
        surroundings.close_all_but({link.fileno(), *relay.shared.descriptors, *relay.keep})
        link.setblocking(True)
        try:
            relay.run_recorder(relay.shared, link)
        except Exception as error:
            # Its stderr is nobody's: the worker passes it on.
            _send(link, {"limit": f"capture stopped: {type(error).__name__}: {error}"})
            self._words[sh.RECORDER_STATE] = RecorderState.FAILED
            raise
        if self._words[sh.RECORDER_STATE] == RecorderState.RUNNING:
            self._words[sh.RECORDER_STATE] = RecorderState.COMPLETE

    def _recorder_ended(self) -> bool:
        """It has died, or is done; True if another one runs now."""
        words = self._words
        _reap(words[sh.RECORDER_PID])
        state = words[sh.RECORDER_STATE]
        if state == RecorderState.RUNNING:
            words[sh.RECORDER_DEATHS] += 1
            self._in_vain = 0 if words[sh.TAIL] != self._tail else self._in_vain + 1
            if self._in_vain < _RECORDERS:
                self._start_recorder()
                return True
        # The worker hears it as if from the recorder itself.
        _send(self._relay.recorders_end, {"ended": state == RecorderState.COMPLETE})
        return False


class _Watched:
    """A process by its pidfd; one that is gone already has none."""

    def __init__(self, pid: int) -> None:
        self.fd = -1
        self.watch(pid)

    def watch(self, pid: int) -> None:
        if pid:
            # Without a descriptor to watch it by it is not dead: taken for dead, there would be two of it.
            with suppress(ProcessLookupError):
                self.fd = _tried_again(lambda: os.pidfd_open(pid))

    def kill(self) -> None:
        signal.pidfd_send_signal(self.fd, signal.SIGKILL)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def become(name: str) -> None:
    """What every process of a relay does first: take its name, leave signals to the worker, and never free what it was
    cloned with, since objects of its parent name descriptors that are others' by now."""
    system.name_process(name)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGXCPU):
        signal.signal(number, signal.SIG_IGN)
    sys.setrecursionlimit(_NESTED)
    gc.freeze()


def _tried_again(act: Callable[[], int]) -> int:
    """Do it as soon as there are the descriptors, the memory and the processes for it: nobody else would."""
    while True:
        try:
            return act()
        except OSError as error:
            if error.errno not in _SCARCE:
                raise
            time.sleep(_AGAIN_S)


def _send(link: socket.socket, what: dict[str, object]) -> None:
    with suppress(OSError):  # nobody is there to hear it
        link.send(json.dumps(what).encode(), socket.MSG_DONTWAIT)


def _is_ready(epoll: int) -> bool:
    return epoll in _wait(select.poll(), {epoll}, 0)


def _wait(poll: select.poll, also: set[int], timeout_ms: int | None) -> set[int]:
    """Which of the poll's descriptors, and of these, are readable."""
    for fd in also:
        poll.register(fd, select.POLLIN)
    ready = {fd for fd, _ in poll.poll(timeout_ms)}
    for fd in also:
        poll.unregister(fd)
    return ready


def _reap(pid: int) -> None:
    """If it was a child of ours; whose parent has died is somebody else's."""
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)
