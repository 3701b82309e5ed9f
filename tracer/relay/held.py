"""The file that says what a running relay holds (E9), and how to mend what a crashed one left (E2).

`<runtime folder>/<pid>.json`, mode 0600, one JSON object a line, appended as things happen: the head, then each
socket taken (before the swap it is only in our folder, after it the path is in here) and each given up. Whoever runs
holds a flock on it; a file that nobody locks is of one that died.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tracer.relay import system
from tracer.relay.exchange import Exchange, Home, Left, answers

VERSION = 1


def runtime_folder() -> str:
    """Where these files lie: `/run/podwire` for root, else in the user's runtime or temporary folder."""
    if os.geteuid() == 0:
        return "/run/podwire"
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base:
        return f"{base}/podwire"
    return f"{os.environ.get('TMPDIR', '/tmp')}/podwire-{os.geteuid()}"


def make_runtime_folder(path: str) -> None:
    """Make it, 0700; raises PermissionError if it is there and not a folder of ours alone."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(0, "is not a folder of this user alone", path)


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Nobody else starts or mends meanwhile."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


class HeldFile:
    """The file of this relay, open and locked for as long as it lives."""

    def __init__(self, folder: str, pid: int, capture: str, memory: int) -> None:
        self.path = f"{folder}/{pid}.json"
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        self.write({"version": VERSION, "pid": pid, "capture": capture, "memory": memory, "since_ns": time.time_ns()})

    def write(self, line: dict[str, object]) -> None:
        """Append one line."""
        os.write(self.fd, json.dumps(line).encode() + b"\n")

    def end_line(self) -> None:
        """A killed worker may have left one in its middle."""
        os.write(self.fd, b"\n")

    def read(self) -> Held:
        """What it says so far: a successor of a dead worker begins with that. It opens nothing: there may be no
        descriptor left."""
        return _parse(self.path, os.pread(self.fd, os.fstat(self.fd).st_size, 0).decode(), alive=True)

    def taken(self, exchange: Exchange, listening: int, credentials: tuple[int, int] | None) -> None:
        """A path is ours from now on, or will be in a moment; `listening` is our listener's descriptor."""
        self.write(
            {
                "taken": exchange.number,
                "hop": exchange.hop,
                "folder": exchange.folder,
                "name": exchange.name,
                "home": exchange.home.path,
                "ours": exchange.inode,
                "twin": exchange.twin,
                "listening": listening,
                "as": credentials,
            }
        )

    def gone(self, number: int) -> None:
        """… and no longer."""
        self.write({"gone": number})

    def server(self, number: int, pid: int) -> None:
        """Who listens behind a path."""
        self.write({"server": number, "pid": pid})

    def left_alone(self, path: str, inode: tuple[int, int]) -> None:
        """A socket that was there before, and is not to be taken (E5)."""
        self.write({"left_alone": path, "file": inode})

    def remove(self) -> None:
        """At the end of everything."""
        os.unlink(self.path)
        os.close(self.fd)


@dataclass(slots=True)
class HeldSocket:
    """One path that a relay holds."""

    number: int
    hop: str
    folder: str
    name: str
    home: str
    ours: tuple[int, int]
    twin: tuple[int, int]
    listening: int
    """Our listener's descriptor, in every process of the relay."""
    credentials: tuple[int, int] | None
    """Whom to connect as, where that is not who we are (E7)."""
    server: int = 0
    """Pid of the process that listens behind it, 0 if it is not known."""

    @property
    def path(self) -> str:
        """As clients know it."""
        return f"{self.folder.rstrip('/')}/{self.name}"


