"""Where a recorder's blocks go: whole blocks come in, a file grows. It knows of the disk, nothing of the blocks.

What cannot be written raises OSError, and the file then ends where the last block that was written whole ends, or
behind it in the middle of a block: `cut` makes it end where its reader says.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from typing import Final

from tracer.capture.ring import Ring, create

SLICE: Final = 64 << 10
"""Most that one write takes (R9): a good neighbour on the disk."""


class Store:
    """The file of a capture."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = os.fstat(fd).st_size

    def write(self, data: bytes) -> None:
        """Append."""
        view = memoryview(data)
        at = 0
        while at < len(view):
            written = os.pwrite(self.fd, view[at : at + SLICE], self.size)
            at += written
            self.size += written

    def cut(self, size: int) -> None:
        """Let the file end at `size`."""
        os.ftruncate(self.fd, size)
        self.size = size

    def read(self) -> memoryview:
        """What the file has so far."""
        size = self.size = os.fstat(self.fd).st_size
        return memoryview(mmap.mmap(self.fd, size, prot=mmap.PROT_READ)) if size else memoryview(b"")

    def begin(self, ring: Ring, number: int, data: bytes) -> None:
        """Go on in the next file of a ring, which comes into being with all that it begins with."""
        partial = ring.partial()
        ring.forget_begun()
        store = Store(create(partial))
        try:
            store.write(data)
            os.rename(partial, ring.name(number))
        except OSError:
            store.close()
            os.unlink(partial)
            raise
        self.close()
        self.fd, self.size = store.fd, store.size
        files = ring.list()
        for _, path in files[: max(0, len(files) - ring.files)] if ring.files else ():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def close(self) -> None:
        os.close(self.fd)
