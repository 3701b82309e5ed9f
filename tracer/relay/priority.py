"""How soon the worker gets the processor: a shim's first client comes a few milliseconds after its socket.

While pods start, a node's cores are busy for longer than that, and an ordinary process, however nice it is not, waits
for the end of a slice. So a worker with little to do is of the real-time class. One with much to do is not, since one
that preempts whoever wakes it serves eight connections no better than one; but the holder, which sleeps and always is,
looks at the same inotify descriptor, and has the worker in that class for a moment as soon as a socket appears. If it
does not sleep even then, the kernel sends SIGXCPU after `_MOST_US`, and it is ordinary at once. Without the right to
any of this all stay as they are.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress

MOMENT_S = 0.150
"""So long it is in a hurry; the holder looks again sooner."""
_NICENESS = -10
"""Of the ordinary class."""
_MOST_US = 20_000


def hurry(pid: int = 0) -> None:
    """Have a process (this one) woken before all that is ordinary."""
    with suppress(OSError):  # without root, or where the kernel gives real time to no group but the root's
        os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))


def be_ordinary() -> None:
    """Share the processor with the others, though before most of them; in a hurry, do not keep it."""
    with suppress(OSError, ValueError):
        # The hard limit stays: at that one the kernel would kill.
        resource.setrlimit(resource.RLIMIT_RTTIME, (_MOST_US, resource.RLIM_INFINITY))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
