"""Processes by what /proc says of them: who they are, and who holds a socket. Best effort: they end at any time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

_UNIT = re.compile(r"([^/]+\.(?:service|scope))(?:/|$)")
_CONTAINER = re.compile(r"([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Process:
    """One process as it was when it was looked at."""

    pid: int
    start: int
    """Its start time in clock ticks since boot: tells apart two processes of one pid."""
    uid: int
    name: str
    """/proc/PID/comm, 15 characters at most."""
    exe: str
    command: tuple[str, ...]
    unit: str
    """systemd's unit or scope, empty if there is none."""

    @property
    def label(self) -> str:
        """What people call it: a shim by the sandbox it serves, others by their executable."""
        base = os.path.basename(self.exe.removesuffix(" (deleted)")) or self.name
        if base.startswith("containerd-shim") and self.sandbox:
            return f"shim-{self.sandbox[:13]}"
        # An interpreter says nothing: the name the process gave itself, or its script's, does.
        return self.name if base.startswith("python") else base

    @property
    def sandbox(self) -> str:
        """The sandbox that a shim serves, by its command line (`-namespace NS -id SANDBOX`); empty for all others."""
        if "-namespace" in self.command and "-id" in self.command[:-1]:
            return self.command[self.command.index("-id") + 1]
        return ""


def describe(pid: int) -> Process | None:
    """The process of this pid, None if it has ended or is hidden from us."""
    folder = f"/proc/{pid}"
    try:
        with open(f"{folder}/stat", "rb") as file:
            stat = file.read()
        status = os.stat(folder)
        with open(f"{folder}/cmdline", "rb") as file:
            command = tuple(os.fsdecode(part) for part in file.read(65536).split(b"\0")[:-1])
        with open(f"{folder}/cgroup", encoding="utf-8", errors="replace") as file:
            unit = _unit(file.read())
    except OSError:
        return None
    try:
        exe = os.readlink(f"{folder}/exe")
    except OSError:
        exe = ""  # another user's
    name = stat[stat.index(b"(") + 1 : stat.rindex(b")")].decode("utf-8", "replace")
    start = int(stat[stat.rindex(b")") + 2 :].split()[19])
    return Process(pid, start, status.st_uid, name, exe, command, unit)


def _unit(cgroup: str) -> str:
    for line in cgroup.splitlines():
        found = _UNIT.findall(line.split(":", 2)[-1])
        if found:
            return str(found[-1])
    return ""


def container_of(pid: int) -> str:
    """The id of the container a process runs in (64 hex digits of its cgroup), empty if in none."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            found = _CONTAINER.findall(file.read())
    except OSError:
        return ""
    return str(found[-1]) if found else ""


def pids() -> Iterator[int]:
    """All processes, newest first: who just made a socket is found soon."""
    yield from sorted((int(entry) for entry in os.listdir("/proc") if entry.isdigit()), reverse=True)


def holders(inodes: set[int]) -> dict[int, int]:
    """Which process holds each socket (by the inode in `socket:[N]`); those that nobody visible holds are left out.

    Where several do (a server and a child that inherited it), the oldest is named.
    """
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, int] = {}
    for pid in pids():
        try:
            with os.scandir(f"/proc/{pid}/fd") as entries:
                for entry in entries:
                    try:
                        inode = wanted.get(os.readlink(entry.path))
                    except OSError:
                        continue
                    if inode is not None:
                        found[inode] = pid
        except OSError:
            continue
    return found
