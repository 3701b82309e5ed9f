"""`podwire trace` behind Wireshark's fifo: what the dialog's values mean, and what its capture goes through.

In: those values, a fifo, two control pipes. Out: the capture, in the fifo, until Wireshark says SIGTERM, is gone, or
does not read any more; what goes wrong as one line on stderr, which Wireshark shows once the capture has ended.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from protos.errors import PodwireError
from protos.hops import HOPS
from tracer.output.units import counted, size

if TYPE_CHECKING:
    from protos.registry import Registry
    from tracer.capture.packets import Notice, Packet
    from tracer.cli.copy_out import Stage
    from tracer.export.live import Matching
    from tracer.filtering import Filter
    from tracer.live import Live
    from tracer.wireshark.toolbar import Toolbar

_READER_S: Final = 30.0
"""How long Wireshark's capture process may take to open the fifo."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The dialog's values."""

    hops: tuple[str, ...] = ()
    """None: all."""
    sockets: tuple[str, ...] = ()
    """HOP=PATH; none: the usual ones."""
    existing: bool = False
    filter: str = ""
    """In CEL."""
    mask: bool = True

    def trace_words(self) -> list[str]:
        """Return the command line of `podwire trace` for it. Raises PodwireError for a hop that is none."""
        if strangers := [hop for hop in self.hops if hop not in HOPS]:
            raise PodwireError(f"no hop {strangers[0]!r} (there are: {', '.join(HOPS)})")
        words = ["trace", "-w", "-", *(f"--hop={hop}" for hop in self.hops)]
        words += [f"--socket={socket}" for socket in self.sockets]
        return [*words, "--existing"] if self.existing else words


def capture(wanted: Wanted, fifo: str, controls: tuple[str, str] | None) -> int:
    """Trace into the fifo; return the exit status."""
    from tracer.cli import run, talk

    wireshark = os.getppid()
    toolbar: Toolbar | None = None
    try:
        descriptor = _open_fifo(fifo)  # first of all: without a writer Wireshark waits, and shows no error
        os.dup2(descriptor, 1)
        os.close(descriptor)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        if controls is not None:
            from tracer.wireshark.toolbar import Toolbar

            toolbar = Toolbar(*controls)
        words = wanted.trace_words()
        through = Through(wanted) if wanted.filter or wanted.mask else None
    except PodwireError as error:
        print(f"podwire: {error}", file=sys.stderr)
        return 2

    def say(text: str) -> None:
        if toolbar is None:
            if not _is_chatter(text):
                talk.say(text)
        elif _is_chatter(text):
            toolbar.say(text)
        else:
            toolbar.warn(text)

    def tick(live: Live, lost: int) -> None:
        if os.getppid() != wireshark:  # killed; its dumpcap goes on reading until it has something to tell
            live.leave()
        if toolbar is not None:
            overwritten = [f"{size(lost)} overwritten before they were taken"] if lost else []
            toolbar.tick(live, overwritten + notes())

    def notes() -> list[str]:
        return [] if through is None else through.notes()

    try:
        status = run("trace", words, say=say, through=through, tick=tick)
        for note in notes():
            say(note)
        if status == 1 and toolbar is not None:  # a dialog, not a line that passes
            talk.say("podwire: the capture is not complete: the toolbar's log says why")
    finally:
        if toolbar is not None:
            toolbar.close()
    return status


def check_filter(text: str) -> str:
    """Return what is wrong with a filter, in a line, or nothing."""
    from protos.registry import Registry
    from tracer.filtering import Filter

    try:
        Filter(text, Registry.bundled())
    except PodwireError as error:
        return str(error)
    return ""


def _is_chatter(text: str) -> bool:
    """Tell whether a line only says that something is traced, as it should be."""
    return text.endswith((": tracing", " as they start"))


def _open_fifo(path: str) -> int:
    """Open the fifo once somebody reads it. Raises PodwireError if nobody comes."""
    parent, until = os.getppid(), time.monotonic() + _READER_S
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise PodwireError(f"{path}: {(error.strerror or '').lower()}") from error
        if os.getppid() != parent or time.monotonic() > until:
            raise PodwireError(f"{path}: nobody reads it")
        time.sleep(0.02)


class Through:
    """What the capture goes through: the filter, then the masks."""

    def __init__(self, wanted: Wanted) -> None:
        """Raises PodwireError for a filter that is none."""
        from protos.registry import Registry
        from tracer.export.live import LiveSelection
        from tracer.filtering import Filter
        from tracer.redact_live import LiveRedactor

        registry = Registry.bundled()
        self._filter = Filter(wanted.filter, registry) if wanted.filter else None
        self._redactor = LiveRedactor(registry) if wanted.mask else None
        self._stages: list[Stage] = []
        if self._filter is not None:
            comment = f"podwire trace, of it the connections on which a call matches {wanted.filter}"
            self._stages.append(LiveSelection(comment, _matching(self._filter, registry)))
        if self._redactor is not None:
            self._stages.append(self._redactor)

    def feed(self, data: bytes) -> bytes:
        """Take whole blocks; return those that go on."""
        for stage in self._stages:
            data = stage.feed(data)
        return data

    def finish(self) -> bytes:
        """Take note of the end; return the rest."""
        data = b""
        for stage in self._stages:
            data = stage.feed(data) + stage.finish()
        return data

    def notes(self) -> list[str]:
        """What could not be done so far."""
        found = []
        if self._redactor is not None and (blanked := self._redactor.account.blanked.total()):
            found.append(f"{counted(blanked, 'byte')} that could not be read: zeros now")
        if self._filter is not None and self._filter.errors:
            found.append(f"filter: of {counted(self._filter.errors, 'call')} it cannot be told, no match")
        return found


def _matching(filter: Filter, registry: Registry) -> Matching:
    """Return what tells of which connections a call matches."""
    from tracer.calls import CallUpdate
    from tracer.pipeline import Decoder
    from tracer.story.correlate import Correlator

    decoder, correlator = Decoder(), Correlator(registry)

    def matching(item: Packet | Notice) -> Iterator[tuple[int, int]]:
        for update in decoder.feed(item):
            correlator.update(update)
            if isinstance(update, CallUpdate) and filter.wants(update.call, update.time_ns):
                yield update.call.flow.id, update.call.start_ns

    return matching
