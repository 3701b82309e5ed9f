"""What gRPC puts into HTTP/2's headers: decoded header lists in, their meaning out.

A list that is no gRPC comes out with the reason; nothing is made up for what is missing. Streams and frames are not
known here. Source: gRPC over HTTP/2 (PROTOCOL-HTTP2.md in grpc/grpc).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from dissectors.events import Metadata, Status
from dissectors.hpack import UNKNOWN, Header


class RequestHead(NamedTuple):
    """The headers that open a call."""

    service: str
    method: str
    metadata: Metadata
    timeout_ns: int | None
    encoding: str
    """Of compressed messages; empty if none is named."""
    problem: str
    """Why this is no gRPC request; empty if it is one."""


class ResponseHead(NamedTuple):
    """The headers, or the trailers, of an answer."""

    metadata: Metadata
    """Without what makes up the status."""
    encoding: str
    informational: bool
    """A 1xx answer: the real one is still to come (RFC 9113 §8.1)."""
    status: Status | None
    problem: str
    """Why this is no gRPC answer; empty if it is one."""


NO_REQUEST = RequestHead("", "", (), None, "", "")
NO_RESPONSE = ResponseHead((), "", False, None, "")
"""Stand for headers that can't be read."""

_REQUEST_NAMES = frozenset(
    (":path", ":method", ":scheme", ":authority", "content-type", "grpc-timeout", "grpc-encoding", UNKNOWN)
)
_UNITS = {"H": 3_600_000_000_000, "M": 60_000_000_000, "S": 1_000_000_000, "m": 1_000_000, "u": 1_000, "n": 1}
_CONTENT_TYPE = re.compile(r"application/grpc([+;]|\Z)")
_TIMEOUT = re.compile(r"[0-9]{1,8}[HMSmun]\Z")
_STATUS = re.compile(r"[0-9]{1,9}\Z")
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")


def read_request(headers: Sequence[Header]) -> RequestHead:
    """Return what a client's header list says."""
    metadata: list[tuple[str, str | bytes]] = []
    path = http_method = content_type = encoding = ""
    timeout_ns: int | None = None
    unknown = False
    for header in headers:
        name, value = header
        if name in _REQUEST_NAMES:
            if name == ":path":
                path = value
                continue
            if name == ":method":
                http_method = value
                continue
            if name[0] == ":":
                continue
            if name == "content-type":
                content_type = value
            elif name == "grpc-timeout":
                timeout_ns = parse_timeout(value)
            elif name == "grpc-encoding":
                encoding = value
            else:
                unknown = True
        elif name[-4:] == "-bin":
            metadata += _binary(name, value)
            continue
        metadata.append(header if value.isascii() else (name, _text(value)))
    service, method = _split_path(path)
    problem = ""
    if content_type != "application/grpc" and not _CONTENT_TYPE.match(content_type) and (content_type or not unknown):
        kind = _text(content_type) or "none"
        problem = f"no gRPC request: {_text(http_method)} {_text(path)}, content-type {kind}"
    return tuple.__new__(RequestHead, (service, method, tuple(metadata), timeout_ns, encoding, problem))


def read_response(headers: Sequence[Header]) -> ResponseHead:
    """Return what a server's header list says, be it headers, trailers or both in one."""
    metadata: list[tuple[str, str | bytes]] = []
    http_status = content_type = encoding = message = problem = ""
    code: str | None = None
    details = b""
    for name, value in headers:
        if name == ":status":
            http_status = value
        elif name == "grpc-status":
            code = value
        elif name == "grpc-message":
            message = unquote(value)
        elif name == "grpc-status-details-bin":
            decoded = _decode_base64(value)
            if decoded is None:
                metadata.append((name, _text(value)))
            else:
                details = decoded
        elif name.endswith("-bin"):
            metadata += _binary(name, value)
        elif not name.startswith(":"):
            if name == "content-type":
                content_type = value
            elif name == "grpc-encoding":
                encoding = value
            metadata.append((name, value if value.isascii() else _text(value)))
    informational = len(http_status) == 3 and http_status[0] == "1"
    if not informational and (
        http_status not in ("", "200", UNKNOWN) or (content_type and not _CONTENT_TYPE.match(content_type))
    ):
        kind = _text(content_type) or "none"
        problem = f"no gRPC answer: HTTP status {_text(http_status)}, content-type {kind}"
    status: Status | None = None
    if code is not None:
        if _STATUS.match(code):
            status = Status(int(code), message, details)
        elif code != UNKNOWN:
            problem = problem or f"grpc-status {_text(code)!r} is no number"
    return ResponseHead(tuple(metadata), encoding, informational, status, problem)


def parse_timeout(value: str) -> int | None:
    """Return the nanoseconds of a `grpc-timeout` (at most eight digits and a unit), None if it is none."""
    return int(value[:-1]) * _UNITS[value[-1]] if _TIMEOUT.match(value) else None


def unquote(value: str) -> str:
    """Return a `grpc-message` with its percent-encoding undone; what is no valid one stays as it is."""
    if value.isascii() and "%" not in value:
        return value
    return _PERCENT.sub(lambda match: bytes.fromhex(match[1].decode()), value.encode("latin-1")).decode(
        "utf-8", "backslashreplace"
    )


@lru_cache(maxsize=512)
def _split_path(path: str) -> tuple[str, str]:
    """Return service and method; the same few come by the thousand, and should be one object each."""
    path = _text(path)
    slash = path.rfind("/")
    return (path[1:slash], path[slash + 1 :]) if slash > 0 and path[0] == "/" else ("", path)


def _binary(name: str, value: str) -> list[tuple[str, str | bytes]]:
    """Return the entries of a `-bin` header: several may be joined by commas; what is no base64 stays text."""
    entries: list[tuple[str, str | bytes]] = []
    for part in value.split(","):
        decoded = _decode_base64(part.strip())
        entries.append((name, _text(part) if decoded is None else decoded))
    return entries


def _decode_base64(value: str) -> bytes | None:
    """Return the bytes of base64 with or without its padding, None if it is none."""
    try:
        return base64.b64decode(value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _text(value: str) -> str:
    """Return octets as text: UTF-8 where it is that, the rest as escapes."""
    return value if value.isascii() else value.encode("latin-1").decode("utf-8", "backslashreplace")
