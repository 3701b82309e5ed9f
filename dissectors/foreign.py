"""Say what bytes look like that are none of the protocols read here: for the reason of a Malformed, nothing more."""

from __future__ import annotations

import re

_HTTP1 = re.compile(rb"(GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH) ?[/*A-Za-z]|HTTP/1")
_TLS = re.compile(rb"[\x14-\x17]\x03[\x00-\x04]")
_TEXT = re.compile(rb"[\t\r\n -~]{4,}\Z")

LOOK = 9
"""Bytes that are looked at: what a decision made on more of them would depend on how they were read."""


def looks_like(data: bytes) -> str:
    """Return what the first bytes of a connection look like: `HTTP/1`, `TLS`, `HTTP/2`, `text` or `binary data`."""
    head = data[:LOOK]
    if _HTTP1.match(head):
        return "HTTP/1"
    if head.startswith(b"PRI * HTT"):
        return "HTTP/2"
    if _TLS.match(head):
        return "TLS"
    return "text" if _TEXT.match(head) else "binary data"
