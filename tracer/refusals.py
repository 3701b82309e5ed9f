"""Connections that VMMs refuse while their guests boot: one line for a row of hundreds.

In: each refusal and each port that was opened, with its flow. Out: a finding a row, once a connection is taken, once
none has been refused for a while, or at the end of the capture.
"""

from __future__ import annotations

from dissectors.hvsock import port_name
from tracer.calls import Finding
from tracer.capture.flows import Flow

QUIET_NS = 1_000_000_000
"""After so long without a refusal a row is over. Kata's shims try again at once, or every few milliseconds."""


class _Row:
    __slots__ = ("count", "first_ns", "flow", "last_ns", "port")

    def __init__(self, flow: Flow, port: int, time_ns: int) -> None:
        self.flow = flow
        """The first one's connection."""
        self.port = port
        self.count = 1
        self.first_ns = self.last_ns = time_ns


class Refusals:
    """The rows of one capture that are not over."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, int], _Row] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def refused(self, flow: Flow, port: int, time_ns: int) -> None:
        """Take note of one."""
        row = self._rows.get(_key(flow, port))
        if row is None:
            self._rows[_key(flow, port)] = _Row(flow, port, time_ns)
        else:
            row.count += 1
            row.last_ns = time_ns

    def opened(self, flow: Flow, port: int, time_ns: int) -> list[Finding]:
        """Take note that a connection to this port was taken; return the row that it ends."""
        row = self._rows.pop(_key(flow, port), None)
        return [] if row is None else [_finding(row, time_ns, "; then it was taken")]

    def over(self, now_ns: int) -> list[Finding]:
        """Return the rows that are over by now."""
        keys = [key for key, row in self._rows.items() if now_ns - row.last_ns >= QUIET_NS]
        return [_finding(self._rows.pop(key), now_ns, "") for key in keys]

    def finish(self, now_ns: int) -> list[Finding]:
        """Return the rows that are left at the end of the capture."""
        rows = list(self._rows.values())
        self._rows.clear()
        return [_finding(row, now_ns, "") for row in rows]


def _key(flow: Flow, port: int) -> tuple[str, str, int]:
    return flow.socket, "" if flow.socket else flow.server.address, port


def _finding(row: _Row, time_ns: int, then: str) -> Finding:
    times = "once" if row.count == 1 else f"{row.count} times in {(row.last_ns - row.first_ns) / 1e9:.3f}s"
    reason = f"{port_name(row.port)} refused {times}, as while a guest boots{then}"
    return Finding("notice", time_ns, reason, row.flow)
