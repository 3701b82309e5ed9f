"""The processes of one relay, found from /proc by name and session, and ended one after another.

In: the relay's session. Out: pids, words of its shared memory. Nothing in podwire's code is changed or told for it.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tracer.relay import shared as sh

WORKER, HOLDER, RECORDER = "podwire-worker", "podwire-holder", "podwire-record"
PARTS = (WORKER, HOLDER, RECORDER)
PAUSE_S = 0.005, 0.04
"""Between a process's name in /proc and its end."""
SUCCESSION_S = 5.0
"""A dead process that has no successor by then has none at all."""
RECORDERS_IN_VAIN = 3
"""A capture is given up when so many recorders in a row died without taking a record out of the ring: one in so many is
killed whatever it has done, the others once they have."""


@dataclass
class Killed:
    """What a row of kills has shown."""

    count: int = 0
    longest_s: float = 0.0
    """From a kill to its successor's name in /proc."""


@dataclass
class RelayProcesses:
    """Those of one session. Close it, or use it as a context manager."""

    session: int
    memory: int = field(init=False, default=-1)

    def __post_init__(self) -> None:
        self.memory = self._open_memory(self.wait_for(WORKER))

    def __enter__(self) -> RelayProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.memory)

    @classmethod
    def of(cls, pid: int) -> RelayProcesses:
        """The relay that this `podwire trace` started: a relay's session has its first worker's pid."""
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        (session,) = (int(child) for child in children if _name_and_session(int(child))[0] in PARTS)
        return cls(session)

    def all(self) -> dict[int, str]:
        """Pid and name of those that run."""
        return processes_of(self.session)

    def wait_for(self, name: str, *, other_than: int = 0) -> int:
        """The pid of the one of this name, as soon as there is one."""
        until = time.monotonic() + SUCCESSION_S
        while True:
            found = self.all()
            for pid, found_name in found.items():
                if found_name == name and pid != other_than:
                    return pid
            assert time.monotonic() < until, f"no {name} in session {self.session}: {found}"
            time.sleep(0.0005)

    def kill(
        self,
        name: str,
        enough: Callable[[int], bool],
        *,
        most: int,
    ) -> Killed:
        """Kill the process of this name, its successor, and so on, until `enough` of how many were killed; each some
        moment after it has its name. Fails if that is more than `most`."""
        moments, killed = random.Random(1), Killed()
        pid = self.wait_for(name)
        while not enough(killed.count):
            assert killed.count < most, f"killed {killed.count} times, and that was not enough"
            if name == RECORDER and killed.count % RECORDERS_IN_VAIN:
                self._wait_for_recording()
            time.sleep(moments.uniform(*PAUSE_S))
            with suppress(ProcessLookupError):  # hung, and killed by the holder
                kill_one(pid, name)
            start = time.monotonic()
            killed.count += 1
            pid = self.wait_for(name, other_than=pid)
            killed.longest_s = max(killed.longest_s, time.monotonic() - start)
        return killed

    def _wait_for_recording(self) -> None:
        tail, until = self.word(sh.TAIL), time.monotonic() + SUCCESSION_S
        while self.word(sh.TAIL) == tail:
            assert time.monotonic() < until, "the recorder takes nothing out of the ring"
            time.sleep(0.0005)

    def leave(self) -> None:
        """Tell it to give its paths back and to end with its last connection, as SIGTERM does."""
        with suppress(ProcessLookupError):
            os.kill(self.wait_for(WORKER), signal.SIGTERM)

    def kill_all(self) -> None:
        """Kill it whole."""
        kill_all(self.session)

    def word(self, index: int) -> int:
        """A word of the shared memory (tracer/relay/shared.py), also when all of its processes are gone."""
        return int.from_bytes(os.pread(self.memory, 8, index * 8), "little")

    @staticmethod
    def _open_memory(pid: int) -> int:
        folder = f"/proc/{pid}/fd"
        for entry in os.listdir(folder):
            with suppress(FileNotFoundError):
                if os.readlink(f"{folder}/{entry}").startswith("/memfd:podwire"):
                    return os.open(f"{folder}/{entry}", os.O_RDONLY | os.O_CLOEXEC)
        raise AssertionError(f"pid {pid} has no shared memory")


def kill_one(pid: int, name: str) -> None:
    """SIGKILL this process if it still has this name: pids are given out again."""
    pidfd = os.pidfd_open(pid)
    try:
        if _name_and_session(pid)[0] == name:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)


def kill_all(session: int) -> None:
    """Kill a relay whole, in one instant: all of it is stopped first, so that none sees another's death."""
    pids = processes_of(session)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def processes_of(session: int) -> dict[int, str]:
    """Pid and name of a relay's processes that run: they are a session, named after the first of them."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            name, its_session = _name_and_session(int(entry))
            if its_session == session:
                found[int(entry)] = name
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _name_and_session(pid: int) -> tuple[str, int]:
    """Empty and 0 for one that has ended, reaped or not."""
    try:
        before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    fields = after.split()
    return ("", 0) if fields[0] in "ZX" else (before.partition("(")[2], int(fields[3]))
