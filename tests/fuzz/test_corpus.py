"""What the fuzzer found worth keeping is replayed: whole, byte by byte and in random pieces."""

from __future__ import annotations

import pytest

from tests.dissectors.support import Piece
from tests.fuzz.fuzz import check, load_corpus

CORPUS = load_corpus()


@pytest.mark.parametrize("script", CORPUS.values(), ids=CORPUS.keys())
def test_every_saved_script_gives_the_same_events_at_any_split(script: list[Piece]) -> None:
    for seed in range(3):
        check(script, seed)
