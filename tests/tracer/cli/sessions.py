"""Sessions of a test: those that trace a socket of its folder, found as the commands find them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.killing import kill_all, processes_of
from tracer.sessions import Session, read_session, read_sessions


def of_folder(folder: Path) -> list[Session]:
    return [each for each in read_sessions() if any(path.startswith(str(folder)) for _, path in each.held.folders)]


def kill_relay(session: int) -> None:
    """Kill it whole, and wait until it is dead."""
    kill_all(session)
    eventually(lambda: not processes_of(session), "the relay to be dead")


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
