"""Calls as one document in the manner of HAR, the archive format of browsers: an entry a call.

In: the JSON lines of calls (docs/json.md). Out: text, entry by entry, so that a capture of any size passes through.
gRPC and ttrpc are no HTTP: `url`, `statusText` and the timings are filled in as far as they mean something, and the
whole object of the call stands in `_podwire`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tracer import __version__


class HarWriter:
    """`take` a line at a time; `finish` ends the document."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        creator = json.dumps({"name": "podwire", "version": __version__})
        write(f'{{"log":{{"version":"1.2","creator":{creator},"entries":[')
        self._first = True

    def take(self, line: str) -> None:
        """Take an object; what is no call is left out."""
        call = json.loads(line)
        if call["kind"] != "call":
            return
        self._write(("" if self._first else ",") + "\n" + json.dumps(_entry(call), separators=(",", ":")))
        self._first = False

    def finish(self) -> None:
        """Write the document's end."""
        self._write("\n]}}\n")


def _entry(call: dict[str, Any]) -> dict[str, Any]:
    status = call["status"]
    took_ms = -1 if call["duration_ns"] is None else call["duration_ns"] / 1e6
    host = call.get("socket") or f"{call['server']['address']}:{call['server']['port']}"
    sides: dict[str, list[dict[str, Any]]] = {"request": [], "response": []}
    for message in call["messages"]:
        sides[message["direction"]].append(message)
    return {
        "startedDateTime": call["time"],
        "time": took_ms,
        "request": {
            "method": "POST",
            "url": f"{call['protocol']}://{host}/{call['service']}/{call['method']}",
            "httpVersion": call["protocol"],
            "headers": _headers(call.get("metadata", [])),
            "queryString": [],
            "cookies": [],
            "headersSize": -1,
            "bodySize": call["request_bytes"],
            "postData": {"mimeType": "application/json", "text": _text(sides["request"])},
        },
        "response": {
            "status": 0 if status is None else 200,
            "statusText": call["state"] if status is None else status["name"],
            "httpVersion": call["protocol"],
            "headers": _headers(call.get("response_metadata", []) + call.get("trailers", [])),
            "cookies": [],
            "content": {
                "size": call["response_bytes"],
                "mimeType": "application/json",
                "text": _text(sides["response"]),
            },
            "redirectURL": "",
            "headersSize": -1,
            "bodySize": call["response_bytes"],
        },
        "cache": {},
        "timings": {"send": 0, "wait": took_ms, "receive": 0},
        "connection": str(call["connection"]),
        "_podwire": call,
    }


def _headers(pairs: list[list[str]]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in pairs]


def _text(messages: list[dict[str, Any]]) -> str:
    """One message as JSON, several as a line each."""
    return "\n".join(json.dumps(message.get("body", message.get("body_base64"))) for message in messages)
