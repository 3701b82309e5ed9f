"""The indexer: reads a capture in a process of its own and tells of it in batches, so that keys are never waited for.

In: `python -m tracer.tui.indexer` with a capture, and a pipe as stdin: while a capture grows it is read on until stdin
ends or says `end`. Out: pickled `Batch`es on stdout, and states of the reader in the file whose descriptor is given.
"""

from __future__ import annotations

import argparse
import os
import pickle
import select
import sys
import time
from array import array
from collections.abc import Iterator
from typing import BinaryIO

from protos.errors import PodwireError
from protos.registry import Registry
from tracer.calls import Call, CallUpdate, Finding, Update
from tracer.capture.growing import GrowingCapture, open_growing, open_recorded
from tracer.capture.packets import Notice, Packet
from tracer.capture.reader import CaptureFile
from tracer.logs import Logged
from tracer.output.look import Look
from tracer.output.summary import Summarizer
from tracer.output.text import TextPrinter
from tracer.output.units import Clock
from tracer.pipeline import Decoder, collect_seldom
from tracer.story.correlate import Correlator
from tracer.story.place import Place as CallPlace
from tracer.tui.census import Census
from tracer.tui.rows import COLUMNS, MOST, OPEN, Batch, Change, Ends, Kind, Place, code_of, ends_of, flags_of
from tracer.tui.states import put_away

BATCH_S = 0.1
"""A batch is told at least so often while there is something to tell."""
APART = 1 << 20
"""Bytes of a capture between two states of its reader, at least; and so many times the state's own size:"""
APART_SIZES = 20
KEPT_FINDINGS = 10_000
"""Findings told; more are counted."""
KEPT_LOGS = 10_000
"""The same of lines of logs."""
MOST_KINDS = 0xFFFF
"""Methods and topics that have a number of their own; a million of them can only be made up."""
NICE = 5
"""The indexer comes behind what it watches."""


class Indexer:
    """Makes batches of updates."""

    def __init__(self, registry: Registry, states: BinaryIO, *, show_secrets: bool = False) -> None:
        self._summarizer = Summarizer(registry, show_secrets=show_secrets)
        self._correlator = Correlator(registry)
        self._census = Census()
        self._undecided: dict[int, tuple[CallPlace, int]] = {}
        """Calls whose parent may still change, by their rows, with the one that was told."""
        self._states = states
        self._kinds: dict[Kind, int] = {}
        self._idents: dict[str, int] = {}
        self._flows: set[int] = set()
        self._place = -1
        self._at = ("", -APART)
        self._state_size = 0
        self._rows = 0
        self._findings = 0
        self._logs = 0
        self._lost = 0
        self._broken = ""
        self._printer = TextPrinter(
            self._line, self._summarizer, look=Look(False, True), clock=Clock(), show_secrets=show_secrets
        )
        self._begin()

    def _begin(self) -> None:
        self._first = self._rows
        self._columns = tuple(array(code) for _, code in COLUMNS)
        self._touched: dict[int, Call] = {}
        self._changes: list[Change] = []
        self._new_kinds: list[Kind] = []
        self._new_idents: list[str] = []
        self._new_flows: list[tuple[int, Ends]] = []
        self._places: list[Place] = []
        self._lines: list[tuple[int, str]] = []
        self._finding_ns = 0

    def at(self, decoder: Decoder, capture: CaptureFile) -> None:
        """Reading stands between two packets: put the decoder away if that is due."""
        path, position = self._at
        new_file = path != capture.name
        if not new_file and not (
            capture.seekable and capture.position - position >= max(APART, APART_SIZES * self._state_size)
        ):
            return
        data = put_away(decoder, capture)
        self._places.append(Place(capture.name, self._states.tell(), len(data)))
        self._states.write(data)
        self._states.flush()
        self._place += 1
        self._at, self._state_size = (capture.name, capture.position), len(data)

    def take(self, updates: list[Update]) -> None:
        """Take what changed."""
        self._census.stirred |= bool(updates)
        for update in updates:
            self._correlator.update(update)
            if type(update) is CallUpdate:
                kind, _, call, _ = update
                if kind == "opened":
                    self._opened(call)
                self._touched[call.number] = call
            elif type(update) is Logged:
                self._logged(update)
            else:
                self._finding(update)  # type: ignore[arg-type] # told by its type

    def _opened(self, call: Call) -> None:
        flow = call.flow
        if flow.id not in self._flows:
            self._flows.add(flow.id)
            self._new_flows.append((flow.id, ends_of(call)))
        numbers = max(self._place, 0), flow.id & MOST, call.stream_id & MOST
        row = (call.start_ns, -1, 0, 0, OPEN, 0, 0, *numbers, 0, 0)
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)
        self._rows += 1

    def _names(self, call: Call) -> tuple[int, int]:
        """The numbers of its method, which an event names by its topic, and of its pod or container."""
        name, text, _, _ = self._summarizer.summarize(call)
        kind = Kind(call.hop, call.service, call.method, name)
        number = self._kinds.get(kind)
        if number is None:
            number = self._kinds[kind] = min(len(self._kinds), MOST_KINDS)
            if number < MOST_KINDS:
                self._new_kinds.append(kind)
            elif len(self._kinds) == MOST_KINDS + 1:
                self._new_kinds.append(Kind("", "", "", "(one of too many methods)"))
        ident = self._idents.get(text)
        if ident is None:
            ident = self._idents[text] = len(self._idents)
            self._new_idents.append(text)
        return number, ident

    def _finding(self, finding: Finding) -> None:
        self._lost += finding.kind == "gap"
        if finding.fatal:
            self._broken = f"{finding.reason} (at byte {finding.offset}; what came before is shown)"
        self._findings += 1
        if self._findings <= KEPT_FINDINGS:
            self._finding_ns = finding.time_ns
            self._printer.update(finding)

    def _logged(self, line: Logged) -> None:
        """A line of a log stands among the findings; its number is kept apart, since there may be many."""
        self._logs += 1
        if self._logs <= KEPT_LOGS:
            self._finding_ns = line.time_ns
            self._printer.update(line)

    def _line(self, text: str) -> None:
        self._lines.append((self._finding_ns, text.rstrip("\n")))

    @property
    def waiting(self) -> bool:
        """Whether the next batch would tell of anything."""
        return bool(self._touched) or self._census.due

    def batch(self, read: int, size: int, now_ns: int, *, complete: bool = False) -> Batch:
        """Return what was taken since the last one."""
        first = self._first
        deadlines = []
        _, lengths, kinds, idents, codes, flags, sizes, _, _, _, whoms, parents = self._columns
        changed_parents = self._decided()
        for number, call in self._touched.items():
            row = number - 1
            length = -1 if call.end_ns is None else call.end_ns - call.start_ns
            size_of = min(call.request_bytes + call.response_bytes, MOST)
            whom, parent = self._census.number(call.place), self._parent(row, call.place)
            change = Change(row, length, *self._names(call), code_of(call), flags_of(call), size_of, whom)
            if row < first:
                self._changes.append(change)
                if parent:
                    changed_parents.append((row, parent))
            else:
                at = row - first
                _, lengths[at], kinds[at], idents[at], codes[at], flags[at], sizes[at], whoms[at] = change
                parents[at] = parent
                if length < 0 and call.deadline_ns is not None:
                    deadlines.append((row, call.deadline_ns))
        batch = Batch(
            tuple(column.tobytes() for column in self._columns),
            self._changes,
            self._new_kinds,
            self._new_idents,
            self._new_flows,
            self._places,
            self._lines,
            self._lost,
            deadlines,
            self._census.news(all=complete),
            changed_parents,
            read,
            max(size, read),
            now_ns,
            complete,
            self._broken,
        )
        self._begin()
        return batch

    def _parent(self, row: int, place: CallPlace | None) -> int:
        """What stands in the column `parent` of a call."""
        if place is None:
            return 0
        parent = 0 if place.parent is None else place.parent.number
        if place.candidates is not None:
            self._undecided[row] = place, parent
        return parent

    def _decided(self) -> list[tuple[int, int]]:
        """Rows whose parent is another one by now."""
        found = []
        for row, (place, told) in list(self._undecided.items()):
            parent = 0 if place.parent is None else place.parent.number
            if parent != told:
                found.append((row, parent))
            if place.candidates is None:
                del self._undecided[row]
            elif parent != told:
                self._undecided[row] = place, parent
        return found


