"""podwire(1), made of what the command itself is made of: the parsers, the table of keys, the exit statuses.

`python -m tracer.cli.manual` prints it as roff, `make man` shows it, the build puts it into the wheel. It needs nothing
but the standard library, like all that it reads.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterable
from importlib import import_module

from tracer import __version__
from tracer.cli import COMMANDS, STATUSES
from tracer.tui.keys import help_lines

DESCRIPTION = """
podwire is tcpdump for the sockets that a Kubernetes node's container runtime talks over. It puts itself between kubelet
or crictl, containerd or CRI-O, and the shims, records what passes as pcapng, and shows each gRPC and ttrpc call, typed
and timed. It needs root, or write access to the folder of the socket, and no change of configuration.
"""
FILES = {
    "/run/podwire": "what sessions hold, one file each; without root $XDG_RUNTIME_DIR/podwire",
    "/var/lib/podwire": "captures of traces without -w, while they run; without root ~/.local/state/podwire",
}
ENVIRONMENT = {"NO_COLOR": "if it is set, no colours", "TERM": "dumb: no colours and no screen"}
EXAMPLES = {
    "podwire trace -w pod.pcapng": "trace until Ctrl-C, on the screen where there is a terminal",
    "podwire trace -w - | wireshark -k -i -": "watch it in Wireshark",
    "podwire grep call.failed pod.pcapng": "the calls that failed",
    "podwire stuck": "what hangs now, and what waits for it",
}


def page() -> str:
    """The whole page."""
    lines = [
        '.\\" Made by tracer/cli/manual.py.',
        f'.TH PODWIRE 1 "{_date()}" "podwire {__version__}"',
        *_section("Name"),
        "podwire \\- " + _text("tcpdump for the sockets that a container runtime talks over"),
        *_section("Synopsis"),
        ".B podwire",
        "[\\-h] [\\-\\-version]",
        ".I COMMAND",
        "[...]",
        *_section("Description"),
        *_wrapped(DESCRIPTION),
        *_section("Commands"),
    ]
    for name in COMMANDS:
        lines += _command(name)
    lines += [*_section("The screen's keys and commands"), *_items(each for each in help_lines() if each[0])]
    lines += [*_section("Exit status"), *_items((str(status), text) for status, text in STATUSES.items())]
    lines += [*_section("Environment"), *_items(ENVIRONMENT.items())]
    lines += [*_section("Files"), *_items(FILES.items())]
    lines += [*_section("Examples"), *_items(EXAMPLES.items())]
    lines += [*_section("See also"), ".BR crictl (1),", ".BR tcpdump (8),", ".BR tshark (1),", ".BR wireshark (1)"]
    return "\n".join(lines) + "\n"


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command."""
    subparsers = argparse.ArgumentParser(prog="podwire").add_subparsers(prog="podwire")
    import_module(f"tracer.cli.{command}").add_parser(subparsers)
    parser: argparse.ArgumentParser = subparsers.choices[command]
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=72)
    return parser


def _command(name: str) -> list[str]:
    parser = parser_of(name)
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    lines = [f'.SS "podwire {name}"', ".nf", *(_text(line) for line in usage.splitlines()), ".fi"]
    lines += _paragraph(parser.description or f"{COMMANDS[name]}.")
    return lines + _items((_option(each), _help(each)) for each in parser._actions if each.dest != "help")


def _option(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ", ".join(action.option_strings)
    value = action.metavar if isinstance(action.metavar, str) else "{" + ",".join(action.choices or ()) + "}"
    return ", ".join(f"{each} {value}" for each in action.option_strings) or value


def _help(action: argparse.Action) -> str:
    about = {name: value for name, value in vars(action).items() if value is not argparse.SUPPRESS}
    return (action.help or "") % about


def _section(name: str) -> list[str]:
    return [f'.SH "{name.upper()}"']


def _paragraph(text: str) -> list[str]:
    return [".PP", *_wrapped(text)]


def _items(items: Iterable[tuple[str, str]]) -> list[str]:
    lines = []
    for head, text in items:
        lines += [".TP", f'.B "{_text(head, quoted=True)}"', *_wrapped(text)]
    return lines


def _wrapped(text: str) -> list[str]:
    return [_text(line) for line in textwrap.wrap(" ".join(text.split()), 70)]


def _text(text: str, *, quoted: bool = False) -> str:
    """Words as roff has them: nothing in them is a request or an escape, and all of it is ASCII."""
    words = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    words = words.replace("^", "\\(ha").replace("~", "\\(ti")
    if quoted:
        words = words.replace('"', "\\(dq")
    words = re.sub(r"[^\x00-\x7f]", lambda found: f"\\[u{ord(found[0]):04X}]", words)
    return f"\\&{words}" if words.startswith(".") else words


def _date() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))


if __name__ == "__main__":
    sys.stdout.write(page())
