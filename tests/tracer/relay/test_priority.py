"""The worker is woken first, and does not keep the processor from the others."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tracer.relay.harness import Server, connect, eventually, main_target, running_relay

pytestmark = pytest.mark.root


def _may_hurry() -> bool:
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _may_hurry(), reason="real-time scheduling is not allowed here (needs root)")
def test_a_worker_is_real_time_until_the_kernel_says_that_it_never_sleeps_or_it_drains(
    folder: Path, serve: Callable[..., Server]
) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay, connect(path):
        relay.until("taken")
        assert os.sched_getscheduler(relay.pid) == os.SCHED_RR
        # What the kernel counts is the time since the last sleep; over the first of these it sends SIGXCPU.
        assert resource.prlimit(relay.pid, resource.RLIMIT_RTTIME) == (20_000, resource.RLIM_INFINITY)
        os.kill(relay.pid, signal.SIGXCPU)
        assert eventually(lambda: os.sched_getscheduler(relay.pid) == os.SCHED_OTHER, 0.5)
        assert os.getpriority(os.PRIO_PROCESS, relay.pid) < 0
        assert eventually(lambda: os.sched_getscheduler(relay.pid) == os.SCHED_RR)
        relay.leave()
        relay.until("draining")
        assert os.sched_getscheduler(relay.pid) == os.SCHED_OTHER
