"""`podwire stuck`: the calls without an answer, oldest first, of a running trace or at the end of a capture file."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from protos.errors import PodwireError
from tracer.cli.decode import add_filter_option, add_schema_options, load_registry, make_filter, say_errors
from tracer.cli.reading import read_placed, running_capture
from tracer.output.look import OK, Look, below

if TYPE_CHECKING:  # heavy: imported by run
    from protos.registry import Registry
    from tracer.calls import Call
    from tracer.output.summary import Summarizer

HEADER = ("AGE", "HOP", "ID", "POD", "CALL", "DEADLINE", "CALLER")
NAMES = HEADER.index("POD")
"""The column that is there only if a name is known."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "stuck",
        help="list the calls without an answer",
        description="List the calls without an answer, oldest first, each with those that it waits for below it; "
        "calls that are meant to wait come last. "
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
    path = args.file or running_capture("stuck")
    _, calls, end_ns, broken = read_placed(path, registry)
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


def stuck_text(calls: list[Call], registry: Registry, end_ns: int, *, show_secrets: bool = False) -> list[str]:
    """Return the lines of the list, a header first; none if nothing is open."""
    from tracer.output.summary import Summarizer

    summarizer = Summarizer(registry, show_secrets=show_secrets)
    hung, waiting = apart(calls)
    rows = [_row(call, depth, summarizer, end_ns) for call, depth in chains(hung)]
    rows += [_row(call, 0, summarizer, end_ns) for call in waiting]
    if not rows:
        return []
    table = [HEADER, *rows]
    if not any(row[NAMES] for row in rows):
        table = [(*row[:NAMES], *row[NAMES + 1 :]) for row in table]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]) - 1)]
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


def chains(calls: list[Call]) -> list[tuple[Call, int]]:
    """Put each call below the one that waits for it; return them with their depth. The deepest is where it hangs."""
    here = {call.number for call in calls}
    below: dict[int, list[Call]] = {}
    tops = []
    for call in calls:
        parent = None if call.place is None else call.place.parent
        if parent is not None and parent.number in here:
            below.setdefault(parent.number, []).append(call)
        else:
            tops.append(call)
    ordered: list[tuple[Call, int]] = []
    left = [(call, 0) for call in reversed(tops)]
    while left:
        call, depth = left.pop()
        ordered.append((call, depth))
        left += [(each, depth + 1) for each in reversed(below.get(call.number, []))]
    return ordered


def _row(call: Call, depth: int, summarizer: Summarizer, end_ns: int) -> tuple[str, ...]:
    from tracer.output.escape import escape
    from tracer.output.peers import peer_text
    from tracer.output.units import duration, short_id

    summary = summarizer.summarize(call)
    deadline = "none"
    if call.deadline_ns is not None:
        left = call.deadline_ns - end_ns
        deadline = f"in {duration(left)}" if left > 0 else f"passed {duration(-left)} ago"
    age = duration(max(0, end_ns - call.start_ns))
    what = f"{summary.method} {summary.request}".rstrip()
    what = below(what, depth)
    identity, place = summary.id, call.place
    if call.note:  # its client is gone
        what += f" ({call.note})"
    if place is not None:
        whom = place.container or place.pod
        identity = identity or escape("" if whom is None else whom.id)
        parent = place.parent
        if parent is not None and not parent.open:
            what += f" (of {parent.hop} {escape(parent.title)}, call {parent.number}, which has ended)"
        if place.outlives():
            what += " (may wait longer than its caller)"
    name = "" if place is None else escape(place.label())
    return age, call.hop, short_id(identity), name, what, deadline, peer_text(call.flow.client)


def _print_json(calls: list[Call], registry: Registry, end_ns: int, show_secrets: bool) -> None:
    from dissectors.render import Renderer
    from tracer.output.jsonlines import JsonPrinter
    from tracer.waiting import meant_to_wait

    printer = JsonPrinter(sys.stdout.write, registry, Renderer(registry, show_secrets=show_secrets))
    hung, waiting = apart(calls)
    waited_for = {call.place.parent.number for call in hung if call.place is not None and call.place.parent is not None}
    for call in hung + waiting:
        age = max(0, end_ns - call.start_ns)
        more: dict[str, object] = {} if call.deadline_ns is None else {"deadline_left_ns": call.deadline_ns - end_ns}
        waits = meant_to_wait(call.service, call.method)
        more["innermost"] = not waits and call.number not in waited_for
        print(printer.call(call, age_ns=age, meant_to_wait=waits, **more))
