"""One path taken over: our socket stands where the server's was, the server's (the twin) lies in a folder of ours.

The swap is `renameat2(RENAME_EXCHANGE)`: there is no moment at which the path does not answer. Names are renamed and
unlinked by others at any time, so every step is checked by inode after the call (E2). Knows nothing of connections.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from tracer.relay import label, sockdiag, system

_ucred = struct.Struct("=iII")


class Refused(Exception):
    """This socket is not exchanged; says why."""


class Left(Enum):
    """What leaving found and did (E2)."""

    GIVEN_BACK = "given back"
    REMOVED = "removed, its server is gone"
    NOT_OURS = "not ours any more"


@dataclass(slots=True)
class Home:
    """A folder of ours on one mount; twins lie in it under numbers."""

    path: str
    fd: int
    mount: int

    def at(self, name: str) -> str:
        """A path to a name in it that fits into a socket address however long the folder's own is."""
        return f"/proc/self/fd/{self.fd}/{name}"


class Homes:
    """The folders of one relay: in the runtime folder, and in a socket's own folder where that is another mount."""

    def __init__(self, runtime_folder: str, pid: int) -> None:
        self._pid = pid
        self._first = f"{runtime_folder}/{pid}"
        self._homes = [_make_home(self._first)]

    def reopen(self, paths: set[str]) -> None:
        """After a takeover: open the folders anew in which a predecessor has twins, and its own."""
        self._homes = [
            _open_home(path) for path in [self._first, *sorted(paths - {self._first})] if os.path.isdir(path)
        ]

    def at(self, path: str) -> Home | None:
        """The one at this path, None if it was removed."""
        return next((home for home in self._homes if home.path == path), None)

    def for_folder(self, folder: str, folder_fd: int) -> Home:
        """The home on the same mount as `folder`, made if need be (an exchange across a bind mount is EXDEV)."""
        mount = system.mount_id(folder_fd)
        for home in self._homes:
            if home.mount == mount:
                return home
        path = f"{folder}/.podwire-{self._pid}"
        with contextlib.suppress(FileExistsError):  # a predecessor had just made it
            return self._add(_make_home(path))
        return self._add(_open_home(path))

    def _add(self, home: Home) -> Home:
        self._homes.append(home)
        return home

    def removed(self) -> list[Home]:
        """Those that somebody removed, with all the twins in them."""
        return [home for home in self._homes if os.fstat(home.fd).st_nlink == 0]

    def forget(self, home: Home) -> None:
        """Let go of a removed one: while it is held open, inotify does not tell that the folder it was in is gone."""
        os.close(home.fd)
        self._homes.remove(home)

    def remove(self) -> None:
        """Remove the folders that are empty; a twin that lies in one is never removed with it."""
        for home in self._homes:
            try:
                os.rmdir(home.path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EEXIST):
                    raise
            os.close(home.fd)
        self._homes.clear()


def _make_home(path: str) -> Home:
    os.mkdir(path, 0o700)
    os.chmod(path, 0o700)  # whatever the umask
    return _open_home(path)


def _open_home(path: str) -> Home:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    return Home(path, fd, system.mount_id(fd))


