"""The toolbar's messages: what is built is read again, however the pipe cuts it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import PodwireError
from tracer.wireshark.controls import MAX_PAYLOAD, Command, Message, MessageReader

BYTE = st.integers(0, 255)
MESSAGES = st.lists(st.builds(Message, BYTE, BYTE, st.binary(max_size=600)), max_size=8)


def test_a_message_is_laid_out_as_wireshark_has_it() -> None:
    assert Message(3, Command.ADD, b"hello").build() == b"T\x00\x00\x07\x03\x02hello"
    assert Message(0, Command.DISABLE).build() == b"T\x00\x00\x02\x00\x05"


@given(MESSAGES, st.lists(st.integers(0, 5000), max_size=30))
def test_whatever_the_pieces_the_messages_come_out(messages: list[Message], cuts: list[int]) -> None:
    data = b"".join(each.build() for each in messages)
    reader, found, at = MessageReader(), [], 0
    for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
        found += reader.feed(data[at:cut])
        at = cut
    assert found == messages


@given(MESSAGES, st.binary(min_size=4))
def test_what_is_no_message_is_said_once_the_messages_before_it_are_read(messages: list[Message], junk: bytes) -> None:
    reader = MessageReader()
    assert reader.feed(b"".join(each.build() for each in messages)) == messages
    if junk[:1] == b"T" and 2 <= int.from_bytes(junk[1:4]) <= 2 + MAX_PAYLOAD:
        return
    with pytest.raises(PodwireError, match="no message of Wireshark's"):
        reader.feed(junk)


def test_a_payload_that_is_too_long_is_cut() -> None:
    (message,) = MessageReader().feed(Message(3, Command.ADD, b"x" * 70_000).build())
    assert message.payload == b"x" * MAX_PAYLOAD
