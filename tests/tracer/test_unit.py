"""R3 on systemd, held against a stand-in of busctl that writes down how it was called: there is no systemd here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracer.unit import give_unit


@pytest.fixture
def busctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "busctl"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/called\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def test_r3_all_processes_of_a_relay_get_one_scope(busctl: Path) -> None:
    assert give_unit(7, [7, 8, 9], running=str(busctl)) == ""
    words = (busctl / "called").read_text().split("\n")
    assert "podwire-7.scope" in words
    at = words.index("PIDs")
    assert words[at : at + 6] == ["PIDs", "au", "3", "7", "8", "9"]
    # As many properties as are announced, each a name, a type and its values.
    assert words[words.index("fail") + 1] == "5"
    assert words[words.index("KillMode") : words.index("KillMode") + 3] == ["KillMode", "s", "process"]


def test_without_systemd_nothing_is_asked(busctl: Path) -> None:
    assert give_unit(7, [7], running=str(busctl / "none")) == ""
    assert not (busctl / "called").exists()