def batches(
    capture: CaptureFile | GrowingCapture, indexer: Indexer, more: Iterator[bool] | None = None
) -> Iterator[Batch]:
    """Read a capture to its end; while `more` says so, wait for what comes behind it."""
    decoder = Decoder()
    told = time.monotonic() - BATCH_S
    while True:
        file = capture.file if isinstance(capture, GrowingCapture) else capture
        indexer.at(decoder, file)
        found: list[Packet | Notice] = capture.read_available()
        for item in found:
            indexer.take(decoder.feed(item))
        idle = not found and capture.at_end
        if idle and more is None:
            break
        if idle and more is not None and not next(more):
            more = None  # what came by now is still read
        if indexer.waiting and (idle or time.monotonic() - told >= BATCH_S):
            yield indexer.batch(capture.position, capture.size, decoder.now_ns)
            told = time.monotonic()
    for notice in capture.finish():
        indexer.take(decoder.feed(notice))
    indexer.take(decoder.finish())
    yield indexer.batch(capture.position, capture.size, decoder.now_ns, complete=True)


def while_open(descriptor: int) -> Iterator[bool]:
    """Wait a moment each time; False once the one who listens is gone or has said `end`."""
    while not select.select([descriptor], [], [], BATCH_S / 2)[0]:
        yield True
    yield False


def main() -> None:
    """Index the capture that the arguments name."""
    args = arguments(states=True)
    out = sys.stdout.buffer
    try:
        registry = Registry.with_own(args.proto, args.descriptor_set)
        with open(args.states, "wb", closefd=False) as states, open_as_told(args) as capture:
            more = while_open(0) if args.follow else None
            indexer = Indexer(registry, states, show_secrets=args.show_secrets)
            for batch in batches(capture, indexer, more):
                pickle.dump(batch, out, pickle.HIGHEST_PROTOCOL)
                out.flush()
    except PodwireError as error:
        pickle.dump(str(error), out)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # Python flushes once more


def arguments(*, states: bool = False, form: bool = False) -> argparse.Namespace:
    """What a process behind the screen is told; it comes after what it watches."""
    parser = argparse.ArgumentParser()
    parser.add_argument("capture")
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("--states", type=int, required=states)
    parser.add_argument("--filter", default="")
    parser.add_argument("--form", required=form)
    parser.add_argument("--out", type=int, required=form)
    parser.add_argument("--show-secrets", action="store_true")
    parser.add_argument("--proto", action="append", default=[])
    parser.add_argument("--descriptor-set", action="append", default=[])
    os.nice(NICE)
    collect_seldom()
    return parser.parse_args()


def open_as_told(args: argparse.Namespace) -> CaptureFile | GrowingCapture:
    """The capture, from its beginning."""
    return open_growing(args.capture, oldest=True) if args.follow else open_recorded(args.capture)


if __name__ == "__main__":
    main()
