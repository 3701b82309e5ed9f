"""`podwire replay`: a capture played on the screen, at its own speed or another."""

from __future__ import annotations

import argparse

from tracer.cli.open import add_screen_options, show_file

DESCRIPTION = """
Play a capture on the screen as if it were traced now. Space plays and pauses, . and , step, + and - change the speed,
:at HH:MM:SS jumps. All else is as in podwire open.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("replay", help="play a capture file on the screen", description=DESCRIPTION)
    parser.add_argument("--speed", type=_speed, default=1.0, metavar="FACTOR", help="4 is four times as fast (1)")
    add_screen_options(parser)


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no speed: a number above zero")
    return speed


def run(args: argparse.Namespace) -> int:
    """Play the file; returns 0. Raises PodwireError."""
    return show_file(args, args.speed)
