"""ttrpc's own messages: the Request and the Response that carry a call, parsed and built by hand.

Comes in: the payload of one frame. Goes out: its fields; a payload that is no such message raises BadMessage. What is
inside `payload` is not known here. By hand and not by protobuf, since a string that is not UTF-8 must not cost the
whole message, and since this is no slower (a test holds both equal on what both accept).
Fields and numbers: ttrpc's request.proto and google/rpc/status.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from dissectors.events import Metadata

_REQUEST_NAMES = re.compile(rb"\x0a([\x01-\x7f])([\w.]+)\x12[\x01-\x7f]\w+")


class BadMessage(ValueError):
    """The bytes are no protobuf message; caught where a frame becomes events."""


class Request(NamedTuple):
    """ttrpc.Request."""

    service: str
    method: str
    payload: bytes
    timeout_nano: int
    """Nanoseconds left when it was sent; 0: no deadline."""
    metadata: Metadata


class Response(NamedTuple):
    """ttrpc.Response, with its google.rpc.Status taken apart."""

    code: int
    message: str
    status: bytes
    """The serialised google.rpc.Status; empty if there was none."""
    payload: bytes


def parse_request(data: bytes) -> Request:
    """Return the Request in `data`; raise BadMessage."""
    service = method = ""
    payload = b""
    timeout_nano = 0
    metadata: Metadata = ()
    position, end = 0, len(data)
    # Every writer seen begins with the two names, and the same few come by the thousand.
    if end > 4 and (at := data[1] + 3) < end:
        begin = at + 1 + data[at]
        names = _names(data[:begin])
        if names is not None:
            service, method = names
            position = begin
    try:
        while position < end:  # as in wire_fields, unrolled: half of what a decoded call costs is here
            tag = data[position]
            number = data[position + 1]
            position += 2
            if tag > 127 or tag & 5 or tag < 8:
                tag, number, position = _long_field(data, position - 2)
            elif number > 127:
                number, position = _varint(data, position - 1)
            if tag & 7 == 2:
                start = position
                position += number
                if tag == 0x1A:
                    payload = data[start:position]
                elif tag == 0x2A:
                    metadata += (_key_value(data[start:position]),)
                elif tag == 0x12:
                    method = _name(data[start:position])
                elif tag == 0x0A:
                    service = _name(data[start:position])
            elif tag == 0x20:
                timeout_nano = number
    except IndexError:
        raise BadMessage("it ends within a field") from None
    if position > end:
        raise BadMessage("it ends within a field")
    if timeout_nano >> 63:
        timeout_nano -= 1 << 64
    return Request(service, method, payload, timeout_nano, metadata)


@lru_cache(maxsize=256)
def _names(begin: bytes) -> tuple[str, str] | None:
    """Return service and method, if `begin` is these two fields in their order, with lengths of one byte."""
    at = begin[1] + 3
    if begin[0] != 0x0A or begin[1] > 127 or begin[at - 1] != 0x12 or begin[at] > 127:
        return None
    return _name(begin[2 : at - 1]), _name(begin[at + 1 :])


def parse_response(data: bytes) -> Response:
    """Return the Response in `data`; raise BadMessage. One of length 0 is valid: OK with an empty message."""
    return _short_response(data) if len(data) <= _SHORT else _response(data)


def _response(data: bytes) -> Response:
    status = payload = b""
    for tag, _, value in wire_fields(data):
        if tag == 0x12:
            payload = value
        elif tag == 0x0A:
            status += value  # a field that comes twice is merged, and that is what joining the bytes does
    if not status:
        return Response(0, "", b"", payload)
    code, message = 0, b""
    for tag, number, value in wire_fields(status):
        if tag == 0x08:
            code = number
        elif tag == 0x12:
            message = value
    return Response(_signed(code & 0xFFFFFFFF, 32), _text(message), status, payload)


_SHORT = 128
_short_response = lru_cache(maxsize=512)(_response)
"""Half of all answers are the very bytes of one before: an empty message, a state that is asked for again."""


class RequestHead(NamedTuple):
    """What the first bytes of a Request tell, when the rest of it is not to be had."""

    service: str
    method: str
    payload_length: int | None


def parse_request_head(head: bytes) -> RequestHead:
    """Return what the beginning of a Request holds. Every writer seen puts the fields in the order of their numbers."""
    names = {0x0A: "", 0x12: ""}
    position = 0
    try:
        while True:
            tag, position = _varint(head, position)
            length, position = _varint(head, position)
            if tag == 0x1A:
                return RequestHead(names[0x0A], names[0x12], length)
            if tag not in names or position + length > len(head):
                return RequestHead(names[0x0A], names[0x12], None)
            names[tag] = _text(head[position : position + length])
            position += length
    except (BadMessage, IndexError):
        return RequestHead(names[0x0A], names[0x12], None)


def parse_response_head(head: bytes) -> Response | None:
    """Return the status that the beginning of a Response holds (no payload), or None if it can't be known."""
    try:
        tag, position = _varint(head, 0)
        length, position = _varint(head, position)
        if tag == 0x12:
            return Response(0, "", b"", b"")  # a status would have come before the payload
        return parse_response(head[: position + length]) if tag == 0x0A else None
    except (BadMessage, IndexError):
        return None


