"""Who has bind-mounted a socket file: /proc/*/mountinfo, one process per mount namespace (E8)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple


class Mounted(NamedTuple):
    """A socket file mounted somewhere."""

    pid: int
    """One process of that mount namespace."""
    root: str
    """The file's path within its filesystem; ends with `//deleted` once it is unlinked."""
    device: int
    """st_dev of the filesystem."""
    mount_point: str


_ESCAPE = re.compile(r"\\([0-7]{3})")


def mounted_files(seen: set[str] | None = None) -> Iterator[Mounted | None]:
    """Every mount whose root is not a filesystem's own; a None after each process, so that a caller can pause."""
    namespaces: set[str] = set() if seen is None else seen
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            namespace = os.readlink(f"/proc/{entry}/ns/mnt")
            if namespace not in namespaces:
                namespaces.add(namespace)
                with open(f"/proc/{entry}/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
                    yield from _parse(int(entry), lines.read())
        except OSError:
            pass  # it has ended, or is another user's
        yield None


def _parse(pid: int, text: str) -> Iterator[Mounted]:
    for line in text.splitlines():
        fields = line.split(" ", 5)
        if len(fields) > 4 and fields[3] != "/":
            major, _, minor = fields[2].partition(":")
            yield Mounted(pid, _unescape(fields[3]), os.makedev(int(major), int(minor)), _unescape(fields[4]))


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def names_file(mounted: Mounted, path: str, device: int) -> bool:
    """Whether this mount is of the file that now lies at `path` (compared by its last three components)."""
    root = mounted.root.removesuffix("//deleted")
    tail = "/".join(path.split("/")[-3:])
    return mounted.device == device and (root == path or root.endswith(f"/{tail}"))