@dataclass(slots=True)
class Held:
    """What one of these files says."""

    file: str
    pid: int
    capture: str
    alive: bool
    """A process still has it locked."""
    draining: bool = False
    """It has left its paths and only forwards what is open."""
    folders: list[tuple[str, str]] = field(default_factory=list)
    """Hop and folder of each folder of sockets that is watched."""
    sockets: dict[int, HeldSocket] = field(default_factory=dict)
    left_alone: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Path to inode and device of sockets that were there before (E5)."""
    homes: set[str] = field(default_factory=set)
    """Every folder of ours that twins have lain in."""
    memory: int = -1
    """Descriptor of the shared memory (shared.py) in every process of the relay."""
    last_number: int = 0
    """The largest number that a socket was given."""
    since_ns: int = 0
    """When it began (UTC)."""
    left: list[HeldSocket] = field(default_factory=list)
    """What it held when it left its paths to drain."""
    given_up: dict[int, HeldSocket] = field(default_factory=dict)
    """Paths that it does not hold any more; connections that were made through them may still be open."""


def read_held(folder: str) -> Iterator[Held]:
    """The relays that run, or died, under this runtime folder; one whose file is unreadable is passed over."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        if name.endswith(".json"):
            try:
                yield _read(f"{folder}/{name}")
            except (OSError, ValueError, KeyError):
                continue


def _read(file: str) -> Held:
    with open(file, encoding="utf-8") as lines:
        try:
            fcntl.flock(lines, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: who else asks is not taken for the relay
            alive = False
        except BlockingIOError:
            alive = True
        return _parse(file, lines.read(), alive=alive)


def _parse(file: str, text: str, *, alive: bool) -> Held:
    held = None
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # an empty line, or one of a process that died while it wrote
        if held is None:
            held = Held(file, int(entry["pid"]), str(entry["capture"]), alive)
            held.memory, held.since_ns = entry["memory"], entry["since_ns"]
        if "taken" in entry:
            held.sockets[entry["taken"]] = HeldSocket(
                entry["taken"],
                entry["hop"],
                entry["folder"],
                entry["name"],
                entry["home"],
                tuple(entry["ours"]),
                tuple(entry["twin"]),
                entry["listening"],
                tuple(entry["as"]) if entry["as"] else None,
            )
            held.homes.add(entry["home"])
            held.last_number = max(held.last_number, entry["taken"])
        elif "gone" in entry:
            if entry["gone"] in held.sockets:
                held.given_up[entry["gone"]] = held.sockets.pop(entry["gone"])
        elif "draining" in entry:
            held.draining = True
            held.left = list(held.sockets.values())
        elif "watching" in entry:
            held.folders.append((entry["hop"], entry["watching"]))
        elif "server" in entry and entry["server"] in held.sockets:
            held.sockets[entry["server"]].server = entry["pid"]
        elif "left_alone" in entry:
            held.left_alone[entry["left_alone"]] = tuple(entry["file"])
    if held is None:
        raise ValueError(f"{file} says nothing")
    return held


def mend(held: Held) -> list[tuple[str, Left]]:
    """Give back what a dead relay left, by E2; returns each path and what was done, and removes its folder and file."""
    done = []
    for socket in held.sockets.values():
        try:
            done.append((socket.path, _mend_one(socket)))
        except FileNotFoundError:
            done.append((socket.path, Left.NOT_OURS))
    for home in held.homes | {held.file.removesuffix(".json")}:
        _clear(Path(home))
    os.unlink(held.file)
    return done


def _mend_one(socket: HeldSocket) -> Left:
    home_fd = os.open(socket.home, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        folder_fd = os.open(socket.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        home = Home(socket.home, home_fd, system.mount_id(home_fd))
        exchange = Exchange(
            socket.number, socket.hop, socket.folder, socket.name, home, folder_fd, socket.ours, socket.twin
        )
        if exchange.path_is_ours() and answers(socket.path):
            # Nobody listens for the dead any more: a new server's file has the number that ours had.
            os.unlink(exchange.twin_name, dir_fd=home_fd)
            left = Left.NOT_OURS
        else:
            left = exchange.leave()
        exchange.close()
        return left
    finally:
        os.close(home_fd)


def _clear(home: Path) -> None:
    """Remove what a dead relay's folder still has: sockets of its own that were never swapped in."""
    if not home.is_dir() or home.is_symlink():
        return
    for entry in home.iterdir():
        if stat.S_ISSOCK(entry.lstat().st_mode):
            entry.unlink()
    home.rmdir()
