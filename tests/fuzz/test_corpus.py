"""What the fuzzer found worth keeping is replayed: whole, byte by byte and in random pieces."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.dissectors.support import Piece
from tests.fuzz import wireshark
from tests.fuzz.fuzz import check, load_corpus

CORPUS = load_corpus()


@pytest.mark.parametrize("script", CORPUS.values(), ids=CORPUS.keys())
def test_every_saved_script_gives_the_same_events_at_any_split(script: list[Piece]) -> None:
    for seed in range(3):
        check(script, seed)


@pytest.mark.tshark
def test_no_saved_script_troubles_the_lua_dissector(tmp_path: Path) -> None:
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")
    path = tmp_path / "corpus.pcapng"
    path.write_bytes(wireshark.capture_of([script for script in CORPUS.values() for _ in wireshark.HOPS]))
    assert wireshark.complaint(path) == ""
