"""Every process of a relay is killed or stopped, again and again, under traffic that is checked at both ends."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.captured import Captured, read_capture
from tests.e2e.killing import HOLDER, RECORDER, WORKER, RelayProcesses
from tests.e2e.traffic import Accounts, Traffic
from tests.tracer.relay.harness import Relay, main_target, running_relay
from tracer.relay import shared as sh
from tracer.relay.pump import CHUNK

KILLS = 50
MOST = 500
"""So many kills in which too few hit a moment that matters, and the test has proved nothing."""
SALVAGED = 10
"""Successors that found bytes in a pipe, or a record laid and not committed."""


@pytest.fixture
def traffic(folder: Path) -> Iterator[Traffic]:
    with Traffic(folder) as traffic:
        yield traffic


@contextmanager
def relayed(folder: Path, traffic: Traffic) -> Iterator[tuple[Relay, RelayProcesses]]:
    """A relay between the traffic's clients, still to be started, and its servers."""
    targets = [main_target(traffic.grpc), main_target(traffic.ttrpc, "events")]
    with running_relay(folder, targets) as relay:
        for target in targets:
            relay.until("taken", path=f"{target.folder}/{target.name}")
        with RelayProcesses(relay.pid) as processes:
            processes.wait_for(HOLDER)
            yield relay, processes


def ended(relay: Relay, traffic: Traffic) -> tuple[Accounts, Captured]:
    """Stop the traffic, then the relay: what both ends saw, and what the capture has."""
    accounts = traffic.stop()
    relay.leave()
    relay.wait_end()
    return accounts, read_capture(relay.capture)


@pytest.mark.parametrize("part", [WORKER, HOLDER, RECORDER])
def test_no_call_fails_and_no_byte_is_captured_twice_whichever_process_is_killed_again_and_again(
    folder: Path, traffic: Traffic, part: str
) -> None:
    with relayed(folder, traffic) as (relay, processes):
        traffic.start()

        def enough(kills: int) -> bool:
            return kills >= KILLS and (part != WORKER or processes.word(sh.SALVAGED) >= SALVAGED)

        killed = processes.kill(part, enough, most=MOST)
        accounts, captured = ended(relay, traffic)
        lost, salvaged = processes.word(sh.LOST_BYTES), processes.word(sh.SALVAGED)
    print(
        f"{part}: {killed.count} kills, a successor within {killed.longest_s * 1e3:.1f} ms, {salvaged} salvaged; "
        f"{accounts.calls} calls, {accounts.size >> 20} MiB, {captured.lost} bytes not in the capture"
    )
    accounts.check()
    captured.check(accounts)
    # A worker that is killed before it has counted what found no room in the ring leaves that to the capture.
    assert 0 <= captured.lost - lost <= killed.count * CHUNK
    assert lost or not captured.lost


def test_no_call_fails_when_workers_are_killed_while_connections_open_at_200_a_second(
    folder: Path, traffic: Traffic
) -> None:
    with relayed(folder, traffic) as (relay, processes):
        traffic.start("ttrpc-fresh")
        start = time.monotonic()
        # A machine with little time opens fewer a second: it is then killed for longer.
        enough = 3 * KILLS
        killed = processes.kill(
            WORKER, lambda kills: kills >= KILLS and processes.word(sh.ACCEPTED) > enough, most=MOST
        )
        rate = (processes.word(sh.ACCEPTED) - 1) / (time.monotonic() - start)
        accounts, captured = ended(relay, traffic)
    print(f"{killed.count} kills, {accounts.calls} connections, {rate:.0f} a second")
    accounts.check()
    captured.check(accounts)
    assert accounts.calls > 2 * KILLS, "too few to prove anything"
    assert captured.calls["Unary", "ended"] == accounts.calls or captured.lost


def test_r2_a_stopped_worker_is_replaced_within_half_a_second_and_no_call_fails(folder: Path, traffic: Traffic) -> None:
    took = []
    with relayed(folder, traffic) as (relay, processes):
        traffic.start()
        for _ in range(5):
            worker = processes.wait_for(WORKER)
            time.sleep(0.05)
            os.kill(worker, signal.SIGSTOP)
            start = time.monotonic()
            processes.wait_for(WORKER, other_than=worker)
            took.append(time.monotonic() - start)
        accounts, captured = ended(relay, traffic)
    print("replaced after", ", ".join(f"{each * 1e3:.0f} ms" for each in took))
    accounts.check()
    captured.check(accounts)
    assert statistics.median(took) < 2.0  # how fast on an idle machine is printed above, and the benchmark's to judge


def test_r2_an_idle_worker_is_not_taken_for_a_hung_one(folder: Path, traffic: Traffic) -> None:
    with relayed(folder, traffic) as (_, processes):
        traffic.start("ttrpc-client")
        accounts = traffic.stop()
        accounts.check()
        before = processes.all()
        time.sleep(1.0)
        assert processes.all() == before
        assert processes.word(sh.DEATHS) == 0
