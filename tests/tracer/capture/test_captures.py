"""The captures of real runtimes have the packets, connections and bytes that their recorder counted."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tracer.capture.flows import FlowClosed, FlowData, FlowGap, FlowOpened, FlowTable
from tracer.capture.packets import Notice
from tracer.capture.reader import open_capture

CAPTURES = Path(__file__).parents[3] / "captures"


RECORDED_BY_OTHERS = sorted(CAPTURES.glob("ctrd*.pcapng.gz"))


@pytest.mark.parametrize("path", RECORDED_BY_OTHERS, ids=lambda path: path.name)
def test_packets_connections_and_bytes_by_hop_are_those_of_the_recorder(path: Path) -> None:
    counted = json.loads(Path(str(path).replace(".pcapng.gz", ".facts.json")).read_text())["recorder"]
    table = FlowTable()
    packets = 0
    flows: Counter[str] = Counter()
    sent: dict[str, dict[str, int]] = defaultdict(lambda: {"to_server": 0, "to_client": 0})
    closed: Counter[int] = Counter()
    with open_capture(str(path)) as capture:
        for item in capture:
            assert not isinstance(item, Notice)
            packets += 1
            for event in table.feed(item):
                if isinstance(event, FlowOpened):
                    assert event.seen
                    flows[event.flow.hop] += 1
                    assert event.flow.socket.startswith("/run/")
                    assert event.flow.client.pid
                    assert event.flow.client.name
                    assert event.flow.server.name
                elif isinstance(event, FlowData):
                    sent[event.flow.hop]["to_client" if event.direction else "to_server"] += len(event.data)
                elif isinstance(event, FlowClosed):
                    closed[event.flow.id] += 1
                else:
                    assert not isinstance(event, FlowGap)
    assert table.finish(0) == []
    assert table.passed_over == {}
    assert packets == counted["packets"]
    assert flows == counted["connections"]
    assert sent == counted["bytes"]
    assert set(closed.values()) == {2}
