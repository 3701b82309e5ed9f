"""`podwire story`: the calls of one pod over all hops, as a tree, a page, a diagram or a trace."""

from __future__ import annotations

import argparse
import sys

from protos.errors import PodwireError
from tracer.cli.decode import (
    add_filter_option,
    add_journal_option,
    add_schema_options,
    load_registry,
    make_filter,
    say_errors,
    with_journal,
)
from tracer.cli.reading import read_calls, running_capture
from tracer.cli.talk import say
from tracer.files import output_file


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "story",
        help="tell the calls of one pod over all hops, as a tree with times",
        description="Tell the calls of one pod over all hops: each below the one that caused it, with when it began, "
        "how long it took and how its parent was found. Without FILE: of the running trace by now.",
    )
    parser.add_argument(
        "pod", metavar="POD", help="name, namespace/name, uid, or the first characters of its sandbox's id"
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="the capture; - is stdin")
    parser.add_argument("-r", dest="read", metavar="FILE", help="the same, as tcpdump has it")
    parser.add_argument("--html", metavar="OUT", help="write a page with a waterfall instead; it needs no other file")
    parser.add_argument(
        "--perfetto", metavar="OUT", help="write a trace for ui.perfetto.dev and chrome://tracing instead"
    )
    parser.add_argument("--mermaid", action="store_true", help="print a Mermaid sequence diagram instead")
    add_filter_option(parser)
    add_journal_option(parser)
    add_schema_options(parser)


def run(args: argparse.Namespace) -> int:
    """Tell it. Returns 0. Raises PodwireError."""
    from tracer.output import story_forms
    from tracer.output.look import FAILED, OK, Look
    from tracer.output.story import Collector, text
    from tracer.output.summary import Summarizer

    if args.file and args.read:
        raise PodwireError("story needs one capture file: podwire story POD FILE (- is stdin)")
    path = args.file or args.read or running_capture("story")
    registry = load_registry(args)
    collector = Collector(
        args.pod, Summarizer(registry, show_secrets=args.show_secrets), show_secrets=args.show_secrets
    )
    filter = make_filter(args, registry)
    with with_journal(args, path) as add_lines:
        if filter is None:
            placed = read_calls(path, registry, None, collector.add, collector.add_line, add_lines)
        else:
            placed = read_calls(path, registry, filter.wants, collector.add)
    say_errors(filter)
    story = collector.story(placed.correlator, placed.end_ns)
    if args.html:
        _write(args.html, story_forms.to_html(story))
    if args.perfetto:
        _write(args.perfetto, story_forms.to_perfetto(story))
    if args.mermaid:
        sys.stdout.write(story_forms.to_mermaid(story))
    elif not args.html and not args.perfetto:
        look = Look.of(sys.stdout)
        for line in text(story):
            sys.stdout.write(look.line(FAILED if line.failed else OK, line.text))
    if placed.broken:
        sys.stdout.flush()
        raise PodwireError(f"{path}: {placed.broken}")
    return 0


def _write(path: str, content: str) -> None:
    """Write a file. Raises PodwireError."""
    with output_file(path) as file:
        file.write(content.encode())
    say(f"wrote {path}")
