"""`podwire diff`: what is not the same in two captures, or of two pods."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from protos.errors import PodwireError
from tracer.cli.decode import add_filter_option, add_registry_options, load_registry, make_filter, say_errors
from tracer.cli.reading import Placed, read_calls, read_placed

if TYPE_CHECKING:  # heavy: imported by run
    from protos.registry import Registry
    from tracer.calls import Call
    from tracer.diffing import Difference, Side
    from tracer.filtering import Filter

SHOWN_VALUES = 8
"""Of a field on one side; of the others, how many there are."""
TITLES = {
    "calls": "calls",
    "errors": "errors",
    "field": "fields of requests",
    "duration": "durations, of half of the calls",
}

DESCRIPTION = """
Compare the calls of two captures: methods called more or less often, how they failed, values that fields of requests
had in one alone (ids and times are taken for equal), and durations. With --pods, only what is of one pod in A, and of
another in B, which may be the same file.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("diff", help="compare two captures, or two pods", description=DESCRIPTION)
    parser.add_argument("before", metavar="A", help="a capture")
    parser.add_argument("after", metavar="B", help="another")
    parser.add_argument(
        "--pods", nargs=2, metavar=("POD_A", "POD_B"), help="a pod of each: as `podwire story` takes it"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a difference (docs/json.md)")
    add_filter_option(parser)
    add_registry_options(parser)


def run(args: argparse.Namespace) -> int:
    """Compare. Returns 0, whether there is a difference or not. Raises PodwireError."""
    from tracer.diffing import differences

    registry = load_registry(args)
    filter = make_filter(args, registry)
    pods = args.pods or ("", "")
    sides = [_side(path, registry, filter, pod) for path, pod in zip((args.before, args.after), pods, strict=True)]
    found = list(differences(*sides))
    for line in map(_json_line, found) if args.json else _lines(found):
        print(line)
    if not found:
        print("podwire: no difference", file=sys.stderr)
    say_errors(filter)
    return 0


def _side(path: str, registry: Registry, filter: Filter | None, pod: str) -> Side:
    """Read one capture, twice where it is asked which calls are of a pod. Raises PodwireError."""
    from tracer.diffing import Side

    ids = _ids(path, registry, pod) if pod else frozenset()
    side = Side(registry)

    def wanted(call: Call, now_ns: int) -> bool:
        return (not pod or _is_of(call, ids)) and (filter is None or filter.wants(call, now_ns))

    _whole(path, read_calls(path, registry, wanted, side.add))
    return side


def _ids(path: str, registry: Registry, pod: str) -> frozenset[str]:
    """Return the ids of a pod's sandbox and containers. Raises PodwireError unless just one is called so."""
    from tracer.output.story import choose

    if path == "-":
        raise PodwireError("diff --pods reads its captures twice: it needs files")
    correlator = _whole(path, read_placed(path, registry)).correlator
    try:
        found = choose(correlator.pods, pod)
    except PodwireError as error:
        raise PodwireError(f"{path}: {error}") from error
    ids = {found.id} | {each.id for each in correlator.containers.values() if each.pod is found}
    return frozenset(ids - {""})


def _whole(path: str, placed: Placed) -> Placed:
    """Return what was read of a capture to its end. Raises PodwireError if it broke off."""
    if placed.broken:
        raise PodwireError(f"{path}: {placed.broken}")
    return placed


def _is_of(call: Call, ids: frozenset[str]) -> bool:
    place = call.place
    if place is None:
        return False
    of_container = place.container is not None and place.container.id in ids
    return of_container or (place.pod is not None and place.pod.id in ids)


def _lines(found: list[Difference]) -> list[str]:
    from tracer.output.escape import escape
    from tracer.output.summary import method_name
    from tracer.output.units import duration

    lines: list[str] = []
    before = ""
    for each in found:
        if each.what != before:
            before = each.what
            lines.append(TITLES[each.what])
        name = f"{each.hop:<6} {method_name(each.service, each.method)}"
        if each.what == "field":
            lines.append(f"    {name} {escape(each.path)}")
            lines += [f"      - {escape(value)}" for value in _shown(each.before)]
            lines += [f"      + {escape(value)}" for value in _shown(each.after)]
        elif each.what == "duration":
            one, other = int(each.before[0]), int(each.after[0])
            lines.append(f"    {name:<36} {duration(one)} → {duration(other)} ({other / max(one, 1):.1f} ×)")
        else:
            sign = " " if each.before and each.after else ("+" if each.after else "-")
            none = "0" if each.what == "calls" else "none"
            lines.append(f"  {sign} {name:<36} {', '.join(each.before) or none} → {', '.join(each.after) or none}")
    return lines


def _shown(values: tuple[str, ...]) -> list[str]:
    more = [f"… {len(values) - SHOWN_VALUES} more"] if len(values) > SHOWN_VALUES else []
    return [*values[:SHOWN_VALUES], *more]


def _json_line(each: Difference) -> str:
    from tracer.output import JSON_VERSION

    shown: dict[str, object] = {
        "v": JSON_VERSION,
        "kind": "difference",
        "what": each.what,
        "hop": each.hop,
        "service": each.service,
        "method": each.method,
    }
    if each.path:
        shown["path"] = each.path
    return json.dumps(shown | {"before": each.before, "after": each.after}, separators=(",", ":"))
