"""Sessions of a test: those that trace a socket of its folder, found as the commands find them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tracer.processes import pids
from tracer.sessions import Session, read_session, read_sessions


def of_folder(folder: Path) -> list[Session]:
    return [each for each in read_sessions() if any(path.startswith(str(folder)) for _, path in each.held.folders)]


def kill_relay(session: int) -> None:
    """Every process of it in the same instant: each is stopped first, so that none replaces another."""
    relay = [pid for pid in pids() if _session_of(pid) == session]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in relay:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
    eventually(lambda: not any(_lives(pid) for pid in relay), "the relay to be dead")


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _lives(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def eventually(check: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(0.01)


def shim_is_known(folder: Path, sandbox: str) -> None:
    """Waits until the recorder has found who serves a connection, which it looks for when one is made."""
    eventually(
        lambda: sandbox in (each.sandbox for session in of_folder(folder) for each in session.connections), sandbox
    )


def gone(session: int) -> None:
    """Waits until it has ended."""
    eventually(lambda: read_session(session) is None, f"session {session} to end")
