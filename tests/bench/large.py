"""`python -m tests.bench large`: gigabytes through `podwire stats` and `podwire export`, beside capinfos and editcap,
which read and copy packets and look into none, in one run.

The capture is a real one, repeated with other ids as other connections of other pods; it is made in a temporary
folder. Each command runs once: time, megabytes a second, the most memory that it held, the ratio to its peer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.bench import replay
from tests.bench.decode import PODWIRE, ROOT
from tests.bench.measure import UNUSUAL, machine

MEMORY_MB = 300
"""What may be held at most, whatever the capture's size."""


class Took(NamedTuple):
    """One run of a command."""

    seconds: float
    memory_mb: float
    """Resident at most."""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench large", description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=2_000, help="megabytes of the capture (default 2000)")
    parser.add_argument("--folder", help="where to make it (default: the temporary folder)")
    parser.add_argument(
        "--capture",
        default=str(ROOT / "captures" / "ctrd2-pod.pcapng.gz"),
        help="what is repeated (default %(default)s)",
    )
    args = parser.parse_args(arguments)
    print(f"machine: {machine()}")
    with tempfile.TemporaryDirectory(prefix="podwire-bench-", dir=args.folder) as folder:
        file, out = Path(folder) / "large.pcapng", Path(folder) / "out.pcapng"
        calls = _make(args.capture, args.mb * 1_000_000, file)
        size_mb = file.stat().st_size / 1e6
        print(f"capture: {size_mb:,.0f} MB, {calls:,} calls", flush=True)
        capinfos = _peer("capinfos", str(file))
        _run("podwire stats", [*PODWIRE, "stats", str(file)], size_mb, capinfos)
        editcap = _peer("editcap", str(file), str(out))
        for options in (["--no-comments"], [], ["--hop", "task"]):
            name = " ".join(["podwire export", *options])
            _run(name, [*PODWIRE, "export", *options, str(file), "-o", str(out)], size_mb, editcap)
        name = "podwire export --to json"
        _run(name, [*PODWIRE, "export", "--to", "json", str(file), "-o", str(out)], size_mb, editcap)


def _make(source: str, size: int, file: Path) -> int:
    """Write a capture of about so many bytes; return how many calls it holds."""
    loaded = replay.load(source)
    with file.open("wb", buffering=1 << 20) as out:
        replay.replay(loaded, 1, out.write)
    rounds = max(1, round(size / file.stat().st_size))
    with file.open("wb", buffering=1 << 20) as out:
        return replay.replay(loaded, rounds * loaded.calls, out.write)


def _peer(name: str, *arguments: str) -> tuple[str, Took] | None:
    """Run a tool of Wireshark's; None: it is not installed."""
    program = shutil.which(name)
    if program is None:
        print(f"  {name} is not installed: nothing to compare with")
        return None
    return name, _measure([program, *arguments])


def _run(name: str, command: list[str], size_mb: float, peer: tuple[str, Took] | None) -> None:
    """Run a command and print what it took."""
    took = _measure(command)
    line = f"  {name}: {took.seconds:.1f} s, {size_mb / took.seconds:.1f} MB/s, {took.memory_mb:.0f} MB of memory"
    if took.memory_mb > MEMORY_MB:
        line += f" (more than {MEMORY_MB})"
    if peer is not None:
        line += f", {took.seconds / peer[1].seconds:.1f} x {peer[0]} ({peer[1].seconds:.1f} s)"
    print(line, flush=True)


def _measure(command: list[str]) -> Took:
    env = {name: value for name, value in os.environ.items() if name not in UNUSUAL}
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: status {process.returncode}")
    return Took(time.perf_counter() - begin, usage.ru_maxrss / 1024)
