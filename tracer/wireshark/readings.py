"""What a reader makes of a capture, in one form for both readers: calls by connection, channel and stream.

In: podwire's JSON objects of calls. Out: readings. What tshark says becomes the same in `tshark`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

Dynamic: TypeAlias = Any
"""JSON, or a descriptor of protobuf's."""
Key = tuple[str, str, int, int]
"""Both endpoints (`address:port`, sorted), the channel of NRI's multiplexer (0: none), the stream id."""


class Message(NamedTuple):
    """One message of a call."""

    length: int
    body: Dynamic
    """As podwire's JSON has it; bytes where no schema has the method; None: it is not shown."""


@dataclass(slots=True)
class Reading:
    """One call."""

    service: str = ""
    method: str = ""
    status: int | None = None
    sides: tuple[list[Message], list[Message]] = field(default_factory=lambda: ([], []))
    """The client's messages, the server's."""
    client: str = ""
    whole: bool = True
    """False: not all messages are here."""


def key_of(first: str, second: str, channel: int, stream: int) -> Key:
    """Return the key of a call, whichever end called."""
    low, high = sorted((first, second))
    return low, high, channel, stream


def of_podwire(call: dict[str, Any]) -> tuple[Key, Reading]:
    """Return a call's object (docs/json.md) as a reading."""
    client, server = (f"{call[end]['address']}:{call[end]['port']}" for end in ("client", "server"))
    status = call["status"]
    reading = Reading(call["service"], call["method"], None if status is None else status["code"], client=client)
    reading.whole = not call["dropped_messages"] and not call.get("gap", False)
    for message in call["messages"]:
        body = message.get("body", message.get("body_base64"))
        reading.sides[message["direction"] == "response"].append(Message(message["length"], body))
    return key_of(client, server, call.get("channel", 0), call["stream"]), reading
