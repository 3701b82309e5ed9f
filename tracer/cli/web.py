"""`--web`: screens in browsers instead of on this terminal. Each page has a process that attaches to the one trace, or
opens the one file, so that pages come and go and the trace does not."""

from __future__ import annotations

import argparse
import select
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from protos.errors import PodwireError
from tracer.cli.talk import say

if TYPE_CHECKING:  # heavy: imported where it is used
    from tracer.live import Live
    from tracer.web.address import Address, Site


def add_web_option(parser: argparse.ArgumentParser) -> None:
    """Declare where the screen is served; `take_port` reads it."""
    parser.add_argument(
        "--web",
        metavar="[ADDRESS:]PORT",
        type=_address,
        help="show the screen in browsers, at a URL that is printed, with a token in it (port 0: any that is free; "
        "without ADDRESS: this machine alone reaches it)",
    )


def _address(text: str) -> Address:
    from tracer.web.address import parse

    try:
        return parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not [ADDRESS:]PORT (an IPv6 address in brackets)") from None


def take_port(args: argparse.Namespace) -> Site | None:
    """Listen where `--web` says; None without it. Raises PodwireError where that cannot be."""
    if args.web is None:
        return None
    if find_spec("textual_serve") is None:
        raise PodwireError(f"--web needs the package textual-serve: {sys.executable} -m pip install 'podwire[web]'")
    if any(vars(args).get(form) for form in ("text", "json", "verbose")):
        raise PodwireError("--web shows the screen: it does not go with --text, --json and -v")
    from tracer.web.address import listen

    site = listen(args.web)
    if not site.loopback:
        say("--web: other machines reach this page, and neither its URL nor the trace is encrypted on the way")
    return site


def shared_words(args: argparse.Namespace) -> list[str]:
    """The options that a page's screen has from the command that serves it."""
    from tracer.cli.open import schema_words

    return [*schema_words(args), *(["--utc"] if args.utc else []), *([f"-Y{args.filter}"] if args.filter else [])]


def serve_trace(args: argparse.Namespace, site: Site, live: Live) -> None:
    """Serve a trace of this process until it is told to end by a signal."""
    hearing = True

    def over() -> bool:
        nonlocal hearing
        while hearing and select.select([live.control], [], [], 0)[0]:
            hearing = live.hear()
            if live.ended and not live.signalled:
                say("the trace has ended; its pages stay until Ctrl-C")
        return live.signalled or bool(live.vanished)

    live.screen = True
    _serve(site, session_words(args, live.session, live.capture), over)


def serve_until_told(site: Site, words: Callable[[], Sequence[str]]) -> None:
    """Serve screens that these words make until SIGINT, SIGTERM or SIGHUP."""
    told: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: told.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        _serve(site, words, lambda: bool(told))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def session_words(args: argparse.Namespace, session: int, capture: str) -> Callable[[], Sequence[str]]:
    """What makes a screen of a session: it is attached to as long as it records, then its capture is opened."""

    def words() -> Sequence[str]:
        from tracer.sessions import read_session

        now = read_session(session)
        options = shared_words(args)
        if now is not None and now.recording:
            return ["attach", *options, str(session)]
        return ["open", *options, "--", capture]

    return words


def _serve(site: Site, words: Callable[[], Sequence[str]], over: Callable[[], bool]) -> None:
    import asyncio

    from tracer.web.server import Pages, serve

    def command() -> Sequence[str]:
        return [sys.executable, "-P", "-m", "tracer.cli", *words()]

    say(f"--web: {site.url}")
    asyncio.run(serve(Pages(site, command, say), over))
