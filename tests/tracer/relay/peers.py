"""What the tests of the relay's laws share: a server in the test's own hands, and what a capture tells."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from tests.tracer.relay.harness import (
    Relay,
    Server,
)
from tracer.capture.flows import FlowData, FlowEvent, FlowTable
from tracer.capture.packets import Packet
from tracer.capture.reader import open_capture

Serve = Callable[..., Server]


def recorded(capture: Path) -> list[FlowEvent]:
    """What the capture tells, in order; nothing in it may be unreadable."""
    table = FlowTable()
    events: list[FlowEvent] = []
    last = 0
    with open_capture(str(capture)) as file:
        for item in file:
            assert isinstance(item, Packet), item
            events += table.feed(item)
            last = item.time_ns
    return events + table.finish(last)


def bytes_of(events: list[FlowEvent]) -> dict[tuple[int, int], bytes]:
    """By flow and direction."""
    found: dict[tuple[int, int], bytes] = {}
    for event in events:
        if isinstance(event, FlowData):
            key = event.flow.id, int(event.direction)
            found[key] = found.get(key, b"") + bytes(event.data)
    return found


def finish(relay: Relay) -> list[FlowEvent]:
    relay.leave()
    relay.wait_end()
    return recorded(relay.capture)


class Peer:
    """A server of this process, in the test's own hands."""

    def __init__(self, path: Path, backlog: int = 16) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(backlog)
        self.listener.settimeout(5)

    def accept(self) -> socket.socket:
        connection, _ = self.listener.accept()
        connection.settimeout(5)
        return connection

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()


def stuff(connection: socket.socket) -> int:
    """Send until nobody takes any more; returns how many bytes went."""
    connection.setblocking(False)
    sent = 0
    try:
        while True:
            sent += connection.send(bytes(1 << 16))
    except BlockingIOError:
        return sent


def send_for_ever(connection: socket.socket) -> None:
    while True:
        connection.send(bytes(1 << 16))
