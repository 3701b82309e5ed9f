"""Security labels: what SELinux checks is the listening socket's label, so ours must have the server's (E7).

Untried on an enforcing node. Where SELinux is not there at all, nothing is done.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

_SO_PEERSEC = 31
_SOCKCREATE = "/proc/thread-self/attr/sockcreate"
_ENFORCE = "/sys/fs/selinux/enforce"


class LabelRefused(OSError):
    """The policy does not let us make a socket of the server's label."""


def server_label(path: str, enforce: str = _ENFORCE) -> bytes | None:
    """The label of the process behind a listening socket, None without SELinux. Costs one connection to it."""
    if not os.path.exists(enforce):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(path)
            return probe.getsockopt(socket.SOL_SOCKET, _SO_PEERSEC, 512)
        except OSError:
            return None


@contextmanager
def sockets_made_as(label: bytes | None, sockcreate: str = _SOCKCREATE, enforce: str = _ENFORCE) -> Iterator[None]:
    """Sockets made inside carry `label`; raises LabelRefused where an enforcing policy forbids it."""
    if label is None:
        yield
        return
    try:
        _write(sockcreate, label)
    except OSError as error:
        if _enforcing(enforce):
            raise LabelRefused(error.errno, f"SELinux does not allow a socket labelled {label!r}") from error
        yield
        return
    try:
        yield
    finally:
        _write(sockcreate, b"")


def _write(path: str, value: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)


def _enforcing(enforce: str) -> bool:
    try:
        with open(enforce, encoding="ascii") as state:
            return state.read().strip() == "1"
    except OSError:
        return False


def copy_attributes(source: str, target: str) -> None:
    """Give `target` the mode, owner and security.* attributes of `source`, where they differ (E6)."""
    have, want = os.lstat(target), os.lstat(source)
    if (have.st_uid, have.st_gid) != (want.st_uid, want.st_gid):
        os.lchown(target, want.st_uid, want.st_gid)
    if have.st_mode != want.st_mode:
        os.chmod(target, want.st_mode & 0o7777)
    for name in os.listxattr(source, follow_symlinks=False):
        if name.startswith("security."):
            os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=False), follow_symlinks=False)