def sound_request(head: bytes, length: int) -> bool:
    """Tell whether a payload of `length` bytes that begins so can be taken for a Request where a frame is searched."""
    names = _REQUEST_NAMES.match(head)
    return names is not None and names[1][0] == len(names[2]) and names.end() <= length


def sound_response(head: bytes, length: int) -> bool:
    """Tell whether a payload of `length` bytes that begins so can be taken for a Response where a frame is searched."""
    if not length:
        return True
    try:
        tag, position = _varint(head, 0)
        size, position = _varint(head, position)
        if tag == 0x0A:
            if size and head[position] not in (0x08, 0x12, 0x1A):
                return False
            position += size
            if position >= len(head):
                return position <= length
            tag, position = _varint(head, position)
            size, position = _varint(head, position)
        return tag == 0x12 and position + size == length
    except (BadMessage, IndexError):
        return False


def build_request(
    service: str, method: str, payload: bytes, timeout_nano: int = 0, metadata: Iterable[tuple[str, str]] = ()
) -> bytes:
    """Return a serialised ttrpc.Request."""
    parts = [_field(0x0A, service.encode()), _field(0x12, method.encode()), _field(0x1A, payload)]
    if timeout_nano:
        parts.append(b"\x20" + _encode(timeout_nano & 0xFFFFFFFFFFFFFFFF))
    parts += [
        _field(0x2A, _field(0x0A, key.encode()) + _field(0x12, value.encode()), always=True) for key, value in metadata
    ]
    return b"".join(parts)


def build_response(code: int, message: str, payload: bytes) -> bytes:
    """Return a serialised ttrpc.Response; with code 0 its status is an empty message, as Go writes it."""
    status = b"\x08" + _encode(code & 0xFFFFFFFFFFFFFFFF) if code else b""
    return _field(0x0A, status + _field(0x12, message.encode()), always=True) + _field(0x12, payload)


def wire_fields(data: bytes) -> list[tuple[int, int, bytes]]:
    """Return (tag, number, bytes) of each field in order; number holds varints, bytes what has a length.

    Raises BadMessage.
    """
    fields: list[tuple[int, int, bytes]] = []
    position, end = 0, len(data)
    try:
        while position < end:
            tag = data[position]
            number = data[position + 1]
            position += 2
            if tag > 127 or tag & 5 or tag < 8:  # of the wire types, only varint (0) and bytes (2) have no bit of 5
                tag, number, position = _long_field(data, position - 2)
            elif number > 127:
                number, position = _varint(data, position - 1)
            if tag & 7 == 2:
                start, position = position, position + number
                fields.append((tag, number, data[start:position]))
            else:
                fields.append((tag, number, b""))
    except IndexError:
        raise BadMessage("it ends within a field") from None
    if position > end:
        raise BadMessage("it ends within a field")
    return fields


def _long_field(data: bytes, position: int) -> tuple[int, int, int]:
    """Return tag, number and the position after them, for what the fast form does not cover."""
    tag, position = _varint(data, position)
    wire_type = tag & 7
    if not 8 <= tag < 1 << 32:
        raise BadMessage("field number 0 or over the limit")
    if wire_type in (0, 2):
        number, position = _varint(data, position)
        return tag, number, position
    if wire_type in (1, 5):
        return tag, 0, position + (8 if wire_type == 1 else 4)
    raise BadMessage("a group, or no wire type of protobuf")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the varint at `position` and the position after it; raise IndexError where the bytes end."""
    number = shift = 0
    while shift < 70:
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
    raise BadMessage("a number of more than ten bytes")


@lru_cache(maxsize=256)
def _name(data: bytes) -> str:
    """Return a service's or method's name; the same few come by the thousand, and should be one object each."""
    return _text(data)


@lru_cache(maxsize=256)
def _key_value(data: bytes) -> tuple[str, str]:
    key = value = b""
    for tag, _, content in wire_fields(data):
        if tag == 0x0A:
            key = content
        elif tag == 0x12:
            value = content
    return _text(key), _text(value)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _signed(number: int, bits: int) -> int:
    return number - (1 << bits) if number >> (bits - 1) else number


def _field(tag: int, content: bytes, always: bool = False) -> bytes:
    return bytes((tag,)) + _encode(len(content)) + content if content or always else b""


def _encode(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
