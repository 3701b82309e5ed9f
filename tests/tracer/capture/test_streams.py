"""One direction in order: whatever happens to its segments, its bytes come out right, or as a gap where they lack."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.capture.streams import EARLY_BYTES, EARLY_SEGMENTS, Piece, Stream

FIRST = 0xFFFF_FF00  # the stream's sequence numbers wrap after 256 bytes
CONTENT = random.Random(1).randbytes(2_000)


def began(ordered: bool = False, first: int = FIRST) -> Stream:
    stream = Stream()
    stream.ordered = ordered
    stream.start(first)
    return stream


def at(place: int) -> int:
    return FIRST + place & 0xFFFFFFFF


def laid_out(pieces: list[Piece]) -> tuple[bytes, list[tuple[int, int]]]:
    """Return the bytes, with zeros for what is missing, and where that is."""
    content, missing = bytearray(), []
    for piece in pieces:
        if isinstance(piece, int):
            missing.append((len(content), len(content) + piece))
            content += bytes(piece)
        else:
            content += piece
    return bytes(content), missing


@st.composite
def journeys(draw: st.DrawFn) -> tuple[list[tuple[int, int]], set[int]]:
    """Segments of CONTENT as (begin, end), overlapping, sent twice, out of order within a window, some lost for ever;
    and the places that no segment covers."""
    cuts = sorted(draw(st.sets(st.integers(1, len(CONTENT) - 1), max_size=25)))
    edges = list(zip([0, *cuts], [*cuts, len(CONTENT)], strict=True))
    lost = draw(st.sets(st.integers(0, len(edges) - 2), max_size=3)) if len(edges) > 1 else set()
    sent = [edge for number, edge in enumerate(edges) if number not in lost]
    for begin, end in draw(st.lists(st.sampled_from(sent), max_size=8)):
        sent.insert(draw(st.integers(0, len(sent))), (begin, draw(st.integers(begin + 1, end))))
    keys = [place + draw(st.integers(0, 4)) for place in range(len(sent))]
    sent = [segment for _, segment in sorted(zip(keys, sent, strict=True), key=lambda pair: pair[0])]
    covered = {place for begin, end in sent for place in range(begin, end)}
    return sent, set(range(len(CONTENT))) - covered


@given(journeys())
@settings(max_examples=200)
def test_shuffled_doubled_and_lost_segments_give_the_bytes_or_exact_gaps(
    journey: tuple[list[tuple[int, int]], set[int]],
) -> None:
    sent, uncovered = journey
    stream = began()
    pieces: list[Piece] = []
    for begin, end in sent:
        pieces += stream.segment(at(begin), CONTENT[begin:end], 0, False)
    pieces += stream.flush()
    content, missing = laid_out(pieces)
    gaps = {place for begin, end in missing for place in range(begin, end)}
    assert len(content) == len(CONTENT)
    assert gaps == uncovered
    assert all(content[place] == CONTENT[place] for place in range(len(CONTENT)) if place not in gaps)


@given(st.lists(st.tuples(st.integers(0, 0xFFFFFFFF), st.binary(max_size=20), st.integers(0, 9), st.booleans())))
def test_no_segment_whatever_raises(segments: list[tuple[int, bytes, int, bool]]) -> None:
    for ordered in (False, True):
        stream = began(ordered)
        for sequence, payload, missing, fin in segments:
            stream.segment(sequence, payload, missing, fin)
        stream.flush()


def test_an_early_segment_waits_and_then_comes_with_what_was_before_it() -> None:
    stream = began()
    assert stream.segment(at(3), b"def", 0, False) == []
    assert not stream.steady
    assert stream.segment(at(0), b"abc", 0, False) == [b"abc", b"def"]
    assert stream.steady


def test_what_comes_again_is_dropped_and_an_overlap_trimmed() -> None:
    stream = began()
    assert stream.segment(at(0), b"abc", 0, False) == [b"abc"]
    assert stream.segment(at(0), b"abc", 0, False) == []
    assert stream.segment(at(1), b"bcde", 0, False) == [b"de"]
    assert stream.segment(at(4), b"", 0, False) == []  # a keep-alive


@pytest.mark.parametrize("size", [1, 5_000])
def test_what_waits_is_bounded_in_segments_and_bytes_and_then_the_gap_is_told(size: int) -> None:
    stream = began()
    place, told = 100, []
    while not told:
        told = stream.segment(at(place), bytes(size), 0, False)
        place += size
        assert len(stream.early) <= EARLY_SEGMENTS
        assert sum(len(payload) for _, payload, _ in stream.early) <= EARLY_BYTES
    assert told[0] == 100
    assert sum(len(piece) for piece in told if isinstance(piece, bytes)) == place - 100
    assert stream.segment(at(0), bytes(100), 0, False) == []  # too late


def test_in_an_ordered_stream_a_jump_is_a_gap_at_once() -> None:
    stream = began(ordered=True)
    assert stream.segment(at(10), b"ab", 0, False) == [10, b"ab"]
    assert stream.segment(at(20), b"", 0, False) == [8]
    assert stream.segment(at(23), b"", 0, True) == [3]
    assert stream.closed


def test_an_end_that_comes_early_waits_for_its_bytes() -> None:
    stream = began()
    assert stream.segment(at(3), b"", 0, True) == []
    assert not stream.closed
    assert not stream.steady
    assert stream.segment(at(0), b"abc", 0, False) == [b"abc"]
    assert stream.closed
    assert stream.segment(at(3), b"more", 0, False) == []


def test_bytes_before_an_end_that_never_come_are_a_gap() -> None:
    stream = began()
    stream.segment(at(9), b"", 0, True)
    assert stream.flush() == [9]


def test_what_a_snap_length_left_out_is_a_gap() -> None:
    stream = began()
    assert stream.segment(at(0), b"ab", 5, False) == [b"ab", 5]
    assert stream.segment(at(7), b"c", 0, False) == [b"c"]


def test_a_reset_tells_how_far_the_stream_went() -> None:
    stream = began(ordered=True)
    stream.segment(at(0), b"ab", 0, False)
    assert stream.flush(until=at(6)) == [4]


def test_a_stream_that_was_not_seen_to_start_starts_with_its_first_segment() -> None:
    stream = Stream()
    assert not stream.steady
    assert stream.segment(77, b"ab", 0, False) == [b"ab"]
    assert stream.segment(76, b"xabc", 0, False) == [b"c"]
