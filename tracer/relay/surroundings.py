"""A relay does not share the fate of what started it (R3): session, signals, descriptors, cgroup, the OOM killer's eye.

Whatever is not allowed here is left as it is: a user without root has none of it to lose or to gain.
"""

from __future__ import annotations

import os
import resource
import signal
from contextlib import suppress

_OOM_SCORE = -999
"""Killed last: containerd removes the containers of a shim whose connection is lost."""
_INITIAL = {"pid": "pid:[4026531836]", "cgroup": "cgroup:[4026531835]"}
"""The machine's own namespaces have the same numbers everywhere (include/linux/proc_ns.h)."""


def leave(keep: set[int]) -> None:
    """In the first process of a relay: all that it inherited goes, but for the descriptors in `keep`."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTSTP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR1):  # the worker sets its own: drain, and cut
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    os.umask(0o177)  # a socket of ours is nobody's until it has its server's mode
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    close_all_but(keep)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write(str(_OOM_SCORE))
    for folder in own_cgroups():
        with suppress(OSError), open(f"{folder}/cgroup.procs", "w", encoding="ascii") as processes:
            processes.write("0")


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor from 3 on that is not in `keep`."""
    for entry in os.listdir("/proc/self/fd"):
        fd = int(entry)
        if fd > 2 and fd not in keep:
            with suppress(OSError):  # the listing's own descriptor
                os.close(fd)


def own_cgroups(cgroup: str = "/proc/self/cgroup", mounts: str = "/proc/self/mounts") -> list[str]:
    """The root folder of each cgroup hierarchy in which this process is not in the root: no limit and no kill of a
    service, a login or a pod reaches a process there."""
    with open(mounts, encoding="utf-8", errors="surrogateescape") as lines:
        mounted = [(kind, folder, options.split(",")) for _, folder, kind, options in _mounts(lines.read())]
    roots = []
    with open(cgroup, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if path == "/":
                continue
            for kind, folder, options in mounted:
                if (kind == "cgroup2" and not controllers) or (
                    kind == "cgroup" and controllers and set(controllers.split(",")) <= set(options)
                ):
                    roots.append(folder)
                    break
    return roots


def _mounts(text: str) -> list[tuple[str, str, str, str]]:
    parts = (line.split(" ") for line in text.splitlines())
    return [(each[0], each[1], each[2], each[3]) for each in parts if len(each) > 3]


def dies_with_its_pod(cgroup: str = "/proc/self/cgroup", namespaces: str = "/proc/self/ns") -> bool:
    """Whether this is a pod that a relay could not leave: its processes end with it, or it cannot see other cgroups."""
    try:
        with open(cgroup, encoding="utf-8", errors="replace") as lines:
            in_a_pod = "kubepods" in lines.read() or "KUBERNETES_SERVICE_HOST" in os.environ
        own = {name: os.readlink(f"{namespaces}/{name}") for name in _INITIAL}
    except OSError:
        return False
    return in_a_pod and own != _INITIAL
