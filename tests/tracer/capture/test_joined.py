"""Connections of a real runtime, joined at any byte: what is shown is so, and what cannot be known is left out."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dissectors.detect import open_dissector, settled
from dissectors.events import Direction
from tracer.calls import Call, CallTracker, Update
from tracer.capture.flows import Flow, FlowData, FlowTable
from tracer.capture.packets import Notice
from tracer.capture.reader import open_capture
from tracer.pipeline import EXPECTED

CAPTURES = Path(__file__).parents[3] / "captures"
Pieces = list[tuple[Direction, bytes]]


@cache
def connections(name: str) -> list[tuple[Flow, Pieces]]:
    """Return the bytes of each connection of a capture, in the order in which they were read."""
    table, found = FlowTable(), dict[Flow, Pieces]()
    with open_capture(str(CAPTURES / f"{name}.pcapng.gz")) as capture:
        for item in capture:
            for event in () if isinstance(item, Notice) else table.feed(item):
                if isinstance(event, FlowData):
                    found.setdefault(event.flow, []).append((event.direction, event.data))
    return list(found.items())


def decode(flow: Flow, pieces: Pieces, seen: bool = True) -> dict[int, Call]:
    """Return the calls that are told of, by their streams; in these captures none comes twice."""
    dissector, tracker, calls = open_dissector(EXPECTED.get(flow.hop)), CallTracker(), dict[int, Call]()
    if not seen:
        for direction in Direction:
            dissector.lost(direction, 0)
    for direction, data in pieces:
        told = dissector.feed(direction, data)
        if told and dissector.protocol:
            for update in tracker.feed(flow, dissector.protocol, 0, told):
                take(update, calls)
            dissector = settled(dissector)
    return calls


def take(update: Update, calls: dict[int, Call]) -> None:
    if update.kind == "opened":
        assert update.call.stream_id not in calls
        calls[update.call.stream_id] = update.call


@pytest.mark.parametrize("name", ["ctrd2-pod", "ctrd16-pod", "own16-pod"])
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_nothing_is_wrong_wherever_it_is_joined(name: str, data: st.DataObject) -> None:
    flow, pieces = data.draw(st.sampled_from(connections(name)))
    whole = decode(flow, pieces)
    joined = pieces[data.draw(st.integers(0, len(pieces) - 1)) :]
    for direction in Direction:  # in the middle of a read
        at = next((at for at, piece in enumerate(joined) if piece[0] == direction), None)
        if at is not None:
            cut = data.draw(st.integers(0, len(joined[at][1]) - 1))
            joined[at] = direction, joined[at][1][cut:]
    for stream, call in decode(flow, joined, seen=False).items():
        truth = whole[stream]
        if call.service or call.method:
            assert (call.service, call.method) == (truth.service, truth.method)
        known = {(message.direction, message.payload) for message in truth.messages}
        for message in call.messages:
            assert message.payload is None or (message.direction, message.payload) in known
        if call.status is not None:
            assert call.status == truth.status
        for said, true in (
            (call.metadata, truth.metadata),
            (call.response_metadata, truth.response_metadata),
            (call.trailers, truth.trailers),
        ):
            assert [pair for pair in said if pair not in true and "(unknown)" not in pair] == []
        assert call.timeout_ns in (None, truth.timeout_ns)
