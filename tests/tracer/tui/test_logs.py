"""Lines of logs on the screen: they stand among the findings at their times, and are no loss."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from protos.registry import Registry
from tracer.capture.reader import open_capture
from tracer.tui import indexer
from tracer.tui.indexer import Indexer, batches
from tracer.tui.rows import Rows

RECORDED = Path(__file__).parents[3] / "captures" / "own16-journal.pcapng.gz"


def indexed(registry: Registry) -> Rows:
    rows = Rows()
    with open_capture(str(RECORDED)) as capture:
        for batch in batches(capture, Indexer(registry, io.BytesIO())):
            rows.add(batch)
    return rows


def test_they_are_findings_with_their_times(registry: Registry) -> None:
    rows = indexed(registry)
    assert (len(rows), len(rows.findings), rows.lost) == (65, 73, 0)
    assert all(" * log " in text for _, text in rows.findings)
    begin = min(rows.start)
    assert all(begin - 10**8 < time_ns < begin + 10**9 for time_ns, _ in rows.findings)


def test_so_many_are_kept(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer, "KEPT_LOGS", 5)
    assert len(indexed(registry).findings) == 5
