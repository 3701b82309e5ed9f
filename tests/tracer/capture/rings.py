"""What a worker would write into the ring, by a script, and what a capture of it must then say."""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tracer.capture.flows import FlowClosed, FlowData, FlowEvent, FlowGap, FlowOpened, FlowTable
from tracer.capture.packets import Packet
from tracer.capture.reader import open_capture
from tracer.relay.shared import Kind, RingWriter, Shared

START_NS = 1_700_000_000_000_000_000


class Step(NamedTuple):
    """One record of the ring."""

    kind: Kind
    direction: int
    connection: int
    offset: int
    time_ns: int
    payload: bytes


def listener(number: int, time_ns: int = START_NS, hop: str = "cri") -> Step:
    about = {"listener": number, "hop": hop, "path": f"/run/{number}.sock", "file": [number + 10, 1]}
    return Step(Kind.LISTENER, 0, 0, 0, time_ns, json.dumps(about).encode())


def opening(connection: int, on: int, time_ns: int, pid: int = 0) -> Step:
    return Step(Kind.OPEN, 0, connection, 0, time_ns, b"%d,%d,0,0" % (on, pid or os.getpid()))


def script(seed: int, records: int, largest: int) -> list[Step]:
    """Connections that come and go, with bytes of both directions; now and then a piece is missing."""
    rnd = random.Random(seed)
    steps = [listener(1), listener(2)]
    now, connections = START_NS, 0
    places: dict[int, list[int | None]] = {}
    while len(steps) < records:
        now += rnd.randrange(1, 1_000_000)
        if not places or (len(places) < 8 and rnd.random() < 0.1):
            connections += 1
            steps.append(opening(connections, rnd.choice((1, 2)), now))
            places[connections] = [0, 0]
            continue
        number = rnd.choice(list(places))
        direction = rnd.randrange(2)
        place = places[number][direction]
        if place is None:
            continue
        if rnd.random() < 0.05:
            place += rnd.randrange(1, 100_000)  # lost
        if rnd.random() < 0.08:
            steps.append(Step(rnd.choice((Kind.FIN, Kind.RESET)), direction, number, place, now, b""))
            places[number][direction] = None
            if places[number] == [None, None]:
                del places[number]
            continue
        data = rnd.randbytes(rnd.choice((1, 20, 300, 5_000, largest)))
        steps.append(Step(Kind.DATA, direction, number, place, now, data))
        places[number][direction] = place + len(data)
    steps.append(Step(Kind.END, 0, 0, 0, now, b""))
    return steps


def put(ring: RingWriter, step: Step) -> Step | None:
    """Write one record; return what found no room: all of it, or, at the ring's end, the rest of its bytes."""
    kind, direction, connection, offset, time_ns, payload = step
    room = ring.reserve(len(payload), keep_free=0)
    if room is None:
        return step
    count = len(room)
    room[:] = payload[:count]
    ring.lay(kind, direction, count, connection, offset, time_ns)
    ring.commit(count, count)
    return step._replace(offset=offset + count, payload=payload[count:]) if count < len(payload) else None


def put_all(ring: RingWriter, steps: Iterable[Step]) -> Iterator[Step]:
    """Write records as there is room for them, and give each out that was written."""
    until = time.monotonic() + 60
    for step in steps:
        rest = put(ring, step)
        while rest is not None:
            assert time.monotonic() < until, "nobody takes the records"
            left = rest
            rest = put(ring, left)
            if rest == left:
                time.sleep(0.0005)
        yield step


@contextmanager
def shared_memory(ring_bytes: int) -> Iterator[tuple[Shared, socket.socket, socket.socket]]:
    """The memory, and both ends of the link between worker and recorder, the worker's first."""
    shared = Shared(ring_bytes)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    try:
        yield shared, ours, theirs
    finally:
        ours.close()
        theirs.close()
        shared.close()


Told = dict[tuple[int, int], list[bytes | int | str]]
"""By connection and direction: bytes, gaps, and how it ended; adjacent bytes are one."""


def expected(steps: Iterable[Step]) -> Told:
    """What a capture of these records says."""
    told: Told = {}
    places: dict[tuple[int, int], int] = {}
    for step in steps:
        key = step.connection, step.direction
        if step.kind == Kind.OPEN:
            told[step.connection, 0], told[step.connection, 1] = [], []
        elif step.kind in (Kind.DATA, Kind.FIN, Kind.RESET):
            lost = step.offset - places.get(key, 0)
            if lost:
                told[key].append(lost)
            if step.kind == Kind.DATA:
                _add(told[key], step.payload)
                places[key] = step.offset + len(step.payload)
            else:
                told[key].append("reset" if step.kind == Kind.RESET else "closed")
    return told


def told_by(packets: Iterable[Packet]) -> Told:
    """What the packets of a capture say."""
    table = FlowTable()
    told: Told = {}
    last = 0
    for packet in packets:
        assert packet.time_ns >= last, "time goes back"
        last = packet.time_ns
        _take(told, table.feed(packet))
    _take(told, table.finish(last))
    assert not table.passed_over
    return told


def read(path: Path | str) -> Told:
    """What a capture file says; nothing in it may be unreadable."""
    return told_by(packets_of(path))


def packets_of(path: Path | str) -> list[Packet]:
    packets: list[Packet] = []
    with open_capture(str(path)) as file:
        for item in file:
            assert isinstance(item, Packet), item
            packets.append(item)
    return packets


def _take(told: Told, events: list[FlowEvent]) -> None:
    for event in events:
        number = int(str(event.flow.comment["connection"]))
        if isinstance(event, FlowOpened):
            assert (number, 0) not in told, "a connection twice"
            told[number, 0], told[number, 1] = [], []
        elif isinstance(event, FlowData):
            _add(told[number, event.direction], bytes(event.data))
        elif isinstance(event, FlowGap):
            told[number, event.direction].append(event.count)
        elif isinstance(event, FlowClosed):
            told[number, event.direction].append("reset" if event.reset else "closed")


def _add(pieces: list[bytes | int | str], data: bytes) -> None:
    if pieces and isinstance(pieces[-1], bytes):
        pieces[-1] += data
    else:
        pieces.append(data)
