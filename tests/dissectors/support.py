"""The checks that every dissector has to pass, and the samples they run on.

A script is what a connection's two sides send, in order, as it comes from the flow layer: (direction, bytes), or
(direction, number) for a gap of that length.
"""

from __future__ import annotations

import base64
import json
import random
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from dissectors.events import (
    CallEnded,
    CallHalfClosed,
    CallMessage,
    CallMetadata,
    CallOpened,
    Direction,
    Dissector,
    Event,
    Inner,
    Malformed,
    Skipped,
)

Piece = tuple[Direction, bytes | int]
Script = Sequence[Piece]
Maker = Callable[[], Dissector]

REQUEST, RESPONSE = Direction.REQUEST, Direction.RESPONSE
SAMPLES = Path(__file__).parent / "samples"


class Sample(NamedTuple):
    """One recorded connection."""

    name: str
    hop: str
    script: Script

    @property
    def expected(self) -> str:
        return {"cri": "grpc", "nri": "nri"}.get(self.hop, "ttrpc")


def load_sample(name: str) -> Sample:
    data = json.loads((SAMPLES / f"{name}.json").read_text())
    return Sample(name, data["hop"], read_script(data["chunks"]))


def read_script(chunks: list[Any]) -> list[Piece]:
    """Return a script as it stands in a JSON file: bytes are base64, numbers are gaps."""
    return [
        (Direction(direction), chunk if isinstance(chunk, int) else base64.b64decode(chunk))
        for direction, chunk in chunks
    ]


def write_script(script: Script) -> list[Any]:
    """Return a script for a JSON file."""
    return [
        [int(direction), data if isinstance(data, int) else base64.b64encode(data).decode()]
        for direction, data in script
    ]


def load_samples() -> list[Sample]:
    return [load_sample(path.stem) for path in sorted(SAMPLES.glob("*.json"))]


FOREIGN = ("http1-to-grpc", "http2-to-ttrpc", "text-to-ttrpc", "four-bytes-to-ttrpc")
"""Samples in which one side does not speak the socket's protocol."""


def run(dissector: Dissector, script: Iterable[Piece], *, close: bool = True) -> list[Event]:
    """Return all events of a script."""
    events: list[Event] = []
    for direction, data in script:
        events += dissector.lost(direction, data) if isinstance(data, int) else dissector.feed(direction, data)
    if close:
        for direction in Direction:
            events += dissector.close(direction)
    return events


def split(script: Script, sizes: Callable[[], int]) -> list[Piece]:
    """Return the same script in pieces of the sizes that the function gives."""
    pieces: list[Piece] = []
    for direction, data in script:
        if isinstance(data, int):
            pieces.append((direction, data))
            continue
        position = 0
        while position < len(data):
            size = max(1, sizes())
            pieces.append((direction, data[position : position + size]))
            position += size
    return pieces


def by_byte(script: Script) -> list[Piece]:
    return split(script, lambda: 1)


def joined(script: Script) -> list[Piece]:
    """Return the same script with neighbouring chunks of one direction as one."""
    pieces: list[Piece] = []
    for direction, data in script:
        last = pieces[-1] if pieces else None
        if last and last[0] == direction and isinstance(data, bytes) and isinstance(last[1], bytes):
            pieces[-1] = (direction, last[1] + data)
        else:
            pieces.append((direction, data))
    return pieces


def split_at_random(script: Script, seed: int) -> list[Piece]:
    dice = random.Random(seed)
    return split(joined(script), lambda: dice.choice((1, 2, 3, 5, 9, 10, 17, 64, 1000)))


def assert_any_split_gives_the_same(make: Maker, script: Script, seeds: Iterable[int] = range(3)) -> list[Event]:
    """Compare the events of the script whole, byte by byte and in random pieces; return them."""
    whole = run(make(), joined(script))
    for pieces in (list(script), by_byte(script), *(split_at_random(script, seed) for seed in seeds)):
        assert run(make(), pieces) == whole
    return whole


