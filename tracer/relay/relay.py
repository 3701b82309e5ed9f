"""What worker and holder of one relay have in common, made before there are two of them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tracer.relay.exchange import Homes
from tracer.relay.held import HeldFile
from tracer.relay.shared import Shared
from tracer.relay.targets import Target

RunRecorder = Callable[[Shared, socket.socket], None]
"""Runs a recorder in its own process, until the END record or until the relay is gone. After one that died it is run
again, and goes on where that one was."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a relay is to do, decided before it starts."""

    targets: list[Target]
    runtime_folder: str
    capture: str
    duration_s: float
    """Then it leaves by itself; 0 is never."""
    force: bool


@dataclass(frozen=True, slots=True, eq=False)
class Relay:
    """The same objects, with the same descriptors, in every process of a relay but the recorder."""

    plan: Plan
    shared: Shared
    control: socket.socket
    """To whoever started it."""
    recorder: socket.socket
    """To the recorder, and its other end, of which each recorder has a copy."""
    recorders_end: socket.socket
    run_recorder: RunRecorder
    keep: tuple[int, ...]
    """Descriptors that a recorder needs."""
    held: HeldFile
    homes: Homes

    @property
    def descriptors(self) -> set[int]:
        """All of these: they stay open when a successor closes what it does not know."""
        sockets = (self.control, self.recorder, self.recorders_end)
        mine = {*self.shared.descriptors, self.held.fd, *self.keep}
        return mine | {each.fileno() for each in sockets}

    def tell(self, event: str, **what: object) -> None:
        """A line to whoever started it; dropped if they do not read."""
        with suppress(OSError):
            self.control.send(json.dumps({"event": event, **what}).encode())


def leave_process(act: Callable[[], None]) -> None:
    """In a forked child: do it, and never return into the parent's code, never run its exit handlers."""
    status = 1
    try:
        act()
        status = 0
    finally:
        os._exit(status)
