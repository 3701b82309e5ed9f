"""The command itself: help, version, mistakes in one line, and what it does not import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tracer import __version__
from tracer.cli import COMMANDS, STATUSES, main

ROOT = Path(__file__).parents[3]


def test_version_imports_nothing_that_costs() -> None:
    look = (
        "import sys; from tracer.cli import main; main(['--version']);"
        "print(*[name for name in ('argparse', 'construct', 'google.protobuf', 'json', 'tracer.calls', 'dissectors')"
        " if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, cwd=ROOT)
    assert told.stdout == f"podwire {__version__}\n\n"


@pytest.mark.parametrize("command", ["decode", "stuck", "status", "attach", "stop"])
def test_help_and_usage_errors_of_a_command_do_not_import_schemas(command: str) -> None:
    look = (
        f"import sys; from tracer.cli import main; main(['{command}', '--help']);"
        "print(*[name for name in ('construct', 'google.protobuf') if name in sys.modules], file=sys.stderr)"
    )
    told = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, cwd=ROOT)
    assert told.stderr == "\n"
    assert told.stdout.startswith(f"usage: podwire {command}")


def test_help_names_every_command_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    for name, text in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", told, re.MULTILINE)


def test_without_a_command_the_help_is_printed_and_the_status_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("usage: podwire")


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tracee"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == f"podwire: no command 'tracee' (there are: {', '.join(COMMANDS)})\n"


def test_exit_statuses_are_documented() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    table = page[page.index("## Exit status") :]
    found = {int(status): text for status, text in re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)}
    assert found == STATUSES
