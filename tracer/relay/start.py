"""Start a relay that does not share the fate of who started it (R3): two processes and a recorder, their own session.

Whoever starts it has imported all that they need; nothing is imported after the fork, so that a relay goes on when
podwire is upgraded or uninstalled.
"""

from __future__ import annotations

import os
import socket
import time

from tracer.relay import shared as sh
from tracer.relay import surroundings, system
from tracer.relay.exchange import Homes
from tracer.relay.held import HeldFile
from tracer.relay.holder import Holder, become
from tracer.relay.relay import Plan, Relay, RunRecorder, leave_process
from tracer.relay.shared import Shared
from tracer.relay.worker import Worker


def start_relay(plan: Plan, run_recorder: RunRecorder, keep: list[int]) -> tuple[int, socket.socket]:
    """Fork the relay; returns the pid of its first worker, which is the session's name (a child, to be reaped), and the
    socket on which it tells what happens, one JSON object a message.

    `keep` lists the descriptors that the recorder needs; all others are closed. Send `leave` to end the relay. The
    socket's end of file means that all of it is gone.
    """
    shared = Shared()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    first = os.fork()
    if first == 0:
        leave_process(lambda: _become_relay(plan, run_recorder, shared, theirs, keep))
    theirs.close()
    shared.close()
    return first, ours


def _become_relay(
    plan: Plan, run_recorder: RunRecorder, shared: Shared, control: socket.socket, keep: list[int]
) -> None:
    surroundings.leave({control.fileno(), *shared.descriptors, *keep})
    recorder, recorders_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for one in (control, recorder, recorders_end):
        one.setblocking(False)
    words = shared.words
    words[sh.CLOCK_OFFSET] = time.time_ns() - time.monotonic_ns()
    if plan.duration_s:
        words[sh.UNTIL_NS] = time.monotonic_ns() + int(plan.duration_s * 1e9)
    session = os.getpid()
    held = HeldFile(plan.runtime_folder, session, plan.capture, shared.fd)
    homes = Homes(plan.runtime_folder, session)
    relay = Relay(plan, shared, control, recorder, recorders_end, run_recorder, tuple(keep), held, homes)
    run_worker(relay, False)


def run_worker(relay: Relay, succeeding: bool) -> None:
    """In a process of its own: be the worker, the first or one after a dead one."""
    become("podwire-worker")
    try:
        Worker(relay, start_holder, succeeding=succeeding).run()
    except Exception as error:
        relay.tell("failed", text=f"the relay: {type(error).__name__}: {error}")
        raise


def start_holder(relay: Relay) -> int:
    """Clone a holder; returns its pid. Raises OSError where this machine has no clone(2) that we know."""
    pid = system.clone_sharing_descriptors()
    if pid == 0:
        leave_process(lambda: Holder(relay, run_worker).run())
    return pid
