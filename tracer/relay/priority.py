"""How soon the worker gets the processor: a shim's first client comes a few milliseconds after its socket.

While pods start, a node's cores are busy for longer than that, and an ordinary process, however nice it is not, waits
for the end of a slice. So the worker runs in the real-time class, but only as long as it keeps going to sleep: after
`_MOST_US` without sleeping (bulk traffic, or a fault of ours) the kernel sends SIGXCPU, and it is ordinary again for a
while. Without the right to any of this it stays as it is.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress

ORDINARY_S = 1.0
"""So long it stays ordinary after it did not sleep."""
_NICENESS = -10
"""Of the ordinary class."""
_MOST_US = 20_000


def hurry() -> None:
    """Be woken before all that is ordinary."""
    with suppress(OSError, ValueError):  # without root, or where the kernel gives real time to no group but the root's
        # The hard limit stays: at that one the kernel would kill.
        resource.setrlimit(resource.RLIMIT_RTTIME, (_MOST_US, resource.RLIM_INFINITY))
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def be_ordinary() -> None:
    """Share the processor with the others, though before most of them."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
