"""`python -m tests.bench tui`: the screen beside a capture of a million calls, and beside one that grows.

A capture of a real runtime is replayed to so many calls. The app runs without a terminal; its indexer is a process as
ever. A key's time is from its coming to the end of what it did, while the indexer runs. It fails nothing and nobody.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles

from textual.events import Key

from protos.registry import Registry
from tests.bench import replay
from tests.bench.measure import machine
from tracer.tui.app import PodwireApp
from tracer.tui.session import NothingBehind
from tracer.tui.setup import Setup
from tracer.tui.source import ProcessSource

ROOT = Path(__file__).parents[2]
APART_S = 0.05
"""Between two keys: faster than a held key repeats."""
PRESSED = ("j", "k", "G", "g", "pagedown", "e", "n", "d", "d")
WRITER = """
import sys, time
source, target, rate, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
begun = time.monotonic()
with open(source, "rb") as whole, open(target, "ab", buffering=0) as out:
    while (passed := time.monotonic() - begun) < seconds:
        out.write(whole.read(max(0, int(passed * rate) - out.tell())))
        time.sleep(0.01)
"""


class Growing(NothingBehind):
    """A capture that grows until it is told otherwise."""

    growing = True


class Timed(PodwireApp):
    """Notes when a key is done."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.done = asyncio.Event()

    def action_do(self, name: str) -> None:
        super().action_do(name)
        self.done.set()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench tui", description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1_000_000, help="calls in the capture (default 1000000)")
    parser.add_argument("--rate", type=int, default=5000, help="calls a second of the one that grows (default 5000)")
    parser.add_argument("--seconds", type=int, default=60, help="how long it grows (default 60)")
    args = parser.parse_args(arguments)
    print(f"machine: {machine()}")
    with tempfile.TemporaryDirectory(prefix="podwire-bench-") as folder:
        file = Path(folder) / "replay.pcapng"
        with file.open("wb", buffering=1 << 20) as out:
            held = replay.replay(replay.load(str(ROOT / "captures" / "own16-pod.pcapng.gz")), args.calls, out.write)
        size = file.stat().st_size
        print(f"open: {held:,} calls, {size / 1e6:.1f} MB", flush=True)
        asyncio.run(_open(file))
        grown = Path(folder) / "grown.pcapng"
        grown.touch()
        print(f"grow: {args.rate:,} calls/s for {args.seconds} s", flush=True)
        rate = size / held * args.rate
        words = [str(file), str(grown), str(rate), str(args.seconds)]
        with subprocess.Popen([sys.executable, "-c", WRITER, *words]) as writer:
            asyncio.run(_grow(grown, writer))


def _app(file: Path, behind: NothingBehind, begun: float) -> Timed:
    source = ProcessSource(str(file), follow=behind.growing)
    print(f"  the indexer is started after {time.monotonic() - begun:.2f} s")
    return Timed(Setup(source, behind, Registry.bundled(), str(file)))


async def _open(file: Path) -> None:
    begun = time.monotonic()
    app = _app(file, NothingBehind(str(file)), begun)
    first = 0.0
    times: list[float] = []
    async with app.run_test(size=(250, 80)):
        while not app.rows.complete:
            if not first and len(app.rows):
                first = time.monotonic() - begun
                print(f"  first rows after {first:.2f} s", flush=True)
            times.append(await _press(app, len(times)))
        print(f"  all {len(app.rows):,} indexed after {time.monotonic() - begun:.1f} s")
        _print_keys(times)
        _print_memory(app)
    app.setup.source.close()


async def _grow(file: Path, writer: subprocess.Popen[bytes]) -> None:
    behind = Growing(str(file))
    app = _app(file, behind, time.monotonic())
    times: list[float] = []
    async with app.run_test(size=(250, 80)):
        while writer.poll() is None:
            times.append(await _press(app, len(times)))
        ended, seen = time.monotonic(), len(app.rows)
        behind.growing = False
        while not app.rows.complete:
            await asyncio.sleep(0.01)
        took = time.monotonic() - ended
        print(f"  {seen:,} of {len(app.rows):,} calls were shown when it ended, all {took:.1f} s later")
        print(f"  bytes read: {app.rows.read:,} of {file.stat().st_size:,}; gaps: {app.rows.lost}")
        _print_keys(times)
        _print_memory(app)
    app.setup.source.close()


async def _press(app: Timed, count: int) -> float:
    """Press one key; return how long it took."""
    await asyncio.sleep(APART_S)
    key = PRESSED[count % len(PRESSED)]
    app.done.clear()
    begun = time.perf_counter()
    app.post_message(Key(key, key if len(key) == 1 else None))
    await app.done.wait()
    return time.perf_counter() - begun


def _print_keys(times: list[float]) -> None:
    cuts = quantiles(times, n=100)
    print(
        f"  {len(times)} keys: median {cuts[49] * 1e3:.1f}, p99 {cuts[98] * 1e3:.1f} ms, max {max(times) * 1e3:.1f} ms"
    )


def _print_memory(app: Timed) -> None:
    source = app.setup.source
    assert isinstance(source, ProcessSource)
    print(f"  memory at most: the screen {_peak('self') / 1024:.0f} MB", end="")
    pid = source.child.process.pid
    print(f", its indexer {_peak(str(pid)) / 1024:.0f} MB" if os.path.exists(f"/proc/{pid}/status") else "")


def _peak(pid: str) -> int:
    """Of a process's resident memory, in KiB; 0: it has ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0
