"""Who is at the two ends of a flow: the comment of its first packet and the capture's names come in, endpoints go out.

Two kinds of comment are read: ours (`conversation` has its keys), and one flat JSON object with `pid`, `uid`, `comm`,
`exe` of the client and `server_pid`, `server_comm`, `server_shim_id` of the server. What has another type than it
should is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple


class Endpoint(NamedTuple):
    """One end of a flow, as far as the capture says."""

    address: str
    port: int
    name: str
    """Empty if nothing in the capture names it."""
    pid: int | None
    uid: int | None
    command: str
    """Command line, else the executable; empty if not known."""
    unit: str
    """systemd unit; empty if not known or none."""


def read_comment(text: str) -> dict[str, object]:
    """Return the JSON objects among the lines of a packet's comment, as one; empty if there is none."""
    about: dict[str, object] = {}
    for line in text.split("\n"):
        if line.startswith("{"):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            about.update(value)
    return about


def client_of(comment: Mapping[str, object], address: str, port: int, names: Mapping[str, str]) -> Endpoint:
    """Return the end that connected."""
    about = _about(comment, "client")
    if about is None:
        about = {key: comment.get(key) for key in ("pid", "uid", "exe")}
        about["name"] = _shim(comment.get("shim_id")) or comment.get("comm")
    return _endpoint(about, address, port, names)


def server_of(comment: Mapping[str, object], address: str, port: int, names: Mapping[str, str]) -> Endpoint:
    """Return the end that holds the listening socket."""
    about = _about(comment, "server")
    if about is None:
        name = _shim(comment.get("server_shim_id")) or comment.get("server_comm")
        about = {"pid": comment.get("server_pid"), "name": name}
    return _endpoint(about, address, port, names)


def text_of(value: object) -> str:
    """Return a text that is one; else an empty one."""
    return value if isinstance(value, str) else ""


def number_of(value: object) -> int | None:
    """Return a whole number that is one; else None."""
    return value if type(value) is int else None


def _about(comment: Mapping[str, object], side: str) -> dict[str, object] | None:
    about = comment.get(side)
    return about if isinstance(about, dict) else None


def _endpoint(about: Mapping[str, object], address: str, port: int, names: Mapping[str, str]) -> Endpoint:
    name = text_of(about.get("name")) or names.get(address, "")
    command = text_of(about.get("command")) or text_of(about.get("exe"))
    pid, uid = number_of(about.get("pid")), number_of(about.get("uid"))
    return Endpoint(address, port, name, pid, uid, command, text_of(about.get("unit")))


def _shim(shim_id: object) -> str:
    return f"shim-{shim_id[:8]}" if isinstance(shim_id, str) and shim_id else ""
