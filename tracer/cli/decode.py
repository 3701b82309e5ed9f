"""`podwire decode`: print the calls of a capture file. Its options and printers are those of `trace` too."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TYPE_CHECKING, Protocol, TextIO

from protos.errors import PodwireError

if TYPE_CHECKING:  # heavy: imported by run, so that --help and usage errors are quick
    from protos.registry import Registry
    from tracer.calls import Call, Finding, Update
    from tracer.capture.growing import GrowingCapture
    from tracer.capture.packets import Notice, Packet
    from tracer.capture.reader import CaptureFile
    from tracer.filtering import Filter

    Items = Iterator[Packet | Notice]

PROGRESS_BYTES = 8 << 20
"""A file has to be this large before its reading is worth a progress line."""
PROGRESS_PACKETS = 5000


class Printer(Protocol):
    """Where updates go."""

    @property
    def shown(self) -> int:
        """Calls printed that had ended."""
        ...

    def update(self, update: Update) -> None:
        """Take what changed, in the order of the capture."""
        ...

    def tick(self, now_ns: int) -> None:
        """Tell the time of the capture (since the epoch) while nothing changes."""
        ...

    def finish(self, end_ns: int | None = None) -> None:
        """Tell the end of the capture, and its time if it is not that of the last update."""
        ...


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "decode",
        help="print the calls of a capture file",
        description="Print the calls of a pcapng or pcap file (gzip too), one line a call.",
    )
    add_capture_options(parser)
    add_journal_option(parser)
    add_output_options(parser)


def add_journal_option(parser: argparse.ArgumentParser) -> None:
    """Declare a log beside the capture; `with_journal` reads it."""
    parser.add_argument(
        "--journal",
        metavar="FILE",
        help="show the lines of this log between the calls: a journal (journalctl -o export), or the log of "
        "containerd, CRI-O or kubelet; - is stdin",
    )


def add_capture_options(parser: argparse.ArgumentParser) -> None:
    """Declare what is read, and how much of it."""
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="the capture; - is stdin; of a ring (trace -b) a file, or the name given to -w for all",
    )
    parser.add_argument("-r", dest="read", metavar="FILE", help="the same, as tcpdump has it")
    parser.add_argument("-c", dest="packets", type=positive, metavar="N", help="stop after N packets")
    parser.add_argument("--calls", type=positive, metavar="N", help="stop after N calls have ended")


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Declare how calls are printed and what schemas are used; `make_printer` reads it."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--text", action="store_true", help="one line a call (the default)")
    form.add_argument("--json", action="store_true", help="one JSON object a call (docs/json.md)")
    parser.add_argument(
        "--messages", action="store_true", help="JSON: one object a message of a stream too, as it comes"
    )
    parser.add_argument("-v", dest="verbose", action="count", default=0, help="text: the whole messages too")
    add_filter_option(parser)
    parser.add_argument("--utc", action="store_true", help="text: times in UTC, not local")
    add_schema_options(parser)


def add_filter_option(parser: argparse.ArgumentParser) -> None:
    """Declare which calls are wanted; `make_filter` reads it."""
    parser.add_argument(
        "-Y",
        dest="filter",
        metavar="EXPR",
        help="calls that match alone, in CEL (podwire grep --fields lists the names)",
    )


def add_schema_options(parser: argparse.ArgumentParser) -> None:
    """Declare where schemas come from, and whether secrets are shown."""
    add_registry_options(parser)
    parser.add_argument("--show-secrets", action="store_true", help="do not mask environments, credentials and tokens")


def add_registry_options(parser: argparse.ArgumentParser) -> None:
    """Declare where schemas come from besides our own; `load_registry` reads it."""
    parser.add_argument("--proto", action="append", default=[], metavar="DIR", help="a folder of .proto files to use")
    parser.add_argument(
        "--descriptor-set", action="append", default=[], metavar="FILE", help="a descriptor set to use (protoc -o)"
    )


def positive(text: str) -> int:
    """Read a count from the command line."""
    count = int(text) if text.isdecimal() else 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count above zero")
    return count


def load_registry(args: argparse.Namespace) -> Registry:
    """Return our schemas with the user's on top. Raises PodwireError."""
    from protos.registry import Registry

    return Registry.with_own(args.proto, args.descriptor_set)


class Correlated:
    """A printer of calls that have their places: each update goes through the correlator first."""

    def __init__(self, correlate: Callable[[Update], None], printer: Printer) -> None:
        self.learn = correlate
        """Takes what changed without a word."""
        self._printer = printer
        self._show = printer.update
        self.tick = printer.tick
        self.finish = printer.finish

    @property
    def shown(self) -> int:
        """Calls printed that had ended."""
        return self._printer.shown

    def update(self, update: Update) -> None:
        """Take what changed."""
        self.learn(update)
        self._show(update)


def make_filter(args: argparse.Namespace, registry: Registry) -> Filter | None:
    """Return the filter that was asked for, if any. Raises PodwireError."""
    if args.filter is None:
        return None
    from tracer.filtering import Filter

    return Filter(args.filter, registry)


