"""HPACK's Huffman code, against the hpack package."""

from __future__ import annotations

import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman as their_decode
from hypothesis import given
from hypothesis import strategies as st

from dissectors.huffman import HuffmanError, codes, decode_huffman

ENCODER = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


def test_the_lengths_alone_give_the_rfcs_codes() -> None:
    theirs = {
        1 << length | code: symbol
        for symbol, (code, length) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True))
    }
    assert codes() == theirs


@given(st.binary(max_size=60))
def test_what_was_encoded_is_decoded(data: bytes) -> None:
    assert decode_huffman(ENCODER.encode(data)).encode("latin-1") == data


@given(st.binary(max_size=40))
def test_any_bytes_decode_as_theirs_or_are_refused(data: bytes) -> None:
    try:
        theirs = their_decode(data)
    except Exception:
        theirs = None
    try:
        ours = decode_huffman(data).encode("latin-1")
    except HuffmanError:
        assert theirs is None
    else:
        assert ours == theirs


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x1f\xff", b"\x00", b"\xff\xff\xff\xfc"])
def test_eos_and_long_or_wrong_padding_are_refused(data: bytes) -> None:
    with pytest.raises(HuffmanError):
        decode_huffman(data)
