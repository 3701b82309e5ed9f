"""`podwire export`: a capture, or a part of one, in another form."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

from protos.errors import PodwireError
from protos.hops import HOPS
from tracer.cli.decode import (
    add_filter_option,
    add_journal_option,
    add_schema_options,
    broken_off,
    load_registry,
    make_filter,
    make_printer,
    say_errors,
    with_journal,
    with_progress,
)
from tracer.cli.talk import say
from tracer.files import check_output, output_file

if TYPE_CHECKING:  # heavy: imported by run
    from protos.registry import Registry
    from tracer.calls import Call
    from tracer.capture.flows import Flow
    from tracer.export.select import Window
    from tracer.export.survey import Survey

FORMS = {"pcapng": ".pcapng", "pcap": ".pcap", "text": ".txt", "json": ".jsonl", "har": ".har"}
DESCRIPTION = """
Write FILE, or a part of it, in another form: a capture (pcapng, pcap) of the connections and the time that are wanted,
which stands alone, or their calls as text, JSON lines or a HAR document. With -Y or --pod a capture has the connections
with calls that match, each from the start of the first such call to the end of the last. A pcapng has comments that say
which pod a call is about, and which call caused it; for these FILE is read twice.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "export", help="write a part of a capture, or in another form", description=DESCRIPTION
    )
    parser.add_argument("file", metavar="FILE", help="the capture; - is stdin")
    parser.add_argument(
        "-o", dest="out", metavar="OUT", default="-", help="the file to write; - is stdout (the default)"
    )
    parser.add_argument(
        "--to", choices=FORMS, help="the form; else what OUT's name says (.pcapng .pcap .txt .jsonl .har)"
    )
    parser.add_argument("--hop", action="append", choices=HOPS, default=[], help="connections of this hop alone")
    when = "RFC 3339, or seconds from the first packet"
    parser.add_argument("--since", metavar="TIME", type=_time, help=f"from this time on: {when}")
    parser.add_argument("--until", metavar="TIME", type=_time, help="up to this time")
    add_filter_option(parser)
    add_journal_option(parser)
    parser.add_argument(
        "--pod",
        metavar="POD",
        help="calls of one pod alone, on all hops: name, namespace/name, uid, or the first characters of its id",
    )
    parser.add_argument(
        "--redact", action="store_true", help="capture: mask its secrets as podwire redact does (text, JSON, HAR do)"
    )
    parser.add_argument(
        "--no-comments", action="store_true", help="pcapng: leave out the comments, for which FILE is read twice"
    )
    parser.add_argument("--utc", action="store_true", help="text: times in UTC, not local")
    parser.add_argument("-v", dest="verbose", action="count", default=0, help="text: the whole messages too")
    add_schema_options(parser)


def run(args: argparse.Namespace) -> int:
    """Write it. Returns 0. Raises PodwireError, for a file that breaks off once all before is written."""
    form = args.to or next((form for form, end in FORMS.items() if args.out.endswith(end)), "")
    if not form and args.out != "-":
        raise PodwireError(f"{args.out}: its name does not say which form it is to have: --to")
    form = form or "pcapng"
    if (
        args.out != "-"
        and os.path.exists(args.out)
        and os.path.exists(args.file)
        and os.path.samefile(args.file, args.out)
    ):
        raise PodwireError("FILE and OUT are the same file")
    if args.journal is not None:
        _check_journal(args, form)
    captured = form in ("pcapng", "pcap")
    if args.redact and not captured:
        raise PodwireError(f"--redact is for captures; {form} is masked unless --show-secrets is given")
    if args.file == "-" and (args.pod or (captured and args.filter is not None)):
        raise PodwireError("FILE has to be read twice for that: it cannot be a pipe")
    registry = load_registry(args)
    if args.out != "-":
        check_output(args.out)
    # Before OUT is made, or emptied: a name of no pod is found out here.
    survey = _survey(args, registry) if _needs_survey(args, form) else None
    with _opened(args.out) as target:
        if not captured:
            broken = _calls(args, form, registry, survey, target)
        elif args.redact:
            broken = _redacted(args, form, registry, survey, target)
        else:
            broken = _capture(args, form, survey, target)
        target.flush()
    if broken:
        raise PodwireError(f"{args.file}: {broken}")
    return 0


def _has_comments(args: argparse.Namespace, form: str) -> bool:
    return form == "pcapng" and not args.no_comments


def _needs_survey(args: argparse.Namespace, form: str) -> bool:
    """Whether FILE is to be read for what its calls are before a part of it is written."""
    comments = _has_comments(args, form)
    if args.file == "-" and comments:
        say("podwire: a pipe is read once: there are no comments")
        return False
    return comments or bool(args.pod) or (form in ("pcapng", "pcap") and args.filter is not None)


def _check_journal(args: argparse.Namespace, form: str) -> None:
    """Refuse to leave out what was asked for."""
    if form in ("pcap", "har"):
        raise PodwireError(f"{form} has no place for lines of logs: --to pcapng, text or json")
    if args.hop or args.pod:
        raise PodwireError("--journal goes without --hop and --pod: lines of logs are of no connection")
    if form != "pcapng" and (args.since is not None or args.until is not None):
        raise PodwireError("--journal goes with --since and --until into a capture alone: --to pcapng")


def _redacted(args: argparse.Namespace, form: str, registry: Registry, survey: Survey | None, target: BinaryIO) -> str:
    """Write the part into a file that its owner alone can read, and that, masked, to its place."""
    from tempfile import NamedTemporaryFile

    from tracer.cli.redact import account_lines
    from tracer.redact import redact

    folder = None if args.out == "-" else os.path.dirname(args.out) or "."
    with NamedTemporaryFile(prefix=".podwire-export-", dir=folder) as part:
        broken = _capture(args, form, survey, cast("BinaryIO", part))
        part.flush()
        for line in account_lines(redact(part.name, target, registry)):
            say(f"podwire: {line}")
    return broken


