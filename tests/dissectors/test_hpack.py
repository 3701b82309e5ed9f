"""HPACK, against the hpack package."""

from __future__ import annotations

import contextlib

import hpack
import pytest
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from dissectors.hpack import MAX_TABLE_SIZE, UNKNOWN, Decoder, Header, HpackError

NAMES = st.sampled_from([":path", ":status", "grpc-status", "te", "x-a", "x-b", "content-type", "cookie"]) | st.text(
    st.characters(max_codepoint=255), min_size=1, max_size=40
)
VALUES = st.sampled_from(["", "200", "/", "application/grpc", "trailers", "y" * 700]) | st.text(
    st.characters(max_codepoint=255), max_size=60
)
HEADERS = st.tuples(NAMES, VALUES, st.booleans())
BLOCKS = st.lists(
    st.tuples(st.lists(HEADERS, max_size=8), st.booleans(), st.none() | st.sampled_from([0, 60, 300, 4096])),
    min_size=1,
    max_size=8,
)


def encode(encoder: hpack.Encoder, headers: list[tuple[str, str, bool]], huffman: bool) -> bytes:
    rows = [
        (NeverIndexedHeaderTuple if sensitive else HeaderTuple)(name.encode("latin-1"), value.encode("latin-1"))
        for name, value, sensitive in headers
    ]
    return encoder.encode(rows, huffman=huffman)


@given(BLOCKS)
def test_what_was_encoded_is_decoded(blocks: list[tuple[list[tuple[str, str, bool]], bool, int | None]]) -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    for headers, huffman, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        assert decoder.decode(encode(encoder, headers, huffman)) == [(name, value) for name, value, _ in headers]


def theirs(decoder: hpack.Decoder, block: bytes) -> list[Header] | None:
    try:
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in decoder.decode(block, raw=True)]
    except hpack.HPACKError:
        return None


PIECES = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [
            b"\x82",
            b"\xbe",
            b"\xbf",
            b"\xc8",
            b"\x40\x01a\x01b",
            b"\x41\x01c",
            b"\x7e\x81\xff",
            b"\x7f\x00\x01z",
            b"\x0f\x2f\x01q",
            b"\x10\x83\xff\xff\xff\x00",
            b"\x20",
            b"\x3f\xe1\x1f",
            b"\x3f\xe2\x1f",
            b"\xff\x80\x80\x80\x80\x80\x01",
            b"\x00\x01n\x82\x1c\x64",
        ]
    ),
)


@given(st.lists(st.lists(PIECES, max_size=6).map(b"".join), min_size=1, max_size=4))
def test_any_blocks_decode_as_theirs_or_are_refused(blocks: list[bytes]) -> None:
    decoder, oracle = Decoder(), hpack.Decoder()
    for block in blocks:
        expected = theirs(oracle, block)
        if expected is None:
            with pytest.raises(HpackError):
                decoder.decode(block)
            return  # the state is undefined from here
        assert decoder.decode(block) == expected


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_a_decoder_that_missed_blocks_raises_nothing_else(blocks: list[bytes]) -> None:
    decoder = Decoder()
    for block in blocks:
        decoder.forget()
        with contextlib.suppress(HpackError):
            decoder.decode(block)


def test_an_index_beyond_the_table_is_an_error() -> None:
    with pytest.raises(HpackError, match="index 62"):
        Decoder().decode(b"\xbe")


def test_what_was_sent_before_is_unknown_and_the_rest_is_not() -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    encoder.encode([("x-old", "1"), ("x-older", "2")])
    decoder.forget()
    block = encoder.encode([("x-old", "1"), ("x-new", "3"), (":status", "200"), ("x-older", "other")])
    assert decoder.decode(block) == [(UNKNOWN, UNKNOWN), ("x-new", "3"), (":status", "200"), (UNKNOWN, "other")]
    assert decoder.decode(encoder.encode([("x-new", "3")])) == [("x-new", "3")]


@given(BLOCKS, st.integers(0, 4))
def test_after_forgetting_nothing_is_invented(
    blocks: list[tuple[list[tuple[str, str, bool]], bool, int | None]], missed: int
) -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    for number, (headers, huffman, size) in enumerate(blocks):
        if size is not None:
            encoder.header_table_size = size
        block = encode(encoder, headers, huffman)
        if number < missed:
            decoder.forget()
            continue
        for (name, value), (true_name, true_value, _) in zip(decoder.decode(block), headers, strict=True):
            assert name in (true_name, UNKNOWN)
            assert value in (true_value, UNKNOWN)


def test_the_version_stays_while_the_table_does() -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    decoder.decode(encoder.encode([("a", "b")]))
    version = decoder.version
    block = encoder.encode([("a", "b"), (":status", "200")])
    assert decoder.decode(block) == decoder.decode(block)
    assert decoder.version == version
    decoder.decode(encoder.encode([("a", "c")]))
    assert decoder.version != version


def test_a_larger_table_must_be_allowed() -> None:
    update = b"\x3f\xe1\x3f"  # 8192
    with pytest.raises(HpackError, match="8192"):
        Decoder().decode(update)
    decoder = Decoder()
    decoder.allow_table_size(8192)
    assert decoder.decode(update) == []


def test_the_table_is_bounded_whatever_is_allowed() -> None:
    decoder = Decoder()
    decoder.allow_table_size((1 << 32) - 1)
    with pytest.raises(HpackError):
        decoder.decode(b"\x3f" + b"\xff\xff\xff\xff\x0f")
    decoder.decode(b"\x3f\xe1\xff\x3f")  # MAX_TABLE_SIZE
    entry = b"\x40\x01a\x7f\xe9\x06" + b"v" * 1000
    for _ in range(2 * MAX_TABLE_SIZE // 1000):
        decoder.decode(entry)
    assert len(decoder._table) <= MAX_TABLE_SIZE // 1000


def test_a_list_over_the_limit_is_refused() -> None:
    decoder = Decoder(max_list_size=10_000)
    decoder.decode(b"\x40\x01a\x7f\xe9\x06" + b"v" * 1000)
    assert len(decoder.decode(b"\xbe" * 9)) == 9
    with pytest.raises(HpackError, match="over the limit"):
        decoder.decode(b"\xbe" * 10)


def test_a_size_update_after_a_header_is_refused() -> None:
    with pytest.raises(HpackError, match="after a header"):
        Decoder().decode(b"\x82\x20")
