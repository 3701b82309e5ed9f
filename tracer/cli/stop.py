"""`podwire stop`: end a session in the background or at another terminal, as Ctrl-C ends one at its own (R4)."""

from __future__ import annotations

import argparse
import signal
import time
from typing import TYPE_CHECKING

from protos.errors import PodwireError
from tracer.cli.talk import confirmed, say

if TYPE_CHECKING:  # heavy: imported by run
    from collections.abc import Callable

    from tracer.sessions import Session

_WAIT_S = 1.0
"""What giving the paths back may take."""
_LOOK_AGAIN_S = 0.05

DESCRIPTION = """
Give a session's paths back and finish its capture; connections that are open go on through its relay, unrecorded, until
they end. --now cuts those too, also of a session that drains already: containerd removes the containers of a shim whose
connection is cut. Exit status: 0; 1 if it has not ended within a second; 2 for a mistake.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("stop", help="end a session", description=DESCRIPTION)
    parser.add_argument("session", nargs="?", metavar="SESSION", help="its number, as podwire status has it")
    parser.add_argument("--now", action="store_true", help="cut the connections that drain; asks before")
    parser.add_argument("--yes", action="store_true", help="with --now: do not ask")


def run(args: argparse.Namespace) -> int:
    """End one session; returns the exit status. Raises PodwireError."""
    from tracer import sessions

    running = [each for each in sessions.read_sessions() if each.state != sessions.DEAD]
    if args.session is None and not args.now:
        running = _tracing(running)
    session = sessions.choose(running, args.session)
    if args.now:
        _warn(session)
        if not (args.yes or confirmed("cut them now?", "--now")):
            raise PodwireError("nothing was stopped")
        return _cut(session)
    return _leave(session)


def _tracing(running: list[Session]) -> list[Session]:
    """Those that drain have been stopped. Raises PodwireError if there are only such ones."""
    from tracer.sessions import TRACING

    tracing = [each for each in running if each.state == TRACING]
    if running and not tracing:
        draining = ", ".join(str(each.pid) for each in running)
        raise PodwireError(f"no trace is running; draining: {draining} (podwire stop --now cuts what drains)")
    return tracing


def _leave(session: Session) -> int:
    """The ordinary end."""
    from tracer import sessions
    from tracer.spool import is_spooled

    left = _until(session, signal.SIGTERM, lambda now: now.state != sessions.TRACING)
    if left is not None and left.state == sessions.TRACING:
        say(f"podwire {session.pid} has not given its paths back within {_WAIT_S:.0f} s: podwire status says more")
        return 1
    if left is not None and left.state == sessions.DEAD:
        return _died(left)
    kept = " (spooled: kept until the next podwire trace at most)" if is_spooled(session.capture) else ""
    print(f"podwire {session.pid}: its paths are given back; capture {session.capture}{kept}")
    if left is not None and left.connections:
        print(sessions.draining_text(len(left.connections)))
    return 0


def _died(session: Session) -> int:
    say(f"podwire {session.pid}: {'; '.join(session.troubles)}")
    return 1


def _cut(session: Session) -> int:
    """Everything at once."""
    from tracer.sessions import DEAD

    left = _until(session, signal.SIGUSR1, lambda now: now.state == DEAD)
    if left is not None and left.state == DEAD:
        return _died(left)
    if left is not None:
        say(f"podwire {session.pid} has not ended within {_WAIT_S:.0f} s: podwire status says more")
        return 1
    print(f"podwire {session.pid}: ended; capture {session.capture}")
    return 0


def _until(session: Session, number: signal.Signals, done: Callable[[Session], bool]) -> Session | None:
    """Signal its worker until it is done, or the time is up; the session as it is then, None if it has ended."""
    from tracer import sessions

    until = time.monotonic() + _WAIT_S
    while True:
        now = sessions.read_session(session.pid)
        if now is None or done(now):
            return now
        sessions.send_signal(now, number)  # again and again: the worker may have been replaced, or be just starting
        if time.monotonic() > until:
            return now
        time.sleep(_LOOK_AGAIN_S)


def _warn(session: Session) -> None:
    from tracer import sessions
    from tracer.output.units import counted

    killed = sessions.killed_by_cutting(session)
    for sandbox, path in killed:
        say(f"cutting {path} kills the containers of {f'sandbox {sandbox}' if sandbox else 'the shim behind it'}")
    others = [each for each in session.connections if (each.sandbox, each.path) not in killed]
    if others:
        paths = ", ".join(sorted({each.path or "a socket" for each in others}))
        say(f"cutting {counted(len(others), 'connection')} of {paths}: its clients have to connect again")
    if not session.connections:
        say("no connection is open")
