"""Capture files: a path comes in, packets and notices go out.

pcapng and pcap, plain or gzip, told apart by their first bytes; a file that is still being written can be followed.
Blocks and records are the matter of `pcapng` and `pcap`; what is in the packets is no matter here.
"""

from __future__ import annotations

import os
import select
import stat
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from protos.errors import PodwireError
from tracer.capture.packets import Notice, Packet
from tracer.capture.pcap import MAGICS, MODIFIED, PcapReader
from tracer.capture.pcapng import PcapngReader

CHUNK: Final = 1 << 20
"""Bytes taken at once, of the file and out of its compression."""

_GZIP = b"\x1f\x8b"
SECTION_HEADER = b"\n\r\r\n"


def open_capture(path: str, *, follow: bool = False) -> CaptureFile:
    """Open a capture; `-` is standard input. `follow`: it is still being written, so it may be empty yet.

    Raises PodwireError if there is no such file, it may not be read, it is empty, or it is no capture. On a pipe this
    waits for the first bytes, unless `follow` is set.
    """
    name = "standard input" if path == "-" else path
    try:
        descriptor = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise PodwireError(f"{name}: cannot be read: {(error.strerror or '').lower()}") from error
    capture = CaptureFile(descriptor, name, follow=follow)
    try:
        if not follow:
            capture.require()
    except BaseException:
        capture.close()
        raise
    return capture


class CaptureFile:
    """An open capture. Made by `open_capture`; closes its descriptor on `close` or at the end of a `with`."""

    def __init__(self, descriptor: int, name: str, *, follow: bool = False) -> None:
        self.name = name
        self._follow = follow
        """Its last block may be written anew by a recorder that goes on after another: none is taken before it is
        whole."""
        self.position = 0
        """Bytes of the file that were read so far (compressed ones, where it is gzip)."""
        self.at_end = False
        """The last look found nothing more: for ever in a file that is complete, for now in one that grows."""
        self._descriptor = descriptor
        self._regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._head = b""
        self._gzip: _Gunzip | None = None
        self._reader: PcapReader | PcapngReader | None = None
        self._found: list[Packet | Notice] = []
        self._finished = False
        self._over = False
        """There is no way on, though the file may have more."""

    @property
    def size(self) -> int:
        """Bytes that the file has now; 0 if it is a pipe."""
        return os.fstat(self._descriptor).st_size if self._regular else 0

    def fileno(self) -> int:
        """The descriptor, for waiting on a pipe."""
        return self._descriptor

    def require(self) -> None:
        """Read on until it is known what the file is. Raises PodwireError if it ends before that, or is no capture."""
        while self._reader is None and not self.at_end:
            self._found += self._read()
        if self._reader is None:
            what = "is no pcapng or pcap file" if self.position else "is empty, no capture"
            if self._gzip is not None and self._gzip.error:
                what = self._gzip.error
            raise PodwireError(f"{self.name}: {what}")

    def read_available(self) -> list[Packet | Notice]:
        """Return what a look at the file gives now; [] if there is nothing (see `at_end`) or nothing complete.

        Never waits. Raises PodwireError if what came shows that this is no capture.
        """
        if self._found:
            found, self._found = self._found, []
            return found
        if not self._regular and not select.select([self._descriptor], [], [], 0)[0]:
            return []
        return self._read()

    @property
    def seekable(self) -> bool:
        """`go_on` may be used: what was read is a file itself, not what is compressed in one."""
        return self._regular and self._gzip is None

    def state(self) -> tuple[PcapReader | PcapngReader | None, int]:
        """What `go_on` needs; good until the next read. Only where `seekable`, or nothing was given out yet."""
        return (None, 0) if self._found else (self._reader, self.position)

    def go_on(self, reader: PcapReader | PcapngReader | None, position: int) -> None:
        """Read on where another one of this file was."""
        self._reader, self._found, self._head, self.position = reader, [], b"", position
        os.lseek(self._descriptor, position, os.SEEK_SET)

    def finish(self) -> list[Notice]:
        """Tell that no more will be read; return notices of what is cut."""
        if self._finished:
            return []
        self._finished = True
        if self._follow:
            self._follow = False
            self._found += self._read()
        if self._reader is None:
            return []
        notices = self._reader.close()
        if self._gzip is not None and self._gzip.cut:
            notices.append(Notice(self._gzip.given, "the gzip file is cut: the rest of it is missing", fatal=True))
        return notices

    def __iter__(self) -> Iterator[Packet | Notice]:
        """Read to the end, waiting where it is a pipe."""
        while True:
            yield from self.read_available()
            if self.at_end:
                break
            if not self._regular:
                select.select([self._descriptor], [], [])
        yield from self.finish()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> list[Packet | Notice]:
        """Take one chunk of the file, or the next one out of its compression."""
        if self._over:
            return []
        if self._gzip is None or not self._gzip.more:
            try:
                data = os.read(self._descriptor, CHUNK)
            except OSError as error:
                raise PodwireError(f"{self.name}: cannot be read: {(error.strerror or '').lower()}") from error
            self.at_end = not data
            self.position += len(data)
            if self._gzip is None:
                return self._feed(data)
            self._gzip.put(data)
        return self._decompress(self._gzip)

    def _feed(self, data: bytes) -> list[Packet | Notice]:
        if self._reader is None:
            return self._first(data)
        found = self._reader.feed(data)
        if self._follow and self._gzip is None and len(data) < CHUNK and isinstance(self._reader, PcapngReader):
            partial = self._reader.unread()
            if partial:
                os.lseek(self._descriptor, -partial, os.SEEK_CUR)
                self.position -= partial
                self.at_end = partial == len(data)
        if found and isinstance(found[-1], Notice) and found[-1].fatal:
            self._over = self.at_end = True
        return found

    def _first(self, data: bytes) -> list[Packet | Notice]:
        """Find out by the first bytes what the file is."""
        self._head += data
        if len(self._head) < 4:
            return []
        head, self._head = self._head, b""
        if self._gzip is None and head.startswith(_GZIP):
            self._gzip = _Gunzip()
            self._gzip.put(head)
            return self._decompress(self._gzip)
        if head.startswith(SECTION_HEADER):
            self._reader = PcapngReader()
        elif head[:4] in MAGICS:
            self._reader = PcapReader()
        elif head[:4] in MODIFIED:
            text = "is pcap in Kuznetsov's modified form, which is not read: `editcap -F pcapng` converts it"
            raise PodwireError(f"{self.name}: {text}")
        else:
            raise PodwireError(f"{self.name}: is no pcapng or pcap file")
        return self._feed(head)

    def _decompress(self, gunzip: _Gunzip) -> list[Packet | Notice]:
        found = self._feed(gunzip.get())
        if gunzip.error and not self._over:
            self._over = self.at_end = True
            found.append(Notice(gunzip.given, gunzip.error, fatal=True))
        return found


