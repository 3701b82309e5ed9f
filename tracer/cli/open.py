"""`podwire open`: a capture on the screen. `replay` and the screens of `trace` and `attach` are made here too."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from protos.errors import PodwireError
from tracer.cli.decode import add_filter_option, add_schema_options, load_registry, make_filter
from tracer.cli.web import add_web_option, serve_until_told, shared_words, take_port

if TYPE_CHECKING:  # heavy: imported by run
    from tracer.tui.session import Behind

DESCRIPTION = """
Open a capture (pcapng or pcap, gzip too) on the screen: the list of its calls, each with all that was said. The keys
are those of less and Wireshark; ? shows them. Without a terminal: podwire decode FILE.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("open", help="look at a capture file on the screen", description=DESCRIPTION)
    add_screen_options(parser)


def add_screen_options(parser: argparse.ArgumentParser) -> None:
    """Declare what is opened, and how it is shown."""
    parser.add_argument("file", metavar="FILE", help="the capture; of a ring (trace -b) the name given to -w is all")
    parser.add_argument("--utc", action="store_true", help="times in UTC, not local")
    add_filter_option(parser)
    add_schema_options(parser)
    add_web_option(parser)


def run(args: argparse.Namespace) -> int:
    """Open the file; returns 0. Raises PodwireError."""
    return show_file(args, None)


def show_file(args: argparse.Namespace, speed: float | None) -> int:
    """Show a capture, or play it. Raises PodwireError."""
    from tracer.capture.growing import open_recorded

    if args.file == "-":
        raise PodwireError("a screen needs a file that can be read again (podwire decode - reads stdin)")
    site = take_port(args)
    if site is None and not on_terminal():
        raise PodwireError(f"stdin and stdout have to be a terminal (podwire decode {args.file} prints the calls)")
    open_recorded(args.file).close()  # what is no capture is said before there is a screen
    if site is not None:
        played = ["open"] if speed is None else ["replay", f"--speed={speed}"]
        serve_until_told(site, lambda: [*played, *shared_words(args), "--", args.file])
        return 0

    from tracer.tui.session import NothingBehind

    show(args, args.file, NothingBehind(args.file), speed)
    return 0


def on_terminal() -> bool:
    """Whether there is a screen to be had: a terminal, or a page in a browser whose screen this process is."""
    return in_browser() or (sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb")


def in_browser() -> bool:
    """Whether this process is the screen of a page (`--web` starts it so)."""
    return os.environ.get("TEXTUAL_DRIVER", "").endswith(":WebDriver")


def schema_words(args: argparse.Namespace) -> list[str]:
    """What `add_schema_options` has taken, as words again."""
    words = [f"--proto={path}" for path in args.proto]
    words += [f"--descriptor-set={path}" for path in args.descriptor_set]
    return [*words, "--show-secrets"] if args.show_secrets else words


def show(args: argparse.Namespace, capture: str, behind: Behind, speed: float | None = None) -> str:
    """Show a capture until the screen is left; return how: `leave` or `detach`. Raises PodwireError."""
    from tracer.output.look import Look
    from tracer.relay import system
    from tracer.tui.app import PodwireApp
    from tracer.tui.setup import Setup
    from tracer.tui.source import Child, ProcessSource

    registry = load_registry(args)
    make_filter(args, registry)  # what is wrong with it is said before there is a screen
    options = schema_words(args)
    if in_browser():
        system.end_with_parent()

    def match(text: str) -> Child:
        return Child("tracer.tui.matcher", [capture, f"--filter={text}", *options], follow=behind.growing)

    source = ProcessSource(capture, follow=behind.growing, options=options)
    try:
        unicode = Look.of(sys.stdout).unicode
        setup = Setup(source, behind, registry, capture, args.utc, unicode, speed)
        setup = replace(setup, match=match, filter=args.filter or "", show_secrets=args.show_secrets, words=options)
        return PodwireApp(setup).run() or "leave"
    finally:
        source.close()
