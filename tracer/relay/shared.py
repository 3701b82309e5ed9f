"""The memory that worker and recorder share: counters, a table of connections, and the ring of records.

One memfd. The worker alone writes records and moves `head`; the recorder alone moves `tail`; both only ever grow. What
a process needs to go on after another has died is in here and in the kernel, nowhere else. A record that finds no
room is not written: the traffic does not wait, and the hole shows in the next record's stream offset.

    word 0..63      counters, by the names below (native 64-bit words: one store each, never torn)
    TABLE           SLOTS connections of SLOT_WORDS words
    RING            records: header (40 bytes) and payload, padded to 8; a record never wraps
"""

from __future__ import annotations

import _thread
import contextlib
import mmap
import os
import platform
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

HEAD, TAIL, WAITING, TICK, ACCEPTED, LOST_BYTES, LOST_CHUNKS, DIRECT, CLOCK_OFFSET = range(1, 10)
LAID, ACTIVE, PIPE, EPOLL = range(10, 14)
"""What a successor of a dead worker needs: where a record is laid that is not committed yet, which direction moved last
(row × 2 + direction), the pipe it moved through (read end << 32 | write end), the worker's epoll descriptor."""
WORKER_PID, HOLDER_PID, RECORDER_PID, STATE, DEATHS, BARREN, SALVAGED, UNTIL_NS = range(14, 22)
"""Who runs (a worker says so once it has taken over); a `State`; workers that died, and how many of them in a row
without a chunk between; successors that found bytes in a pipe or a record laid; when to leave by itself
(CLOCK_MONOTONIC, 0 is never)."""
RECORDER_STATE, RECORDER_DEATHS, CAPTURE_PACKETS, CAPTURE_BYTES, CAPTURE_FILE, DROPPED_BYTES = range(22, 28)
"""Written by the recorder: a `RecorderState`; (by the holder: recorders that died;) packets and bytes written in all,
the number of the file of a ring that is being written, bytes of traffic that came out of the ring and did not get into
a file (disk full or kept free)."""
PAUSED_NS, DROPPED_CONNECTIONS = 30, 31
"""Since when the recorder waits for room on its disk (UTC; 0: it does not), and how many connections came and went in
such pauses."""
ROWS, INOTIFY = 28, 29
"""Rows of the table that were ever in use: a higher one is free, and not touched. The worker's inotify descriptor, as
long as a socket that appears is to be taken at once; 0: none is."""
_WORDS = 64
_STORES_STAY_IN_ORDER = platform.machine() in ("x86_64", "i686")
"""Of one processor, as another one sees them (Intel SDM vol. 3A §9.2.2)."""


class State(IntEnum):
    """What a relay is doing."""

    STARTING = 0
    TRACING = 1
    DRAINING = 2
    """The paths are given back; what is open is forwarded, unrecorded."""
    ENDED = 3


class RecorderState(IntEnum):
    """How far a recorder is. One that ends without having said COMPLETE or FAILED has died, and another goes on."""

    RUNNING = 0
    COMPLETE = 1
    FAILED = 2
    """It gave up (its disk is full, for one), in order."""


SLOTS = 16384
"""Connections at once; the next one is refused room in the table and goes unrecorded. Memory is touched when used."""
SLOT_WORDS = 16
S_STATE, S_NUMBER, S_CLIENT, S_UPSTREAM, S_LISTENER, S_IN0, S_OUT0, S_IN1, S_OUT1 = range(9)
S_PIPE0, S_PIPE1, S_FLAGS0, S_FLAGS1, S_PID = range(9, 14)
"""A row: a `Row`, the connection's number, both descriptors, the listener's number; by direction: bytes read from the
source, bytes delivered to the target, a pipe that holds what the target has not taken (as PIPE, 0 is none), flags;
the client's pid."""

RING_BYTES = 32 << 20
_TABLE_AT = 4096
_RING_AT = _TABLE_AT + SLOTS * SLOT_WORDS * 8

BATCH = 1 << 20
"""Bytes of the ring that a reader takes before it gives their room back."""

RECORD = struct.Struct("=IHHIIQQQ")  # size, kind, direction, length, spare, connection, offset, time_ns
RECORD_BYTES = RECORD.size
CONTROL_ROOM = 256 << 10
"""Kept free of data, so that openings and ends of connections find room when the ring is full."""


