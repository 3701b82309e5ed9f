"""Start a relay that does not share the fate of who started it (R3): its own session, its own descriptors.

Whoever starts it has imported all that worker and recorder need; nothing is imported after the fork, so that a relay
goes on when podwire is upgraded or uninstalled.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
from collections.abc import Callable

from tracer.relay import system
from tracer.relay.shared import Shared
from tracer.relay.worker import Plan, Worker

RunRecorder = Callable[[Shared, socket.socket], None]
"""Runs the recorder in its own process, until the END record or until the worker is gone."""


def start_relay(plan: Plan, run_recorder: RunRecorder, keep: list[int]) -> tuple[int, socket.socket]:
    """Fork worker and recorder; returns the worker's pid (a child, to be reaped if it ends first) and the socket on
    which it tells what happens, one JSON object a message.

    `keep` lists the descriptors that the recorder needs; all others are closed in both. Send `leave` to end the
    relay. The socket's end of file means that the worker is gone.
    """
    shared = Shared()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker = os.fork()
    if worker == 0:
        _run_and_exit(lambda: _become_relay(plan, run_recorder, shared, theirs, keep))
    theirs.close()
    shared.close()
    return worker, ours


def _become_relay(
    plan: Plan, run_recorder: RunRecorder, shared: Shared, control: socket.socket, keep: list[int]
) -> None:
    os.setsid()
    _leave_surroundings({control.fileno(), shared.fd, shared.recorder_wake, *keep})
    to_recorder, to_worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    recorder = os.fork()
    if recorder == 0:
        to_recorder.close()
        control.close()
        system.name_process("podwire-record")
        _run_and_exit(lambda: _record(run_recorder, shared, to_worker))
    to_worker.close()
    for fd in keep:
        os.close(fd)
    to_recorder.setblocking(False)
    control.setblocking(False)
    system.name_process("podwire-worker")
    try:
        Worker(plan, shared, control, to_recorder, recorder).run()
    except Exception as error:
        control.send(json.dumps({"event": "failed", "text": f"the relay: {type(error).__name__}: {error}"}).encode())
        raise


def _record(run_recorder: RunRecorder, shared: Shared, link: socket.socket) -> None:
    try:
        run_recorder(shared, link)
    except Exception as error:
        # Its stderr is nobody's: the worker passes it on.
        link.send(json.dumps({"limit": f"capture stopped: {type(error).__name__}: {error}"}).encode())
        raise


def _run_and_exit(act: Callable[[], None]) -> None:
    """In a forked child: never return into the parent's code, never run its exit handlers."""
    status = 1
    try:
        act()
        status = 0
    finally:
        os._exit(status)


def _leave_surroundings(keep: set[int]) -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the worker sets its own; it means drain
    os.chdir("/")
    os.umask(0o177)  # a socket of ours is nobody's until it has its server's mode
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for entry in os.listdir("/proc/self/fd"):
        fd = int(entry)
        if fd > 2 and fd not in keep:
            with contextlib.suppress(OSError):  # the listing's own descriptor
                os.close(fd)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
