"""`podwire stuck`: the calls without an answer, oldest first, of a running trace or at the end of a capture file."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING

from protos.errors import PodwireError
from tracer.cli.decode import (
    add_filter_option,
    add_schema_options,
    broken_off,
    load_registry,
    make_filter,
    say_errors,
)
from tracer.output.look import OK, Look

if TYPE_CHECKING:  # heavy: imported by run
    from protos.registry import Registry
    from tracer.calls import Call
    from tracer.output.summary import Summarizer

HEADER = ("AGE", "HOP", "ID", "CALL", "DEADLINE", "CALLER")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "stuck",
        help="list the calls without an answer",
        description="List the calls without an answer, oldest first; calls that are meant to wait come last. "
        "Without FILE: those of the running trace, with their age by now.",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="a capture; ages are up to its last packet")
    parser.add_argument("--json", action="store_true", help="one JSON object a call (docs/json.md)")
    add_filter_option(parser)
    add_schema_options(parser)


def run(args: argparse.Namespace) -> int:
    """List what is open. Returns 0, whether there is any or not. Raises PodwireError."""
    registry = load_registry(args)
    filter = make_filter(args, registry)
    path = args.file or running_capture()
    calls, end_ns, broken = read_open(path)
    if path != "-" and any(os.path.realpath(path) == os.path.realpath(each) for each in _being_written()):
        end_ns, broken = max(end_ns, time.time_ns()), ""  # still being written: its last record may be half there
    if filter is not None:
        calls = [call for call in calls if filter.wants(call, end_ns)]
        say_errors(filter)
    if args.json:
        _print_json(calls, registry, end_ns, args.show_secrets)
    else:
        look = Look.of(sys.stdout)
        for line in stuck_text(calls, registry, end_ns, show_secrets=args.show_secrets):
            sys.stdout.write(look.line(OK, line))
    if not calls:
        what = "no call" if filter is None else "no such call"
        print(f"podwire: {what} is without an answer", file=sys.stderr)
    if broken:
        sys.stdout.flush()
        raise PodwireError(f"{path}: {broken}")
    return 0


def read_open(path: str) -> tuple[list[Call], int, str]:
    """Read a capture; return the calls open at its end, the time of its last packet, and why it broke off, if so."""
    from tracer.capture.growing import open_recorded
    from tracer.pipeline import Decoder

    decoder = Decoder()
    broken = ""
    with open_recorded(path) as capture:
        for item in capture:
            for update in decoder.feed(item):
                if update.kind == "notice" and update.fatal:
                    broken = broken_off(update)
    decoder.finish()
    return decoder.open_calls(), decoder.now_ns, broken


def running_capture() -> str:
    """Return the capture that a running trace writes. Raises PodwireError unless exactly one is running."""
    running = _being_written()
    if not running:
        raise PodwireError("no trace is running: podwire stuck FILE reads a capture")
    if len(running) > 1:
        raise PodwireError(f"several traces are running; name the capture of one: {', '.join(running)}")
    return running[0]


def _being_written() -> list[str]:
    from tracer.capture.growing import newest
    from tracer.sessions import TRACING, read_sessions

    return [newest(session.capture) for session in read_sessions() if session.state == TRACING]


def stuck_text(calls: list[Call], registry: Registry, end_ns: int, *, show_secrets: bool = False) -> list[str]:
    """Return the lines of the list, a header first; none if nothing is open."""
    from tracer.output.summary import Summarizer

    summarizer = Summarizer(registry, show_secrets=show_secrets)
    hung, waiting = apart(calls)
    rows = [_row(call, summarizer, end_ns) for call in hung + waiting]
    if not rows:
        return []
    table = [HEADER, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADER) - 1)]
    lines = [
        "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + [row[-1]]) for row in table
    ]
    if waiting:
        lines.insert(1 + len(hung), f"meant to wait ({len(waiting)}):")
    return lines


def apart(calls: list[Call]) -> tuple[list[Call], list[Call]]:
    """Tell hung calls from those that are meant to wait; each in the order of their start."""
    from tracer.waiting import meant_to_wait

    hung: list[Call] = []
    waiting: list[Call] = []
    for call in sorted(calls, key=lambda call: (call.start_ns, call.number)):
        (waiting if meant_to_wait(call.service, call.method) else hung).append(call)
    return hung, waiting


def _row(call: Call, summarizer: Summarizer, end_ns: int) -> tuple[str, ...]:
    from tracer.output.peers import peer_text
    from tracer.output.units import duration, short_id

    summary = summarizer.summarize(call)
    deadline = "none"
    if call.deadline_ns is not None:
        left = call.deadline_ns - end_ns
        deadline = f"in {duration(left)}" if left > 0 else f"passed {duration(-left)} ago"
    age = duration(max(0, end_ns - call.start_ns))
    what = f"{summary.method} {summary.request}".rstrip()
    if call.note:  # its client is gone
        what += f" ({call.note})"
    return age, call.hop, short_id(summary.id), what, deadline, peer_text(call.flow.client)


def _print_json(calls: list[Call], registry: Registry, end_ns: int, show_secrets: bool) -> None:
    from dissectors.render import Renderer
    from tracer.output.jsonlines import JsonPrinter
    from tracer.waiting import meant_to_wait

    printer = JsonPrinter(sys.stdout.write, registry, Renderer(registry, show_secrets=show_secrets))
    hung, waiting = apart(calls)
    for call in hung + waiting:
        age = max(0, end_ns - call.start_ns)
        more = {} if call.deadline_ns is None else {"deadline_left_ns": call.deadline_ns - end_ns}
        print(printer.call(call, age_ns=age, meant_to_wait=meant_to_wait(call.service, call.method), **more))
