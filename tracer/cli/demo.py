"""`podwire demo`: the stand-in runtime, traced. Options are those of `trace` that make sense here."""

from __future__ import annotations

import argparse
import os

DESCRIPTION = """
Run a stand-in runtime and client, trace them as `podwire trace` would on a node, and keep the capture. It needs
neither root nor containerd, and ends by itself within ten seconds. The capture goes to a new file in the temporary
folder unless -w names one.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("demo", help="trace a bundled stand-in runtime", description=DESCRIPTION)
    parser.add_argument("-w", metavar="FILE", help="keep the capture (pcapng) there")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a call (docs/json.md)")
    form.add_argument("-v", dest="verbose", action="count", default=0, help="the whole messages too")


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns the exit status of its trace."""
    from tracer.demo.run import new_capture, run_demo

    options = ["--json"] if args.json else ["-v"] * args.verbose
    return run_demo(os.path.abspath(args.w) if args.w else new_capture(), options)
