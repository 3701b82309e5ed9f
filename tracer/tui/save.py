"""What is shown, into a file whose name says its form. In: rows and a path. Out: a sentence that says what was done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence

from dissectors.render import Renderer
from protos.errors import PodwireError
from protos.registry import Registry
from tracer.calls import CallUpdate
from tracer.capture.growing import open_recorded
from tracer.files import create_output
from tracer.output.jsonlines import JsonPrinter
from tracer.output.units import counted
from tracer.pipeline import Decoder


def save(
    path: str,
    capture: str,
    shown: Sequence[int],
    total: int,
    registry: Registry,
    renderer: Renderer,
    line: Callable[[int], str],
) -> str:
    """Write rows to a new file. Raises PodwireError: nothing is overwritten."""
    form = os.path.splitext(path)[1]
    if form not in (".json", ".jsonl", ".txt", ".pcapng"):
        raise PodwireError(f"{path}: its name has to end in .json, .txt or .pcapng, which says what it shall be")
    if form == ".pcapng" and len(shown) != total:
        raise PodwireError("a part of a capture cannot be saved as one: .json or .txt, or take the filter away first")
    with open(create_output(path, replace=False), "wb") as out:
        if form == ".txt":
            out.writelines(f"{line(row).rstrip()}\n".encode() for row in shown)
        elif form == ".pcapng":
            with open(capture, "rb") as whole:
                shutil.copyfileobj(whole, out)
        else:
            _json(
                capture,
                {row + 1 for row in shown},
                JsonPrinter(lambda text: out.write(text.encode()), registry, renderer),
            )
    return f"{path}: {counted(len(shown), 'call')} saved"


def _json(capture: str, wanted: set[int], printer: JsonPrinter) -> None:
    decoder = Decoder()
    with open_recorded(capture) as file:
        for item in file:
            for update in decoder.feed(item):
                if isinstance(update, CallUpdate) and update.call.number in wanted:
                    printer.update(update)
        for update in decoder.finish():
            if isinstance(update, CallUpdate) and update.call.number in wanted:
                printer.update(update)
    printer.finish(decoder.now_ns)
