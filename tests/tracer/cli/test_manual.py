"""podwire(1) has all that the command has, and formatters take it as it is."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tracer.cli import COMMANDS, STATUSES
from tracer.cli.manual import page, parser_of
from tracer.tui.keys import help_lines

ESCAPES = {"\\-": "-", "\\e": "\\", "\\(aq": "'", "\\(ga": "`", "\\(ha": "^", "\\(ti": "~", "\\(dq": '"', "\\&": ""}


def heads(text: str) -> list[str]:
    """What each item of a list is about, in a part of the page."""
    found = re.findall(r'^\.TP\n\.B "(.*)"$', text, re.MULTILINE)
    return [re.sub(r"\\(?:\([a-z]{2}|.)", lambda escape: ESCAPES[escape[0]], each) for each in found]


def part(name: str) -> str:
    """The page from one heading to the next."""
    found = re.search(rf'^\.S[HS] "{re.escape(name)}"\n(.*?)(?=^\.S[HS] |\Z)', page(), re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_every_command_is_there(command: str) -> None:
    told = {word for head in heads(part(f"podwire {command}")) for word in re.split(r",? ", head)}
    options = {option for action in parser_of(command)._actions for option in action.option_strings}
    assert options - {"-h", "--help"} <= told
    named = {action.metavar for action in parser_of(command)._actions if not action.option_strings}
    assert named <= told


def test_every_key_and_command_of_the_screen_is_there_with_what_it_does() -> None:
    text = part("THE SCREEN'S KEYS AND COMMANDS")
    assert heads(text) == [head for head, _ in help_lines() if head]
    assert text.count("\n.TP\n") == len(heads(text)) - 1
    assert "out of a page, the detail, a filter" in text
    assert '\n.B "\\e"\n' in text


def test_every_exit_status_is_there() -> None:
    assert heads(part("EXIT STATUS")) == [str(status) for status in STATUSES]


def test_it_is_ascii_and_no_line_of_it_is_a_request_by_accident() -> None:
    assert page().isascii()
    known = (".TH ", ".SH ", ".SS ", ".PP", ".TP", ".B ", ".BR ", ".I ", ".nf", ".fi", '.\\"', ".B podwire")
    assert not [line for line in page().splitlines() if line.startswith((".", "'")) and not line.startswith(known)]


@pytest.mark.parametrize(
    "command",
    [("groff", "-man", "-ww", "-Tutf8"), ("mandoc", "-T", "lint", "-W", "warning"), ("man", "--warnings", "-l", "-")],
    ids=lambda command: command[0],
)
def test_a_formatter_has_nothing_to_say_against_it(command: tuple[str, ...]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    done = subprocess.run(command, input=page(), capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    assert command[0] != "mandoc" or done.stdout == ""
