"""The command `podwire`: finds the subcommand, imports that one alone, turns mistakes into one line and a status.

The statuses are in the help below and in docs/commands.md. A reader that goes away (`| head`) is no error.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

COMMANDS = {
    "trace": "get between runtime and clients, show each call as it happens, record a pcapng",
    "status": "list the sessions that run or drain: sockets, connections, capture, gaps, health",
    "attach": "show the calls of a session that records in the background",
    "stop": "end a session; what is open goes on through its relay",
    "decode": "print the calls of a capture file",
    "open": "look at a capture file on the screen: calls, messages, bytes",
    "replay": "play a capture file on the screen, at its speed or another",
    "grep": "print the calls of a capture file that match an expression",
    "stuck": "list the calls without an answer, of a running trace or of a capture file",
    "pods": "list the pods and containers seen: state, start-up by phase, failures",
    "story": "tell the calls of one pod over all hops, as a tree, a page, a diagram or a trace",
    "stats": "count calls by hop and method: errors, durations, bytes",
    "diff": "compare two captures, or two pods: calls, fields of requests, durations",
    "redact": "write a capture with its secrets masked",
    "doctor": "say what is here, what can be traced and what cannot; mend what a crash left",
    "export": "write a part of a capture, or in another form: pcapng, pcap, text, JSON, HAR",
    "verify": "compare podwire's reading of a capture with tshark's",
    "wireshark": "open a capture in Wireshark, ready; install dissector, schemas and profile there",
    "demo": "trace a bundled stand-in runtime; needs neither root nor containerd",
}
"""Every subcommand, in the order of the help; each is a module of its name beside this one."""

USAGE = "podwire [-h] [--version] COMMAND ..."
STATUSES = {
    0: "done",
    1: "done, and something is amiss: the capture of trace or attach is not complete, stop took too long, "
    "verify found a difference, doctor or status has something to say",
    2: "bad usage or bad input; one line on stderr says which",
    130: "ended by Ctrl-C (of trace and attach that is the ordinary end: 0)",
}
"""Every exit status."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    words = sys.argv[1:] if argv is None else argv
    first = words[0] if words else "--help"
    if first in ("--version", "-V"):
        from tracer import __version__

        print(f"podwire {__version__}")
        return 0
    if first in ("--help", "-h", "help"):
        print(_help())
        return 0 if words else 2
    if first not in COMMANDS:
        print(f"podwire: no command {first!r} (there are: {', '.join(COMMANDS)})", file=sys.stderr)
        return 2
    return run(first, words)


def run(command: str, words: list[str], **given: object) -> int:
    """Run a command by its words (it is the first of them); `given` is what its `run` takes besides. Return the exit
    status."""
    import argparse

    from protos.errors import PodwireError

    module = import_module(f"tracer.cli.{command}")
    parser = argparse.ArgumentParser(prog="podwire", usage=USAGE)
    module.add_parser(parser.add_subparsers(dest="command", required=True, prog="podwire"))
    try:
        args, rest = parser.parse_known_args(words)
        if len(rest) == 1 and vars(args).get("file", "") is None and (rest[0] == "-" or rest[0][:1] != "-"):
            args.file = rest[0]  # argparse looks for an optional FILE in front of options alone (until Python 3.13)
        elif rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        status: int = module.run(args, **given)
        sys.stdout.flush()
    except PodwireError as error:
        from tracer.output.escape import escape

        text = str(error)  # a name in it may be anything
        print(f"podwire: {text if text.isprintable() else escape(text)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except SystemExit as leaving:  # argparse has said what it had to
        return leaving.code if isinstance(leaving.code, int) else 2
    return status


def _help() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {USAGE}",
            "",
            "tcpdump for the sockets a Kubernetes node's container runtime talks over.",
            "",
            *lines,
            "",
            "podwire COMMAND --help says more of each. Exit status:",
            *[f"  {status:<{width}}  {text}" for status, text in STATUSES.items()],
        ]
    )
