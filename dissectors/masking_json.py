"""Mask what is secret in JSON, in place: environments, values under the names of secrets, paths of secret volumes.

In: a buffer and where the JSON lies in it. It is gone through token by token and never built, so what is cut off or
broken is masked as far as it goes, and every length stays. The names are those of `protos.secrets`.
"""

from __future__ import annotations

import re
from enum import IntEnum
from functools import lru_cache

from protos.secrets import ENV_NAME, SECRET_NAME, SECRET_PATH, may_hold_secrets

_TOKEN = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)(?:"|\\?\Z)|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
_EQUALS = re.compile(rb"=|\\u003[dD]")
_DIGIT = re.compile(rb"[0-9]")
_NAMES_OF_ENTRIES = frozenset({b"name", b"key"})
"""Of an object that stands for one variable: what its name is under; all else is masked."""


class _Mode(IntEnum):
    """What becomes of a value."""

    KEEP = 0
    ENV = 1
    """It is an environment."""
    ENTRY = 2
    """It is one variable of it."""
    ALL = 3


class _Level:
    """An object or a list that is open."""

    __slots__ = ("is_object", "key", "mode")

    def __init__(self, is_object: bool, mode: _Mode) -> None:
        self.is_object = is_object
        self.mode = mode
        self.key: bytes | None = None
        """Of the member whose value comes next; None: a key comes next."""


def mask_json(data: bytearray, start: int, end: int) -> None:
    """Mask what is secret in the JSON between two places."""
    levels: list[_Level] = [_Level(False, _Mode.KEEP)]
    view = bytes(data[start:end])
    plain = b"kubernetes.io~" not in view and b'\\"' not in view  # what is kept needs no look
    for token in _TOKEN.finditer(view):
        first = view[token.start()]
        level = levels[-1]
        if first == 0x22:
            at, stop = token.span(1)
            if level.is_object and level.key is None:
                level.key = token[1].lower()
            else:
                mode = _mode(level)
                if mode is not _Mode.KEEP or not plain:
                    _mask_string(data, start, at, stop, token[1], mode)
        elif first in b"{[":
            levels.append(_Level(first == 0x7B, _mode(level)))
        elif first in b"}]":
            del levels[max(1, len(levels) - 1) :]
        elif first == 0x2C:
            level.key = None
        elif first != 0x3A and _mode(level) is _Mode.ALL:
            data[start + token.start() : start + token.end()] = _DIGIT.sub(b"1", token[0])


def mask_path(data: bytearray, start: int, end: int) -> None:
    """Mask the names of secret volumes in paths."""
    for found in SECRET_PATH.finditer(bytes(data[start:end])):
        at, stop = found.span(1)
        data[start + at : start + stop] = b"*" * (stop - at)


def _mode(level: _Level) -> _Mode:
    """What becomes of the value that comes next."""
    mode, key = level.mode, level.key or b""
    if mode is _Mode.ALL:
        return mode
    if not level.is_object:
        return _Mode.ENTRY if mode is _Mode.ENV else mode
    if mode is _Mode.ENTRY:
        return _Mode.KEEP if key in _NAMES_OF_ENTRIES else _Mode.ALL
    return _Mode.ALL if mode is _Mode.ENV else _mode_of(key)


@lru_cache(maxsize=4096)
def _mode_of(key: bytes) -> _Mode:
    if SECRET_NAME.search(key):
        return _Mode.ALL
    return _Mode.ENV if ENV_NAME.search(key) else _Mode.KEEP


def _mask_string(data: bytearray, base: int, at: int, stop: int, text: bytes, mode: _Mode) -> None:
    if mode is _Mode.ENTRY:
        equals = _EQUALS.search(text)
        if equals is None:
            return
        at += equals.end()
    elif mode is _Mode.KEEP and (b'\\"' not in text or not may_hold_secrets(text)):  # else it is JSON in JSON
        mask_path(data, base + at, base + stop)
        return
    data[base + at : base + stop] = b"*" * (stop - at)
