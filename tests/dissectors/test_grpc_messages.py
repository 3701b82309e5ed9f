"""Messages out of DATA: any split, limits, losses, compression."""

from __future__ import annotations

import gzip
import itertools
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissectors.grpc_messages import PREFIX, Assembler, Message, Unread, decompress

MIDDLE = "within a message whose start was not seen"


def message(data: bytes, compressed: int = 0) -> bytes:
    return PREFIX.pack(compressed, len(data)) + data


def feed(assembler: Assembler, *frames: bytes | int) -> list[Message | Unread]:
    """Feed DATA frames, and losses (given as their length)."""
    items: list[Message | Unread] = []
    offset = 0
    for frame in frames:
        if isinstance(frame, int):
            items += assembler.lose(frame)
            offset += frame
        else:
            items += assembler.feed(offset, frame)
            offset += len(frame)
    return items


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5), st.lists(st.integers(0, 200), max_size=6))
def test_messages_come_out_whole_at_any_split(payloads: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(map(message, payloads))
    edges = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    frames = [wire[start:end] for start, end in itertools.pairwise(edges)]
    assembler = Assembler()
    items = feed(assembler, *frames)
    assert [item.payload for item in items if isinstance(item, Message)] == payloads
    assert [wire[item.offset :][: 5 + item.length] for item in items] == list(map(message, payloads))
    assert assembler.idle
    assert assembler.unfinished() == ""


def test_a_message_over_the_limit_is_passed_over_by_its_length() -> None:
    assembler = Assembler(limit=100)
    big = message(b"x" * 101)
    items = feed(assembler, big[:50], big[50:90], big[90:] + message(b"next"))
    assert items == [
        Message(0, 101, False, None, "over the limit of 100 bytes"),
        Message(len(big), 4, False, b"next", ""),
    ]


def test_a_message_at_the_limit_is_read() -> None:
    assert feed(Assembler(limit=100), message(b"x" * 100)) == [Message(0, 100, False, b"x" * 100, "")]


def test_16_mib_come_out_whole() -> None:
    payload = bytes(range(256)) * (1 << 16)
    wire = message(payload)
    assembler = Assembler()
    items = feed(assembler, *(wire[start : start + 16384] for start in range(0, len(wire), 16384)))
    assert items == [Message(0, 16 << 20, False, payload, "")]


@pytest.mark.parametrize("before", range(26))
def test_a_loss_within_a_message_costs_that_message_alone(before: int) -> None:
    wire = message(b"x" * 20) + message(b"next")
    items = feed(Assembler(), wire[:before], 10, wire[before + 10 :])
    if 5 <= before <= 15:
        assert items == [Message(0, 20, False, None, "a part of it was lost"), Message(25, 4, False, b"next", "")]
    elif before < 5:
        assert [type(item) for item in items] == [Unread]
    else:
        lost = items[0]
        assert isinstance(lost, Message)
        assert (lost.length, lost.payload is None) == (20, before < 25)


def test_after_a_loss_the_next_frame_that_begins_a_message_is_found() -> None:
    assembler = Assembler()
    assembler.feed(0, message(b"x" * 20)[:10])
    assert assembler.lose() == [Message(0, 20, False, None, "a part of it was lost")]
    items = feed(assembler, b"the rest of something", message(b"a") + message(b"b"))
    assert [type(item) for item in items] == [Unread, Message, Message]
    assert not items[0].malformed


def test_in_the_middle_a_full_frame_may_begin_a_long_message() -> None:
    long = message(b"x" * 30000)
    items = feed(Assembler(middle=True), long[:16384], long[16384:])
    assert items == [Message(0, 30000, False, b"x" * 30000, "")]


def test_a_message_that_was_guessed_and_ends_within_a_frame_was_none() -> None:
    """File contents, of which a frame may begin like a message: with a zero, and a length that goes beyond it."""
    content = b"\0\0\0\x60\0" + b"x" * 40000
    items = feed(Assembler(middle=True), content[:16384], content[16384:32768], content[32768:], message(b"next"))
    assert items == [
        Unread(0, 32768, MIDDLE, False),
        Unread(32768, 7237, MIDDLE, False),
        Message(40005, 4, False, b"next", ""),
    ]


def test_a_message_that_was_guessed_is_not_told_of_where_its_end_is_lost() -> None:
    content = b"\0\0\0\x60\0" + b"x" * 40000
    assembler = Assembler(middle=True)
    assert feed(assembler, content[:16384]) == []
    assert assembler.unfinished() == ""
    assert assembler.lose(100) == [Unread(0, 16384, MIDDLE, False)]
    assert assembler.feed(20000, message(b"next")) == [Message(20000, 4, False, b"next", "")]


def test_what_is_no_prefix_is_malformed() -> None:
    items = feed(Assembler(), message(b"a") + b"\x02rubbish")
    assert items[1:] == [Unread(6, 8, "no gRPC message prefix", True)]


@pytest.mark.parametrize(("cut", "text"), [(3, "within its prefix"), (7, "ends 18 bytes short")])
def test_what_is_missing_at_the_end_is_told(cut: int, text: str) -> None:
    assembler = Assembler()
    assembler.feed(0, message(b"x" * 20)[:cut])
    assert text in assembler.unfinished()


@given(st.lists(st.binary(max_size=20) | st.integers(0, 30), max_size=8), st.booleans())
def test_any_bytes_and_losses_raise_nothing(frames: list[bytes | int], middle: bool) -> None:
    feed(Assembler(middle=middle, limit=50), *frames)


@given(st.binary(max_size=300))
def test_gzip_and_deflate_are_decompressed(payload: bytes) -> None:
    assert decompress(gzip.compress(payload), "gzip") == (payload, "")
    assert decompress(zlib.compress(payload), "deflate") == (payload, "")


@given(st.binary(max_size=60), st.sampled_from(["gzip", "deflate", "snappy", "", "identity"]))
def test_any_compressed_bytes_give_a_payload_or_a_note(payload: bytes, encoding: str) -> None:
    data, note = decompress(payload, encoding)
    assert (data is None) == bool(note)


def test_a_bomb_is_cut() -> None:
    bomb = gzip.compress(b"\x00" * (1 << 20))
    assert decompress(bomb, "gzip", limit=1000) == (None, "decompresses to more than 1000 bytes")
    assert decompress(gzip.compress(b"\x00" * 1000), "gzip", limit=1000) == (bytes(1000), "")


def test_unknown_broken_and_cut_compression_are_told() -> None:
    assert decompress(b"xx", "snappy") == (None, "compressed by snappy")
    assert decompress(b"xx", "gzip") == (None, "broken gzip data")
    assert decompress(gzip.compress(b"abc")[:-2], "gzip") == (None, "cut gzip data")
    assert decompress(b"xx", "") == (None, "compressed, and by what was not seen")