@dataclass(slots=True)
class Exchange:
    """A path that is ours until `leave` or `drop`. It holds the names; the listener is its user's."""

    number: int
    hop: str
    folder: str
    name: str
    home: Home
    folder_fd: int
    inode: tuple[int, int]
    """Inode and device of our socket's file."""
    twin: tuple[int, int]
    """Inode and device of the server's."""
    server_inode: int = 0
    """The server's listening socket (`socket:[N]`), 0 if it is not known or lies in another network namespace."""
    given_back: bool = False
    """The server's socket is at its path again, and ours in the home."""

    @property
    def twin_name(self) -> str:
        """The twin's name in the home."""
        return str(self.number)

    @property
    def path(self) -> str:
        """The path as clients know it."""
        return f"{self.folder.rstrip('/')}/{self.name}"

    @property
    def upstream(self) -> str:
        """Where the server answers now."""
        return f"/proc/self/fd/{self.folder_fd}/{self.name}" if self.given_back else self.home.at(self.twin_name)

    def path_is_ours(self) -> bool:
        """Whether the path still names our socket."""
        return _inode(self.folder_fd, self.name) == self.inode

    def path_is_known(self) -> bool:
        """Whether it names our socket or the one we took it from: if not, somebody removed or replaced it."""
        return _inode(self.folder_fd, self.name) in (self.inode, self.twin)

    def twin_listens(self) -> bool:
        """Whether anybody still listens behind the path (E1)."""
        try:
            status = os.lstat(self.upstream)
        except FileNotFoundError:
            return False
        if sockdiag.find_listener(status.st_ino, status.st_dev) is not None:
            return True
        # A dump of a table that changes meanwhile may leave one out, and other network namespaces are not in it: before
        # a path is given up, one connect decides. A server that is gone does not notice.
        return answers(self.upstream)

    def copy_attributes_to_twin(self) -> None:
        """While exchanged, what is set on our path is the truth (E6)."""
        label.copy_attributes(f"/proc/self/fd/{self.folder_fd}/{self.name}", self.upstream)

    def leave(self) -> Left:
        """Give the path back, by E2. Our own socket then lies in the home, until `close`."""
        if not self.path_is_ours():
            self._unlink_in_home()
            return Left.NOT_OURS
        return self.put_back() if self.twin_listens() else self.drop()

    def put_back(self) -> Left:
        """Swap the names again, whether or not anybody listens on the twin."""
        try:
            self.copy_attributes_to_twin()
            self._swap()
        except FileNotFoundError:  # unlinked between our look and now
            self._unlink_in_home()
            return Left.NOT_OURS
        if _inode(self.home.fd, self.twin_name) != self.inode:
            # Between our look and the swap somebody else took the path: undo, it is theirs.
            self._swap()
            self._unlink_in_home()
            return Left.NOT_OURS
        self.given_back = True
        return Left.GIVEN_BACK

    def drop(self) -> Left:
        """The server is gone: no path of ours outlives it (E1)."""
        # Moved aside, looked at, and only then unlinked: an unlink by name could hit a new server's socket.
        aside = f"{self.twin_name}.out"
        try:
            os.rename(self.name, aside, src_dir_fd=self.folder_fd, dst_dir_fd=self.home.fd)
        except FileNotFoundError:
            self._unlink_in_home()
            return Left.NOT_OURS
        if _inode(self.home.fd, aside) != self.inode:
            os.rename(aside, self.name, src_dir_fd=self.home.fd, dst_dir_fd=self.folder_fd)
            self._unlink_in_home()
            return Left.NOT_OURS
        os.unlink(aside, dir_fd=self.home.fd)
        self._unlink_in_home()
        return Left.REMOVED

    def retake(self) -> bool:
        """Take a path again that was given back for a while; False if it or our socket is not what it was."""
        if _inode(self.folder_fd, self.name) != self.twin or _inode(self.home.fd, self.twin_name) != self.inode:
            return False
        self._swap()
        if not self.path_is_ours():
            self._swap()
            return False
        self.given_back = False
        return True

    def _swap(self) -> None:
        system.exchange_names(self.home.fd, self.twin_name, self.folder_fd, self.name)

    def _unlink_in_home(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.twin_name, dir_fd=self.home.fd)

    def close(self) -> None:
        """Forget what lies in the home under its number."""
        self._unlink_in_home()
        os.close(self.folder_fd)


@dataclass(frozen=True, slots=True)
class Taken:
    """What `take` made."""

    exchange: Exchange
    listener: socket.socket
    """Ours, non-blocking; close it when the path is no longer ours."""
    credentials: tuple[int, int] | None
    """Effective uid and gid to connect with where they are not ours (E7)."""


Announce = Callable[[Exchange, int, tuple[int, int] | None], None]
"""Told of an exchange just before the swap (with the listener's descriptor, and whom to connect as), so that whoever
goes on or mends after a crash knows of it."""


