"""What a first reading of a capture tells of its calls, for the second one that writes a part of it.

In: updates whose calls have their places. Out: which connections are wanted when, and what is to be said of each call
at the packet in which it begins. Of a call some 50 bytes are kept, in arrays, so that captures of any size fit.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from typing import Final

from tracer.calls import Call, Update
from tracer.export.select import FOREVER, Window
from tracer.output.escape import escape
from tracer.output.units import short_id
from tracer.story.place import Container, Place, Pod

MAX_COMMENT: Final = 32 << 10
"""Bytes of one packet's comment; pcapng has room for twice as many."""
_HOWS: Final = ("", "trace", "identity", "time")
_LOOK_AGAIN: Final = 1_000
"""Calls whose parent is not decided yet, after which it is looked which are by now."""


class Survey:
    """All calls of a capture, by their numbers. `wants` (as `Filter.wants`) picks some; None: all."""

    def __init__(
        self,
        wants: Callable[[Call, int], bool] | None = None,
        masked: Callable[[Update], str] | None = None,
    ) -> None:
        self._wants = wants
        self._masked = masked
        """Takes every update; says at a call's end what is masked in it."""
        self._wanted = bytearray()
        self._flows, self._parents, self._hows = array("I"), array("I"), bytearray()
        self._starts, self._ends = array("Q"), array("Q")
        self._names, self._masks = array("I"), array("I")
        self._pods, self._containers = array("I"), array("I")
        self._texts: dict[str, int] = {"": 0}
        self._records: dict[Pod | Container | None, int] = {None: 0}
        self._undecided: list[Place] = []
        self._all_texts: list[str] = []
        self._labels: list[str] = []
        """By the number of a record: what it is called."""
        self._pod_of: list[int] = []
        """By the number of a record: that of its pod, its own if it is one."""
        self._chosen: int | None = None
        self._next = 0

    def update(self, update: Update) -> None:
        """Take what changed, in the order of the capture."""
        masked = "" if self._masked is None else self._masked(update)
        if update.kind == "opened":
            call = update.call
            for column in (self._parents, self._names, self._masks, self._pods, self._containers):
                column.append(0)
            self._hows.append(0)
            self._wanted.append(0)
            self._flows.append(call.flow.id)
            self._starts.append(call.start_ns)
            self._ends.append(FOREVER)
        elif update.kind == "ended":
            self._take(update.call, update.time_ns, masked)

    def finish(self, still_open: Iterable[Call], now_ns: int, pod: Pod | None = None) -> None:
        """Tell that there is no more, what has no end, and the pod whose calls alone are wanted, if there is one."""
        for call in still_open:
            self._take(call, now_ns, "")
        for place in self._undecided:
            self._parent(place)
        self._all_texts, records = list(self._texts), list(self._records)
        pods = [each.pod if isinstance(each, Container) else each for each in records]
        self._pod_of = [self._record(each) for each in pods]
        self._chosen = None if pod is None else self._record(pod)
        self._labels = [_label(each) for each in self._records]
        self._pod_of += [each for each in range(len(self._pod_of), len(self._labels))]
        self._records, self._undecided = {}, []  # and with them all that the correlator knew

    def picks(self, number: int) -> bool:
        """Whether a call is wanted, and of the pod, if one was named."""
        row = number - 1
        return bool(self._wanted[row]) and self._chosen in (None, self._pod(row))

    def windows(self) -> dict[int, Window]:
        """Return, by the number of its connection, from when to when there are calls that are picked."""
        found: dict[int, Window] = {}
        for row, flow in enumerate(self._flows):
            if self.picks(row + 1):
                start_ns, end_ns = found.get(flow, (FOREVER, 0))
                found[flow] = Window(min(start_ns, self._starts[row]), max(end_ns, self._ends[row]))
        return found

    def begun(self, flow: int, time_ns: int) -> range:
        """Return the calls that begin here, if it is asked in the order of the capture: numbers less one."""
        first = self._next
        while self._next < len(self._flows) and (self._flows[self._next], self._starts[self._next]) == (flow, time_ns):
            self._next += 1
        return range(first, self._next)

    def start_ns(self, row: int) -> int:
        """When one of them began."""
        return self._starts[row]

    def comment(self, rows: Iterable[int]) -> bytes:
        """Return what is to be said of calls, as a packet's comment; nothing if there is nothing to say."""
        said, left = b"", 0
        for lines in filter(None, map(self._told, rows)):
            text = "\n".join(lines).encode("utf-8", "replace")
            if len(said) + len(text) > MAX_COMMENT:
                left += 1
            else:
                said += b"\n" * bool(said) + text
        return said + f"\n… and {left} more calls".encode() if left else said

    def _told(self, row: int) -> list[str]:
        pod, container = self._pod(row), self._containers[row]
        whom = [label for label in (self._labels[pod], self._labels[container]) if label]
        lines = [f"call {row + 1}" + (f": {', '.join(whom)}" if whom else "")]
        parent = self._parents[row]
        if parent:
            name = self._all_texts[self._names[parent - 1]]
            lines.append(f"parent: call {parent}, {name} (found by {_HOWS[self._hows[row]]})")
        masked = self._all_texts[self._masks[row]]
        if masked:
            lines.append(f"masked: {masked}")
        return lines if whom or len(lines) > 1 else []

    def _pod(self, row: int) -> int:
        return self._pods[row] or self._pod_of[self._containers[row]]

    def _take(self, call: Call, now_ns: int, masked: str) -> None:
        row, place = call.number - 1, call.place
        self._wanted[row] = self._wants is None or self._wants(call, now_ns)
        if call.end_ns is not None:
            self._ends[row] = call.end_ns
        if masked:
            self._masks[row] = self._text(masked)
        if place is None:
            return
        self._names[row] = self._text(f"{place.hop} {escape(place.title)}")
        self._pods[row] = self._record(place.own_pod)
        self._containers[row] = self._record(place.container)
        self._parent(place)
        if place.candidates is not None:
            self._undecided.append(place)
            if len(self._undecided) % _LOOK_AGAIN == 0:
                for each in self._undecided:
                    self._parent(each)
                self._undecided = [each for each in self._undecided if each.candidates is not None]

    def _parent(self, place: Place) -> None:
        row = place.number - 1
        self._parents[row] = 0 if place.parent is None else place.parent.number
        self._hows[row] = _HOWS.index(place.how)

    def _text(self, text: str) -> int:
        return self._texts.setdefault(text, len(self._texts))

    def _record(self, record: Pod | Container | None) -> int:
        return self._records.setdefault(record, len(self._records))


def _label(record: Pod | Container | None) -> str:
    if isinstance(record, Pod):
        return _named("pod", record.label() or "(name not known)", record.id)
    if record is None or (record.id and record.is_sandbox()):
        return ""
    return _named("container", record.name, record.id)


def _named(*words: str) -> str:
    *names, identity = words
    return escape(" ".join(filter(None, (*names, f"({short_id(identity)})" if identity else ""))))
