"""Who is who (R8), found out by the recorder: servers by the inode of their listening socket, clients by their pid."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from tracer import processes
from tracer.capture.resume import process_key
from tracer.capture.state import Interface
from tracer.relay import sockdiag
from tracer.relay.targets import vm_of


@dataclass(slots=True)
class Socket:
    """A traced socket."""

    interface: Interface
    hop: str
    file: tuple[int, int]
    """Inode and device of the server's socket."""
    server: processes.Process | None = None
    server_pid: int = 0

    def find_server(self) -> None:
        """Find who listens; who is known stays, if nobody does."""
        listener = sockdiag.find_listener(*self.file)
        if listener is not None:
            self.server_pid = processes.holders({listener.inode}).get(listener.inode, 0)
            self.server = processes.describe(self.server_pid) if self.server_pid else None

    def has_server(self) -> bool:
        """Whether the process that was found is still there."""
        return os.path.exists(f"/proc/{self.server_pid}")


def listening(sockets: Iterable[Socket]) -> set[int]:
    """Return the interfaces of sockets on which somebody listens. One of another network namespace is not among them:
    it is described anew when a connection comes."""
    here = {each.file for each in sockdiag.unix_sockets() if each.state == sockdiag.TCP_LISTEN}
    return {at.interface.number for at in sockets if sockdiag.file_key(*at.file) in here}


class Peer(NamedTuple):
    """One end of a connection."""

    about: dict[str, object]
    """What the opening packet's comment says of it."""
    key: tuple[str, int]
    """Whoever has the same has the same address."""
    name: str


def client_of(pid: int, uid: int, gid: int, socket: Socket) -> Peer:
    """Return who connected to a socket."""
    peer = _peer(processes.describe(pid), pid, f"pid-{pid}")
    peer.about.update(uid=uid, gid=gid)
    if pid and pid == socket.server_pid:
        peer.about["self"] = True  # CRI-O calls its own socket
    return peer


def server_of(socket: Socket) -> Peer:
    """Return who answers on a socket: through a VMM's, the agent in its guest."""
    agent = f"kata-agent-{vm_of(socket.interface.name)[:13]}".rstrip("-") if socket.hop == "agent" else ""
    return _peer(socket.server, socket.server_pid, agent or f"{socket.hop}-server", agent)


def _peer(who: processes.Process | None, pid: int, unknown: str, name: str = "") -> Peer:
    """`unknown` is its name if it is gone, `name` if it is not to have its own."""
    if who is None:
        about: dict[str, object] = {"pid": pid} if pid else {}
        return Peer(about, process_key(about, unknown), unknown)
    name = name or who.label
    about = {"pid": pid, "start": who.start, "uid": who.uid, "name": name, "exe": who.exe}
    if who.command:
        about["command"] = " ".join(who.command)
    if who.unit:
        about["unit"] = who.unit
    return Peer(about, process_key(about, name), name)
