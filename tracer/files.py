"""Files that are written for the user: their owner alone can read them, as they hold what passed between processes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from protos.errors import PodwireError


def create_output(path: str, *, name: str = "", replace: bool = True) -> int:
    """Return a descriptor of an empty file of mode 0600, for reading and writing.

    What was there is replaced; unless `replace`, it is refused. Raises PodwireError, which calls the file `name`: it
    cannot be made, or a link or something else that is no regular file is there.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (0 if replace else os.O_EXCL)
    name = name or path
    try:
        fd = os.open(path, flags, 0o600)
        try:
            _check(os.fstat(fd), name)
            os.fchmod(fd, 0o600)
            os.ftruncate(fd, 0)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        check_output(path, name)
        raise PodwireError(f"{name}: {error.strerror}") from error
    return fd


@contextmanager
def output_file(path: str) -> Iterator[BinaryIO]:
    """Open what `create_output` makes, for writing. Raises PodwireError, also where its disk does not take it all."""
    try:
        with open(create_output(path), "wb") as file:
            yield file
    except OSError as error:
        raise PodwireError(f"{error.filename or path}: {error.strerror}") from error


def check_output(path: str, name: str = "") -> None:
    """Raises PodwireError where there is something other than a regular file; a link is not followed."""
    try:
        found = os.lstat(path)
    except OSError:
        return
    _check(found, name or path)


def _check(found: os.stat_result, name: str) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise PodwireError(f"{name}: is a symbolic link, which is not followed")
    if not stat.S_ISREG(found.st_mode):
        raise PodwireError(f"{name}: is no regular file")
