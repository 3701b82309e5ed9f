"""Bundles: what lies in a container's or sandbox's folder when a call names it, read once and kept in the capture.

In: the requests of shim connections, and a folder. Out: a `Bundle`, and the block that keeps it: one of pcapng's
types for local use, which other readers pass over, with a JSON object in it. Nothing here waits: no file is opened that
is not a regular one, links are not followed, what is too large is cut, and what cannot be read is said.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import stat
import struct
from typing import Any, Final, NamedTuple

from dissectors.events import Direction
from dissectors.ttrpc_frames import FLAG_REMOTE_OPEN, TYPE_REQUEST, Frame, FrameReader
from dissectors.ttrpc_messages import BadMessage, parse_request, wire_fields

BLOCK_TYPE: Final = 0x80706F64
"""`pod` behind the bit that marks types for local use (draft-ietf-opsawg-pcapng §11.1)."""
MAX_FILE: Final = 1 << 20
"""Bytes kept of a file. An OCI specification has some ten thousand."""
NAMES: Final = ("config.json", "address", "bootstrap.json", "shim.pid", "monitor_address", "log", "rootfs", "work")
KATA: Final = "/run/vc/sbs"
"""Kata's folder of a sandbox: what it has to know after a restart."""
MAX_KNOWN: Final = 4_096
"""Folders that are remembered to have been read."""

