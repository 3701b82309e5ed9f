"""Mask what is secret in free text, as lines of logs are: by what a name beside it tells, or its own form.

In: bytes. Out: the same with asterisks, so lengths stay. The names are those of `protos.secrets`, before `=` or `:`, in
logfmt, JSON, Go's and protobuf's text, escaped any number of times; of environments, and of names that look like
variables (`NAME=value`), every value; credentials of URLs and of HTTP, tokens of JWT, private keys. A value that no
name stands beside, and what follows a space in one without quotes, is text like any other and stays.

Each pattern begins where a word does, and what it repeats is bounded: time grows with the text's length and no faster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from protos.secrets import ENV_NAME, SECRET_NAME, SECRET_PATH

_NAMED = re.compile(rb"""(?<![\w.\-])(?:(?<=\\)[nrt])?([A-Za-z_][\w.\-]{0,127})\\{0,15}["']?[ ]?([:=])[ ]?""")
"""A name and what stands between it and its value."""
_VARIABLE = re.compile(rb"[A-Z_][A-Z0-9_]+")
_QUOTE = re.compile(rb"""\\{0,15}["']""")
_PLAIN = re.compile(rb"""[^\s"',;&\])}\\]+""")
_LIST = re.compile(rb"(?:\(\[\][\w.]+\))?(?=\[)")
"""What Go's printers put before a list."""
_BRACKETS = re.compile(rb"[\[{(\]})]")
_GO_VARIABLE = re.compile(rb"KeyValue\{Key:[^,]*,Value:(.*?)(?:,\}|\Z)", re.DOTALL)
_MAP_ENTRY = re.compile(
    rb"""\b(\w{1,64}):[ ]?\{key:[ ]?(\\{0,15}")(.{0,256}?)(?<!\\)\2,?[ ]{1,4}value:[ ]?""", re.DOTALL
)
_FORMS = (
    re.compile(rb"://[^/\s:@\"']*:([^/\s@\"']+)@"),
    re.compile(rb"\b(?:Bearer|Basic|Digest|Negotiate) ([\w+/=.~-]{8,})"),
    re.compile(rb"\b(eyJ[\w-]{8,4096}\.[\w-]{8,4096}(?:\.[\w-]*)?)"),
    re.compile(rb"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(.*?)(?:-----END|\Z)", re.DOTALL),
    re.compile(rb"/(?:exec|attach|portforward)/([\w-]{8,})"),
    SECRET_PATH,
    _GO_VARIABLE,
)
"""What is secret by its own form, its group: of URLs the password, and the one-time part that CRI's streaming has."""


def mask_text(text: bytes) -> bytes:
    """Return the text with what can be told to be secret masked, of the same length."""
    masked = bytearray(text)
    for start, end in _secret(text):
        masked[start:end] = b"*" * (end - start)
    return bytes(masked)


def _secret(text: bytes) -> Iterator[tuple[int, int]]:
    done = 0
    """What stands before this place is masked."""
    for found in _NAMED.finditer(text):
        at, span = found.end(), None
        if at < done:
            continue
        name = found[1]
        if SECRET_NAME.search(name) or (found[2] == b"=" and _VARIABLE.fullmatch(name)):
            span = _value(text, at)
        elif ENV_NAME.match(name):
            span = _environment(text, at)
        if span is not None:
            yield span
            done = span[1]
    for found in _MAP_ENTRY.finditer(text):
        if ENV_NAME.match(found[1]) or SECRET_NAME.search(found[3]):
            yield _value(text, found.end())
    for form in _FORMS:
        for found in form.finditer(text):
            yield found.span(1)


def _value(text: bytes, at: int) -> tuple[int, int]:
    """Where the value lies that comes next: in its quotes, its brackets, or up to what no plain value has."""
    quote = _QUOTE.match(text, at)
    if quote is not None:
        close = re.compile(rb"(?<!\\)" + re.escape(quote[0])).search(text, quote.end())
        return quote.end(), len(text) if close is None else close.start()
    if text[at : at + 1] in (b"[", b"{", b"("):
        return at, _bracket_end(text, at)
    plain = _PLAIN.match(text, at)
    return at, at if plain is None else plain.end()


def _bracket_end(text: bytes, at: int) -> int:
    depth = 0
    for found in _BRACKETS.finditer(text, at):
        depth += 1 if found[0] in b"[{(" else -1
        if not depth:
            return found.end()
    return len(text)


def _environment(text: bytes, at: int) -> tuple[int, int] | None:
    """A list of variables: all from the first `=` on, as values may have spaces; of another form, all of it."""
    go = _LIST.match(text, at)
    start = at if go is None else go.end()
    if text[start : start + 1] not in (b"[", b"{") or text.startswith(b"{key:", start):
        return None
    end = _bracket_end(text, start)
    equals = text.find(b"=", start, end)
    return (start if equals < 0 else equals) + 1, max(start + 1, end - 1)
