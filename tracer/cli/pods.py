"""`podwire pods`: the pods and containers of a capture or of the running trace, their start-up and their failures."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from protos.errors import PodwireError
from tracer.cli.decode import add_filter_option, add_registry_options, load_registry, make_filter, say_errors
from tracer.cli.reading import read_calls, read_placed, running_capture

if TYPE_CHECKING:  # heavy: imported by run
    from tracer.story.place import Place


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "pods",
        help="list the pods and containers seen: state, start-up by phase, failures",
        description="List pods and containers as the calls tell of them: their state, how long their start took by "
        "phase, what failed with the innermost error. Without FILE: those of the running trace by now.",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="the capture; - is stdin")
    parser.add_argument("--json", action="store_true", help="one JSON object a pod (docs/json.md)")
    add_filter_option(parser)
    add_registry_options(parser)


def run(args: argparse.Namespace) -> int:
    """List them. Returns 0, whether there are any or not. Raises PodwireError."""
    from tracer.output import pods as output
    from tracer.output.look import OK, Look

    path = args.file or running_capture("pods")
    registry = load_registry(args)
    filter = make_filter(args, registry)
    places: list[Place | None] = []
    if filter is None:
        placed = read_placed(path, registry)
    else:
        placed = read_calls(path, registry, filter.wants, lambda call: places.append(call.place))
    found = output.seen(placed.correlator.pods)
    others = output.strays(placed.correlator.containers.values())
    if filter is not None:
        here = {id(whose) for place in places if place is not None for whose in (place.pod, place.container)}
        found, others = [each for each in found if id(each) in here], [each for each in others if id(each) in here]
        say_errors(filter)
    if args.json:
        for pod in found:
            print(output.to_json(pod))
        if others:
            print(output.strays_json(others))
    else:
        look = Look.of(sys.stdout)
        for line in output.text(found, others):
            sys.stdout.write(look.line(OK, line))
    if not found and not others:
        print("podwire: no pod is seen in it", file=sys.stderr)
    if placed.broken:
        sys.stdout.flush()
        raise PodwireError(f"{path}: {placed.broken}")
    return 0
