"""The saver: writes calls into a file, in a process of its own that reads the capture again.

In: `python -m tracer.tui.saver` with a capture, `--form` and a descriptor `--out`; which calls comes pickled (`Asked`)
on stdin. Out: on stdout percentages, a line each, and in the end what was saved, or `!` and what was wrong. JSON is as
`podwire decode --json` has it. A part as pcapng is as `podwire export` makes it: connections that stand alone, each
from the start of the first of its calls to the end of the last.
"""

from __future__ import annotations

import argparse
import gzip
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from dissectors.render import Renderer
from protos.errors import PodwireError
from protos.registry import Registry
from tracer.calls import Call, CallUpdate, Update
from tracer.capture.conversation import CaptureWriter
from tracer.capture.flows import Flow
from tracer.capture.growing import open_recorded
from tracer.capture.packets import Notice, Packet
from tracer.capture.reader import SECTION_HEADER
from tracer.export.select import FOREVER, Selection, Window
from tracer.export.survey import Survey
from tracer.output.jsonlines import JsonPrinter
from tracer.output.units import counted
from tracer.pipeline import Decoder
from tracer.story.correlate import Correlator
from tracer.tui.indexer import arguments
from tracer.tui.rows import MOST
from tracer.tui.save import Asked

WARNING = "secrets too (podwire redact masks them in a copy)"


@dataclass(slots=True)
class Reading:
    """A capture, read once or twice, and who is told how far that is."""

    capture: str
    grows: bool
    """Its last record may be half there."""
    passes: int
    tell: Callable[[str], None]
    _pass: int = 0
    _told: int = -1
    broken: str = field(default="", init=False)
    """Why it could not be read to its end."""

    def __iter__(self) -> Iterator[Packet | Notice]:
        with open_recorded(self.capture) as file:
            for count, item in enumerate(file):
                if not count % 4096:
                    done = (self._pass + file.position / max(file.size, 1)) / self.passes
                    if int(100 * done) > self._told:
                        self._told = int(100 * done)
                        self.tell(str(self._told))
                if isinstance(item, Notice) and item.fatal and not self.grows:
                    self.broken = f"; the capture breaks off: {item.text}"
                yield item
        self._pass += 1


def save_json(reading: Reading, asked: Asked | None, printer: JsonPrinter, correlate: Callable[[Update], None]) -> int:
    """Write calls as JSON; return how many."""
    decoder, wants, found = Decoder(), _wants(reading.capture, asked), set[int]()

    def take(update: Update) -> None:
        correlate(update)
        if isinstance(update, CallUpdate) and wants(update.call, 0):
            found.add(update.call.number)
            printer.update(update)

    for item in reading:
        for update in decoder.feed(item):
            take(update)
    for update in decoder.finish():
        take(update)
    printer.finish(decoder.now_ns)
    return len(found)


def save_part(reading: Reading, asked: Asked, out: BinaryIO, registry: Registry) -> tuple[int, int]:
    """Write the connections of calls, and what is known of these; return how many calls, on how many connections."""
    decoder, correlator, wants, found = Decoder(), Correlator(registry), _wants(reading.capture, asked), set[int]()

    def wanted(call: Call, now_ns: int) -> bool:
        if wants(call, now_ns):
            found.add(call.number)
            return True
        return False

    survey = Survey(wanted)
    for item in reading:
        for update in decoder.feed(item):
            correlator.update(update)
            survey.update(update)
    for update in decoder.finish():
        correlator.update(update)
        survey.update(update)
    survey.finish(decoder.open_calls(), decoder.now_ns)
    windows = survey.windows()
    _select(reading, out, lambda flow: windows.get(flow.id), survey)
    return len(found), len(windows)


def save_all(reading: Reading, out: BinaryIO) -> None:
    """Write the whole capture: its very bytes, unless it still grows, is several files, or is no pcapng."""
    if not reading.grows and os.path.exists(reading.capture):
        with open(reading.capture, "rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
        with (gzip.open if packed else open)(reading.capture, "rb") as file:
            if file.read(4) == SECTION_HEADER:
                file.seek(0)
                shutil.copyfileobj(file, out)
                return
    _select(reading, out, lambda _: Window(0, FOREVER), None)


def _select(reading: Reading, out: BinaryIO, window: Callable[[Flow], Window | None], survey: Survey | None) -> None:
    about = f"saved from podwire's screen of {os.path.basename(reading.capture)}"
    selection = Selection(CaptureWriter(out.write), about, window, lambda _: survey is None, survey)
    for item in reading:
        selection.take(item)
    selection.finish()


def _wants(capture: str, asked: Asked | None) -> Callable[[Call, int], bool]:
    if asked is None:
        return lambda _call, _now_ns: True
    if os.path.exists(capture):
        rows = set(asked.rows)
        return lambda call, _: call.number - 1 in rows
    keys = set(zip(asked.starts, asked.streams, strict=True))
    return lambda call, _: (call.start_ns, call.stream_id & MOST) in keys


def main() -> None:
    """Save what the arguments and stdin say."""
    args = arguments(form=True)
    asked: Asked | None = pickle.load(sys.stdin.buffer)
    try:
        with open(args.out, "wb", closefd=False) as out:
            text = _save(args, asked, out)
    except (PodwireError, OSError, EOFError) as error:
        text = f"!{error}"
    _tell(text)


def _save(args: argparse.Namespace, asked: Asked | None, out: BinaryIO) -> str:
    registry = Registry.with_own(args.proto, args.descriptor_set)
    part = asked is not None and args.form == "pcapng"
    reading = Reading(args.capture, args.follow, 2 if part else 1, _tell)
    more = ""
    if args.form == "json":
        renderer = Renderer(registry, show_secrets=args.show_secrets)
        printer = JsonPrinter(lambda text: out.write(text.encode("utf-8", "backslashreplace")), registry, renderer)
        count = save_json(reading, asked, printer, Correlator(registry).update)
    elif asked is None:
        save_all(reading, out)
        return f"all of the capture saved, {WARNING}{reading.broken}"
    else:
        count, connections = save_part(reading, asked, out, registry)
        more = f", with all else on their {counted(connections, 'connection')} meanwhile, {WARNING}"
    gone = "" if asked is None or count == len(asked.rows) else f" of {len(asked.rows)}: files of the ring are gone"
    return f"{counted(count, 'call')} saved{gone}{more}{reading.broken}"


def _tell(text: str) -> None:
    with suppress(OSError):  # who asked for it has gone: what is begun is done
        print(text, flush=True)


if __name__ == "__main__":
    main()
