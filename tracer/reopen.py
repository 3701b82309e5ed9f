"""End a client's old connection, so that it dials again and is seen: kubelet keeps one for ever.

In: what is to be traced, and a client's name. Out: its connections that are older than the trace, each ended on the
server's side, by a copy of the server's own descriptor. Never those of hops task and agent, whose clients take their
server for dead then and destroy its containers, nor a plugin's of NRI, which ends with its connection.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from protos.errors import PodwireError
from tracer import discover, processes
from tracer.relay import sockdiag, system
from tracer.relay.targets import Target

REFUSED = {
    "task": "containerd takes a shim whose connection is lost for dead, and removes its containers",
    "agent": "a shim whose agent's connection is lost takes its VM for dead",
    "nri": "a plugin ends with its connection",
}
"""Hops of which no connection is ended, and why."""


@dataclass(frozen=True, slots=True)
class Old:
    """One client's connections to one socket."""

    hop: str
    path: str
    client: processes.Process
    sockets: tuple[int, ...]
    """The server's ends, by their socket inodes."""


def find(targets: list[Target], name: str) -> list[Old]:
    """Return the connections of the client of this name, or pid. Raises PodwireError if there are none, if they are
    several clients', or if one may not be ended."""
    found = [old for target in targets for path in _paths(target) for old in _old(target.hop, path)]
    named = [old for old in found if name in (str(old.client.pid), old.client.label, old.client.name)]
    if not named:
        there = sorted({f"{old.client.label} (pid {old.client.pid})" for old in found if old.hop not in REFUSED})
        raise PodwireError(f"--reopen {name}: no such client is connected; there are: {', '.join(there) or 'none'}")
    pids = sorted({old.client.pid for old in named})
    if len(pids) > 1:
        raise PodwireError(f"--reopen {name}: {len(pids)} clients; give the pid of one: {', '.join(map(str, pids))}")
    allowed = [old for old in named if old.hop not in REFUSED]
    if not allowed:
        hop = named[0].hop
        raise PodwireError(f"--reopen {name}: its connection is of hop {hop}, of which none is ended: {REFUSED[hop]}")
    return allowed


def _paths(target: Target) -> list[str]:
    return [discover.target_path(target)] if target.name else discover.sockets_in(target)


def _old(hop: str, path: str) -> Iterator[Old]:
    """The clients of a socket, each with its connections."""
    try:
        status = os.stat(path)
        key = sockdiag.file_key(status.st_ino, status.st_dev)
        ends = {
            each.peer: each.inode
            for each in sockdiag.unix_sockets()
            if each.file == key and each.peer and each.state == sockdiag.TCP_ESTABLISHED
        }
    except OSError:
        return
    by_pid: dict[int, list[int]] = {}
    for inode, pid in (processes.holders(set(ends)) if ends else {}).items():
        by_pid.setdefault(pid, []).append(ends[inode])
    for pid, sockets in sorted(by_pid.items()):
        client = processes.describe(pid)
        if client is not None:
            yield Old(hop, path, client, tuple(sockets))


def end(old: Old) -> int:
    """End them, as the server would; returns how many there still were. Raises OSError where that is not allowed."""
    holders = processes.holders(set(old.sockets))
    ended = 0
    for inode, pid in holders.items():
        fd = _descriptor(pid, inode)
        if fd is None:
            continue
        with socket.socket(fileno=_copy(pid, fd)) as copy:
            if os.fstat(copy.fileno()).st_ino == inode:  # else it was closed, and its number is another's
                with suppress(OSError):  # its client has gone meanwhile
                    copy.shutdown(socket.SHUT_RDWR)
                    ended += 1
    return ended


def _descriptor(pid: int, inode: int) -> int | None:
    """The number under which a process has a socket."""
    folder = f"/proc/{pid}/fd"
    with suppress(OSError):  # it has ended
        for number in os.listdir(folder):
            with suppress(OSError):
                if os.readlink(f"{folder}/{number}") == f"socket:[{inode}]":
                    return int(number)
    return None


def _copy(pid: int, fd: int) -> int:
    """A descriptor of another process as one of ours."""
    pidfd = os.pidfd_open(pid)
    try:
        return system.pidfd_getfd(pidfd, fd)
    finally:
        os.close(pidfd)
