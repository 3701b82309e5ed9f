"""Cutting a direction of HTTP/2 into frames: types, padding, header blocks, limits, gaps, the next sound frame."""

from __future__ import annotations

import pytest
from hyperframe.frame import PingFrame, PriorityFrame, SettingsFrame, WindowUpdateFrame
from hypothesis import given
from hypothesis import strategies as st

from dissectors.events import Direction, Malformed, Skipped
from dissectors.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    ERROR_NAMES,
    FRAME_NAMES,
    GOAWAY,
    HEADERS,
    MAX_HEADER_BLOCK,
    NO_FRAME,
    PREFACE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    BlockLost,
    Frame,
    FrameReader,
    Item,
    PartialFrame,
    SyncLost,
    error_name,
    is_sound,
)
from tests.dissectors.http2_writer import Writer
from tests.dissectors.support import REQUEST, RESPONSE

START = Writer(REQUEST).start()[1]
HEADER_LIST = [(":method", "POST"), (":path", "/a.B/C"), ("x-long", "v" * 90)]


def read(direction: Direction, *chunks: bytes | int) -> list[Item]:
    """Feed bytes, and gaps (given as their length); then close."""
    reader = FrameReader(direction)
    items: list[Item] = []
    for chunk in chunks:
        items += reader.lost(chunk) if isinstance(chunk, int) else reader.feed(chunk)
    return items + reader.close()


def frames(items: list[Item]) -> list[Frame]:
    return [item for item in items if isinstance(item, Frame)]


def test_all_frame_types_are_cut() -> None:
    writer = Writer(REQUEST)
    wire = START
    wire += writer.headers(1, HEADER_LIST)[1]
    wire += writer.data(1, b"hello", end=True)[1]
    wire += writer.frame(PriorityFrame(3, depends_on=1, stream_weight=5))[1]
    wire += writer.reset(1, 8)[1]
    wire += writer.frame(SettingsFrame(flags=["ACK"]))[1]
    wire += writer.promise(1, 2, HEADER_LIST)[1]
    wire += writer.frame(PingFrame(opaque_data=b"12345678"))[1]
    wire += writer.goaway(1, 2, b"bye")[1]
    wire += writer.frame(WindowUpdateFrame(1, window_increment=9))[1]
    whole = read(REQUEST, wire)
    assert not [item for item in whole if not isinstance(item, Frame)]
    kinds = [FRAME_NAMES[frame.type] for frame in frames(whole)]
    # PING and WINDOW_UPDATE tell nothing of a call; they are checked and passed over.
    assert kinds == ["SETTINGS", "HEADERS", "DATA", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "GOAWAY"]
    assert read(REQUEST, *(wire[index : index + 1] for index in range(len(wire)))) == whole
    for frame in frames(whole):
        assert wire[frame.offset + 3] == frame.type


@given(st.binary(max_size=100), st.integers(0, 255))
def test_padding_is_taken_off_data(data: bytes, padding: int) -> None:
    wire = Writer(REQUEST).data(1, data, padding=padding)[1]
    assert frames(read(REQUEST, START + wire))[1].payload == data


@given(st.integers(1, 6), st.integers(0, 255), st.booleans(), st.booleans())
def test_a_header_block_is_joined(pieces: int, padding: int, priority: bool, end: bool) -> None:
    fields = {"pad_length": padding} | ({"depends_on": 5, "stream_weight": 3} if priority else {})
    wire = Writer(REQUEST).headers(7, HEADER_LIST, end=end, pieces=pieces, **fields)[1]
    (frame,) = frames(read(REQUEST, START + wire))[1:]
    assert (frame.type, frame.stream_id, frame.offset) == (HEADERS, 7, len(START))
    assert frame.payload == Writer(REQUEST).block(HEADER_LIST)
    assert frame.flags & END_HEADERS
    assert bool(frame.flags & END_STREAM) == end


def test_a_reserved_bit_is_not_part_of_the_stream_id() -> None:
    writer = Writer(REQUEST)
    wire = bytearray(writer.data(1, b"x")[1])
    wire[5] |= 0x80
    assert frames(read(REQUEST, START + wire))[1].stream_id == 1