class Row(IntEnum):
    """State of a row of the table."""

    FREE = 0
    MADE = 1
    """Both ends are connected; its opening is not in the ring yet."""
    OPEN = 2
    CLOSING = 3


class Kind(IntEnum):
    """What a record tells."""

    PAD = 0
    DATA = 1
    """Bytes of one read; `offset` is their place in the direction's stream."""
    OPEN = 2
    """A connection was accepted: payload `listener,pid,uid,gid` in text."""
    FIN = 3
    """This direction has ended in order."""
    RESET = 4
    """This direction's sender closed with bytes unread, or died."""
    LISTENER = 5
    """A socket is traced from now on: payload JSON."""
    CLOCK = 6
    """The wall clock was set: payload, in text, by how many nanoseconds."""
    END = 7
    """Nothing follows."""


class Record(NamedTuple):
    """One record of the ring; `payload` lies in shared memory and is valid until `release()`."""

    kind: int
    direction: int
    connection: int
    offset: int
    time_ns: int
    payload: memoryview | bytes


class Shared:
    """The mapping itself, made once (before the fork) and used by both sides."""

    def __init__(self, ring_bytes: int = RING_BYTES) -> None:
        self.ring_bytes = ring_bytes
        self.fd = os.memfd_create("podwire", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, _RING_AT + ring_bytes)
        self._map = mmap.mmap(self.fd, _RING_AT + ring_bytes)
        self._bytes = memoryview(self._map)
        self.words = self._bytes[: _WORDS * 8].cast("Q")
        self.table = self._bytes[_TABLE_AT:_RING_AT].cast("Q")
        self.ring = self._bytes[_RING_AT:]
        self.recorder_wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.recorder_notes = os.memfd_create("recorder", os.MFD_CLOEXEC)
        """What a recorder leaves to the one after it; nobody else knows what is in there."""

    @property
    def descriptors(self) -> set[int]:
        """All that it has."""
        return {self.fd, self.recorder_wake, self.recorder_notes}

    def make_pages(self) -> None:
        """Have the kernel make the ring's pages now: a page that is made when it is first touched costs the worker
        more than to move that page's bytes. A kernel without memory to spare makes them one by one, as before."""
        with contextlib.suppress(OSError):
            os.posix_fallocate(self.fd, _RING_AT, self.ring_bytes)

    def close(self) -> None:
        """Unmap and close; for the process that only started the others."""
        for view in (self.words, self.table, self.ring, self._bytes):
            view.release()
        self._map.close()
        for fd in self.descriptors:
            os.close(fd)


class Snapshot(NamedTuple):
    """The counters, and the rows of the table that are in use, at one moment."""

    words: memoryview
    rows: list[memoryview]


def snapshot(fd: int) -> Snapshot:
    """What the memory behind `fd` says now, for who has no part in it. It is read, not mapped: that makes no page that
    is not there yet."""
    words = memoryview(os.pread(fd, _WORDS * 8, 0)).cast("Q")
    table = memoryview(os.pread(fd, words[ROWS] * SLOT_WORDS * 8, _TABLE_AT)).cast("Q")
    rows = [table[at : at + SLOT_WORDS] for at in range(0, len(table), SLOT_WORDS)]
    return Snapshot(words, [row for row in rows if row[S_STATE] != Row.FREE])