_NAMING: Final = {
    ("containerd.task.v2.Task", "Create"): (1, 2),
    ("containerd.task.v3.Task", "Create"): (1, 2),
    ("containerd.runtime.sandbox.v1.Sandbox", "CreateSandbox"): (1, 2),
}
"""Methods that name a bundle, and the fields of its id and its path."""
_STARTING: Final = frozenset({("containerd.task.v2.Task", "Start"), ("containerd.task.v3.Task", "Start")})
_ID: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_KINDS: Final = (
    (stat.S_ISDIR, "directory"),
    (stat.S_ISFIFO, "fifo"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)
_HEAD: Final = struct.Struct("<II")


class BundleFile(NamedTuple):
    """One name of a bundle."""

    name: str
    kind: str
    """`file`, `link`, `directory`, `fifo`, `socket`, `device`, `missing` or `unreadable`."""
    size: int = 0
    """Of a file; more than its content where that was cut."""
    content: bytes = b""
    note: str = ""
    """Where a link leads; why it is unreadable; that it was cut."""


class Bundle(NamedTuple):
    """What lay in a folder when a call named it."""

    connection: int
    """Its number, as the opening packet's comment has it."""
    stream: int
    """Of the call that named it."""
    id: str
    path: str
    files: tuple[BundleFile, ...]


class Named(NamedTuple):
    """A folder that a request names."""

    stream: int
    id: str
    path: str
    names: tuple[str, ...]


class Watcher:
    """Looks at the requests of shim connections for the folders that they name, each once."""

    def __init__(self) -> None:
        self._readers: dict[int, tuple[FrameReader, int]] = {}
        self._known: dict[str, None] = {}

    def feed(self, connection: int, offset: int, data: bytes) -> list[Named]:
        """Take what a client sent, from this place of its stream on."""
        reader, end = self._readers.get(connection) or (FrameReader(Direction.REQUEST), 0)
        if offset > end:
            reader.lost(offset - end)
        self._readers[connection] = reader, offset + len(data)
        found = [self._named(item) for item in reader.feed(data) if isinstance(item, Frame)]
        return [each for each in found if each is not None and self._first(each.path)]

    def ended(self, connection: int) -> None:
        """A connection is over."""
        self._readers.pop(connection, None)

    def _named(self, frame: Frame) -> Named | None:
        if frame.type != TYPE_REQUEST or frame.flags & FLAG_REMOTE_OPEN:
            return None
        try:
            request = parse_request(frame.payload)
            method = request.service, request.method
            if method in _NAMING:
                fields = {tag >> 3: value for tag, _, value in wire_fields(request.payload) if tag & 7 == 2}
                identity, path = (fields.get(number, b"").decode("utf-8", "replace") for number in _NAMING[method])
                return Named(frame.stream_id, identity, path, NAMES) if _is_plain(path) else None
            if method in _STARTING:
                fields = {tag >> 3: value for tag, _, value in wire_fields(request.payload) if tag & 7 == 2}
                identity = fields.get(1, b"").decode("utf-8", "replace")
                path = f"{KATA}/{identity}"
                if _ID.fullmatch(identity) and os.path.isdir(path):
                    return Named(frame.stream_id, identity, path, ("persist.json",))
        except BadMessage:
            pass  # the dissector says what is wrong with it
        return None

    def _first(self, path: str) -> bool:
        if path in self._known:
            return False
        self._known[path] = None
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
        return True


def _is_plain(path: str) -> bool:
    return path.startswith("/") and "\0" not in path and ".." not in path.split("/")


def bundle_block(connection: int, named: Named) -> bytes:
    """Return the block that keeps a folder as it is now."""
    return build_block(read_bundle(connection, named))


def read_bundle(connection: int, named: Named) -> Bundle:
    """Read a folder. Never raises for what is there or not."""
    files = tuple(_read(named.path, name) for name in named.names)
    return Bundle(connection, named.stream, named.id, named.path, files)


def _read(folder: str, name: str) -> BundleFile:
    path = os.path.join(folder, name)
    try:
        what = os.lstat(path)
        if stat.S_ISLNK(what.st_mode):
            return BundleFile(name, "link", note=os.readlink(path))
        for test, kind in _KINDS:
            if test(what.st_mode):
                return BundleFile(name, kind)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            what = os.fstat(descriptor)
            if not stat.S_ISREG(what.st_mode):
                return BundleFile(name, "unreadable", note="it became another file")
            content = os.read(descriptor, MAX_FILE + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return BundleFile(name, "missing")
        return BundleFile(name, "unreadable", note=(error.strerror or "").lower())
    except ValueError as error:
        return BundleFile(name, "unreadable", note=str(error))
    size = max(what.st_size, len(content))
    cut = f"cut to {MAX_FILE} bytes" if len(content) > MAX_FILE else ""
    return BundleFile(name, "file", size, content[:MAX_FILE], cut)


def build_block(bundle: Bundle) -> bytes:
    """Return the block that keeps a bundle."""
    files = []
    for each in bundle.files:
        shown: dict[str, Any] = {"name": each.name, "kind": each.kind}
        if each.size:
            shown["size"] = each.size
        if each.note:
            shown["note"] = each.note
        if each.content:
            try:
                shown["text"] = each.content.decode("utf-8")
            except UnicodeDecodeError:
                shown["base64"] = base64.b64encode(each.content).decode()
        files.append(shown)
    about = {"podwire": "bundle", **bundle._asdict(), "files": files}
    body = json.dumps(about, separators=(",", ":")).encode()
    body += b" " * (-len(body) % 4)
    length = len(body) + 12
    return _HEAD.pack(BLOCK_TYPE, length) + body + _HEAD.pack(BLOCK_TYPE, length)[4:]


def parse_block(body: bytes) -> Bundle | None:
    """Return the bundle in a block's body, None if there is none."""
    try:
        about = json.loads(body)
        if about["podwire"] != "bundle":
            return None
        files = tuple(_file(each) for each in about["files"])
        return Bundle(int(about["connection"]), int(about["stream"]), str(about["id"]), str(about["path"]), files)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _file(about: dict[str, Any]) -> BundleFile:
    content = str(about.get("text", "")).encode("utf-8", "replace") or base64.b64decode(str(about.get("base64", "")))
    size, note = int(about.get("size", 0)), str(about.get("note", ""))
    return BundleFile(str(about["name"]), str(about["kind"]), size, content, note)
