"""What the wire says can name anything; a terminal must not act on it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.output.escape import escape


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("web-0", "web-0"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\x1b[2J\x1b[31mred", "\\x1b[2J\\x1b[31mred"),
        ("two\nlines\r\tand", "two\\nlines\\r\\tand"),
        ("\x9b31m", "\\x9b31m"),
        ("user\u202egnp.exe", "user\\u202egnp.exe"),
        ("\u2066isolate\u2069", "\\u2066isolate\\u2069"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("line\u2028separator", "line\\u2028separator"),
        ("\ud800 alone", "\\ud800 alone"),
        ("\U000e0041tag", "\\U000e0041tag"),
        ("a\x00b", "a\\x00b"),
        ("C:\\x1b", "C:\\\\x1b"),
        ("héllo wörld 网", "héllo wörld 网"),
        (b"\xff\xfe raw", "\\xff\\xfe raw"),
        ("größe".encode(), "größe"),
    ],
)
def test_what_a_terminal_would_act_on_is_shown_as_an_escape(hostile: str | bytes, shown: str) -> None:
    assert escape(hostile) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_comes_out_printable(text: str) -> None:
    assert escape(text).isprintable()


@given(st.binary())
def test_any_bytes_come_out_printable_and_encodable(data: bytes) -> None:
    assert escape(data).isprintable()
    escape(data).encode()


@given(
    st.text(st.characters(exclude_categories=()), max_size=4), st.text(st.characters(exclude_categories=()), max_size=4)
)
def test_two_texts_are_never_shown_the_same(one: str, other: str) -> None:
    assert one == other or escape(one) != escape(other) or _bytes_alike(one, other)


def _bytes_alike(one: str, other: str) -> bool:
    """Only a stray byte (U+DC80 and up, PEP 383) and the C1 character of its number share an escape."""

    def fold(text: str) -> str:
        return "".join([chr(ord(c) - 0xDC00) if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text])

    return fold(one) == fold(other)