def test_an_unknown_type_is_passed_over() -> None:
    writer = Writer(REQUEST)
    odd = writer.raw(0x10, 0xFF, 1, b"whatever")[1]
    items = read(REQUEST, START + odd + writer.data(1, b"x")[1])
    assert [type(item) for item in items] == [Frame, Skipped, Frame]
    assert items[1] == Skipped(REQUEST, len(START), len(odd), "HTTP/2 frame of unknown type 0x10")


BROKEN = {
    "DATA on stream 0": (0, 0, 0, b"x"),
    "HEADERS on stream 0": (1, 4, 0, b"\x82"),
    "a PING of seven bytes": (6, 0, 0, b"1234567"),
    "a PING on a stream": (6, 0, 1, b"12345678"),
    "a SETTINGS of seven bytes": (4, 0, 0, b"1234567"),
    "a SETTINGS on a stream": (4, 0, 1, b""),
    "a WINDOW_UPDATE of three bytes": (8, 0, 0, b"123"),
    "an RST_STREAM of five bytes": (3, 0, 1, b"12345"),
    "an RST_STREAM on stream 0": (3, 0, 0, b"1234"),
    "a GOAWAY of four bytes": (7, 0, 0, b"1234"),
    "a PRIORITY of four bytes": (2, 0, 1, b"1234"),
    "a frame over SETTINGS_MAX_FRAME_SIZE": (0, 0, 1, b"\xff" * 16385),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_unsound_header_is_told_and_the_next_sound_frame_found(name: str) -> None:
    writer = Writer(REQUEST)
    broken = writer.raw(*BROKEN[name])[1]
    after = writer.data(1, b"x")[1] + writer.data(1, b"y", end=True)[1]
    items = read(REQUEST, START + broken + after)
    assert [type(item) for item in items] == [Frame, Malformed, SyncLost, Skipped, Frame, Frame]
    assert items[1] == Malformed(REQUEST, len(START), NO_FRAME, broken[:9], None)
    assert items[3] == Skipped(REQUEST, len(START), len(broken), NO_FRAME)


@pytest.mark.parametrize(
    ("kind", "payload"), [(0, b"\x05abcd"), (0, b""), (1, b"\xff\x82"), (5, b"\x07\x00\x00\x00\x02")]
)
def test_padding_longer_than_its_frame_is_told(kind: int, payload: bytes) -> None:
    items = read(REQUEST, START + Writer(REQUEST).raw(kind, 0x0C, 1, payload)[1] + Writer(REQUEST).data(1, b"x")[1])
    told = [item for item in items if isinstance(item, Malformed)]
    assert [item.reason for item in told] == ["padding longer than the frame"]
    assert frames(items)[-1].payload == b"x"


def test_a_frame_within_a_header_block_is_told_and_taken() -> None:
    writer = Writer(REQUEST)
    begun = writer.raw(1, 0, 1, b"\x82")[1]
    reader = FrameReader(REQUEST)
    items = reader.feed(START + begun + writer.data(3, b"x")[1])
    assert [type(item) for item in items] == [Frame, Malformed, PartialFrame, BlockLost, Frame]
    assert "DATA within a header block" in items[1].reason
    assert (items[2].type, items[2].stream_id) == (HEADERS, 1)


@pytest.mark.parametrize("stream_id", [1, 3])
def test_continuation_without_its_headers_is_told(stream_id: int) -> None:
    writer = Writer(REQUEST)
    begun = writer.raw(1, 0, 1, b"\x82")[1] if stream_id == 3 else b""
    items = read(REQUEST, START + begun + writer.raw(9, 4, stream_id, b"\x82")[1])
    assert "CONTINUATION without HEADERS" in [item.reason for item in items if isinstance(item, Malformed)]


def test_a_flood_of_continuation_holds_no_memory_and_loses_no_sync() -> None:
    writer = Writer(REQUEST)
    reader = FrameReader(REQUEST)
    reader.feed(START + writer.raw(1, END_STREAM, 1, b"\x82")[1])
    piece = writer.raw(9, 0, 1, b"\x82" * 16384)[1]
    for _ in range(2 * MAX_HEADER_BLOCK // 16384):
        assert reader.feed(piece) == []
    assert reader._block is not None
    assert sum(map(len, reader._block.parts)) <= MAX_HEADER_BLOCK
    items = reader.feed(writer.raw(9, 4, 1, b"")[1] + writer.data(1, b"x")[1])
    assert [type(item) for item in items] == [Malformed, PartialFrame, BlockLost, Frame]
    assert "over the limit" in items[0].reason
    assert items[1].flags & END_STREAM


def test_larger_frames_are_taken_once_they_are_allowed() -> None:
    writer = Writer(REQUEST)
    reader = FrameReader(REQUEST)
    reader.feed(START)
    reader.allow_frame_size(20000)
    reader.allow_frame_size(16384)
    assert len(frames(reader.feed(writer.data(1, b"x" * 20000)[1]))) == 1


def test_a_server_begins_with_settings() -> None:
    items = read(RESPONSE, Writer(RESPONSE).start(max_frame_size=16384)[1])
    assert [type(item) for item in items] == [Frame]


def test_a_preface_may_come_in_pieces() -> None:
    items = read(REQUEST, *(START[index : index + 1] for index in range(len(START))))
    assert [type(item) for item in items] == [Frame]


def test_a_preface_cut_at_the_end_is_told() -> None:
    assert read(REQUEST, PREFACE[:20]) == [Malformed(REQUEST, 0, "the stream ends within a frame", PREFACE[:9], None)]


@pytest.mark.parametrize("direction", Direction)
def test_a_capture_that_begins_between_frames_is_read_from_there(direction: Direction) -> None:
    writer = Writer(direction)
    wire = writer.data(1, b"x" * 20000)[1] + writer.headers(1, HEADER_LIST)[1]
    reader = FrameReader(direction)
    assert [type(item) for item in reader.feed(wire)] == [SyncLost, Frame, Frame]


@pytest.mark.parametrize(
    ("wire", "look"), [(b"GET /version HTTP/1.1\r\n", "HTTP/1"), (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "TLS")]
)
def test_what_is_no_http2_is_named(wire: bytes, look: str) -> None:
    items = read(REQUEST, wire)
    assert [type(item) for item in items] == [SyncLost, Malformed, SyncLost, Skipped]
    assert items[1] == Malformed(REQUEST, 0, f"no HTTP/2: {look}", wire[:9], None)
    assert items[3].length == len(wire)


@pytest.mark.parametrize("cut", [1, 4])
def test_in_the_middle_the_end_of_a_frame_that_looks_like_data_is_none(cut: int) -> None:
    writer = Writer(RESPONSE)
    update = b"\0\0\4\x08\0\0\0\0\0" + b"\0\0\0\5"
    reader = FrameReader(RESPONSE)
    assert reader.lost(0) == []
    headers = writer.headers(1, HEADER_LIST)[1]
    items = reader.feed(update[cut:] + headers + writer.data(1, b"abc")[1] + writer.data(1, b"")[1])
    assert [item.stream_id for item in items if isinstance(item, Frame)] == [1, 1, 1]


def test_after_a_loss_contents_that_look_like_a_long_header_block_are_none() -> None:
    """The head of a message, by chance: its numbers are a length, HEADERS without END_HEADERS and a stream's id."""
    writer, reader = Writer(RESPONSE), FrameReader(RESPONSE)
    contents = b"\x02\0\1\0\0\0\4\xe9" + b"x" * 512
    assert reader.lost(0) == []
    items = reader.feed(b"..\0" + contents + b"\0\0\4\x08\0\0\0\0\0\0\0\0\5" + writer.headers(3, HEADER_LIST)[1])
    items += reader.feed(writer.data(3, b"abc")[1] + writer.data(3, b"")[1])
    assert [item.type for item in items if isinstance(item, Frame)] == [8, 1, 0, 0]
    assert not [item for item in items if isinstance(item, Malformed)]


@pytest.mark.parametrize("direction", [REQUEST, RESPONSE])
def test_what_may_be_in_the_middle_and_begins_like_a_connection_is_one(direction: Direction) -> None:
    writer, reader = Writer(direction), FrameReader(direction)
    assert reader.lost(0) == []
    items = reader.feed(writer.start()[1] + writer.headers(1, HEADER_LIST)[1])
    assert [type(item) for item in items] == [Frame, Frame]


WIRE = Writer(REQUEST).data(1, bytes(range(100)))[1]


@pytest.mark.parametrize("cut", range(9, len(WIRE), 5))
def test_a_gap_inside_data_keeps_sync(cut: int) -> None:
    for count in range(1, len(WIRE) - cut + 1, 9):
        reader = FrameReader(REQUEST)
        items = reader.feed(START + WIRE[:cut]) + reader.lost(count)
        items += reader.feed(WIRE[cut + count :] + WIRE) + reader.close()
        assert [type(item) for item in items] == [Frame, PartialFrame, Skipped, Frame]
        assert items[1] == PartialFrame(len(START), DATA, 0, 1, 100, WIRE[9:cut])
        assert (items[2].offset, items[2].length) == (len(START) + cut, count)
        assert items[3].offset == len(START) + len(WIRE)


def test_a_gap_inside_a_header_block_keeps_sync_and_loses_header_compression() -> None:
    wire = Writer(REQUEST).headers(1, HEADER_LIST)[1]
    reader = FrameReader(REQUEST)
    items = reader.feed(START + wire[:30]) + reader.lost(10) + reader.feed(wire[40:] + WIRE)
    assert [type(item) for item in items] == [Frame, BlockLost, PartialFrame, Skipped, Frame]


@pytest.mark.parametrize("cut", [0, 4, 9, 50, len(WIRE)])
def test_a_gap_beyond_a_frame_finds_the_next_sound_one(cut: int) -> None:
    count = len(WIRE) + 30 - cut
    items = read(REQUEST, START, WIRE[:cut], count, WIRE[30:] + WIRE + WIRE)
    assert any(isinstance(item, SyncLost) for item in items)
    assert [frame.payload for frame in frames(items)[-2:]] == [WIRE[9:]] * 2
    end = len(START) + 4 * len(WIRE)
    assert frames(items)[-1].offset == end - len(WIRE)


@given(st.sampled_from(Direction), st.lists(st.binary(max_size=40) | st.integers(0, 50), max_size=8))
def test_any_bytes_and_gaps_raise_nothing(direction: Direction, chunks: list[bytes | int]) -> None:
    total = sum(chunk if isinstance(chunk, int) else len(chunk) for chunk in chunks)
    skipped = sum(item.length for item in read(direction, *chunks) if isinstance(item, Skipped))
    assert skipped <= total


KINDS = st.tuples(st.integers(0, 12), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=30))


@given(st.lists(KINDS, max_size=10))
def test_any_frames_are_the_same_at_any_split(kinds: list[tuple[int, int, int, bytes]]) -> None:
    writer = Writer(REQUEST)
    wire = START + b"".join(writer.raw(*fields)[1] for fields in kinds)
    assert read(REQUEST, *(wire[index : index + 1] for index in range(len(wire)))) == read(REQUEST, wire)


def test_every_type_of_a_client_stream_is_found_in_the_middle() -> None:
    writer = Writer(RESPONSE)
    for kind, flags, stream_id, payload in [
        (DATA, 0, 1, b""),
        (HEADERS, END_HEADERS, 1, b"\x88"),
        (RST_STREAM, 0, 1, b"\x00\x00\x00\x08"),
        (SETTINGS, 1, 0, b""),
        (GOAWAY, 0, 0, b"\x00" * 8),
        (6, 1, 0, b"12345678"),
        (8, 0, 0, b"\x00\x00\x00\x01"),
        (2, 0, 1, b"12345"),
    ]:
        assert is_sound(writer.raw(kind, flags, stream_id, payload)[1])
    assert not is_sound(writer.raw(PUSH_PROMISE, 4, 1, b"\x00\x00\x00\x02\x88")[1])


def test_names() -> None:
    assert [error_name(code) for code in (0, 8, 99)] == ["NO_ERROR", "CANCEL", "0x63"]
    assert len(ERROR_NAMES) == 14
