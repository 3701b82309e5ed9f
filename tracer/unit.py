"""On systemd, a relay gets a unit of its own (R3), so that no stop of a service or a login reaches it.

It runs already when it gets one, so it is a transient scope (org.freedesktop.systemd1, StartTransientUnit with PIDs):
of what a service would have, a scope has no ExecStopPost; mending is `podwire doctor --mend`'s, or the next start's.
Untried on a real systemd; tests hold the call against a stand-in of busctl.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

RUNNING = "/run/systemd/system"
"""There if systemd is this machine's init (sd_booted(3))."""
_PROPERTIES = (
    ("Description", "s", "podwire relay"),
    ("KillMode", "s", "process"),
    ("SendSIGKILL", "b", "false"),
    ("OOMPolicy", "s", "continue"),
)


def give_unit(session: int, pids: Sequence[int], *, running: str = RUNNING) -> str:
    """Put these processes into `podwire-SESSION.scope`; returns why that could not be, empty if it is done or there
    is no systemd to ask."""
    if not os.path.isdir(running) or os.geteuid() != 0:
        return ""
    busctl = shutil.which("busctl")
    if busctl is None:
        return "busctl is not installed"
    manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"]
    properties = [word for name, kind, value in _PROPERTIES for word in (name, kind, value)]
    processes = ["PIDs", "au", str(len(pids)), *map(str, pids)]
    call = ["ssa(sv)a(sa(sv))", f"podwire-{session}.scope", "fail", str(len(_PROPERTIES) + 1)]
    command = [busctl, "call", *manager, "StartTransientUnit", *call, *properties, *processes, "0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except subprocess.TimeoutExpired:
        return "systemd does not answer"
    return done.stderr.strip() if done.returncode else ""
