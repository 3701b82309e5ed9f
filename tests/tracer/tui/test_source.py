"""The processes behind the screen: they give what reading the capture here gives, and what becomes of them is said."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracer.tui.screen import EDGE, POD
from tracer.tui.rows import COLUMNS, Rows
from tracer.tui.source import Child, IndexerError, ProcessSource, WholeMatches, WholeSource


def batches_of(source: ProcessSource | WholeSource) -> Rows:
    rows, until = Rows(), time.monotonic() + 60
    while not rows.complete:
        for batch in source.batches():
            rows.add(batch)
        assert time.monotonic() < until
        time.sleep(0.01)
    source.close()
    return rows


def told(child: Child) -> Iterator[object]:
    until = time.monotonic() + 60
    while True:
        for each in child.take():
            yield each
            if each.complete:
                return
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("capture", [POD, EDGE], ids=lambda path: path.stem)
def test_the_indexer_gives_what_reading_it_here_gives(capture: Path) -> None:
    there, here = batches_of(ProcessSource(str(capture), follow=False)), batches_of(WholeSource(str(capture)))
    for name, _ in COLUMNS:
        assert name == "place" or getattr(there, name) == getattr(here, name)
    assert [there.kinds[each] for each in there.kind] == [here.kinds[each] for each in here.kind]
    assert there.troubles == here.troubles == [row for row in range(len(here)) if here.sign(row, 1 << 62) in "E≠"]


@pytest.mark.parametrize("follow", [False, True])
def test_the_matcher_gives_what_matching_here_gives(follow: bool) -> None:
    text = "call.method == 'Create'"
    child = Child("tracer.tui.matcher", [str(POD), f"--filter={text}"], follow=follow)
    if follow:
        child.end()
    found = [row for each in told(child) for row in each.wanted]  # type: ignore[attr-defined] # it is Matched
    child.close()
    (whole,) = WholeMatches(str(POD), text).take()
    assert sorted(found) == sorted(whole.wanted)
    assert len(found) == 2


def test_an_indexer_that_is_killed_is_said() -> None:
    source = ProcessSource("/dev/null", follow=True)
    source.child.process.kill()
    with pytest.raises(IndexerError, match="was killed"):
        batches_of(source)
    source.close()


def test_what_cannot_be_read_is_said() -> None:
    source = ProcessSource("/nowhere", follow=False)
    with pytest.raises(IndexerError, match="no such file"):
        batches_of(source)
    source.close()
