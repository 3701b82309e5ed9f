"""Fuzz the Lua dissector: `python -m tests.fuzz.wireshark FILES [SEED]`; 500 mutated connections to a file.

A file in which tshark tells of a Lua error, does not end well or takes too long is kept, and its name said.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.dissectors.support import Piece, load_samples
from tests.fuzz.fuzz import load_corpus, mutate
from tests.tracer.capture.files import Capture

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "dissectors" / "wireshark" / "ttrpc.lua"
CONNECTIONS = 500
SECONDS = 120
"""A file takes tshark two or three."""
HOPS = ("task", "cri", "nri", "agent")
"""Their ports: ours, and one on which the heuristic has to find it."""


def capture_of(scripts: Iterable[Sequence[Piece]]) -> bytes:
    """Return a capture with a connection for each script."""
    capture = Capture()
    for conn, script in enumerate(scripts):
        capture.hop = HOPS[conn % len(HOPS)]
        capture.open(conn)
        places = [0, 0]
        for direction, piece in script:
            if isinstance(piece, bytes):
                capture.data(direction, places[direction], piece, conn)
            places[direction] += piece if isinstance(piece, int) else len(piece)
    return capture.finish()


def complaint(path: Path, *options: str) -> str:
    """Return what is wrong with tshark's reading of a capture; nothing, if all is well."""
    command = ["tshark", "-X", f"lua_script:{SCRIPT}", *options, "-r", str(path), "-V"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no end within {SECONDS} s"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if b"Lua Error" in line or b"Lua:" in line]
    if lines:
        return lines[0].decode(errors="replace").strip()
    return f"exit status {done.returncode}" if done.returncode else ""


def main(files: int, seed: int) -> int:
    """Fuzz so many files; return the number of those that failed."""
    dice = random.Random(seed)
    small = [sample.script for sample in load_samples() if sum(len(data) for _, data in sample.script) < 2500]
    scripts = [*load_corpus().values(), *(list(script) for script in small)]
    failures = 0
    for number in range(files):
        handle, name = tempfile.mkstemp(prefix="podwire-fuzz-", suffix=".pcapng")
        path = Path(name)
        with open(handle, "wb") as file:
            file.write(capture_of(mutate(dice.choice(scripts), scripts, dice) for _ in range(CONNECTIONS)))
        wrong = complaint(path, "-2" if number % 2 else "-n")
        if wrong:
            failures += 1
            print(f"{path}: {wrong}", file=sys.stderr)
        else:
            path.unlink()
    print(f"{files * CONNECTIONS} connections, {failures} of {files} files failed")
    return failures


if __name__ == "__main__":
    sys.exit(min(1, main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)))
