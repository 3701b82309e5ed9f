"""Figures of calls, by hop and method: how many, how they failed, how long they took, how much they carried.

In: calls. Out: a row for each method of a hop, and where it was asked for of each pod, container or peer. Durations go
into buckets, so that a row takes the same memory however many calls it counts, and percentiles are right within 1 %.
Of which pod a call is, its place says (tracer/story).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal

from protos.hops import hop_order
from protos.registry import Registry
from tracer.calls import Call
from tracer.output.codes import status_name
from tracer.output.summary import Summarizer
from tracer.story.place import Container, Pod

By = Literal["", "pod", "container", "peer"]

SUB_BUCKETS: Final = 128
"""Of each power of two."""
_BITS: Final = SUB_BUCKETS.bit_length() - 1
MAX_GROUPS: Final = 20_000
"""Ids or peers that are told apart; those that come after are one group, OTHERS."""
OTHERS: Final = "(others)"
Group = str | Pod | Container
"""What pod a container is of may be learnt later, so it is asked at the end."""


@dataclass(slots=True)
class Figures:
    """What is known of the calls of one row."""

    calls: int = 0
    open: int = 0
    """Of those, how many have no end yet."""
    errors: Counter[str] = field(default_factory=Counter)
    """By status; by state, where there is none."""
    request_bytes: int = 0
    response_bytes: int = 0
    max_ns: int = 0
    buckets: Counter[int] = field(default_factory=Counter)

    def add(self, call: Call) -> None:
        """Count a call."""
        self.calls += 1
        self.request_bytes += call.request_bytes
        self.response_bytes += call.response_bytes
        if call.end_ns is None:
            self.open += 1
            return
        length_ns = call.end_ns - call.start_ns
        if length_ns > self.max_ns:
            self.max_ns = length_ns
        self.buckets[_bucket(length_ns)] += 1
        if call.failed():
            self.errors[call.state.value if call.status is None else status_name(call.status.code)] += 1

    def merge(self, other: Figures) -> None:
        """Count the calls of another row too."""
        self.calls += other.calls
        self.open += other.open
        self.errors += other.errors
        self.request_bytes += other.request_bytes
        self.response_bytes += other.response_bytes
        self.max_ns = max(self.max_ns, other.max_ns)
        self.buckets += other.buckets

    def percentile(self, share: float) -> int | None:
        """Return the duration, in nanoseconds, that this share of the calls with an end did not exceed."""
        left = share * self.buckets.total()
        for bucket, count in sorted(self.buckets.items()):
            left -= count
            if left <= 0:
                return min(_highest(bucket), self.max_ns)
        return None


@dataclass(frozen=True, slots=True)
class Row:
    """The calls of one method on one hop, of one group."""

    group: str
    """Pod, container or peer; empty if none was asked for, or it is not known."""
    hop: str
    service: str
    method: str
    figures: Figures


class Statistics:
    """Counts calls; `rows` gives what there is."""

    def __init__(self, registry: Registry, by: By = "") -> None:
        self._by = by
        self._summarizer = Summarizer(registry)
        self._groups: set[Group] = set()
        self._figures: dict[tuple[Group, str, str, str], Figures] = {}

    def count(self, call: Call) -> None:
        """Count a call, as it is now."""
        group = self._group(call) if self._by else ""
        key = group, call.hop, call.service, call.method
        figures = self._figures.get(key)
        if figures is None:
            figures = self._figures[key] = Figures()
        figures.add(call)

    def rows(self) -> list[Row]:
        """Return the rows, by group, hop, service and method."""
        merged: dict[tuple[str, str, str, str], Figures] = {}
        for (group, hop, service, method), figures in self._figures.items():
            merged.setdefault((_name(group), hop, service, method), Figures()).merge(figures)
        rows = [Row(*key, figures) for key, figures in merged.items()]
        return sorted(rows, key=lambda row: (row.group, hop_order(row.hop), row.service, row.method))

    def _group(self, call: Call) -> Group:
        group: Group
        if self._by == "peer":
            client = call.flow.client
            group = (client.name or client.address) + ("" if client.pid is None else f" ({client.pid})")
        elif self._by == "pod":
            place = call.place
            group = "" if place is None else place.container or place.own_pod or ""
        else:
            group = self._summarizer.summarize(call).id
        if group not in self._groups:
            if len(self._groups) >= MAX_GROUPS:
                return OTHERS
            self._groups.add(group)
        return group


def _name(group: Group) -> str:
    """What a group is called, by what is known by now."""
    if isinstance(group, str):
        return group
    pod = group if isinstance(group, Pod) else group.pod
    if pod is None:
        return group.id
    return pod.label() or pod.id


def _bucket(length_ns: int) -> int:
    """Return the number of a duration's bucket: exact below 128 ns, then 128 of each power of two."""
    shift = max(0, length_ns.bit_length() - _BITS - 1)
    return (shift << _BITS) + (length_ns >> shift)


def _highest(bucket: int) -> int:
    """Return the longest duration of a bucket."""
    shift = max(0, (bucket >> _BITS) - 1)
    return ((bucket - (shift << _BITS) + 1) << shift) - 1
