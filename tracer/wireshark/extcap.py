"""podwire as a capture interface of Wireshark: the questions that its extcap interface asks, and their answers.

In: the words that Wireshark calls a capture program with. Out: answers on stdout, or a capture (`capture`). What is
wrong is one line on stderr and status 2, which Wireshark shows.
"""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from protos.errors import PodwireError
from protos.hops import HOPS
from tracer import __version__

INTERFACE = "podwire"
_WHAT_HOPS = {
    "cri": "cri: kubelet, crictl → containerd, CRI-O",
    "task": "task: containerd → shims",
    "events": "events: shims → containerd",
    "agent": "agent: Kata shims → agents of VMs",
    "nri": "nri: containerd, CRI-O → plugins",
    "other": "other: sockets named as other=PATH",
}


class _Words(argparse.ArgumentParser):
    """What is wrong is one line."""

    def error(self, message: str) -> NoReturn:
        raise PodwireError(message)


def main(words: list[str]) -> int:
    """Answer or capture; return the exit status."""
    try:
        return _run(_parser().parse_known_args(words))
    except PodwireError as error:
        print(f"podwire: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Words(prog="podwire extcap", allow_abbrev=False)
    for question in ("interfaces", "dlts", "config"):
        parser.add_argument(f"--extcap-{question}", action="store_true")
    parser.add_argument("--extcap-version")
    parser.add_argument("--extcap-interface")
    parser.add_argument("--extcap-capture-filter", default="")
    parser.add_argument("--extcap-reload-option")
    parser.add_argument("--extcap-control-in", default="")
    parser.add_argument("--extcap-control-out", default="")
    parser.add_argument("--capture", action="store_true")
    parser.add_argument("--fifo")
    parser.add_argument("--hops", default="", help="separated by commas")
    parser.add_argument("--sockets", default="", help="HOP=PATH, separated by commas")
    parser.add_argument("--existing", action="store_true")
    parser.add_argument("--filter", default="")
    parser.add_argument("--mask", default="true")
    return parser


def _run(parsed: tuple[argparse.Namespace, list[str]]) -> int:
    args, unknown = parsed
    if args.extcap_interfaces:
        print(_interfaces())
    elif args.extcap_interface != INTERFACE:
        raise PodwireError(f"no interface {args.extcap_interface!r}")
    elif args.extcap_dlts:
        print("dlt {number=1}{name=EN10MB}{display=Ethernet}")
    elif args.extcap_config:
        print(_config())
    elif args.capture and args.fifo:
        from tracer.wireshark.capture import Wanted, capture

        filters = [each for each in (args.filter.strip(), args.extcap_capture_filter.strip()) if each]
        wanted = Wanted(
            hops=_listed(args.hops),
            sockets=_listed(args.sockets),
            existing=args.existing,
            filter=filters[0] if len(filters) == 1 else " && ".join(f"({each})" for each in filters),
            mask=args.mask[:1].lower() in ("t", "y", "1"),
        )
        controls = (args.extcap_control_in, args.extcap_control_out)
        return capture(wanted, args.fifo, controls if all(controls) else None)
    elif args.extcap_capture_filter:
        from tracer.wireshark.capture import check_filter

        print(check_filter(args.extcap_capture_filter), end="")  # anything on stdout means that it is wrong
    else:
        raise PodwireError(f"nothing to do{': ' + ' '.join(unknown) if unknown else ''}")
    return 0


def _listed(text: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, text.split(","))))


def _interfaces() -> str:
    from tracer.wireshark.toolbar import CONTROLS

    return "\n".join(
        [
            f"extcap {{version={__version__}}}{{display=podwire}}",
            f"interface {{value={INTERFACE}}}{{display=Container runtime sockets}}",
            *CONTROLS,
        ]
    )


def _config() -> str:
    lines = [
        "arg {number=0}{call=--hops}{display=Only hops}{type=multicheck}{tooltip=None chosen: all}",
        *(f"value {{arg=0}}{{value={hop}}}{{display={_WHAT_HOPS[hop]}}}{{enabled=true}}" for hop in HOPS),
        "arg {number=1}{call=--sockets}{display=Sockets}{type=string}{placeholder=the usual ones}"
        "{tooltip=HOP=PATH, comma-separated: instead of the usual ones}",
        "arg {number=2}{call=--existing}{display=Shims that run already, too}{type=boolflag}{default=false}"
        "{tooltip=containerd dials them again only when it restarts}",
        "arg {number=3}{call=--filter}{display=Filter}{type=string}{placeholder=call.pod == 'default/web-0'}"
        "{tooltip=In CEL, as podwire grep has it: connections on which a call matches, from that call on. "
        "The capture filter is taken as the same}",
        "arg {number=4}{call=--mask}{display=Mask secrets}{type=boolean}{default=true}"
        "{tooltip=Asterisks in the place of environments, credentials and tokens, as podwire redact has it; "
        "what cannot be read becomes zeros}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
