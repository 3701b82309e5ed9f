"""Folders watched by inotify: sockets as they appear, change and go (E3), also in folders that are not there yet.

In: targets. Out: calls of `appeared`, `changed`, `gone` and `vanished`. It knows nothing of exchanges: the same name
may be told of twice, and whoever is told looks at inodes.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import NamedTuple, Protocol

from tracer.relay import system
from tracer.relay.targets import Target

_MASK = (
    system.IN_CREATE
    | system.IN_MOVED_TO
    | system.IN_MOVED_FROM
    | system.IN_DELETE
    | system.IN_ATTRIB
    | system.IN_DELETE_SELF
    | system.IN_MOVE_SELF
    | system.IN_ONLYDIR
)
_event = struct.Struct("=iIII")  # inotify_event: wd, mask, cookie, len


class _Interest(NamedTuple):
    target: Target
    rest: tuple[str, ...]
    """Folders still to come below the watched one; empty: the sockets lie in it."""
    passing: bool = False
    """It was found by a `*`: it comes and goes with its VM, and whoever watches its parent finds the next one."""


class Observer(Protocol):
    """Who is told."""

    def appeared(self, target: Target, folder: str, name: str, *, initial: bool) -> None:
        """A file of a known name is there (`initial`: it was there when the watch began)."""

    def changed(self, folder: str, name: str) -> None:
        """Mode, owner, links or labels changed."""

    def gone(self, folder: str, name: str) -> None:
        """A name was removed or moved away."""

    def vanished(self, target: Target, folder: str) -> None:
        """A watched folder was removed or moved; its nearest existing parent is watched from now on."""

    def unwatched(self, target: Target, folder: str, error: OSError) -> None:
        """A VM's folder cannot be watched: what comes in it is not seen."""


class Watcher:
    """One inotify descriptor over all targets."""

    def __init__(self, targets: list[Target], observer: Observer) -> None:
        self.fd = system.inotify_init()
        self._observer = observer
        self._targets = targets
        self._folders: dict[int, tuple[str, set[_Interest]]] = {}

    def start(self, *, again: bool = False) -> None:
        """Watch everything, and tell of what is there; `again`: somebody watched before, so what is there is new."""
        for target in self._targets:
            parts = target.folder.strip("/").split("/")
            fixed = parts.index("*") if "*" in parts else len(parts)
            self._arm(_Interest(target, tuple(parts[fixed:])), "/" + "/".join(parts[:fixed]), initial=not again)

    def _arm(self, interest: _Interest, folder: str, *, initial: bool) -> None:
        while True:
            try:
                watch = system.inotify_add_watch(self.fd, folder, _MASK)
                break
            except OSError as error:
                gone = error.errno in (errno.ENOENT, errno.ENOTDIR)
                if interest.passing:
                    if not gone:
                        self._observer.unwatched(interest.target, folder, error)
                    return
                if not gone or folder == "/":
                    raise
                folder, _, missing = folder.rpartition("/")
                folder = folder or "/"
                interest = interest._replace(rest=(missing, *interest.rest))
                initial = False
        _, interests = self._folders.setdefault(watch, (folder, set()))
        interests.add(interest)
        # What came between our look and the watch is found by listing after it.
        try:
            names = os.listdir(folder)
        except OSError:
            return
        for name in names:
            self._consider(interest, folder, name, initial=initial)

    def _consider(self, interest: _Interest, folder: str, name: str, *, initial: bool) -> None:
        if not interest.rest:
            if interest.target.matches(name):
                self._observer.appeared(interest.target, folder, name, initial=initial)
            return
        path = f"{folder.rstrip('/')}/{name}"
        wanted, *rest = interest.rest
        if wanted in ("*", name) and os.path.isdir(path) and not os.path.islink(path):
            below = interest._replace(rest=tuple(rest), passing=interest.passing or wanted == "*")
            self._arm(below, path, initial=initial)

    def read(self) -> None:
        """Take the events that wait; call when the descriptor is readable."""
        try:
            data = os.read(self.fd, 65536)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            watch, mask, _, length = _event.unpack_from(data, at)
            name = os.fsdecode(data[at + _event.size : at + _event.size + length].rstrip(b"\0"))
            at += _event.size + length
            if mask & system.IN_Q_OVERFLOW:
                self.rescan()
            elif watch in self._folders:
                self._event(watch, mask, name)

    def _event(self, watch: int, mask: int, name: str) -> None:
        folder, interests = self._folders[watch]
        if mask & (system.IN_DELETE_SELF | system.IN_MOVE_SELF | system.IN_IGNORED):
            self._folder_went(watch)
            return
        for interest in list(interests):
            if mask & (system.IN_CREATE | system.IN_MOVED_TO):
                self._consider(interest, folder, name, initial=False)
            elif not interest.rest and mask & system.IN_ATTRIB and name:
                self._observer.changed(folder, name)
            elif not interest.rest and mask & (system.IN_DELETE | system.IN_MOVED_FROM):
                self._observer.gone(folder, name)

    def _folder_went(self, watch: int) -> None:
        folder, interests = self._folders.pop(watch)
        system.inotify_rm_watch(self.fd, watch)
        for interest in interests:
            if not interest.rest:
                self._observer.vanished(interest.target, folder)
            if not interest.passing:
                self._arm(interest, folder, initial=False)

    def look_for(self, folder: str) -> None:
        """Is it still there? Of a removed folder inotify tells only when its last user lets go, and a server that is
        bound to a socket in it is one."""
        for watch, (path, _) in list(self._folders.items()):
            if path == folder and not os.path.isdir(folder):
                self._folder_went(watch)

    def rescan(self) -> None:
        """Look at everything again: events were lost (IN_Q_OVERFLOW)."""
        for folder, interests in list(self._folders.values()):
            for interest in list(interests):
                self._arm(interest, folder, initial=False)

    def close(self) -> None:
        """End all watches."""
        os.close(self.fd)
