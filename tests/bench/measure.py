"""Commands measured whole, start included, in turns: what one of them suffers from the machine, the other does too."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence

UNUSUAL = frozenset({"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"})


class Commands:
    """Commands by name, and the seconds that each of their runs took."""

    def __init__(self, commands: dict[str, Sequence[str]]) -> None:
        self._commands = commands
        self.seconds: dict[str, list[float]] = {name: [] for name in commands}

    def run(self, times: int) -> None:
        """Run each command `times` times, in turns; what they print goes nowhere."""
        # Images for builds set these, and a user has not: every module compiled anew, every line a system call.
        env = {name: value for name, value in os.environ.items() if name not in UNUSUAL}
        for _ in range(times):
            for name, command in self._commands.items():
                begin = time.perf_counter()
                subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, env=env)
                self.seconds[name].append(time.perf_counter() - begin)

    def line(self, name: str) -> str:
        """`podwire decode: 3.21 s (3.10 to 3.40)`: the median and the spread."""
        seconds = self.seconds[name]
        return f"{name}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"

    def ratio(self, name: str, peer: str) -> float:
        """Return how many times as long `peer` takes, by the medians."""
        return statistics.median(self.seconds[peer]) / statistics.median(self.seconds[name])


def machine() -> str:
    """Return what this was measured on."""
    with open("/proc/cpuinfo") as cpus:
        models = [line.split(":", 1)[1].strip() for line in cpus if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"