def assert_every_cut_is_quiet(make: Maker, script: Script, step: int = 1) -> None:
    """Cut the script at every byte: what came before must be a beginning of the whole's events."""
    whole = run(make(), script, close=False)
    dissector = make()
    seen: list[Event] = []
    for number, (direction, data) in enumerate(by_byte(script)):
        seen += dissector.feed(direction, data)
        if number % step == 0:
            cut = make()
            before = run(cut, by_byte(script)[: number + 1], close=False)
            assert before == whole[: len(before)]
            for side in Direction:
                cut.close(side)
    assert seen == whole


def assert_memory_is_bounded(
    make: Maker, direction: Direction, start: bytes, filling: bytes, total: int, bound: int
) -> None:
    """Feed `start`, then `filling` again and again; what is held must stay below `bound` bytes."""
    dissector = make()
    tracemalloc.start()
    try:
        dissector.feed(direction, start)
        for _ in range(total // len(filling)):
            dissector.feed(direction, filling)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < bound, f"{held} bytes are held after {total}"


def assert_calls_begin_and_end_once(events: Iterable[Event]) -> None:
    """Check that each call has one start, then its messages, then at most one end."""
    open_ids: set[tuple[int, int]] = set()
    for channel, event in _plain(events):
        if isinstance(event, CallOpened):
            assert (channel, event.stream_id) not in open_ids
            open_ids.add((channel, event.stream_id))
        elif isinstance(event, CallEnded):
            open_ids.remove((channel, event.stream_id))
        elif isinstance(event, CallMessage | CallHalfClosed | CallMetadata):
            assert (channel, event.stream_id) in open_ids


def calls(events: Iterable[Event]) -> list[tuple[str, str, Any]]:
    """Return (service, method, how it ended) of each call in order of their start; None: it has not."""
    return [(service, method, end) for _, service, method, end in calls_inside(events)]


def calls_inside(events: Iterable[Event]) -> list[tuple[int, str, str, Any]]:
    """Return the same with the channel in front; 0: the connection itself."""
    found: dict[tuple[int, int], list[Any]] = {}
    order: list[list[Any]] = []
    for channel, event in _plain(events):
        if isinstance(event, CallOpened):
            call = found[channel, event.stream_id] = [channel, event.service, event.method, None]
            order.append(call)
        elif isinstance(event, CallEnded):
            if event.status is not None:
                end: Any = event.status.code
            else:
                end = "no status" if event.reset is None else f"reset {event.reset}"
            found[channel, event.stream_id][3] = end
    return [(channel, service, method, end) for channel, service, method, end in order]


def faults(events: Iterable[Event]) -> list[Event]:
    return [event for _, event in _plain(events) if isinstance(event, Malformed | Skipped)]


def _plain(events: Iterable[Event]) -> Iterable[tuple[int, Event]]:
    """Each event, with its channel."""
    for event in events:
        yield (event.channel, event.event) if isinstance(event, Inner) else (0, event)


def ttrpc_classes() -> tuple[type[Message], type[Message]]:
    """Return protobuf's classes of ttrpc.Request and ttrpc.Response."""
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    types = {"string": 9, "bytes": 12, "int64": 3, "int32": 5}
    layout = {
        "KeyValue": [("key", 1, "string"), ("value", 2, "string")],
        "Status": [("code", 1, "int32"), ("message", 2, "string"), ("details", 3, "bytes*")],
        "Request": [
            ("service", 1, "string"),
            ("method", 2, "string"),
            ("payload", 3, "bytes"),
            ("timeout_nano", 4, "int64"),
            ("metadata", 5, ".t.KeyValue*"),
        ],
        "Response": [("status", 1, ".t.Status"), ("payload", 2, "bytes")],
    }
    for name, fields in layout.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            label, kind = (3 if kind.endswith("*") else 1), kind.rstrip("*")
            added = message.field.add(name=field, number=number, label=label, type=types.get(kind, 11))
            if kind not in types:
                added.type_name = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    request, response = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}")) for name in ("Request", "Response")
    )
    return request, response
