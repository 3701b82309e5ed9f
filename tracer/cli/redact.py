"""`podwire redact`: a capture without its secrets, for passing on."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from protos.errors import PodwireError
from tracer.cli.decode import add_registry_options, load_registry
from tracer.files import check_output, output_file
from tracer.output.units import counted

if TYPE_CHECKING:  # heavy: imported by run
    from tracer.redact import Account

MOST_PLACES = 5
"""Places named in which bytes were blanked; of the others, how many there are."""

DESCRIPTION = """
Write the capture IN to OUT with its secrets masked (docs/commands.md says what they are). Packets, names, times and
lengths stay, and podwire and Wireshark decode it as before. What could not be read becomes zeros; how much, is said.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("redact", help="write a capture with its secrets masked", description=DESCRIPTION)
    parser.add_argument("source", metavar="IN", help="a capture file; of a ring, one of its files")
    parser.add_argument("target", metavar="OUT", help="the file to write, anew")
    add_registry_options(parser)


def run(args: argparse.Namespace) -> int:
    """Redact one file. Returns 0. Raises PodwireError, for a file that breaks off once all before is written."""
    from tracer.redact import redact

    if args.source == "-":
        raise PodwireError("redact reads its input twice: it needs a file")
    partial = f"{args.target}.partial"
    try:
        if os.path.exists(args.target) and os.path.samefile(args.source, args.target):
            raise PodwireError("IN and OUT are the same file")
        check_output(args.target)
        registry = load_registry(args)
        try:
            with output_file(partial) as target:
                account = redact(args.source, target, registry)
            os.replace(partial, args.target)
        except BaseException:
            if os.path.exists(partial):
                os.unlink(partial)
            raise
    except OSError as error:
        raise PodwireError(f"{error.filename}: {(error.strerror or '').lower()}") from error
    for line in account_lines(account):
        print(f"podwire: {line}", file=sys.stderr)
    if account.broken:
        raise PodwireError(f"{args.source}: {account.broken}")
    return 0


def account_lines(account: Account) -> list[str]:
    """What was done, as lines."""
    lines = [f"{counted(account.masked, 'message')} masked in {counted(account.packets, 'packet')}"]
    if account.unreadable:
        lines.append(f"{counted(account.unreadable, 'message')} that could not be read: zeros now")
    if account.logs:
        lines.append(
            f"{counted(account.logs, 'line')} of logs: free text, masked where a name or its form tells a secret"
        )
    places = account.blanked.most_common()
    lines += [
        f"{counted(count, 'byte')} that could not be read: zeros now ({place})" for place, count in places[:MOST_PLACES]
    ]
    if len(places) > MOST_PLACES:
        rest = sum(count for _, count in places[MOST_PLACES:])
        lines.append(f"{counted(rest, 'byte')} more, of {counted(len(places) - MOST_PLACES, 'other place')}")
    lines += [f"left out: {count} {what}" for what, count in account.dropped.items()]
    return lines
