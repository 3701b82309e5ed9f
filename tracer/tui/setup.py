"""What a screen is made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protos.registry import Registry
from tracer.tui.session import Behind
from tracer.tui.source import Matches, Source


@dataclass(frozen=True, slots=True)
class Setup:
    """What a screen is made of."""

    source: Source
    behind: Behind
    registry: Registry
    capture: str
    """Path of the capture, as decoding would be told it."""
    utc: bool = False
    unicode: bool = True
    replay: float | None = None
    """Its speed, where the capture is played."""
    now_ns: Callable[[], int] = time.time_ns
    match: Callable[[str], Matches] | None = None
    """Begins to find out what a filter wants."""
    filter: str = ""
    """What to begin with."""
    show_secrets: bool = False
    words: Sequence[str] = ()
    """Options of the processes that read the capture: schemas, secrets."""
