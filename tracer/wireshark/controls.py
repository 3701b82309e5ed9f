"""What Wireshark and a capture program say to each other through the control pipes: the toolbar's messages, both ways.

A message is `T`, the length of the rest in three bytes, the control's number, a command, and the command's payload.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from protos.errors import PodwireError

_BEGIN: Final = ord("T")
_HEAD: Final = 4
_MIN: Final = 2
MAX_PAYLOAD: Final = 65_535
"""Bytes that Wireshark takes in one message."""


class Command(IntEnum):
    """What is to be done, or was, with a control; the last four are of no control."""

    INITIALIZED = 0
    SET = 1
    ADD = 2
    REMOVE = 3
    ENABLE = 4
    DISABLE = 5
    STATUSBAR = 6
    INFORMATION = 7
    WARNING = 8
    ERROR = 9


class Message(NamedTuple):
    """One message."""

    control: int
    command: int
    """A `Command`, or what a later Wireshark has."""
    payload: bytes = b""

    def build(self) -> bytes:
        """Return it as it goes through the pipe."""
        rest = bytes((self.control, self.command)) + self.payload[:MAX_PAYLOAD]
        return bytes((_BEGIN,)) + len(rest).to_bytes(3, "big") + rest


class MessageReader:
    """`feed` it what comes out of the pipe."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that are whole by now. Raises PodwireError for what is none."""
        data, at = self._rest + data, 0
        found = []
        while len(data) - at >= _HEAD:
            length = int.from_bytes(data[at + 1 : at + _HEAD], "big")
            if data[at] != _BEGIN or not _MIN <= length <= _MIN + MAX_PAYLOAD:
                raise PodwireError("what came through the control pipe is no message of Wireshark's")
            end = at + _HEAD + length
            if end > len(data):
                break
            control, command = data[at + _HEAD : at + _HEAD + _MIN]
            found.append(Message(control, command, data[at + _HEAD + _MIN : end]))
            at = end
        self._rest = data[at:]
        return found