class _Gunzip:
    """gzip (RFC 1952), one member or several behind each other: `put` a chunk, then `get` while there is `more`."""

    def __init__(self) -> None:
        self.given = 0
        """Bytes given out."""
        self.more = False
        """`get` may have something without a further `put`."""
        self.error = ""
        """Why there is no way on."""
        self._compressed = b""
        self._member = zlib.decompressobj(wbits=31)
        self._begun = False

    @property
    def cut(self) -> bool:
        """The member that was begun has not come to its end."""
        return self._begun and not self._member.eof and not self.error

    def put(self, data: bytes) -> None:
        self._compressed += data
        self.more = bool(self._compressed)

    def get(self) -> bytes:
        """Return the next bytes, `CHUNK` at most, however far they were compressed."""
        if self._member.eof:
            self._compressed = self._compressed.lstrip(b"\0")  # padding of tapes and the like, as gzip takes it
            if not self._compressed:
                self.more = False
                return b""
            self._member = zlib.decompressobj(wbits=31)
        self._begun = True
        before = self._member.copy()  # zlib gives nothing of a piece in which it finds an error
        try:
            data = self._member.decompress(self._compressed, CHUNK)
        except zlib.error as error:
            self.error = f"the gzip data is damaged: {error}"
            data = _until_damage(before, self._compressed)
            self._compressed = b""
            self.more = False
            self.given += len(data)
            return data
        self._compressed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        self.more = len(data) == CHUNK or bool(self._compressed)
        self.given += len(data)
        return data


def _until_damage(member: zlib._Decompress, compressed: bytes) -> bytes:
    """Return what comes out of a piece before the byte at which it is damaged, `CHUNK` at most."""
    data = b""
    for at in range(len(compressed)):
        try:
            data += member.decompress(compressed[at : at + 1], CHUNK - len(data))
        except zlib.error:
            break
        if len(data) == CHUNK:
            break
    return data
