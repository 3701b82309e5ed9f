"""`podwire attach`: follow a session that records in the background, with trace's printers, by its growing capture."""

from __future__ import annotations

import argparse
import os
import select
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tracer.cli.decode import add_output_options, load_registry, make_filter, make_printer, say_errors
from tracer.cli.talk import say
from tracer.cli.trace import Shown
from tracer.cli.web import add_web_option, serve_until_told, session_words, take_port

if TYPE_CHECKING:  # heavy: imported by run
    from tracer.capture.growing import GrowingCapture
    from tracer.capture.packets import Notice, Packet
    from tracer.pipeline import Decoder
    from tracer.sessions import Session

_LOOK_AGAIN_S = 0.25
"""The capture is looked at when it changes, the session so often."""

DESCRIPTION = """
Show the calls of a running session: on a terminal on the screen (? shows its keys; --text prints lines), elsewhere
as lines, as they end, from now on. What its capture has already is read for context, and
printed with --from-start. Ctrl-C ends this command alone: the session goes on (podwire stop ends it). Exit status: 0; 1
if the session ended and its capture is not complete; 2 for a mistake.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("attach", help="print the calls of a running session", description=DESCRIPTION)
    parser.add_argument("session", nargs="?", metavar="SESSION", help="its number, as podwire status has it")
    parser.add_argument("--from-start", action="store_true", help="print the calls that have ended already, too")
    add_output_options(parser)
    add_web_option(parser)


def run(args: argparse.Namespace) -> int:
    """Follow until the session's capture is complete, or Ctrl-C; returns the exit status. Raises PodwireError."""
    from tracer import sessions
    from tracer.capture.growing import open_growing

    site = take_port(args)
    registry = load_registry(args)
    filter = make_filter(args, registry)
    alive = [each for each in sessions.read_sessions() if each.state != sessions.DEAD]
    if args.session is None:
        alive = [each for each in alive if each.recording]
    session = sessions.choose(alive, args.session)
    if site is not None:
        serve_until_told(site, session_words(args, session.pid, session.capture))
        say(f"podwire {session.pid} goes on: podwire stop {session.pid} ends it")
        return 0
    if wants_screen(args):
        from tracer.cli.open import show
        from tracer.tui.session import AttachedSession

        show(args, session.capture, AttachedSession(session, session_lines_now))
        say(f"podwire {session.pid} goes on: podwire stop {session.pid} ends it")
        return 0
    with open_growing(session.capture, oldest=args.from_start) as file:
        following = Following(session, file)
        printer = make_printer(args, sys.stdout, registry, None if filter is None else filter.wants)
        try:
            _print(following, Shown(printer, sys.stdout, 0), from_start=args.from_start)
        except KeyboardInterrupt:
            sys.stdout.flush()
            say(f"podwire {session.pid} goes on: podwire stop {session.pid} ends it")
            return 0
        finally:
            say_errors(filter)
    if following.session is not None and following.session.troubles:
        say(f"podwire {session.pid}: {'; '.join(following.session.troubles)}")
        return 1
    say(f"podwire {session.pid} records no more; its capture is {session.capture}")
    return 0


def wants_screen(args: argparse.Namespace) -> bool:
    """Whether calls go onto the screen: on a terminal, unless lines are asked for."""
    from tracer.cli.open import on_terminal

    return not (args.text or args.json or args.verbose) and on_terminal()


def session_lines_now(session: Session) -> list[str]:
    """What `podwire status` says of a session now."""
    from tracer.cli.status import session_lines

    return session_lines(session, time.time_ns())


class Following:
    """A session, and its capture as it grows."""

    def __init__(self, session: Session, file: GrowingCapture) -> None:
        self.session: Session | None = session
        """As it was at the last look; None if it has ended by then."""
        self.file = file
        self._pid, self._capture = session.pid, session.capture
        self._looked = time.monotonic()

    def batches(self) -> Iterator[list[Packet | Notice]]:
        """What the capture has and gets, until nothing more can come; an empty batch where there is nothing new."""
        from tracer.capture.growing import watched
        from tracer.relay import system

        changed = system.inotify_init()
        try:
            system.inotify_add_watch(changed, watched(self._capture), system.IN_MODIFY)
            while True:
                recording = self.session is not None and self.session.recording
                batch = self.file.read_available()  # after that look: all that was written by then is found
                yield batch
                if batch or not self.file.at_end:
                    continue
                if not recording:
                    break
                if select.select([changed], [], [], _LOOK_AGAIN_S)[0]:
                    os.read(changed, 65536)
                self._look()
        finally:
            os.close(changed)
        yield list(self.file.finish())

    def _look(self) -> None:
        from tracer.sessions import read_session

        if time.monotonic() - self._looked > _LOOK_AGAIN_S:
            self.session = read_session(self._pid)
            self._looked = time.monotonic()


def _print(following: Following, shown: Shown, *, from_start: bool) -> None:
    """Print until the capture is complete."""
    from tracer.pipeline import Decoder

    decoder = Decoder()
    known = following.file.size
    for batch in following.batches():
        updates = [update for item in batch for update in decoder.feed(item)]
        if from_start:
            shown.show(updates)
        else:
            shown.learn(updates)
            if following.file.position >= known or not batch:
                from_start = True
                _go_on_from(decoder, shown)
        if not batch:
            shown.tick()
    shown.finish(decoder)


def _go_on_from(decoder: Decoder, shown: Shown) -> None:
    """All that was there has been read: what is open is to be seen from now on."""
    from tracer.calls import CallUpdate
    from tracer.output.units import counted

    calls = decoder.open_calls()
    shown.show([CallUpdate("opened", call.start_ns, call, None) for call in calls])
    say(f"following from now on; {counted(len(calls), 'older call')} without an answer yet")
