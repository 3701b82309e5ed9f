"""`podwire grep`: the calls of a capture that match an expression; `decode -Y` under the name that one looks for."""

from __future__ import annotations

import argparse

from protos.errors import PodwireError
from tracer.cli.decode import add_capture_options, add_output_options, load_registry
from tracer.cli.decode import run as decode

DESCRIPTION = """
Print the calls of FILE that match EXPR, an expression in CEL over the call and its messages, as in
call.method == "CreateContainer" && call.duration > duration("100ms") && request.config.image.image.contains("nginx").
request and response have the fields of the method's messages; a method whose messages lack them does not match.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("grep", help="print the calls that match an expression", description=DESCRIPTION)
    parser.add_argument("expression", nargs="?", metavar="EXPR", help="in CEL")
    add_capture_options(parser)
    add_output_options(parser)
    parser.add_argument(
        "--fields",
        nargs="?",
        const="",
        metavar="METHOD",
        help="list the names that an expression can use, with METHOD those of its messages too",
    )


def run(args: argparse.Namespace) -> int:
    """Print what matches, or the fields. Returns 0. Raises PodwireError."""
    if args.fields is not None:
        from tracer.filtering import field_lines

        print("\n".join(field_lines(load_registry(args), args.fields)))
        return 0
    if args.expression is None or args.filter is not None:
        raise PodwireError("grep needs one expression and one capture file: podwire grep EXPR FILE")
    args.filter = args.expression
    return decode(args)
