"""Every call of a capture as a row of numbers: 48 bytes each, so that a million of them fit beside a screen.

In: batches, as the indexer makes them. Out: what a list, a sort or a sum needs of a call. What a row does not hold is
read from the capture again, from the place that it names (`tracer.tui.loader`).
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import NamedTuple

from tracer.calls import Call, State
from tracer.output import look
from tracer.output.codes import STATUS
from tracer.output.fields import is_expected
from tracer.waiting import meant_to_wait

OPEN, CANCELLED, RESET, CUT, NO_STATUS, OTHER_CODE = 200, 201, 202, 203, 204, 199
"""What stands in the column `code` where it is no gRPC status."""
_NAMES = {
    OPEN: "open",
    CANCELLED: "cancelled",
    RESET: "reset",
    CUT: "cut",
    NO_STATUS: "ended",
    OTHER_CODE: "other code",
}

GAP, WAITS, EXPECTED, BEFORE = 1, 2, 4, 8
"""Bits of the column `flags`: bytes are missing; it is meant to wait; its failure is an ordinary answer; its start was
before the capture."""

MOST = (1 << 32) - 1
"""The largest number in a column of four bytes; a size above it is shown as this."""


class Kind(NamedTuple):
    """A method on a hop."""

    hop: str
    service: str
    method: str
    name: str
    """As lines show it, an event by its topic; escaped."""


class Whom(NamedTuple):
    """A pod or a container, as far as it is known. Texts are escaped."""

    number: int
    pod: int
    """The number of its pod, a pod's own one; 0: not known."""
    id: str
    name: str
    """A pod's with its namespace."""
    state: str
    start_up_ns: int
    """How long its start took; -1: not known."""
    failed: int
    """Calls about it that failed."""
    failures: tuple[tuple[int, str], ...]
    """Row and text of the first of them; below it, after a line's end, the innermost one that it passes on."""
    known: bool
    """Something other than a request that failed has named it, or such a request is all that there is to say."""
    sandbox: bool = False
    """It is the sandbox's own container."""


NOBODY = Whom(0, 0, "", "", "", -1, 0, (), False)


class Place(NamedTuple):
    """Where reading can begin again: a file, and where the state of its reader lies in the file of states."""

    path: str
    offset: int
    length: int


class Ends(NamedTuple):
    """The two ends of a connection, as its packets name them."""

    client: str
    client_port: int
    server: str
    server_port: int


class Change(NamedTuple):
    """What became of a row that an earlier batch brought."""

    row: int
    length: int
    kind: int
    ident: int
    code: int
    flags: int
    size: int
    whom: int


class Batch(NamedTuple):
    """What was read since the one before."""

    columns: tuple[bytes, ...]
    """New rows: each column's bytes, in the order of COLUMNS."""
    changes: list[Change]
    kinds: list[Kind]
    idents: list[str]
    flows: list[tuple[int, Ends]]
    places: list[Place]
    findings: list[tuple[int, str]]
    """Time and line of each; escaped."""
    lost: int
    """Findings that are gaps, in all."""
    deadlines: list[tuple[int, int]]
    """Row and time, of new rows without an end."""
    whoms: list[Whom]
    """New ones, in the order of their numbers, and those that have changed."""
    parents: list[tuple[int, int]]
    """Of older rows, what became of their column `parent`."""
    read: int
    """Bytes of the capture that were read, of `size`."""
    size: int
    now_ns: int
    """Time of the newest packet."""
    complete: bool
    """No more comes."""
    broken: str
    """Why the capture could not be read to its end, or nothing."""


class Matched(NamedTuple):
    """What a filter has found since the one before. It is here since a module that is run cannot give out its types."""

    wanted: list[int]
    """Rows."""
    unwanted: list[int]
    """Rows that were wanted before, and are not any more."""
    errors: int
    """Calls of which the filter could not tell, so far."""
    complete: bool


