"""`python -m tests.bench relay`: what a relay costs its connections, beside socat with and without dumps, in one run.

Clients, servers, relay and recorder all run in the measured time, on the same core or cores. Each round has everyone
in turn, and each a fresh start. A run of podwire counts only if its capture, read back, holds every byte that passed.
It fails nothing and nobody: it prints ratios of medians with the aim beside each, the machine, the sizes and the
spread.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import contestants, processes
from tests.bench.contestants import CONTESTANTS, DIRECT, DUMPS, PODWIRE, SOCAT
from tests.bench.load import Clients, Result, Server, Talk
from tests.bench.measure import machine
from tests.e2e.killing import processes_of

REQUEST, REPLY = 200, 400
AT_ONCE = 8
MANY = 100
IDLE_S = 10.0
GAPPED = ", captures with a gap"
SHOWN = (*CONTESTANTS, PODWIRE + GAPPED)
_CALM_S = 1.0


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench relay", description=__doc__.splitlines()[0])
    parser.add_argument("-n", dest="times", type=int, default=12, help="rounds (default 12)")
    parser.add_argument("--trips", type=int, default=2_000, help="round trips a connection (default 2000)")
    parser.add_argument("--bulk", type=int, default=[30, 250], nargs="+", metavar="MB",
                        help="sizes of bulk transfers (default 30, which the ring holds, and 250)")  # fmt: skip
    parser.add_argument("--passed", type=int, default=500, metavar="MB", help="what passes for memory (default 500)")
    args = parser.parse_args(arguments)
    processes.adopt_orphans()
    print(f"machine: {machine()}")
    if shutil.which("socat") is None:
        print("  socat is not installed: nothing to compare with")
        return
    with tempfile.TemporaryDirectory(prefix="pw-") as folder:
        cores = sorted(os.sched_getaffinity(0))
        with _pinned(cores[:1]):
            _round_trips(Path(folder), args.times, args.trips)
        with _pinned(cores[:2]):
            for size in args.bulk:
                _bulk(Path(folder), max(1, args.times // 2), size * 1_000_000)
        _memory_and_idle(Path(folder), args.passed * 1_000_000)


# --- what passes ---


@dataclass(frozen=True, slots=True)
class Run:
    """One contestant, from its start to its end."""

    results: list[Result]
    """Of one load after the other."""
    rest_s: float
    """From the last byte's arrival until the contestant, told to end, had nothing left to do."""
    missing: float = 0.0
    """Which part of what passed is not in podwire's capture."""


class Figures:
    """Runs of everyone, by what was measured: one number a run."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], list[float]] = {}
        self._missing: list[float] = []

    def add(self, what: str, who: str, run: Run, value: float) -> None:
        """A run without a whole capture is another contestant: it is shown, and compared with nobody."""
        self._found.setdefault((what, who + GAPPED if run.missing else who), []).append(value)

    def count(self, run: Run) -> None:
        """One of podwire's."""
        self._missing.append(run.missing)

    def has(self, who: str) -> bool:
        """Whether there is a run of theirs."""
        return any(name == who for _, name in self._found)

    def median(self, what: str, who: str) -> float:
        return statistics.median(self._found[what, who])

    def text(self, what: str, who: str) -> str:
        """`12.1 (11.9 to 12.8)`: the median and the spread."""
        values = self._found[what, who]
        return f"{statistics.median(values):,.1f} ({min(values):,.1f} to {max(values):,.1f})"

    def whole(self) -> str:
        """How many captures were whole."""
        gaps = [missing for missing in self._missing if missing]
        line = f"  {len(self._missing) - len(gaps)} of {len(self._missing)} captures are whole"
        if gaps:
            line += f"; the {len(gaps)} with a gap ({statistics.median(gaps):.0%} of the bytes) do not count"
        return line


def _round_trips(root: Path, times: int, trips: int) -> None:
    print(f"pinned to one core: {times} rounds of {trips:,} round trips, {REQUEST} bytes there and {REPLY} back,")
    print(f"on one connection; then as many on each of {AT_ONCE} at once", flush=True)
    talk, figures = Talk(trips, REQUEST, REPLY), Figures()
    for _ in range(times):
        for who in CONTESTANTS:
            run = _run(root, who, [(talk, 1), (talk, AT_ONCE)], figures)
            alone, together = run.results
            figures.add("p50", who, run, _percentile(alone, 50))
            figures.add("p99", who, run, _percentile(alone, 99))
            figures.add("p99 of eight", who, run, _percentile(together, 99))
            figures.add("a second", who, run, len(together.trips_ns) / together.seconds)
            figures.add("a second, rest", who, run, len(together.trips_ns) / (together.seconds + run.rest_s))
    for who in SHOWN:
        if figures.has(who):
            print(f"  {who}: µs p50 {figures.text('p50', who)}, p99 {figures.text('p99', who)}")
            print(f"    {AT_ONCE} connections: {figures.text('a second', who)} a second, "
                  f"µs p99 {figures.text('p99 of eight', who)}")  # fmt: skip
    print(figures.whole())
    if not figures.has(PODWIRE):
        return
    ours, least = figures.median("p50", PODWIRE), figures.median("p50", DIRECT)
    for peer, aim in ((DUMPS, 0.9), (SOCAT, 1.1)):
        added = (ours - least) / (figures.median("p50", peer) - least)
        print(f"  added p50 of a round trip: {added:.2f} of what {peer} adds (aim: at most {aim})")
    rate, rest, tail = (_ratio(figures, what, SOCAT) for what in ("a second", "a second, rest", "p99 of eight"))
    print(f"  round trips a second at {AT_ONCE} connections: {rate:.2f} of {SOCAT} (aim: at least 1.0); "
          f"{rest:.2f} with the end of the recording")  # fmt: skip
    print(f"  p99 at {AT_ONCE} connections: {tail:.2f} of {SOCAT} (aim: at most 1.5)", flush=True)


