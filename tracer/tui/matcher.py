"""The matcher: which calls a filter wants, found by reading the capture again in a process of its own.

The filter asks for what the index does not hold: messages, metadata. In: `python -m tracer.tui.matcher` with a capture
and `--filter=EXPR`. Out: pickled `Matched` on stdout, each with what has changed since the one before.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator

from protos.errors import PodwireError
from protos.registry import Registry
from tracer.calls import Call, CallUpdate
from tracer.capture.growing import GrowingCapture
from tracer.capture.reader import CaptureFile
from tracer.filtering import Filter
from tracer.pipeline import Decoder
from tracer.tui.indexer import BATCH_S, arguments, open_as_told, while_open
from tracer.tui.rows import Matched


def matched(
    capture: CaptureFile | GrowingCapture, filter: Filter, more: Iterator[bool] | None = None
) -> Iterator[Matched]:
    """Read a capture to its end; while `more` says so, wait for what comes behind it."""
    decoder = Decoder()
    wanted: set[int] = set()
    """Of open calls: it may change."""
    told = time.monotonic()
    touched: dict[int, Call] = {}
    while True:
        found = capture.read_available()
        for item in found:
            for update in decoder.feed(item):
                if type(update) is CallUpdate:
                    touched[update.call.number] = update.call
        idle = not found and capture.at_end
        if idle and more is None:
            break
        if idle and more is not None and not next(more):
            more = None
        if touched and (idle or time.monotonic() - told >= BATCH_S):
            yield _ask(touched, wanted, filter.wants, decoder.now_ns, filter, complete=False)
            touched, told = {}, time.monotonic()
    for update in decoder.finish():
        if type(update) is CallUpdate:
            touched[update.call.number] = update.call
    yield _ask(touched, wanted, filter.wants, decoder.now_ns, filter, complete=True)


def _ask(
    touched: dict[int, Call],
    wanted: set[int],
    wants: Callable[[Call, int], bool],
    now_ns: int,
    filter: Filter,
    *,
    complete: bool,
) -> Matched:
    more, fewer = [], []
    for number, call in touched.items():
        row = number - 1
        if wants(call, now_ns):
            if row not in wanted:
                more.append(row)
                wanted.add(row)
        elif row in wanted:
            fewer.append(row)
            wanted.discard(row)
        if call.end_ns is not None:
            wanted.discard(row)
    return Matched(more, fewer, filter.errors, complete)


def main() -> None:
    """Match what the arguments say."""
    args = arguments()
    out = sys.stdout.buffer
    try:
        filter = Filter(args.filter, Registry.with_own(args.proto, args.descriptor_set))
        with open_as_told(args) as capture:
            for each in matched(capture, filter, while_open(0) if args.follow else None):
                pickle.dump(each, out, pickle.HIGHEST_PROTOCOL)
                out.flush()
    except PodwireError as error:
        pickle.dump(str(error), out)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # Python flushes once more


if __name__ == "__main__":
    main()
