"""podwire as a capture interface of Wireshark: what its extcap interface asks for, and `podwire trace` behind a fifo.

In: the words that Wireshark calls a capture program with. Out: its questions' answers on stdout, or a capture in the
fifo until Wireshark ends it. What is wrong is one line on stderr and status 2, which Wireshark shows.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

from tracer import __version__

INTERFACE = "podwire"


def main(words: list[str]) -> int:
    """Answer or capture; return the exit status."""
    parser = argparse.ArgumentParser(prog="podwire extcap", allow_abbrev=False)
    for question in ("interfaces", "dlts", "config"):
        parser.add_argument(f"--extcap-{question}", action="store_true")
    parser.add_argument("--extcap-version")
    parser.add_argument("--extcap-interface")
    parser.add_argument("--extcap-capture-filter")
    parser.add_argument("--extcap-reload-option")
    parser.add_argument("--capture", action="store_true")
    parser.add_argument("--fifo")
    parser.add_argument("--sockets", default="", help="HOP=PATH, separated by commas")
    parser.add_argument("--existing", action="store_true")
    args, unknown = parser.parse_known_args(words)
    if args.extcap_interfaces:
        print(_interfaces())
        return 0
    if args.extcap_interface != INTERFACE:
        print(f"podwire: no interface {args.extcap_interface!r}", file=sys.stderr)
        return 2
    if args.extcap_dlts:
        print("dlt {number=1}{name=EN10MB}{display=Ethernet}")
        return 0
    if args.extcap_config:
        print(_config())
        return 0
    if args.capture and args.fifo:
        if args.extcap_capture_filter:
            print("podwire: it has no capture filters (display filters do as ever)", file=sys.stderr)
            return 2
        return _capture(args.fifo, trace_words(args.sockets, args.existing))
    print(f"podwire: nothing to do{': ' + ' '.join(unknown) if unknown else ''}", file=sys.stderr)
    return 2


def trace_words(sockets: str, existing: bool) -> list[str]:
    """Return the command line of `podwire trace` that the dialog's values ask for."""
    words = ["trace", "-w", "-"]
    for socket in filter(None, map(str.strip, sockets.split(","))):
        words += ["--socket", socket]
    return [*words, "--existing"] if existing else words


def _interfaces() -> str:
    lines = (
        f"extcap {{version={__version__}}}{{display=podwire}}",
        f"interface {{value={INTERFACE}}}{{display=Container runtime sockets}}",
    )
    return "\n".join(lines)


def _config() -> str:
    return "\n".join(
        [
            "arg {number=0}{call=--sockets}{display=Sockets}{type=string}"
            "{tooltip=HOP=PATH, comma-separated; hops: cri, task, events, agent, nri, other. Empty: the usual ones}",
            "arg {number=1}{call=--existing}{display=Shims that run already, too}{type=boolflag}{default=false}"
            "{tooltip=containerd dials them again only when it restarts}",
        ]
    )


def _capture(fifo: str, words: list[str]) -> int:
    """Run the trace with its capture going into the fifo. Wireshark ends it by SIGTERM, or by closing the fifo."""
    from tracer.cli import main as podwire

    try:
        descriptor = os.open(fifo, os.O_WRONLY)
    except OSError as error:
        print(f"podwire: {fifo}: {(error.strerror or '').lower()}", file=sys.stderr)
        return 2
    os.dup2(descriptor, 1)
    os.close(descriptor)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    return podwire(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
