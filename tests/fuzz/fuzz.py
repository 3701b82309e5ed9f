"""Fuzz the dissectors: `python -m tests.fuzz.fuzz SECONDS [SEED]`.

Mutates the corpus and the samples, and checks each script as `check` does. What fails is saved in the corpus as
`failed-*.json`, what shows an event or a reason for the first time as `new-*.json`: to be kept or thrown away by hand.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from dissectors.detect import open_dissector
from dissectors.events import Direction, Inner, Malformed, Skipped
from tests.dissectors.support import (
    Piece,
    Script,
    assert_any_split_gives_the_same,
    assert_calls_begin_and_end_once,
    load_samples,
    read_script,
    write_script,
)

CORPUS = Path(__file__).parent / "corpus"
EXPECTED = (None, "grpc", "ttrpc", "nri")


def load_corpus() -> dict[str, list[Piece]]:
    """Return the scripts by name."""
    return {path.stem: read_script(json.loads(path.read_text())) for path in sorted(CORPUS.glob("*.json"))}


def check(script: Script, seed: int = 0) -> set[tuple[str, str]]:
    """Feed a script whole, byte by byte and in random pieces, for every expectation; compare the events.

    Return kinds of events, and pairs of such that followed each other.
    """
    shown: set[tuple[str, str]] = set()
    for expected in EXPECTED:
        events = assert_any_split_gives_the_same(lambda kind=expected: open_dissector(kind), script, [seed])
        assert_calls_begin_and_end_once(events)
        before = ""
        for event in events:
            if isinstance(event, Inner):
                event = event.event
            name = type(event).__name__
            if isinstance(event, Malformed | Skipped):
                name += " " + "".join(char for char in event.reason.split(":")[0] if not char.isdigit())
            shown.add((before, name))
            before = name
    return shown


def mutate(script: list[Piece], others: list[list[Piece]], dice: random.Random) -> list[Piece]:
    """Return a script that differs a little."""
    script = list(script[: dice.randrange(1, 20)]) if len(script) > 20 and dice.random() < 0.7 else list(script)
    for _ in range(dice.choice((1, 1, 2, 4))):
        index = dice.randrange(len(script)) if script else 0
        other = dice.choice(others)
        direction, data = script[index] if script else dice.choice(other)
        match dice.randrange(7 if isinstance(data, bytes) and data else 3):
            case 0:
                script.insert(index, dice.choice(other))
            case 1:
                script[index : index + 1] = []
            case 2:
                script.insert(index, (direction, dice.choice((0, 1, 5, 9, 100))))
            case 3:
                script[index : index + 1] = [(Direction(1 - direction), data)]
            case 4:
                script[index : index + 1] = [(direction, data[dice.randrange(len(data)) :])]
            case 5:
                place, byte = dice.randrange(len(data)), bytes((dice.choice((0, 1, 2, 4, 9, 0x7F, 0x80, 0xFF)),))
                script[index : index + 1] = [(direction, data[:place] + byte + data[place + 1 :])]
            case _:
                place, size = dice.randrange(len(data)), dice.choice((1, 3, 10))
                piece = dice.choice((b"", dice.randbytes(size), data[place : place + size] * 2))
                script[index : index + 1] = [(direction, data[:place] + piece + data[place + size :])]
    return script


def main(seconds: float, seed: int) -> int:
    """Fuzz for a time; return the number of failures."""
    dice = random.Random(seed)
    small = [sample.script for sample in load_samples() if sum(len(data) for _, data in sample.script) < 2500]
    scripts = [*load_corpus().values(), *(list(script) for script in small)]
    known = set().union(*map(check, scripts))
    failures = runs = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        script = mutate(dice.choice(scripts), scripts, dice)
        runs += 1
        try:
            shown = check(script, runs)
        except Exception as error:  # whatever it is, it is what is looked for
            failures += 1
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            (CORPUS / f"failed-{seed}-{runs}.json").write_text(json.dumps(write_script(script)))
            continue
        if not shown <= known:
            known |= shown
            scripts.append(script)
            (CORPUS / f"new-{seed}-{runs}.json").write_text(json.dumps(write_script(script)))
    print(f"{runs} scripts, {len(known)} pairs of events, {failures} failures")
    return failures


if __name__ == "__main__":
    sys.exit(min(1, main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)))
