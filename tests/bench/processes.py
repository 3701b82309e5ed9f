"""The processes that a benchmark has started: their ends, and what they cost, from /proc: memory of their own, and how
often they wake."""

from __future__ import annotations

import ctypes
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36

_RING = "/memfd:podwire"
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ ")


def adopt_orphans() -> None:
    """Become the parent of processes whose own has ended, to reap them."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end(session: int) -> None:
    """Kill what is left of a session that we have started, and reap it."""
    with suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)
    reap(session)


def reap(session: int) -> None:
    """Wait until all of a session have ended: it is their process group too."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-session, 0)


def own_memory(pid: int) -> int:
    """Bytes: its share of all it has mapped (Pss), less that of the ring."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        whole = sum(_kibibytes(line) for line in rollup if line.startswith("Pss:"))
    ring, in_ring = 0, False
    with open(f"/proc/{pid}/smaps") as mappings:
        for line in mappings:
            if _MAPPING.match(line):
                in_ring = _RING in line
            elif in_ring and line.startswith("Pss:"):
                ring += _kibibytes(line)
    return (whole - ring) * 1024


def _kibibytes(line: str) -> int:
    return int(line.split()[1])


def wakeups(pid: int) -> int:
    """How often its threads have waited so far (voluntary context switches)."""
    switches = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                switches += int(line.split()[1])
    return switches
