"""A guest's connections: each is told of as the relay tells of those that it has in its path."""

from __future__ import annotations

import pytest

from tracer.capture import vsock
from tracer.capture.conversation import CaptureWriter
from tracer.capture.guests import Guests, cut
from tracer.capture.vsock import Closed, Connection, Data, Gap, Opened, Refused
from tracer.relay.shared import Kind

CONNECTION = Connection((vsock.HOST, 4000), (3, 1024), seen=True)
LAST = 1 << 48


def told(guests: Guests, *events: vsock.Event) -> list[tuple[object, ...]]:
    records = [record for event in events for record in guests.records(event, 7)]
    return [(each.kind, each.connection, each.direction, each.offset, bytes(each.payload)) for each in records]


def opened(guests: Guests, event: vsock.Event) -> tuple[int, CaptureWriter]:
    writer = CaptureWriter(lambda block: None)
    writer.start(1, "")
    return guests.open(event, 7, writer), writer


def test_bytes_and_gaps_have_their_places_until_both_ways_have_ended() -> None:
    guests = Guests(LAST)
    event = Opened(CONNECTION, True)
    assert not guests.knows(CONNECTION)
    number, _ = opened(guests, event)
    assert number == LAST + 1 == guests.last
    assert told(
        guests,
        event,
        Data(CONNECTION, 0, b"abc"),
        Gap(CONNECTION, 0, 10),
        Data(CONNECTION, 0, b"d"),
        Data(CONNECTION, 1, b"e"),
        Closed(CONNECTION, 0, reset=False, last=False),
    ) == [
        (Kind.DATA, number, 0, 0, b"abc"),
        (Kind.DATA, number, 0, 13, b"d"),
        (Kind.DATA, number, 1, 0, b"e"),
        (Kind.FIN, number, 0, 14, b""),
    ]
    assert guests.knows(CONNECTION)
    assert told(guests, Closed(CONNECTION, 1, reset=True, last=True)) == [(Kind.RESET, number, 1, 1, b"")]
    assert not guests.knows(CONNECTION)


def test_one_that_is_refused_is_over_at_once() -> None:
    guests = Guests(LAST)
    number, writer = opened(guests, Refused(CONNECTION))
    assert told(guests, Refused(CONNECTION)) == [(Kind.RESET, number, each, 0, b"") for each in (0, 1)]
    assert not guests.knows(CONNECTION)
    assert [side.end for side in writer.state.conversations[number].sides] == [0, 0]


def test_one_that_began_before_begins_with_a_byte_that_is_missing() -> None:
    for event in (Opened(CONNECTION, False), Data(CONNECTION, 0, b"x")):
        guests = Guests(LAST)
        number, _ = opened(guests, event)
        assert told(guests, Data(CONNECTION, 0, b"x")) == [(Kind.DATA, number, 0, 1, b"x")]


def test_what_nobody_follows_any_more_ends_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    guests = Guests(LAST)
    number, writer = opened(guests, Opened(CONNECTION, True))
    writer.data(number, 1, 0, 8, memoryview(b"12345"))
    writer.close(number, 0, 0, 9, False)
    sides, fins = writer.state.conversations[number].sides, []
    monkeypatch.setattr(writer, "close", lambda *close: fins.append(close))
    assert [side.closed for side in sides] == [True, False]
    cut(number, writer, 10)
    assert fins == [(number, 1, 5, 10, True)]