def _bulk(root: Path, times: int, size: int) -> None:
    cores = len(os.sched_getaffinity(0))
    print(f"bulk on {cores} cores: {times} rounds of {size / 1e6:,.0f} MB one way on one connection", flush=True)
    figures = Figures()
    for _ in range(times):
        for who in CONTESTANTS:
            run = _run(root, who, [(Talk(1, size, 1), 1)], figures)
            figures.add("MB a second", who, run, size / 1e6 / run.results[0].seconds)
            figures.add("MB a second, rest", who, run, size / 1e6 / (run.results[0].seconds + run.rest_s))
    for who in SHOWN:
        if figures.has(who):
            print(f"  {who}: {figures.text('MB a second', who)} MB a second")
    print(figures.whole())
    if figures.has(PODWIRE):
        for peer, aim in ((DUMPS, " (aim: at least 2.0)"), (SOCAT, "")):
            ratio, rest = (_ratio(figures, what, peer) for what in ("MB a second", "MB a second, rest"))
            print(f"  bulk: {ratio:.2f} of {peer}{aim}; {rest:.2f} with the end of the recording", flush=True)


def _run(root: Path, who: str, phases: list[tuple[Talk, int]], figures: Figures) -> Run:
    with _folder(root) as folder:
        server = folder / "server.sock"
        results: list[Result] = []
        with Server(server, phases[0][0]):
            with CONTESTANTS[who](folder, server) as path:
                for talk, connections in phases:
                    with Clients(path, talk, connections) as clients:
                        results.append(clients.run())
                        end = time.monotonic()
            rest_s = time.monotonic() - end
        if who != PODWIRE:
            return Run(results, rest_s)
        talks = [talk for talk, connections in phases for _ in range(connections)]
        passed = sum(talk.size for talk in talks)
        run = Run(results, rest_s, contestants.missing(folder / "capture.pcapng", talks) / passed)
        figures.count(run)
    return run


def _ratio(figures: Figures, what: str, peer: str) -> float:
    return figures.median(what, PODWIRE) / figures.median(what, peer)


def _percentile(result: Result, percent: int) -> float:
    """In microseconds."""
    return sorted(result.trips_ns)[len(result.trips_ns) * percent // 100] / 1e3


# --- what it takes ---


def _memory_and_idle(root: Path, passed: int) -> None:
    print(f"{MANY} connections: memory (Pss without the ring) before and after {passed / 1e6:,.0f} MB, then idle")
    talk = Talk(1, passed // MANY, 1)
    with _folder(root) as folder:
        server = folder / "server.sock"
        with (
            Server(server, talk),
            contestants.relay(folder, server) as relay,
            Clients(server, talk, MANY) as clients,
        ):
            time.sleep(_CALM_S)
            _print_memory("before", relay.session)
            clients.run()
            time.sleep(_CALM_S)
            _print_memory("after", relay.session)
            relay.leave()
            relay.wait_for("recorded")
            time.sleep(_CALM_S)
            pids = processes_of(relay.session)
            begin = sum(processes.wakeups(pid) for pid in pids)
            time.sleep(IDLE_S)
            rate = (sum(processes.wakeups(pid) for pid in pids) - begin) / IDLE_S
    print(f"  draining, idle: {', '.join(sorted(pids.values()))} wake {rate:.1f} times a second (aim: at most 1)")


def _print_memory(when: str, session: int) -> None:
    found = processes_of(session)
    memory = {name: processes.own_memory(pid) / (1 << 20) for pid, name in found.items()}
    parts = ", ".join(f"{name} {size:.1f}" for name, size in sorted(memory.items()))
    print(f"  {when}: {sum(memory.values()):.1f} MiB: {parts} (aim: at most 48)", flush=True)


@contextmanager
def _pinned(cores: list[int]) -> Iterator[None]:
    """Run whatever is started meanwhile on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _folder(root: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
