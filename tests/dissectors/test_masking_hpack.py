"""A masked header block decodes to the same names and lengths, whatever its strings are coded in."""

from __future__ import annotations

import hpack
from hypothesis import given
from hypothesis import strategies as st

from dissectors.hpack import Decoder
from dissectors.masking import is_secret_name
from dissectors.masking_hpack import mask_block

NAMES = st.sampled_from(["user-agent", "authorization", "x-token", ":path", "accept"])
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)
LISTS = st.lists(st.lists(st.tuples(NAMES, VALUES), max_size=5), max_size=5)


@given(LISTS, st.booleans())
def test_secrets_are_masked_and_all_else_and_every_length_stays(
    lists: list[list[tuple[str, str]]], huffman: bool
) -> None:
    encoder, before, after = hpack.Encoder(), Decoder(), Decoder()
    for headers in lists:
        block = encoder.encode(headers, huffman=huffman)
        known = before.decode(block)
        masked = mask_block(block, known, is_secret_name)
        assert len(masked) == len(block)
        shown = after.decode(masked)
        assert [(name, len(value)) for name, value in shown] == [(name, len(value)) for name, value in known]
        for (name, value), (_, original) in zip(shown, known, strict=True):
            if not is_secret_name(name):
                assert value == original
            elif not huffman:
                assert value == "*" * len(value)
        assert after.table()[0] == before.table()[0]
        assert len(after.table()[1]) == len(before.table()[1])


def test_of_a_secret_in_huffmans_code_no_character_is_left_at_its_place() -> None:
    block = hpack.Encoder().encode([("authorization", "Bearer hunter2-ZQX")])
    decoder = Decoder()
    ((_, value),) = Decoder().decode(mask_block(block, decoder.decode(block), is_secret_name))
    assert len(value) == len("Bearer hunter2-ZQX")
    assert not set(value) & set("Bearerhunter-ZQX")


def test_the_order_of_a_secrets_characters_is_not_left() -> None:
    masked = set()
    for secret in ("a~b0", "~0ab", "0b~a"):
        block = hpack.Encoder().encode([("authorization", secret)])
        masked.add(mask_block(block, Decoder().decode(block), is_secret_name))
    assert len(masked) == 1


def test_the_value_of_a_name_that_was_not_seen_is_masked() -> None:
    encoder = hpack.Encoder()
    encoder.encode([("x-token", "a")])
    block = encoder.encode([("x-token", "hunter2")], huffman=False)
    decoder = Decoder()
    decoder.forget()
    assert b"hunter2" not in mask_block(block, decoder.decode(block), is_secret_name)
