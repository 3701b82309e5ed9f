"""`podwire stats`: how many calls, how they failed, how long they took, by hop and method."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from protos.errors import PodwireError
from tracer.cli.decode import add_filter_option, add_registry_options, load_registry, make_filter, say_errors
from tracer.cli.reading import read_calls, running_capture

if TYPE_CHECKING:  # heavy: imported by run
    from tracer.stats import Row

HEADER = ("CALLS", "P50", "P90", "P99", "MAX", "SENT", "RECEIVED", "OPEN", "METHOD", "ERRORS")
LEFT = frozenset({"METHOD", "ERRORS", "HOP", "POD", "CONTAINER", "PEER"})
"""Columns of text; the others are numbers."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "stats",
        help="count calls by hop and method: errors, durations, bytes",
        description="Count the calls of a capture by hop and method: errors by status, percentiles of their durations "
        "(of calls that have ended, within 1 %%), bytes of their messages. Without FILE: of the running trace.",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="a capture; - is stdin")
    parser.add_argument("--by", choices=("pod", "container", "peer"), default="", help="count for each of these apart")
    parser.add_argument("--json", action="store_true", help="one JSON object a row (docs/json.md)")
    add_filter_option(parser)
    add_registry_options(parser)


def run(args: argparse.Namespace) -> int:
    """Count. Returns 0. Raises PodwireError, for a file that breaks off once what came before is counted."""
    from tracer.stats import Statistics

    registry = load_registry(args)
    filter = make_filter(args, registry)
    path = args.file or running_capture("stats")
    statistics = Statistics(registry, args.by)
    broken = read_calls(path, registry, None if filter is None else filter.wants, statistics.count).broken
    rows = statistics.rows()
    write = _json_lines if args.json else _table
    for line in write(rows, args.by):
        print(line)
    if not rows:
        print("podwire: no call", file=sys.stderr)
    say_errors(filter)
    if broken:
        sys.stdout.flush()
        raise PodwireError(f"{path}: {broken}")
    return 0


def _table(rows: list[Row], by: str) -> list[str]:
    from tracer.output.escape import escape
    from tracer.output.summary import method_name
    from tracer.output.units import duration, short_id, size

    if not rows:
        return []
    lines: list[tuple[str, ...]] = [((by.upper(),) if by else ()) + ("HOP", *HEADER)]
    for row in rows:
        figures = row.figures
        lengths = [figures.percentile(share) for share in (0.5, 0.9, 0.99)]
        if figures.calls > figures.open:
            lengths.append(figures.max_ns)
        times = ["" if length is None else duration(length) for length in lengths]
        group = row.group if by == "peer" or "/" in row.group else short_id(row.group)
        errors = ", ".join(f"{count} {what}" for what, count in figures.errors.most_common())
        lines.append(
            ((escape(group) or "-",) if by else ())
            + (row.hop or "-", str(figures.calls), *(times + [""] * 4)[:4])
            + (size(figures.request_bytes), size(figures.response_bytes), str(figures.open or ""))
            + (method_name(row.service, row.method), errors)
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    left = [name in LEFT for name in lines[0]]
    return [
        "  ".join(
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in lines
    ]


def _json_lines(rows: list[Row], by: str) -> list[str]:
    from tracer.output import JSON_VERSION

    lines = []
    for row in rows:
        figures = row.figures
        shown = {
            "v": JSON_VERSION,
            "kind": "stats",
            **({by: row.group} if by else {}),
            "hop": row.hop,
            "service": row.service,
            "method": row.method,
            "calls": figures.calls,
            "open": figures.open,
            "errors": dict(figures.errors.most_common()),
            "p50_ns": figures.percentile(0.5),
            "p90_ns": figures.percentile(0.9),
            "p99_ns": figures.percentile(0.99),
            "max_ns": figures.max_ns if figures.calls > figures.open else None,
            "request_bytes": figures.request_bytes,
            "response_bytes": figures.response_bytes,
        }
        lines.append(json.dumps(shown, separators=(",", ":")))
    return lines
