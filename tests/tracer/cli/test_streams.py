"""A stream that goes on is shown message by message while it is open, in text and in JSON."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.tracer.cli.live import SERVICE, Start, message, run

EVENTS = "GetContainerEvents"
CLOCK_S = 0.05
"""time.time() of this process against the relay's clock."""


@contextmanager
def events_server(path: Path, events: queue.Queue[Any]) -> Iterator[None]:
    """A CRI server whose one stream says what is put into a queue, until it is None."""

    def serve(_request: bytes, _context: Any) -> Iterator[Any]:
        yield from iter(events.get, None)

    server = grpc.server(ThreadPoolExecutor(2))
    handler = grpc.unary_stream_rpc_method_handler(serve, None, lambda event: event.SerializeToString())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {EVENTS: handler}),))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield
    finally:
        events.put(None)
        server.stop(5).wait()


def say(events: queue.Queue[Any], container: str) -> None:
    events.put(
        message("ContainerEventResponse", container_id=container, container_event_type="CONTAINER_STARTED_EVENT")
    )


@pytest.mark.parametrize("options", [(), ("--json", "--messages")], ids=["text", "JSON"])
def test_each_event_is_printed_while_its_stream_is_open(
    folder: Path, server: Path, trace: Start, options: tuple[str, ...]
) -> None:
    path, events = folder / "events.sock", queue.Queue[Any]()
    with events_server(path, events):
        traced = trace("-w", str(folder / "x.pcapng"), "--socket", f"cri={path}", *options)
        traced.wait_for(lambda: sum(line.startswith("cri ") for line in traced.said()) == 2)
        with grpc.insecure_channel(f"unix:{path}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stream = channel.unary_stream(f"/{SERVICE}/{EVENTS}")(b"", timeout=60)
            for number in (1, 2, 3):
                said = time.time()
                say(events, f"container-{number}")
                next(stream)
                heard = time.time()
                shown = lines_with(traced.printed, f"container-{number}")
                traced.wait_for(lambda shown=shown: bool(shown()))
                check(shown()[0], number + 1, said, heard, options)  # the request is the first
            events.put(None)
            assert list(stream) == []
        traced.wait_for(lambda: any("OK" in line for line in traced.printed()))
        assert traced.interrupt() == 0
    assert run("decode", *options, str(folder / "x.pcapng")).stdout == traced.out.read_text()


def lines_with(printed: Callable[[], list[str]], container: str) -> Callable[[], list[str]]:
    return lambda: [line for line in printed() if container in line]


def check(line: str, number: int, said: float, heard: float, options: tuple[str, ...]) -> None:
    if not options:
        assert f" #{number} " in line
        assert "·" in line
        assert EVENTS in line
        return
    shown = json.loads(line)
    assert (shown["kind"], shown["method"], shown["message"]["number"]) == ("message", EVENTS, number)
    assert shown["message"]["direction"] == "response"
    assert said - CLOCK_S < datetime.fromisoformat(shown["time"]).timestamp() < heard + CLOCK_S