COLUMNS = (
    ("start", "q"),
    ("length", "q"),
    ("kind", "H"),
    ("ident", "I"),
    ("code", "B"),
    ("flags", "B"),
    ("size", "I"),
    ("place", "I"),
    ("flow", "I"),
    ("stream", "I"),
    ("whom", "I"),
    ("parent", "I"),
)
"""Names and types of the columns; `length` is -1 without an end, `parent` the row of the call that caused it and one
more, 0 if there is none. 48 bytes a row."""
_CODE, _FLAGS = 4, 5
_NOT_ZERO = re.compile(rb"[^\0]", re.DOTALL)


@dataclass(slots=True, eq=False)
class Rows:
    """The index. Row n is the call with the number n + 1."""

    start: array[int] = field(default_factory=lambda: array("q"))
    length: array[int] = field(default_factory=lambda: array("q"))
    kind: array[int] = field(default_factory=lambda: array("H"))
    ident: array[int] = field(default_factory=lambda: array("I"))
    code: array[int] = field(default_factory=lambda: array("B"))
    flags: array[int] = field(default_factory=lambda: array("B"))
    size: array[int] = field(default_factory=lambda: array("I"))
    place: array[int] = field(default_factory=lambda: array("I"))
    flow: array[int] = field(default_factory=lambda: array("I"))
    stream: array[int] = field(default_factory=lambda: array("I"))
    whom: array[int] = field(default_factory=lambda: array("I"))
    parent: array[int] = field(default_factory=lambda: array("I"))
    kinds: list[Kind] = field(default_factory=list)
    idents: list[str] = field(default_factory=list)
    flows: dict[int, Ends] = field(default_factory=dict)
    places: list[Place] = field(default_factory=list)
    findings: list[tuple[int, str]] = field(default_factory=list)
    lost: int = 0
    troubles: list[int] = field(default_factory=list)
    """Rows that failed or have a gap, sorted: among a million, the next one is found at once."""
    whoms: list[Whom] = field(default_factory=lambda: [NOBODY])
    labels: list[str] = field(default_factory=lambda: [""])
    """By number: what a call about it says of whom it is, as far as names are known."""
    heard: int = 0
    """Changes of pods and containers so far."""
    joined: int = 0
    """Of those, how often it came out of which pod a container is."""
    open: dict[int, int | None] = field(default_factory=dict)
    """Rows without an end, oldest first, each with its deadline."""
    read: int = 0
    total: int = 0
    now_ns: int = 0
    complete: bool = False
    broken: str = ""

    def __len__(self) -> int:
        return len(self.start)

    def add(self, batch: Batch) -> list[int]:
        """Take a batch; return the older rows that it changed."""
        first = len(self)
        for (name, _), data in zip(COLUMNS, batch.columns, strict=True):
            getattr(self, name).frombytes(data)
        self.kinds += batch.kinds
        self.idents += batch.idents
        self.flows.update(batch.flows)
        self.places += batch.places
        self.findings += batch.findings
        self.lost = batch.lost
        self.read, self.total, self.now_ns = batch.read, batch.size, batch.now_ns
        self.complete, self.broken = batch.complete, batch.broken
        codes, bits = batch.columns[_CODE], batch.columns[_FLAGS]
        for found in _NOT_ZERO.finditer(codes):
            if codes[found.start()] != OPEN:
                self._note_trouble(first + found.start())
        if any(bits):
            for at, each in enumerate(bits):
                if each & GAP:
                    self._note_trouble(first + at)
        lengths = self.length
        self.open.update({row: None for row in range(first, len(self)) if lengths[row] < 0})
        self.open.update(batch.deadlines)
        for row, length, kind, ident, code, flags, size, whom in batch.changes:
            lengths[row] = length
            self.kind[row], self.ident[row], self.code[row], self.flags[row] = kind, ident, code, flags
            self.size[row], self.whom[row] = size, whom
            if length >= 0:
                self.open.pop(row, None)
                self._note_trouble(row)
        for row, parent in batch.parents:
            self.parent[row] = parent
        self._hear_of(batch.whoms)
        return [change.row for change in batch.changes]

    def _hear_of(self, whoms: list[Whom]) -> None:
        self.heard += len(whoms)
        for each in whoms:
            if each.number == len(self.whoms):
                self.whoms.append(each)
                self.labels.append("")
            else:
                self.joined += self.whoms[each.number].pod != each.pod
                self.whoms[each.number] = each
        pods = {each.number for each in whoms if each.number == each.pod}
        told = {each.number for each in whoms}
        told.update(each.number for each in self.whoms if pods and each.pod in pods)
        for each in (self.whoms[number] for number in told):
            pod = self.whoms[each.pod].name.rpartition("/")[2]
            own = "" if each.sandbox or each.number == each.pod else each.name
            self.labels[each.number] = "/".join(name for name in (pod, own) if name)

    def pod_of(self, row: int) -> int:
        """The number of the pod that a call is about; 0: not known."""
        return self.whoms[self.whom[row]].pod

    def waits_below(self, row: int, now_ns: int) -> tuple[int, ...]:
        """The open calls that wait for an open call, the outermost first, and itself: rows.

        Those that are meant to wait hang for nobody, and nobody for them.
        """
        chain = [row]
        if not self.flags[row] & WAITS:
            while (above := self.parent[chain[-1]] - 1) >= 0 and above not in chain and self._hangs(above, now_ns):
                chain.append(above)
        return tuple(reversed(chain))

    def _hangs(self, row: int, now_ns: int) -> bool:
        return self.open_at(row, now_ns) and not self.flags[row] & WAITS

    def _note_trouble(self, row: int) -> None:
        if sign(self.code[row], self.flags[row]) in (look.FAILED, look.GAP):
            at = bisect_left(self.troubles, row)
            if at == len(self.troubles) or self.troubles[at] != row:
                self.troubles.insert(at, row)

    def open_at(self, row: int, now_ns: int) -> bool:
        """Whether a call had no end at a time."""
        length = self.length[row]
        return length < 0 or self.start[row] + length > now_ns

    def sign(self, row: int, now_ns: int) -> str:
        """What stands before a call: the sign that text has for it."""
        return look.OPEN if self.open_at(row, now_ns) else sign(self.code[row], self.flags[row])


