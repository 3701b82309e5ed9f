"""What is decoded of a recording with packets missing is what was said, and no call ends otherwise than it did."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import pytest

from tracer.calls import Call, CallUpdate
from tracer.capture.growing import open_recorded
from tracer.capture.packets import Notice, Packet
from tracer.pipeline import Decoder

CAPTURES = Path(__file__).parents[2] / "captures"
Stream = tuple[str, int, int, int, int]
"""A connection's client, both ports, its channel inside of it, and the stream."""


def stream_of(call: Call) -> Stream:
    flow = call.flow
    return flow.client.address, flow.client.port, flow.server.port, flow.channel, call.stream_id


def decoded(items: list[Packet | Notice]) -> tuple[dict[tuple[Stream, bool], list[bytes]], dict[Stream, Call], int]:
    """Payloads by stream and side, calls by stream, and how often something was malformed that was read as what it is:
    of a connection of which the beginning is lost, the first bytes may look like another protocol's."""
    decoder = Decoder()
    payloads: dict[tuple[Stream, bool], list[bytes]] = defaultdict(list)
    calls: dict[Stream, Call] = {}
    malformed = 0
    for updates in [*map(decoder.feed, items), decoder.finish()]:
        for update in updates:
            malformed += update.kind == "malformed" and update.offset > 0
            if not isinstance(update, CallUpdate):
                continue
            stream = stream_of(update.call)
            calls[stream] = update.call
            if update.message is not None and update.message.payload is not None:
                payloads[stream, bool(update.message.direction)].append(update.message.payload)
    return payloads, calls, malformed


def with_losses(items: list[Packet | Notice], rate: float, seed: int) -> list[Packet | Notice]:
    """All but some packets, now one, now several in a row."""
    chance, kept, left_out = random.Random(seed), [], 0
    for item in items:
        if isinstance(item, Packet):
            if left_out:
                left_out -= 1
                continue
            if chance.random() < rate:
                left_out = chance.choice([0, 1, 3, 20])
                continue
        kept.append(item)
    return kept


@pytest.mark.parametrize(
    ("name", "rate", "seeds"),
    [
        ("own16-pod", 0.05, 8),
        ("ctrd2-pod", 0.05, 3),
        ("ctrd2-nri", 0.05, 3),
        ("ctrd2-edge", 0.02, 2),
        ("ctrd2-busy", 0.1, 2),
    ],
)
def test_nothing_is_invented(name: str, rate: float, seeds: int) -> None:
    with open_recorded(str(CAPTURES / f"{name}.pcapng.gz")) as capture:
        items = list(capture)
    whole, calls, malformed = decoded(items)
    found = 0
    for seed in range(seeds):
        payloads, some, wrong = decoded(with_losses(items, rate, seed))
        assert wrong <= malformed
        for key, each in payloads.items():
            left = list(whole[key])
            for payload in each:
                assert payload in left, f"seed {seed}: {some[key[0]].service}/{some[key[0]].method} never had it"
                left.remove(payload)
                found += 1
        for stream, call in some.items():
            true = calls[stream]
            assert call.method in ("", true.method)
            if call.status is not None and true.status is not None:
                assert call.status.code == true.status.code
    assert found > 100
