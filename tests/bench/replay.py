"""A longer capture out of a real one: its connections again and again, as other connections of other pods, later.

`python -m tests.bench.replay IN OUT --calls N` writes OUT. Each round repeats every connection of IN with its times
shifted and each id (64 hex digits) replaced by another of the same length; names and calls stay as they were. Ids that
HPACK has Huffman-coded stay too.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tracer.calls import CallUpdate
from tracer.capture.conversation import CaptureWriter
from tracer.capture.flows import Endpoint, Flow, FlowData, FlowGap, FlowOpened, FlowTable
from tracer.capture.packets import Notice, Packet
from tracer.capture.reader import open_capture
from tracer.pipeline import Decoder

ID = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
PAUSE_NS = 1_000_000_000
"""Between two rounds."""


@dataclass(frozen=True, slots=True)
class Step:
    """One packet's worth of a connection: opened, bytes of a direction, or its end."""

    flow: Flow
    time_ns: int
    direction: int
    begin: int
    """Where the bytes stand in their stream; its length, at the end."""
    end: int
    closed: bool
    reset: bool


@dataclass(frozen=True, slots=True)
class Source:
    """A capture in memory."""

    steps: list[Step]
    streams: dict[tuple[int, int], bytes]
    """By flow and direction, gaps as zeros."""
    calls: int
    span_ns: int


def load(path: str) -> Source:
    """Read a capture whole, and count its calls."""
    with open_capture(path) as capture:
        packets = [item for item in capture if not isinstance(item, Notice)]
    table = FlowTable()
    steps: list[Step] = []
    streams: dict[tuple[int, int], bytearray] = {}
    for packet in packets:
        for event in table.feed(packet):
            flow, time_ns = event.flow, event.time_ns
            if isinstance(event, FlowOpened):
                steps.append(Step(flow, time_ns, 0, 0, 0, False, False))
                streams[flow.id, 0], streams[flow.id, 1] = bytearray(), bytearray()
                continue
            stream = streams[flow.id, event.direction]
            begin = len(stream)
            if isinstance(event, FlowGap):
                stream += bytes(event.count)
            elif isinstance(event, FlowData):
                stream += event.data
                steps.append(Step(flow, time_ns, event.direction, begin, len(stream), False, False))
            else:
                steps.append(Step(flow, time_ns, event.direction, begin, begin, True, event.reset))
    span_ns = packets[-1].time_ns - packets[0].time_ns
    return Source(steps, {key: bytes(stream) for key, stream in streams.items()}, _count_calls(packets), span_ns)


def replay(source: Source, calls: int, write: Callable[[bytes], object]) -> int:
    """Write rounds of the source until they hold `calls` calls; return how many they hold."""
    writer = CaptureWriter(write)
    rounds = -(-calls // source.calls)
    writer.start(source.steps[0].time_ns, "")
    interfaces: dict[tuple[str, str], int] = {}
    for number in range(rounds):
        _round(source, number, writer, interfaces)
    writer.finish(source.steps[-1].time_ns + rounds * (source.span_ns + PAUSE_NS))
    return rounds * source.calls


def _round(source: Source, number: int, writer: CaptureWriter, interfaces: dict[tuple[str, str], int]) -> None:
    fresh = {key: _with_new_ids(stream, number) for key, stream in source.streams.items()}
    shift = number * (source.span_ns + PAUSE_NS)
    flows = max(step.flow.id for step in source.steps)
    for step in source.steps:
        flow, time_ns = step.flow, step.time_ns + shift
        conn = number * flows + flow.id
        if step.closed:
            writer.close(conn, step.direction, step.end, time_ns, step.reset)
        elif step.begin < step.end:
            writer.data(
                conn, step.direction, step.begin, time_ns, fresh[flow.id, step.direction][step.begin : step.end]
            )
        else:
            path = _with_new_ids(flow.socket.encode(), number).decode()
            interface = interfaces.get((flow.hop, path))
            if interface is None:
                interface = interfaces[flow.hop, path] = writer.interface(path, f"{flow.hop} {path}")
            client, server = (_endpoint(writer, end, number) for end in (flow.client, flow.server))
            about = {"client": _about(flow.client), "server": _about(flow.server)}
            writer.open(conn, interface, flow.hop, client, server, time_ns, about)


def _endpoint(writer: CaptureWriter, end: Endpoint, number: int) -> str:
    """The runtime is one process all the time; shims and clients are others in each round."""
    key = end.address if end.name == "containerd" else f"{end.address} {number}"
    return writer.endpoint(key, end.name)


def _about(end: Endpoint) -> dict[str, object]:
    return {key: value for key, value in end._asdict().items() if key not in ("address", "port") and value}


def _with_new_ids(content: bytes, number: int) -> bytes:
    """Replace each id by one that depends on it and on the round alone."""
    mark = str(number).encode()
    return ID.sub(lambda found: hashlib.sha256(found[0] + mark).hexdigest().encode(), content)


def _count_calls(packets: list[Packet]) -> int:
    decoder = Decoder()
    updates = [update for packet in packets for update in decoder.feed(packet)]
    return sum(isinstance(update, CallUpdate) and update.kind == "opened" for update in updates)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.replay", description=__doc__.splitlines()[0])
    parser.add_argument("source", help="a capture")
    parser.add_argument("target", help="the pcapng file to write")
    parser.add_argument("--calls", type=int, default=100_000, help="calls that it shall hold (default 100000)")
    args = parser.parse_args()
    with Path(args.target).open("wb", buffering=1 << 20) as out:
        calls = replay(load(args.source), args.calls, out.write)
    print(f"{args.target}: {calls} calls, {Path(args.target).stat().st_size} bytes")


if __name__ == "__main__":
    main()
