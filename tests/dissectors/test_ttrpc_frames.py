"""Cutting a direction of ttrpc into frames: limits, gaps, finding the next sound frame."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissectors.events import Direction, Malformed, Skipped
from dissectors.ttrpc import MAX_PAYLOAD, Frame, FrameReader, PartialFrame, build_frame, build_request, build_response
from dissectors.ttrpc_frames import NO_FRAME, Item, is_sound
from tests.dissectors.support import REQUEST, RESPONSE

CALL = build_frame(1, 1, 0, build_request("a.B", "C", b"xyz"))
NEXT = build_frame(3, 1, 0, build_request("a.B", "D", b"p" * 200, 5, [("k", "v")]))
ANSWER = build_frame(1, 2, 0, build_response(0, "", b"xyz"))


def read(reader: FrameReader, *chunks: bytes | int) -> list[Item]:
    """Feed bytes, and gaps (given as their length); then close."""
    items: list[Item] = []
    for chunk in chunks:
        items += reader.lost(chunk) if isinstance(chunk, int) else reader.feed(chunk)
    return items + reader.close()


def merged(items: list[Item]) -> list[Item]:
    """Return the items, neighbouring passed over bytes as one."""
    out: list[Item] = []
    for item in items:
        last = out[-1] if out else None
        if isinstance(item, Skipped) and isinstance(last, Skipped) and last.reason == item.reason:
            out[-1] = last._replace(length=last.length + item.length)
        else:
            out.append(item)
    return out


FRAMES = st.lists(
    st.builds(
        lambda stream_id, kind, flags, payload: (stream_id, kind, flags, payload),
        st.integers(0, 0xFFFFFFFF),
        st.sampled_from([1, 2, 3]),
        st.integers(0, 7),
        st.binary(max_size=50),
    ),
    min_size=1,
    max_size=5,
)


@given(FRAMES, st.randoms(use_true_random=False))
def test_frames_built_are_frames_read_at_any_split(
    frames: list[tuple[int, int, int, bytes]], dice: random.Random
) -> None:
    wire = b"".join(build_frame(*frame) for frame in frames)
    cuts = sorted(dice.sample(range(len(wire)), min(len(wire), 5)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    items = read(FrameReader(REQUEST), *pieces)
    assert [(item.stream_id, item.type, item.flags, item.payload) for item in items] == frames
    offset = 0
    for item in items:
        assert item.offset == offset
        offset += 10 + len(item.payload)


def test_an_over_long_frame_is_announced_on_its_header_and_passed_over() -> None:
    reader = FrameReader(REQUEST)
    payload = build_request("a.B", "Big", b"\x00" * (MAX_PAYLOAD + 7))
    wire = build_frame(1, 1, 0, payload)
    items = reader.feed(wire[:2000])
    assert [type(item) for item in items] == [PartialFrame]
    assert items[0].length == len(payload)
    assert items[0].head == payload[:1024]
    assert "over the limit" in items[0].note
    assert reader.feed(wire[2000:-1]) == []
    assert read(reader, wire[-1:] + NEXT) == [Frame(len(wire), 3, 1, 0, NEXT[10:])]


def test_the_largest_payload_is_read_whole() -> None:
    payload = build_request("a.B", "C", b"")
    payload += b"\x1a\x00" * ((MAX_PAYLOAD - len(payload)) // 2)
    payload = payload.ljust(MAX_PAYLOAD, b"\x00")
    assert read(FrameReader(REQUEST), build_frame(1, 1, 0, payload)) == [Frame(0, 1, 1, 0, payload)]


@pytest.mark.parametrize("cut", range(10, len(NEXT)))
def test_a_gap_inside_a_payload_keeps_sync(cut: int) -> None:
    """The frame comes at the gap, with what was before it; the rest of its bytes are passed over by its length."""
    for count in range(1, len(NEXT) - cut + 1, 7):
        items = read(FrameReader(REQUEST), NEXT[:cut], count, NEXT[cut + count :] + CALL)
        assert [type(item) for item in items] == [PartialFrame, Skipped, Frame]
        assert items[0].head == NEXT[10:cut]
        assert (items[1].offset, items[1].length, items[1].reason) == (cut, count, "lost")
        assert items[2] == Frame(len(NEXT), 1, 1, 0, CALL[10:])


@pytest.mark.parametrize("cut", range(len(CALL) + 1))
def test_a_gap_beyond_a_frame_finds_the_next_sound_one(cut: int) -> None:
    wire = CALL + NEXT
    missing = len(CALL) + 20 - cut
    items = read(FrameReader(REQUEST), wire[:cut], missing, wire[cut + missing :] + CALL)
    assert items[-1] == Frame(len(wire), 1, 1, 0, CALL[10:])
    told = sum(item.length for item in items if isinstance(item, Skipped))
    known = sum(10 + len(item.payload) for item in items if isinstance(item, Frame))
    partial = [item for item in items if isinstance(item, PartialFrame)]
    assert told + known == len(wire) + len(CALL) - (cut if partial else 0)


def test_garbage_is_one_malformed_and_its_length() -> None:
    garbage = bytes(range(255, 200, -1))
    items = read(FrameReader(REQUEST), CALL + garbage + NEXT)
    assert items == [
        Frame(0, 1, 1, 0, CALL[10:]),
        Malformed(REQUEST, len(CALL), "no ttrpc header", garbage[:10], None),
        Skipped(REQUEST, len(CALL), len(garbage), NO_FRAME),
        Frame(len(CALL) + len(garbage), 3, 1, 0, NEXT[10:]),
    ]


def test_garbage_that_never_ends_is_counted_at_the_close() -> None:
    assert merged(read(FrameReader(RESPONSE), ANSWER, b"\xff" * 1000)) == [
        Frame(0, 1, 2, 0, ANSWER[10:]),
        Malformed(RESPONSE, len(ANSWER), "no ttrpc header", b"\xff" * 10, None),
        Skipped(RESPONSE, len(ANSWER), 1000, NO_FRAME),
    ]


def test_data_frames_are_believed_where_another_frame_follows() -> None:
    data = build_frame(5, 3, 0, b"any bytes at all")
    items = read(FrameReader(RESPONSE), 0, b"\x77" * 30 + data + ANSWER)
    assert [type(item) for item in items] == [Skipped, Frame, Frame]
    items = read(FrameReader(RESPONSE), 0, b"\x77" * 30 + data + b"\x77" * 30 + ANSWER)
    assert [type(item) for item in items] == [Skipped, Frame]


def test_a_false_candidate_at_the_end_does_not_hide_what_follows() -> None:
    false = b"\x00\x30\x00\x00\x00\x00\x00\x07\x03\x00"  # a data frame of 3 MB
    items = read(FrameReader(REQUEST), 0, b"\x77" * 5 + false + NEXT)
    assert items == [Skipped(REQUEST, 0, 15, NO_FRAME), Frame(15, 3, 1, 0, NEXT[10:])]


def test_a_stream_id_far_above_the_last_is_not_sound() -> None:
    far = build_frame(0x70000001, 1, 0, build_request("a.B", "C", b""))
    items = read(FrameReader(REQUEST), CALL + b"\xff" * 20 + far + NEXT)
    assert [type(item) for item in items] == [Frame, Malformed, Skipped, Frame]
    assert items[-1].stream_id == 3


@pytest.mark.parametrize("length", range(1, 10))
def test_a_header_cut_at_the_end_is_told(length: int) -> None:
    items = read(FrameReader(REQUEST), CALL + NEXT[:length])
    assert items[1] == Malformed(REQUEST, len(CALL), "the stream ends within a frame", NEXT[:length], None)


def test_a_payload_cut_at_the_end_comes_as_far_as_it_is_known() -> None:
    items = read(FrameReader(REQUEST), CALL + NEXT[:50])
    note = "the stream ends within it"
    assert items[1] == PartialFrame(len(CALL), 3, 1, 0, len(NEXT) - 10, NEXT[10:50], note)


@given(st.sampled_from(Direction), st.lists(st.binary(max_size=40) | st.integers(0, 50), max_size=8))
def test_any_bytes_and_gaps_account_for_every_byte(direction: Direction, chunks: list[bytes | int]) -> None:
    total = sum(chunk if isinstance(chunk, int) else len(chunk) for chunk in chunks)
    covered = 0
    for item in read(FrameReader(direction), *chunks):
        if isinstance(item, Skipped):
            assert item.offset >= 0
            covered += item.length
        elif isinstance(item, Frame):
            covered += 10 + len(item.payload)
    assert covered <= total


def test_what_begins_as_a_frame_is_sound() -> None:
    assert is_sound(REQUEST, CALL)
    assert is_sound(RESPONSE, ANSWER)
    assert not is_sound(RESPONSE, CALL)
    assert not is_sound(REQUEST, b"GET / HTTP/1.1")
