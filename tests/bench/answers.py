"""`python -m tests.bench answers`: what questions to a long capture take, beside a bare decode of it, in one run.

A capture of a real runtime is replayed with other ids to as many calls as are asked for; the questions are asked of all
of it. The largest resident memory of each command is printed too: it must not grow with the capture.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
from pathlib import Path

from tests.bench import replay
from tests.bench.decode import PODWIRE, ROOT
from tests.bench.measure import Commands, machine

QUESTIONS = {
    "pods": ["pods"],
    "stats": ["stats"],
    "stats --by pod": ["stats", "--by", "pod"],
    "filter on the call": ["decode", "-Y", 'call.failed && call.duration > duration("10ms")'],
    "filter on a message": ["decode", "-Y", 'request.config.image.image.contains("busybox")'],
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench answers", description=__doc__.splitlines()[0])
    parser.add_argument("-n", dest="times", type=int, default=3, help="runs of each command (default 3)")
    parser.add_argument("--calls", type=int, default=200_000, help="calls in the capture (default 200000)")
    parser.add_argument(
        "--capture",
        default=str(ROOT / "captures" / "ctrd2-busy.pcapng.gz"),
        help="what is replayed (default %(default)s)",
    )
    args = parser.parse_args(arguments)
    print(f"machine: {machine()}")
    with tempfile.TemporaryDirectory(prefix="podwire-bench-") as folder:
        file = Path(folder) / "replay.pcapng"
        with file.open("wb", buffering=1 << 20) as out:
            held = replay.replay(replay.load(args.capture), args.calls, out.write)
        print(f"{held:,} calls, {file.stat().st_size / 1e6:.1f} MB", flush=True)
        words = {"decode": ["decode"], **QUESTIONS}
        measured = Commands({name: [*PODWIRE, *words[name], str(file)] for name in words})
        measured.run(args.times)
        for name, command in words.items():
            times = measured.ratio("decode", name)
            print(f"  {measured.line(name)}, {times:.2f} x decode, {_memory([*PODWIRE, *command, str(file)])} MB")


def _memory(command: list[str]) -> int:
    """The largest resident memory of a command, in MB; asked in a process of its own, which has no other child."""
    before = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True); "
    ask = before + f"print(resource.getrusage({resource.RUSAGE_CHILDREN}).ru_maxrss // 1000)"
    return int(subprocess.run([command[0], "-c", ask, *command], check=True, capture_output=True).stdout)
