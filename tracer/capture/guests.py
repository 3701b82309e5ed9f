"""Connections to guests by AF_VSOCK: what a monitor saw of them comes in, records as the relay makes them go out."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.capture import vsock
from tracer.capture.conversation import CaptureWriter
from tracer.capture.resume import Listener
from tracer.relay.shared import Kind, Record


@dataclass(slots=True)
class _Guest:
    """One connection."""

    number: int
    ends: list[int]
    """How many bytes of each direction have come, gaps too."""

    def record(self, kind: Kind, direction: int, time_ns: int, data: bytes = b"") -> Record:
        """What it tells, as the relay would put it into its ring."""
        return Record(kind, direction, self.number, self.ends[direction], time_ns, memoryview(data))


class Guests:
    """Those that are open. `last`: the number of the connection that came last, of all."""

    def __init__(self, last: int) -> None:
        self.last = last
        self._open: dict[vsock.Connection, _Guest] = {}

    def knows(self, connection: vsock.Connection) -> bool:
        """Whether it is open."""
        return connection in self._open

    def open(self, event: vsock.Event, time_ns: int, writer: CaptureWriter) -> int:
        """Open the connection of an event, and return its number; one that was not seen from its beginning begins with
        a gap of a byte."""
        connection = event.connection
        self.last += 1
        url = vsock.url(connection.server)
        interface = next((each.number for each in writer.state.interfaces if each.name == url), None)
        if interface is None:
            interface = writer.interface(url, f"agent {url}", Listener(-1, (0, 0)).comment())
        names = [vsock.name_of(cid) for cid, _ in (connection.client, connection.server)]
        client, server = (writer.endpoint(f"vsock {name}", name) for name in names)
        peers = {"client": {"name": names[0]}, "server": {"name": names[1]}}
        writer.open(self.last, interface, "agent", client, server, time_ns, peers)
        begun = isinstance(event, vsock.Refused) or (isinstance(event, vsock.Opened) and event.seen)
        self._open[connection] = _Guest(self.last, [0, 0] if begun else [1, 1])
        return self.last

    def records(self, event: vsock.Event, time_ns: int) -> list[Record]:
        """Return what an event tells of a connection that is open; its last one closes it."""
        guest = self._open[event.connection]
        last, records = False, []
        if isinstance(event, vsock.Refused):
            last, records = True, [guest.record(Kind.RESET, direction, time_ns) for direction in (0, 1)]
        elif isinstance(event, vsock.Data):
            records = [guest.record(Kind.DATA, event.direction, time_ns, event.data)]
            guest.ends[event.direction] += len(event.data)
        elif isinstance(event, vsock.Gap):
            guest.ends[event.direction] += event.length
        elif isinstance(event, vsock.Closed):
            last = event.last
            records = [guest.record(Kind.RESET if event.reset else Kind.FIN, event.direction, time_ns)]
        if last:
            del self._open[event.connection]
        return records


def cut(number: int, writer: CaptureWriter, time_ns: int) -> None:
    """End a connection in the file whose bytes are not followed any more, as their reader was killed."""
    for direction, side in enumerate(writer.state.conversations[number].sides):
        if not side.closed:
            writer.close(number, direction, side.end, time_ns, True)