def say_errors(filter: Filter | None) -> None:
    """Say of how many calls a filter could not tell."""
    if filter is not None and filter.errors:
        from tracer.output.escape import escape
        from tracer.output.units import counted

        what = counted(filter.errors, "call")
        print(f"podwire: filter: of {what} it cannot be told, no match: {escape(filter.first_error)}", file=sys.stderr)


def make_printer(
    args: argparse.Namespace, stdout: TextIO, registry: Registry, wanted: Callable[[Call, int], bool] | None = None
) -> Correlated:
    """Return the printer that the options ask for; it writes to `stdout` and never flushes it."""
    from tracer.story.correlate import Correlator

    correlate = Correlator(registry).update
    if args.json:
        from dissectors.render import Renderer
        from tracer.output.jsonlines import JsonPrinter

        renderer = Renderer(registry, show_secrets=args.show_secrets)
        return Correlated(correlate, JsonPrinter(stdout.write, registry, renderer, wanted, messages=args.messages))
    from tracer.output.look import Look
    from tracer.output.summary import Summarizer
    from tracer.output.text import TextPrinter
    from tracer.output.units import Clock

    details = None
    if args.verbose:
        from dissectors.render import Renderer
        from tracer.output.meaning import Meanings
        from tracer.output.verbose import VerboseDetails

        details = VerboseDetails(registry, Renderer(registry, Meanings(utc=args.utc), show_secrets=args.show_secrets))
    printer = TextPrinter(
        stdout.write,
        Summarizer(registry, show_secrets=args.show_secrets),
        look=Look.of(stdout),
        clock=Clock(utc=args.utc),
        details=details,
        names=True,
        show_secrets=args.show_secrets,
        wanted=wanted,
    )
    return Correlated(correlate, printer)


def run(args: argparse.Namespace) -> int:
    """Decode a file to its end. Returns 0. Raises PodwireError, for a file that breaks off once all before is out."""
    from tracer.capture.growing import open_recorded
    from tracer.pipeline import collect_seldom

    collect_seldom()
    path = args.read or args.file
    if path is None or (args.read and args.file):
        raise PodwireError(f"{args.command} needs one capture file: podwire {args.command} FILE (- is stdin)")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    registry = load_registry(args)
    filter = make_filter(args, registry)
    printer = make_printer(args, sys.stdout, registry, None if filter is None else filter.wants)
    with open_recorded(path) as capture, with_journal(args, path) as add_lines:
        broken = _print(add_lines(with_progress(capture)), printer, args.packets, args.calls)
    say_errors(filter)
    if broken:
        sys.stdout.flush()
        raise PodwireError(f"{path}: {broken}")
    return 0


@contextmanager
def with_journal(args: argparse.Namespace, path: str) -> Iterator[Callable[[Items], Items]]:
    """Give what adds the lines of `--journal`, if there is one, to a capture's items; at the end say what of it was
    left out. Raises PodwireError."""
    name = vars(args).get("journal")
    if name is None:
        yield iter
        return
    from tracer.capture.journal_file import JournalFile, merged
    from tracer.cli.talk import say

    if args.filter is not None:
        raise PodwireError("--journal goes without -Y: an expression is about calls, lines of logs match none")
    if name == path == "-":
        raise PodwireError("FILE and --journal cannot both be stdin")
    with JournalFile(name) as journal:
        yield lambda items: merged(items, journal)
        if account := journal.account():
            say(account)


def _print(items: Items, printer: Printer, packets: int | None, calls: int | None) -> str:
    """Print up to so many packets or calls; return why the file could not be read to its end, or nothing."""
    from tracer.pipeline import Decoder

    decoder = Decoder()
    broken = ""
    feed, show = decoder.feed, printer.update
    for item in items:
        for update in feed(item):
            show(update)
            kind = update.kind
            if kind == "ended" and printer.shown == calls:
                return broken
            if kind == "notice" and update.fatal:  # type: ignore[union-attr] # the kind says what it is
                broken = broken_off(update)  # type: ignore[arg-type]
        if decoder.packets == packets:
            break
    for update in decoder.finish():
        printer.update(update)
    printer.finish(decoder.now_ns)
    return broken


def broken_off(notice: Finding) -> str:
    """Say why and where a file could not be read to its end."""
    return f"{notice.reason} (at byte {notice.offset}; what came before is decoded)"


def with_progress(capture: CaptureFile | GrowingCapture, *, printing: bool = True) -> Iterator[Packet | Notice]:
    """Read a capture to its end; say how far it is on stderr, if that is a terminal and no lines come there meanwhile
    (`printing`: they go to stdout)."""
    size = capture.size
    if size is None or size < PROGRESS_BYTES or not sys.stderr.isatty() or (printing and sys.stdout.isatty()):
        yield from capture
        return
    for number, item in enumerate(capture):
        if number % PROGRESS_PACKETS == 0:
            print(f"\r{100 * capture.position // size:3d} %", end="", file=sys.stderr, flush=True)
        yield item
    print("\r     \r", end="", file=sys.stderr, flush=True)
