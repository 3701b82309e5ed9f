"""`python -m tests.bench decode`: how fast a capture is decoded, beside tshark with the same schemas, in one run.

A capture of a real runtime is replayed with other ids to as many calls as are asked for; then whole commands run in
turns. It fails nothing and nobody: it prints ratios of medians, the machine, the size and the spread.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.bench import replay, stages
from tests.bench.measure import Commands, machine

ROOT = Path(__file__).parents[2]
PODWIRE = [sys.executable, "-c", "import sys; from tracer.cli import main; sys.exit(main())"]
"""What the installed command does."""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench decode", description=__doc__.splitlines()[0])
    parser.add_argument("-n", dest="times", type=int, default=3, help="runs of each command (default 3)")
    parser.add_argument("--calls", type=int, default=100_000, help="calls in the capture (default 100000)")
    parser.add_argument(
        "--json-calls", type=int, default=10_000,
        help="calls in the capture for JSON, where tshark takes minutes for many (default 10000)",
    )  # fmt: skip
    parser.add_argument(
        "--capture",
        default=str(ROOT / "captures" / "own16-pod.pcapng.gz"),
        help="what is replayed (default %(default)s)",
    )
    args = parser.parse_args(arguments)
    print(f"machine: {machine()}")
    for line in stages.lines(args.times):
        print(line)
    source = replay.load(args.capture)
    with tempfile.TemporaryDirectory(prefix="podwire-bench-") as folder:
        file = Path(folder) / "replay.pcapng"
        _compare("text", source, args.calls, file, args.times, [], ["-Y", "grpc"])
        _compare("JSON", source, args.json_calls, file, args.times, ["--json"], ["-T", "json"])


def _compare(
    title: str, source: replay.Source, calls: int, file: Path, times: int, ours: list[str], theirs: list[str]
) -> None:
    """Replay to so many calls, measure both and print."""
    with file.open("wb", buffering=1 << 20) as out:
        held = replay.replay(source, calls, out.write)
    print(f"{title}: {held:,} calls, {file.stat().st_size / 1e6:.1f} MB", flush=True)
    podwire, peer = f"podwire decode {' '.join(ours)}".strip(), f"tshark {' '.join(theirs)}"
    commands: dict[str, list[str]] = {podwire: [*PODWIRE, "decode", *ours, str(file)]}
    tshark = shutil.which("tshark")
    if tshark is None:
        print("  tshark is not installed: nothing to compare with")
    else:
        schemas = f'uat:protobuf_search_paths:"{ROOT / "protos" / "schemas"}","TRUE"'
        commands[peer] = [tshark, "-r", str(file), "-o", schemas, *theirs]
    measured = Commands(commands)
    measured.run(times)
    for name in commands:
        print(f"  {measured.line(name)}")
    if peer in commands:
        print(f"  {peer} takes {measured.ratio(podwire, peer):.2f} times as long as {podwire}")
