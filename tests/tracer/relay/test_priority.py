"""The worker is woken first, and does not keep the processor from the others."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tracer.relay.harness import Server, eventually, main_target, running_relay

pytestmark = pytest.mark.root


def _may_hurry() -> bool:
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _may_hurry(), reason="real-time scheduling is not allowed here (needs root)")
def test_a_worker_is_real_time_for_a_moment_when_a_socket_appears(folder: Path, serve: Callable[..., Server]) -> None:
    with running_relay(folder, [main_target(folder / "s.sock")]) as relay:
        relay.until("recorder")
        # What the kernel counts is the time since the last sleep; over the first of these it sends SIGXCPU.
        assert resource.prlimit(relay.pid, resource.RLIMIT_RTTIME) == (20_000, resource.RLIM_INFINITY)
        assert os.sched_getscheduler(relay.process("holder")) == os.SCHED_RR
        for number in range(2):
            assert eventually(lambda: os.sched_getscheduler(relay.pid) == os.SCHED_OTHER)
            assert os.getpriority(os.PRIO_PROCESS, relay.pid) < 0
            (folder / str(number)).touch()
            assert eventually(lambda: os.sched_getscheduler(relay.pid) == os.SCHED_RR)
            os.kill(relay.pid, signal.SIGXCPU * number)  # at the second time it is ordinary at once
        assert eventually(lambda: os.sched_getscheduler(relay.pid) == os.SCHED_OTHER, 0.1)
        relay.leave()
        relay.until("draining")
        (folder / "more").touch()
        relay.listen(0.1)
        assert os.sched_getscheduler(relay.pid) == os.SCHED_OTHER