def _capture(args: argparse.Namespace, form: str, survey: Survey | None, target: BinaryIO) -> str:
    from tracer.capture.conversation import CaptureWriter
    from tracer.capture.growing import open_recorded
    from tracer.capture.journal_file import in_order
    from tracer.capture.packets import Packet
    from tracer.export.pcap import PcapWriter
    from tracer.export.select import Selection, Window

    matching = survey.windows() if survey is not None and (args.pod or args.filter is not None) else None
    span: Window | None = None

    def window(flow: Flow) -> Window | None:
        if span is None or (args.hop and flow.hop not in args.hop):
            return None
        if matching is None:
            return span
        found = matching.get(flow.id)
        if found is None:
            return None
        return Window(max(found.start_ns, span.start_ns), min(found.end_ns, span.end_ns))

    write = target.write if form == "pcapng" else PcapWriter(target.write).write_blocks

    def has_logs(time_ns: int) -> bool:
        """Lines of logs are of no connection: where some of these are chosen, none."""
        if args.hop or matching is not None:
            return False
        return args.since is None if span is None else span.start_ns <= time_ns <= span.end_ns

    about = f"podwire export of {os.path.basename(args.file)}"
    selection = Selection(CaptureWriter(write), about, window, has_logs, survey if _has_comments(args, form) else None)
    broken = ""
    with open_recorded(args.file) as capture, with_journal(args, args.file) as add_lines:
        for item in in_order(add_lines(with_progress(capture, printing=args.out == "-"))):
            if isinstance(item, Packet):
                if span is None:
                    span = _span(args, item.time_ns)
            elif item.bundle is None and item.entry is None:
                noted = f"{item.text} (at byte {item.offset})"
                if item.fatal:
                    broken = noted
                else:
                    say(f"podwire: {args.file}: {noted}")
            selection.take(item)
    selection.finish()
    return broken


def _survey(args: argparse.Namespace, registry: Registry) -> Survey:
    """Read FILE for what its calls are."""
    from tracer.cli.reading import read_placed
    from tracer.export.masked import Masked
    from tracer.export.survey import Survey
    from tracer.output.story import choose

    filter = make_filter(args, registry)
    survey = Survey(None if filter is None else filter.wants, Masked(registry) if args.redact else None)
    placed = read_placed(args.file, registry, survey.update)
    pod = choose(placed.correlator.pods, args.pod) if args.pod else None
    survey.finish(placed.open_calls, placed.end_ns, pod)
    say_errors(filter)
    return survey


def _calls(args: argparse.Namespace, form: str, registry: Registry, survey: Survey | None, target: BinaryIO) -> str:
    from tracer.capture.growing import open_recorded
    from tracer.capture.journal_file import in_order
    from tracer.capture.packets import Packet
    from tracer.export.har import HarWriter
    from tracer.pipeline import Decoder

    filter = None if survey is not None else make_filter(args, registry)
    span: Window | None = None

    def wanted(call: Call, now_ns: int) -> bool:
        if span is None or (args.hop and call.hop not in args.hop):
            return False
        if call.start_ns > span.end_ns or (call.end_ns or now_ns) < span.start_ns:
            return False
        if survey is not None:
            return survey.picks(call.number)
        return filter is None or filter.wants(call, now_ns)

    def write(text: str) -> None:
        target.write(text.encode("utf-8", "backslashreplace"))

    har = HarWriter(write) if form == "har" else None
    args.json, args.messages = form != "text", False
    chosen: Callable[[Call, int], bool] | None = wanted
    if not (args.pod or args.hop) and args.filter is args.since is args.until is None:
        chosen = None  # then what is no call is there too
    stdout = cast("TextIO", _Written(write if har is None else har.take))
    printer = make_printer(args, stdout, registry, chosen)
    decoder = Decoder()
    broken = ""
    with open_recorded(args.file) as capture, with_journal(args, args.file) as add_lines:
        for item in in_order(add_lines(with_progress(capture, printing=args.out == "-"))):
            if span is None and isinstance(item, Packet):
                span = _span(args, item.time_ns)
            for update in decoder.feed(item):
                printer.update(update)
                if update.kind == "notice" and update.fatal:
                    broken = broken_off(update)
    for update in decoder.finish():
        printer.update(update)
    printer.finish(decoder.now_ns)
    if har is not None:
        har.finish()
    say_errors(filter)
    return broken


class _Written:
    """What a printer needs of a text file."""

    encoding = "utf-8"

    def __init__(self, write: Callable[[str], object]) -> None:
        self.write = write

    def isatty(self) -> bool:
        return False


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        if sys.stdout.isatty():
            raise PodwireError("a terminal is no place for a capture: -o FILE, or a pipe")
        yield sys.stdout.buffer
        return
    with output_file(path) as target:
        yield target


def _time(text: str) -> float | datetime:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a time (RFC 3339) nor a number of seconds") from None


def _span(args: argparse.Namespace, first_ns: int) -> Window:
    from tracer.export.select import FOREVER, Window

    def of(when: float | datetime) -> int:
        if isinstance(when, datetime):
            return int(when.timestamp()) * 1_000_000_000 + when.microsecond * 1000
        return first_ns + round(when * 1e9)

    start = 0 if args.since is None else of(args.since)
    return Window(start, FOREVER if args.until is None else of(args.until))
