"""What the kernel says of unix sockets: who listens at which inode, and which connection belongs to whom.

sock_diag(7) over netlink; the table is that of this network namespace, so a socket made in another one is not in it.
Raises OSError where netlink cannot be had.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_SHOW_NAME, _SHOW_VFS, _SHOW_PEER, _SHOW_ICONS, _SHOW_UID = 0x1, 0x2, 0x4, 0x8, 0x40
_SHOW = _SHOW_NAME | _SHOW_VFS | _SHOW_PEER | _SHOW_ICONS | _SHOW_UID
_DIAG_NAME, _DIAG_VFS, _DIAG_PEER, _DIAG_ICONS, _DIAG_UID = 0, 1, 2, 3, 7
TCP_ESTABLISHED, TCP_LISTEN = 1, 10
_ALL_STATES = 0xFFFFFFFF

_header = struct.Struct("=LHHLL")  # nlmsghdr
_request = struct.Struct("=BBHLLLLL")  # unix_diag_req
_message = struct.Struct("=BBBBLLL")  # unix_diag_msg
_attribute = struct.Struct("=HH")  # nlattr


class UnixSocket(NamedTuple):
    """One line of the kernel's table of unix sockets."""

    state: int
    inode: int
    """Of the socket (`socket:[N]` under /proc/PID/fd)."""
    name: str
    """The path it was bound to as the server wrote it, empty for one without a name; `@…` is an abstract address."""
    file: tuple[int, int] | None
    """Inode (its low 32 bits) and device of the file it is bound to, wherever that has been renamed to."""
    peer: int
    """The other end's socket inode, 0 if there is none."""
    uid: int
    """Of the process that made it; -1 before Linux 5.3."""
    waiting: tuple[int, ...] = ()
    """Of a listener: the socket inodes of clients that it has not accepted yet."""


def unix_sockets() -> list[UnixSocket]:
    """The unix sockets of this network namespace."""
    return [_parse(payload) for data in _dump(_ALL_STATES) for payload in _messages(data)]


def _dump(states: int) -> Iterator[bytes]:
    """The kernel's answers, each with many sockets in it."""
    body = _request.pack(socket.AF_UNIX, 0, 0, states, 0, _SHOW, 0, 0)
    head = _header.pack(_header.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
        netlink.send(head + body)
        while True:
            data = netlink.recv(65536)
            _, kind, _, _, _ = _header.unpack_from(data)
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                number = -struct.unpack_from("=i", data, _header.size)[0]
                raise OSError(number, os.strerror(number), "sock_diag")
            yield data


def _messages(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + _header.size <= len(data):
        length, kind, _, _, _ = _header.unpack_from(data, at)
        if kind == _SOCK_DIAG_BY_FAMILY:
            yield data[at + _header.size : at + length]
        at += (length + 3) & ~3


def _parse(payload: bytes) -> UnixSocket:
    _, _, state, _, inode, _, _ = _message.unpack_from(payload)
    name, file, peer, uid = "", None, 0, -1
    waiting: tuple[int, ...] = ()
    at = _message.size
    while at + _attribute.size <= len(payload):
        length, kind = _attribute.unpack_from(payload, at)
        value = payload[at + _attribute.size : at + length]
        if kind == _DIAG_NAME:
            name = os.fsdecode(b"@" + value[1:] if value[:1] == b"\0" else value.rstrip(b"\0"))
        elif kind == _DIAG_VFS:
            file = struct.unpack("=LL", value)
        elif kind == _DIAG_PEER:
            peer = struct.unpack("=L", value)[0]
        elif kind == _DIAG_ICONS:
            waiting = struct.unpack(f"={len(value) // 4}L", value)
        elif kind == _DIAG_UID:
            uid = struct.unpack("=L", value)[0]
        at += (length + 3) & ~3
    return UnixSocket(state, inode, name, file, peer, uid, waiting)


def file_key(inode: int, device: int) -> tuple[int, int]:
    """What `UnixSocket.file` says of a file with this st_ino and st_dev: the kernel's form of the device number."""
    return inode & 0xFFFFFFFF, os.major(device) << 20 | os.minor(device)


def client_sockets(inode: int, device: int) -> set[int]:
    """The socket inodes of the clients of the server bound to this file (st_ino, st_dev).

    Those that it has not accepted yet are in no line of their own: the listener's line lists them (UNIX_DIAG_ICONS).
    A client that has closed its end is in neither.
    """
    key = file_key(inode, device)
    pattern = struct.pack("=LL", *key)
    found: set[int] = set()
    for data in _dump(1 << TCP_ESTABLISHED | 1 << TCP_LISTEN):
        if pattern in data:
            for payload in _messages(data):
                if pattern in payload:
                    one = _parse(payload)
                    if one.file == key:
                        found.update(one.waiting)
                        found.add(one.peer)
    return found - {0}


def find_listener(inode: int, device: int) -> UnixSocket | None:
    """Who listens on this file (st_ino, st_dev); None: nobody, or somebody in another network namespace."""
    key = file_key(inode, device)
    pattern = struct.pack("=LL", *key)  # a node has hundreds of listeners: look for the bytes, parse the one
    found = None
    for data in _dump(1 << TCP_LISTEN):
        if pattern in data and found is None:
            ones = (_parse(payload) for payload in _messages(data) if pattern in payload)
            found = next((each for each in ones if each.file == key), None)
    return found