class RingWriter:
    """The worker's side. `reserve` → fill → `lay` → (the bytes move) → `commit`."""

    def __init__(self, shared: Shared) -> None:
        self._shared, self._words = shared, shared.words
        self.bytes = shared.ring
        self._size = shared.ring_bytes
        self._at = 0
        self._lock = _thread.allocate_lock()

    def reserve(self, most: int, keep_free: int = CONTROL_ROOM) -> memoryview | None:
        """Room for a payload of up to `most` bytes (fewer near the ring's end), or None if there is none."""
        head = self._words[HEAD]
        free = self._size - (head - self._words[TAIL]) - keep_free - RECORD_BYTES - 8
        at = head % self._size
        to_end = self._size - at - RECORD_BYTES
        if to_end < min(most, 4096):
            if free < to_end + RECORD_BYTES:
                return None
            self._pad(head, at)
            free -= to_end + RECORD_BYTES
            at, to_end = 0, self._size - RECORD_BYTES
        room = min(most, free, to_end)
        if room < min(most, 4096):
            return None
        self._at = at
        start = at + RECORD_BYTES
        return self.bytes[start : start + room]

    def _pad(self, head: int, at: int) -> None:
        rest = self._size - at  # a multiple of 8, as every size is
        struct.pack_into("=IH", self.bytes, at, rest, Kind.PAD)
        self.publish(head + rest)

    def lay(self, kind: int, direction: int, length: int, connection: int, offset: int, time_ns: int) -> None:
        """Write the record's header over the reserved room; the recorder does not see it before `commit`."""
        size = (RECORD_BYTES + length + 7) & ~7
        RECORD.pack_into(self.bytes, self._at, size, kind, direction, length, 0, connection, offset, time_ns)
        self._words[LAID] = self._words[HEAD] + 1

    def forget(self) -> None:
        """Nothing moved: what was laid is no record."""
        self._words[LAID] = 0

    def laid(self) -> tuple[int, int, int, int] | None:
        """Of a predecessor: (direction, length, connection, offset) of the bytes whose record it had laid and not
        committed, None if there is none."""
        head = self._words[HEAD]
        if self._words[LAID] != head + 1:
            return None
        self._at = head % self._size
        _, kind, direction, length, _, connection, offset, _ = RECORD.unpack_from(self.bytes, self._at)
        return (direction, length, connection, offset) if kind == Kind.DATA else None

    def commit_at(self, at: int, laid: int, moved: int) -> None:
        """The same of a record that its user has laid itself, at this place of the ring (pump.py)."""
        self._at = at
        self.commit(laid, moved)

    def commit(self, laid: int, moved: int) -> None:
        """Publish the record that was laid with `laid` bytes, of which only `moved` went through."""
        if moved != laid:
            struct.pack_into("=I", self.bytes, self._at, (RECORD_BYTES + moved + 7) & ~7)
            struct.pack_into("=I", self.bytes, self._at + 8, moved)
        self.publish(self._words[HEAD] + ((RECORD_BYTES + moved + 7) & ~7))

    def control(self, kind: int, direction: int, connection: int, offset: int, time_ns: int, payload: bytes) -> bool:
        """Write and publish a record without traffic behind it; False if even the kept room is used up."""
        room = self.reserve(len(payload), keep_free=0)
        if room is None:
            return False
        room[:] = payload
        self.lay(kind, direction, len(payload), connection, offset, time_ns)
        self.commit(len(payload), len(payload))
        return True

    def publish(self, head: int) -> None:
        """Let the recorder see the records up to `head`."""
        # R10: Python has no memory barrier. Two turns of a lock order every store above before the store of `head`
        # on arm64 too: the first release (store-release) completes them, the second acquire (load-acquire of the same
        # word) cannot pass that release, and nothing below passes an acquire.
        if not _STORES_STAY_IN_ORDER:
            lock = self._lock
            lock.acquire()
            lock.release()
            lock.acquire()
            lock.release()
        self._words[HEAD] = head
        if self._words[WAITING]:
            self._words[WAITING] = 0
            os.eventfd_write(self._shared.recorder_wake, 1)


class RingReader:
    """The recorder's side: take what is there, then `release()` it."""

    def __init__(self, shared: Shared) -> None:
        self._words, self._ring, self._size = shared.words, shared.ring, shared.ring_bytes
        self._next = self._words[TAIL]

    def read(self, most: int = BATCH) -> Iterator[Record]:
        """The records that are complete, up to about `most` bytes of them."""
        head = self._words[HEAD]
        until = min(head, self._next + most)
        while self._next < until:
            at = self._next % self._size
            size, kind, direction, length, _, connection, offset, time_ns = (
                RECORD.unpack_from(self._ring, at)
                if self._size - at >= RECORD_BYTES
                else (*struct.unpack_from("=IHH", self._ring, at), 0, 0, 0, 0, 0)
            )
            self._next += size
            if kind != Kind.PAD:
                start = at + RECORD_BYTES
                yield Record(kind, direction, connection, offset, time_ns, self._ring[start : start + length])

    def release(self) -> None:
        """Give the room of everything read so far back to the worker."""
        self._words[TAIL] = self._next

    def waiting(self) -> int:
        """How many bytes of records wait."""
        return self._words[HEAD] - self._next
