"""A recording as it was at some moment, when what was asked had not been answered."""

from __future__ import annotations

import gzip
from pathlib import Path

from tracer.calls import CallUpdate
from tracer.capture.growing import open_recorded
from tracer.capture.packets import Packet
from tracer.pipeline import Decoder


def cut(recording: Path, folder: Path, method: str) -> Path:
    """Return a new capture: of a packed one all up to the packet in which the first call of a method begins."""
    path, decoder, begun = folder / "cut.pcapng", Decoder(), False
    with open_recorded(str(recording)) as capture:
        for item in capture:
            if isinstance(item, Packet) and begun:
                path.write_bytes(gzip.decompress(recording.read_bytes())[: item.offset])
                return path
            for update in decoder.feed(item):
                if isinstance(update, CallUpdate) and update.kind == "opened":
                    begun = begun or update.call.method == method
    raise AssertionError(method)