def code_of(call: Call) -> int:
    """The number of what became of a call."""
    if call.status is not None:
        return call.status.code if 0 <= call.status.code < len(STATUS) else OTHER_CODE
    return {State.OPEN: OPEN, State.CANCELLED: CANCELLED, State.RESET: RESET, State.CUT: CUT}.get(call.state, NO_STATUS)


def flags_of(call: Call) -> int:
    """The bits of a call."""
    flags = GAP if call.gap else 0
    if meant_to_wait(call.service, call.method):
        flags |= WAITS
    status = call.status
    if status is not None and status.code and is_expected(call.service, call.method, status.code, status.message):
        flags |= EXPECTED
    return flags if call.seen_start else flags | BEFORE


def code_name(code: int) -> str:
    """`NOT_FOUND`, `open`, `cut`."""
    return STATUS[code] if code < len(STATUS) else _NAMES[code]


def sign(code: int, flags: int) -> str:
    """The sign of a call that has ended (`tracer.output.look`)."""
    if code == CUT and flags & GAP:
        return look.GAP  # its answer may be among what is missing
    if code == CANCELLED or (code in (CUT, NO_STATUS) and flags & WAITS):
        return look.CANCELLED
    if code and not flags & EXPECTED:
        return look.FAILED
    return look.GAP if flags & GAP else look.OK


def ends_of(call: Call) -> Ends:
    """Name a call's connection, whichever way its packets go: inside of another one the client may be its server."""
    client, server = call.flow.client, call.flow.server
    return Ends(client.address, client.port, server.address, server.port)
