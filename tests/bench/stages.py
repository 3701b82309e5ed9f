"""Microseconds a packet of each stage of the capture's way: written, parsed, put into flows; beside them a copy of the
same bytes through a file, which is the least that any writer and reader does."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial

from tracer.capture.conversation import CaptureWriter
from tracer.capture.flows import FlowTable
from tracer.capture.packets import Notice, Packet
from tracer.capture.pcapng import PcapngReader

CONNECTIONS, PACKETS, SIZE = 100, 250, 400
CHUNK = 1 << 20


def stages(times: int) -> dict[str, list[float]]:
    """Return microseconds a packet by stage, one number a run."""
    with tempfile.TemporaryFile() as out:
        found: dict[str, list[float]] = {"copy": [], "write": [], "parse": [], "flows": []}
        for _ in range(times):
            packets = _timed(found["write"], partial(_write, out.write))
            out.seek(0)
            data = out.read()
            out.seek(0)
            _timed(found["copy"], partial(_copy, data, out.write, packets))
            out.seek(0)
            parsed: list[Packet] = []
            _timed(found["parse"], partial(_parse, data, parsed))
            _timed(found["flows"], partial(_flows, parsed))
    return found


def _timed(times: list[float], work: Callable[[], int]) -> int:
    begin = time.perf_counter()
    packets = work()
    times.append((time.perf_counter() - begin) / packets * 1e6)
    return packets


def _write(write: Callable[[bytes], object]) -> int:
    writer = CaptureWriter(write)
    writer.start(0, "")
    socket = writer.interface("/run/test.sock", "cri /run/test.sock")
    client, server = writer.endpoint("client", "client"), writer.endpoint("server", "server")
    payload = memoryview(os.urandom(SIZE))
    for conn in range(CONNECTIONS):
        writer.open(conn, socket, "cri", client, server, conn, {})
        for number in range(PACKETS):
            writer.data(conn, number & 1, (number >> 1) * SIZE, conn, payload)
    return writer.packets


def _copy(data: bytes, write: Callable[[bytes], object], packets: int) -> int:
    size = len(data) // packets
    for begin in range(0, len(data), size):
        write(data[begin : begin + size])
    return packets


def _parse(data: bytes, parsed: list[Packet]) -> int:
    reader = PcapngReader()
    for begin in range(0, len(data), CHUNK):
        parsed += [item for item in reader.feed(data[begin : begin + CHUNK]) if not isinstance(item, Notice)]
    return len(parsed)


def _flows(packets: list[Packet]) -> int:
    table = FlowTable()
    for packet in packets:
        table.feed(packet)
    return len(packets)


def lines(times: int) -> list[str]:
    """Return a line a stage: median, spread, and the ratio to the copy."""
    found = stages(times)
    copy = statistics.median(found["copy"])
    return [
        f"{name}: {statistics.median(values):.2f} µs a packet ({min(values):.2f} to {max(values):.2f}), "
        f"{statistics.median(values) / copy:.1f} x copy"
        for name, values in found.items()
    ]
