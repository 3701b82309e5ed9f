"""What a recorder notes of its capture, in words."""

from __future__ import annotations

import pytest

from tracer.capture.notes import note_text


@pytest.mark.parametrize(
    ("about", "text"),
    [
        ({"podwire": "clock set", "by_ns": 3_175_000}, ""),
        ({"podwire": "clock set", "by_ns": 100_000_000}, "the clock was set forward by 100.000ms"),
        ({"podwire": "clock set", "by_ns": -7_200_000_000_000}, "the clock was set back by 2h00m"),
        ({"podwire": "paused", "from_ns": 5, "to_ns": 2_000_000_005, "bytes": 12_000}, "paused for 2.000s"),
        ({"podwire": "paused", "bytes": "many", "connections": 1}, "0 B of traffic and 1 whole connection missing"),
        ({"podwire": "paused", "bytes": 1, "lines": 3}, "1 B of traffic and 3 lines of logs missing"),
        ({"podwire": "log ended", "why": "journalctl has ended"}, "no more lines of the log: journalctl has ended"),
        ({"podwire": 1, "hop": "cri"}, ""),
        ({}, ""),
    ],
)
def test_a_note_is_said_if_it_matters(about: dict[str, object], text: str) -> None:
    assert text in note_text(about)
    assert bool(text) == bool(note_text(about))
