"""What a capture holds of the tests' traffic, to be held against the accounts of both ends.

In: a capture file. Out: each message with its checksum looked at, gaps with their sizes, and whatever else was told.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dissectors.events import Direction
from tests.e2e.messages import REQUEST, RESPONSE, Account, Altered
from tests.e2e.traffic import SERVICE, Accounts
from tracer.calls import CallUpdate, Update
from tracer.capture.flows import FlowData, FlowGap, FlowTable
from tracer.capture.packets import Notice, Packet
from tracer.capture.reader import open_capture
from tracer.pipeline import Decoder


@dataclass
class Captured:
    """One capture, read to its end."""

    account: Account = field(default_factory=Account)
    """Of the tests' own messages, as the capture has them; its errors are false messages."""
    connections: dict[int, int] = field(default_factory=dict)
    """Number of a flow → number of the connection that its messages name."""
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Method and state of the tests' own calls that ended."""
    malformed: list[str] = field(default_factory=list)
    """What podwire could not decode, on any connection."""
    notices: list[str] = field(default_factory=list)
    gaps: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Bytes missing, by flow and direction."""
    wires: dict[int, list[Any]] = field(default_factory=dict)
    """By flow: [bytes, running SHA-256] of each direction; a gap counts and is not in the digest."""

    @property
    def lost(self) -> int:
        """Bytes missing in all."""
        return sum(self.gaps.values())

    def check(self, accounts: Accounts) -> None:
        """The capture holds what both ends saw, or a gap of exact size; never a byte twice or a false message."""
        assert self.account.errors[:3] == []
        assert not self.malformed, f"{len(self.malformed)} malformed: {self.malformed[:3]}"
        assert self.notices == []
        sent = accounts.of_clients()
        with_gaps = {flow for flow, _ in self.gaps}
        incomplete = {self.connections[flow] for flow in with_gaps & self.connections.keys()}
        for key, entries in self.account.messages.items():
            seen, theirs = [list(entry) for entry in entries], sent.get(key, [])
            if int(key.split()[0]) in incomplete:
                assert is_part_of(seen, theirs), key
            else:
                assert seen == theirs, key
        missing = {int(key.split()[0]) for key in sent.keys() - self.account.messages.keys()} - incomplete
        assert len(missing) <= len(with_gaps - self.connections.keys()), missing
        self._check_wires(accounts.wires_of_clients())

    def _check_wires(self, wires: dict[str, Any]) -> None:
        for flow, connection in self.connections.items():
            wire = wires.get(str(connection))
            if wire is None:
                continue  # gRPC's own frames are known to nobody but grpcio
            for direction, name in ((Direction.REQUEST, "sent"), (Direction.RESPONSE, "received")):
                size, digest = self.wires[flow][direction]
                assert size == wire[name][0], (connection, name)
                if not self.gaps[flow, direction]:
                    assert digest.hexdigest() == wire[name][1], (connection, name)


def is_part_of(some: list[list[Any]], whole: list[list[Any]]) -> bool:
    """Whether these come in this order in the other, each once."""
    rest = iter(whole)
    return all(each in rest for each in some)


def read_capture(path: Path) -> Captured:
    """Decode it as podwire does, and beside that count its bytes."""
    captured, decoder, table = Captured(), Decoder(), FlowTable()
    with open_capture(str(path)) as file:
        for item in file:
            for update in decoder.feed(item):
                _take(captured, update)
            if isinstance(item, Packet):
                _count(captured, table, item)
            else:
                assert isinstance(item, Notice)
    for update in decoder.finish():
        _take(captured, update)
    return captured


def _count(captured: Captured, table: FlowTable, packet: Packet) -> None:
    for event in table.feed(packet):
        if isinstance(event, FlowData | FlowGap):
            wire = captured.wires.setdefault(event.flow.id, [[0, hashlib.sha256()], [0, hashlib.sha256()]])
            if isinstance(event, FlowGap):
                captured.gaps[event.flow.id, int(event.direction)] += event.count
                wire[event.direction][0] += event.count
            else:
                wire[event.direction][0] += len(event.data)
                wire[event.direction][1].update(event.data)


def _take(captured: Captured, update: Update) -> None:
    if not isinstance(update, CallUpdate):
        if update.kind == "malformed":
            captured.malformed.append(f"{update.flow and update.flow.socket}: {update.reason} {update.evidence.hex()}")
        elif update.kind == "notice":
            captured.notices.append(update.reason)
        return
    call, message = update.call, update.message
    if call.service != SERVICE:
        return
    if update.kind == "ended":
        captured.calls[call.method, str(call.state)] += 1
    if message is not None and message.payload is not None:
        try:
            connection, _, _ = captured.account.add(message.payload, RESPONSE if message.direction else REQUEST)
        except Altered as error:
            captured.account.fail(f"flow {call.flow.id}", error)
        else:
            captured.connections[call.flow.id] = connection
