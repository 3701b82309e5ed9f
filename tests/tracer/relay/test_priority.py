"""The worker is woken first, and does not keep the processor from the others."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tracer.relay.harness import Server, ask, connect, eventually, main_target, running_relay

pytestmark = pytest.mark.root


def _may_hurry() -> bool:
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except OSError:
        return False
    return True


def _class_of(pid: int) -> int:
    return os.sched_getscheduler(pid)


@pytest.mark.skipif(not _may_hurry(), reason="real-time scheduling is not allowed here (needs root)")
def test_a_worker_is_real_time_while_quiet_and_for_a_moment_when_a_socket_appears(
    folder: Path, serve: Callable[..., Server]
) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay, connect(path) as client:
        relay.until("recorder")
        # What the kernel counts is the time since the last sleep; over the first of these it sends SIGXCPU.
        assert resource.prlimit(relay.pid, resource.RLIMIT_RTTIME) == (20_000, resource.RLIM_INFINITY)
        assert _class_of(relay.process("holder")) == os.SCHED_RR

        def quiet() -> bool:
            time.sleep(0.02)
            return ask(client, b"x") == b"x" and _class_of(relay.pid) == os.SCHED_RR

        def busy() -> bool:
            return all(ask(client, b"x") == b"x" for _ in range(400)) and _class_of(relay.pid) == os.SCHED_OTHER

        for _ in range(2):
            assert eventually(busy)
            assert os.getpriority(os.PRIO_PROCESS, relay.pid) < 0
            (folder / "new").touch()
            assert eventually(lambda: _class_of(relay.pid) == os.SCHED_RR, 0.2)
            os.unlink(folder / "new")
            assert eventually(busy)  # the moment is over
            assert eventually(quiet)
        os.kill(relay.pid, signal.SIGXCPU)
        assert eventually(lambda: _class_of(relay.pid) == os.SCHED_OTHER, 0.5)
        relay.leave()
        relay.until("draining")
        (folder / "more").touch()
        relay.listen(0.1)
        assert _class_of(relay.pid) == os.SCHED_OTHER