def take(number: int, hop: str, folder: str, name: str, homes: Homes, announce: Announce, *, force: bool) -> Taken:
    """Swap the socket at `folder/name` for a listener of ours; raises Refused with the reason, in words."""
    try:
        folder_fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(explain(error, folder)) from error
    try:
        return _take(number, hop, folder, name, folder_fd, homes, announce, force=force)
    except OSError as error:
        os.close(folder_fd)
        raise Refused(explain(error, folder)) from error
    except Refused:
        os.close(folder_fd)
        raise


def _take(
    number: int, hop: str, folder: str, name: str, folder_fd: int, homes: Homes, announce: Announce, *, force: bool
) -> Taken:
    real, ours_name = f"/proc/self/fd/{folder_fd}/{name}", str(number)
    before = os.lstat(real)
    if not stat.S_ISSOCK(before.st_mode):
        raise Refused("is no socket")
    server = sockdiag.find_listener(before.st_ino, before.st_dev)
    credentials = _credentials(server, real)
    home = homes.for_folder(folder, folder_fd)
    try:
        with label.sockets_made_as(None if force else label.server_label(real)):
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except label.LabelRefused as error:
        raise Refused(f"{error.strerror} (--force exchanges it all the same)") from error
    try:
        listener.bind(home.at(ours_name))
        listener.listen(_somaxconn())
        label.copy_attributes(real, home.at(ours_name))
        ours = _inode(home.fd, ours_name)
        assert ours is not None  # bound just now, in a folder that is ours alone
        exchange = Exchange(number, hop, folder, name, home, folder_fd, ours, (before.st_ino, before.st_dev))
        announce(exchange, listener.fileno(), credentials)
        system.exchange_names(home.fd, ours_name, folder_fd, name)
        came = os.lstat(home.at(ours_name))
        if not stat.S_ISSOCK(came.st_mode):
            system.exchange_names(home.fd, ours_name, folder_fd, name)
            raise Refused("was replaced by something that is no socket")
        if _attributes(came) != _attributes(before):
            # Set by the server between our look and the swap: on its own file, which is the twin now.
            label.copy_attributes(home.at(ours_name), real)
    except (OSError, Refused):
        listener.close()
        if ours_name in os.listdir(home.path):
            os.unlink(ours_name, dir_fd=home.fd)
        raise
    if came.st_ino != before.st_ino:  # a server that started again at that very moment
        exchange.twin = (came.st_ino, came.st_dev)
        announce(exchange, listener.fileno(), credentials)
    elif server is not None:
        exchange.server_inode = server.inode
    return Taken(exchange, listener, credentials)


def _attributes(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_ino, status.st_mode, status.st_uid, status.st_gid


def _credentials(server: sockdiag.UnixSocket | None, path: str) -> tuple[int, int] | None:
    """Whom to connect as: ttrpc servers take only a peer with their own effective uid and gid (E7)."""
    if server is None or server.uid in (-1, os.geteuid()):
        return None
    if os.geteuid() != 0:
        raise Refused(f"its server runs as uid {server.uid}: run podwire as that user, or as root")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            raise Refused(f"its server does not answer: {error.strerror}") from error
        return peer_credentials(probe)[1:]


def peer_credentials(connection: socket.socket) -> tuple[int, int, int]:
    """Pid, uid and gid of the other end (SO_PEERCRED); of a server, those of whoever called listen(2)."""
    pid, uid, gid = _ucred.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _ucred.size))
    return pid, uid, gid


def answers(path: str) -> bool:
    """Whether a connect is taken; a full backlog is an answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(path)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def _inode(folder_fd: int, name: str) -> tuple[int, int] | None:
    try:
        status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_dev


def _somaxconn() -> int:
    try:
        with open("/proc/sys/net/core/somaxconn", encoding="ascii") as value:
            return int(value.read())
    except (OSError, ValueError):
        return 4096


def explain(error: OSError, folder: str) -> str:
    """What an error of the system means for a socket in `folder`, in words."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"needs write access to {folder} (try sudo)"
    if error.errno == errno.EINVAL:
        return "its filesystem cannot exchange names (renameat2 RENAME_EXCHANGE)"
    if error.errno == errno.EROFS:
        return "its filesystem is read-only"
    return (error.strerror or str(error)).lower()
