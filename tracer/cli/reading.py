"""Reading a capture to its end with every call placed: what the commands that look back on one begin with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from protos.errors import PodwireError
from tracer.cli.decode import broken_off, with_progress

if TYPE_CHECKING:  # heavy: imported where it is used
    from protos.registry import Registry
    from tracer.calls import Call, Update
    from tracer.cli.decode import Items
    from tracer.logs import Logged
    from tracer.story.correlate import Correlator


class Placed(NamedTuple):
    """A capture that has been read."""

    correlator: Correlator
    open_calls: list[Call]
    end_ns: int
    """Of its last packet; of one that is still being written: now."""
    broken: str
    """Why it could not be read to its end, or nothing."""


def read_placed(
    path: str,
    registry: Registry,
    each: Callable[[Update], object] | None = None,
    add_lines: Callable[[Items], Items] = iter,
) -> Placed:
    """Read a capture; `each` gets every update once its call has its place, `add_lines` puts those of a log between.
    Raises PodwireError."""
    from tracer.capture.growing import open_recorded
    from tracer.pipeline import Decoder, collect_seldom
    from tracer.story.correlate import Correlator

    collect_seldom()
    decoder, correlator = Decoder(), Correlator(registry)
    feed, correlate = decoder.feed, correlator.update
    broken = ""
    with open_recorded(path) as capture:
        for item in add_lines(with_progress(capture, printing=False)):
            for update in feed(item):
                correlate(update)
                if each is not None:
                    each(update)
                if update.kind == "notice" and update.fatal:
                    broken = broken_off(update)
    for update in decoder.finish():
        correlate(update)
        if each is not None:
            each(update)
    end_ns = decoder.now_ns
    if path != "-" and any(os.path.realpath(path) == os.path.realpath(other) for other in being_written()):
        end_ns, broken = max(end_ns, time.time_ns()), ""  # still being written: its last record may be half there
    return Placed(correlator, decoder.open_calls(), end_ns, broken)


def read_calls(
    path: str,
    registry: Registry,
    wanted: Callable[[Call, int], bool] | None,
    take: Callable[[Call], object],
    take_line: Callable[[Logged], object] | None = None,
    add_lines: Callable[[Items], Items] = iter,
) -> Placed:
    """Read a capture; `take` gets each wanted call once: as it ends, or as it is still open at the end of the capture;
    `take_line` the lines of logs.

    `wanted` is asked with the time, as `Filter.wants` is. Raises PodwireError.
    """

    def ended(update: Update) -> None:
        if update.kind == "ended" and (wanted is None or wanted(update.call, update.time_ns)):
            take(update.call)
        elif take_line is not None and update.kind == "log":
            take_line(update)

    placed = read_placed(path, registry, ended, add_lines)
    for call in placed.open_calls:
        if wanted is None or wanted(call, placed.end_ns):
            take(call)
    return placed


def running_capture(command: str) -> str:
    """Return the capture that a running trace writes. Raises PodwireError unless exactly one is running."""
    running = being_written()
    if not running:
        raise PodwireError(f"no trace is running: podwire {command} FILE reads a capture")
    if len(running) > 1:
        raise PodwireError(f"several traces are running; name the capture of one: {', '.join(running)}")
    return running[0]


def being_written() -> list[str]:
    """The captures that running traces write."""
    from tracer.capture.growing import newest
    from tracer.sessions import TRACING, read_sessions

    return [newest(session.capture) for session in read_sessions() if session.state == TRACING]
