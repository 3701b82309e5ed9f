"""The calls of Linux that Python has no name for, by ctypes, and what /proc says of a descriptor.

Raises OSError with the kernel's errno, as the standard library's own calls do.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import signal
import struct
import termios

_libc = ctypes.CDLL(None, use_errno=True)
_libc_with_the_lock = ctypes.PyDLL(None, use_errno=True)
"""Calls through it keep the interpreter's lock: what comes back in a clone's child goes on as after a fork."""

CLONE_FILES = 0x400  # clone(2)
_SYS_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "loongarch64": 220}
_SYS_PIDFD_GETFD = 438  # on every architecture

_PR_SET_PDEATHSIG = 1  # prctl(2)

RENAME_EXCHANGE = 2  # renameat2(2)

IN_MODIFY, IN_ATTRIB, IN_MOVED_FROM, IN_MOVED_TO = 0x2, 0x4, 0x40, 0x80  # inotify(7)
IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF = 0x100, 0x200, 0x400, 0x800
IN_Q_OVERFLOW, IN_IGNORED, IN_ONLYDIR, IN_ISDIR = 0x4000, 0x8000, 0x1000000, 0x40000000


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def exchange_names(folder_a: int, name_a: str, folder_b: int, name_b: str) -> None:
    """Swap two directory entries in one step (renameat2(2)); the folders are descriptors."""
    _checked(
        _libc.renameat2(folder_a, os.fsencode(name_a), folder_b, os.fsencode(name_b), RENAME_EXCHANGE),
        name_b,
    )


def inotify_init() -> int:
    """A new inotify descriptor, non-blocking and close-on-exec (inotify_init1(2))."""
    return _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """The watch descriptor of `path` (inotify_add_watch(2))."""
    return _checked(_libc.inotify_add_watch(fd, os.fsencode(path), mask), path)


def inotify_rm_watch(fd: int, watch: int) -> None:
    """End a watch; one that has ended by itself is no error."""
    _libc.inotify_rm_watch(fd, watch)


def set_filesystem_uid(uid: int) -> None:
    """Whose file permissions this thread has, apart from its effective uid (setfsuid(2))."""
    _libc.setfsuid(uid)


def mount_id(fd: int) -> int:
    """The mount that a descriptor (O_PATH will do) lies on; an exchange between two mounts is EXDEV."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
        for line in info:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    raise OSError(0, "no mnt_id in fdinfo")


def name_process(name: str) -> None:
    """Name this process in /proc/PID/comm, so that `ps` and `top` say which part of podwire it is."""
    with open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write(name)


def end_with_parent() -> None:
    """Get SIGTERM when the process that started this one ends, however it ends (prctl(2), PR_SET_PDEATHSIG)."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0), "prctl")


def clone_sharing_descriptors() -> int:
    """Fork, with one descriptor table for both (clone(2), CLONE_FILES): what either opens, both have at that instant.

    Returns the child's pid, 0 in the child. Only for a process with one thread, and one that leaves by `os._exit`.
    """
    number = _SYS_CLONE.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"clone is not known on {platform.machine()}")
    return _checked(_libc_with_the_lock.syscall(number, CLONE_FILES | signal.SIGCHLD, 0, 0, 0, 0), "clone")


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A copy of another process's descriptor (pidfd_getfd(2), Linux 5.6), close-on-exec."""
    return _checked(_libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0), "pidfd_getfd")


def bytes_waiting(fd: int) -> int:
    """Bytes that can be read from a pipe or a socket now (FIONREAD)."""
    return int(struct.unpack("=i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0])
