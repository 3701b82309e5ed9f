"""One call, whole, read from the capture again: from the place that its row names to its end.

Only packets of its connection are decoded, and the reading ends with the call; a capture that was rotated away is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address

from protos.errors import PodwireError
from tracer.calls import Call, CallUpdate
from tracer.capture.link import segment
from tracer.capture.packets import Packet
from tracer.capture.reader import open_capture
from tracer.capture.ring import Ring
from tracer.tui.rows import Ends, Place, Rows
from tracer.tui.states import take_up

MOST_PACKETS = 10_000
"""Packets of a call that are listed; more are counted."""


@dataclass(slots=True)
class Loaded:
    """A call and where it lies."""

    call: Call
    path: str
    """The file in which it begins."""
    packets: list[tuple[int, int, bool, int]] = field(default_factory=list)
    """Packets of its connection from its start to its end: time, offset in the file, from the server, payload bytes."""
    more_packets: int = 0
    about: list[tuple[str, str]] = field(default_factory=list)
    """Whom the call is about, and which call caused it: names and texts, escaped."""


def load(rows: Rows, row: int, state_of: Callable[[Place], bytes], stop: Callable[[], bool] = lambda: False) -> Loaded:
    """Read a call. Raises PodwireError if it is not to be had. `stop` is asked every megabyte."""
    place = rows.places[rows.place[row]]
    ends, stream_id, start_ns = rows.flows[rows.flow[row]], rows.stream[row], rows.start[row]
    asks, answers = _keys(ends)
    found: Loaded | None = None
    path: str | None = place.path
    decoder = None
    while path is not None:
        with open_capture(path, follow=True) as capture:
            if decoder is None:
                decoder = take_up(state_of(place), capture)
            while batch := capture.read_available():
                if stop():
                    raise PodwireError("given up: another call is wanted")
                for item in batch:
                    if not isinstance(item, Packet):
                        continue
                    piece = segment(item.link_type, item.data)
                    from_server = False
                    if not isinstance(piece, str):
                        if piece.key == answers:
                            from_server = True
                        elif piece.key != asks:
                            continue
                    for update in decoder.feed(item):
                        if not isinstance(update, CallUpdate):
                            continue
                        call = update.call
                        if update.kind == "opened" and call.stream_id == stream_id and call.start_ns == start_ns:
                            call.number = row + 1
                            found = found or Loaded(call, path, about=_about(rows, row))
                        if found is not None and update.kind == "ended" and call is found.call:
                            _note(found, item, from_server, piece)
                            return found
                    if found is not None:
                        _note(found, item, from_server, piece)
        path = _next_file(path)
    if found is None:
        raise PodwireError("the capture does not have it any more")
    return found


def _about(rows: Rows, row: int) -> list[tuple[str, str]]:
    whom = rows.whoms[rows.whom[row]]
    pod = rows.whoms[whom.pod]
    facts = [("pod", f"{pod.name} {pod.id}")]
    if whom.number != whom.pod:
        facts.append(("container", f"{whom.name} {whom.id}"))
    above = rows.parent[row] - 1
    if above >= 0:
        kind = rows.kinds[rows.kind[above]]
        facts.append(("caused by", f"call {above + 1}: {kind.hop} {kind.name} (P goes there)"))
    return [(name, text.strip()) for name, text in facts]


def _note(found: Loaded, packet: Packet, from_server: bool, piece: object) -> None:
    length = len(getattr(piece, "payload", b""))
    if not length:
        return
    if len(found.packets) < MOST_PACKETS:
        found.packets.append((packet.time_ns, packet.offset, from_server, length))
    else:
        found.more_packets += 1


def _keys(ends: Ends) -> tuple[bytes, bytes]:
    client, server = ip_address(ends.client).packed, ip_address(ends.server).packed
    client_port, server_port = ends.client_port.to_bytes(2), ends.server_port.to_bytes(2)
    return client + server + client_port + server_port, server + client + server_port + client_port


def _next_file(path: str) -> str | None:
    """The file after this one in its ring, if it is of one."""
    stem, _, suffix = path.rpartition(".")
    base = stem.rsplit("_", 2)
    if len(base) < 3:
        return None
    files = [each for _, each in Ring(f"{base[0]}.{suffix}").list()]
    later = [each for each in files if each > path]
    return min(later) if path in files and later else None
