"""`podwire verify`: read a capture with the user's tshark too, and say where the two readings differ."""

from __future__ import annotations

import argparse
import json
import sys

from protos.errors import PodwireError

SHOWN = 50
"""Differences listed at most, unless all are asked for."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "verify",
        help="compare podwire's reading of a capture with tshark's",
        description="Read a capture with tshark, through pyshark, and compare call by call: methods, streams, status, "
        "lengths, the values of all fields. Exit status 1 if there is a difference.",
    )
    parser.add_argument("file", metavar="FILE", help="the capture")
    parser.add_argument("--all", action="store_true", help=f"list all differences, not the first {SHOWN}")
    parser.add_argument("--show-secrets", action="store_true", help="show texts that differ, not their length alone")


def run(args: argparse.Namespace) -> int:
    """Compare. Returns 0, or 1 if something differs. Raises PodwireError."""
    from dissectors.render import Renderer
    from protos.registry import Registry
    from tracer.capture.reader import open_capture
    from tracer.output.escape import escape
    from tracer.output.jsonlines import JsonPrinter
    from tracer.pipeline import Decoder
    from tracer.wireshark.compare import compare
    from tracer.wireshark.folders import find_program
    from tracer.wireshark.readings import of_podwire
    from tracer.wireshark.tshark import read

    find_program("tshark")
    registry = Registry.bundled()
    ours = {}
    messages = 0

    def take(line: str) -> None:
        nonlocal messages
        told = json.loads(line)
        if told["kind"] == "call":
            key, reading = of_podwire(told)
            messages += sum(map(len, reading.sides))
            ours[key] = reading

    printer = JsonPrinter(take, registry, Renderer(registry, show_secrets=True))
    decoder = Decoder()
    with open_capture(args.file) as capture:
        for item in capture:
            for update in decoder.feed(item):
                printer.update(update)
    for update in decoder.finish():
        printer.update(update)
    printer.finish()
    if not ours:
        raise PodwireError(f"{args.file}: no calls in it")
    differences = compare(ours, read(args.file, registry), show_secrets=args.show_secrets)
    for each in differences if args.all else differences[:SHOWN]:
        print(escape(each.where))
        print(f"  podwire: {each.podwire}\n  tshark:  {each.tshark}")
    if len(differences) > SHOWN and not args.all:
        print(f"… and {len(differences) - SHOWN} more (--all)")
    said = f"{len(differences)} differences" if differences else "no difference"
    print(f"podwire: {len(ours)} calls with {messages} messages compared: {said}", file=sys.stderr)
    return 1 if differences else 0
