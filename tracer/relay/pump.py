"""Move the bytes of one connection, both ways, and put a copy of each chunk into the ring.

A chunk takes three calls: peek into the ring's memory, splice into a pipe, splice out of it. Bytes in transit lie in
the source socket or in a pipe, never in this process alone. Nothing in here waits (R1): what cannot go on now is
asked for again by epoll. Where the ring has no room the peek goes to a scratch buffer: the capture has a gap, the
traffic does not.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable

from tracer.relay import shared as sh
from tracer.relay.shared import Kind, RingWriter, Shared

CHUNK = 256 << 10
"""Most that one read takes; a unix socket holds about 208 KiB unless its owner raised it."""
_CHUNKS_A_TURN = 8
"""Then the other connections have their turn (epoll is level-triggered: it comes back)."""
_PIPE_BYTES = 1 << 20
_SPARE_PIPES = 4
_MAX_DESCRIPTORS = 253  # SCM_MAX_FD
_SPLICE = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE

REQUEST, RESPONSE = 0, 1
CLIENT, UPSTREAM = 0, 1

_IN, _OUT, _HUP, _ERR, _RDHUP = (
    select.EPOLLIN,
    select.EPOLLOUT,
    select.EPOLLHUP,
    select.EPOLLERR,
    select.EPOLLRDHUP,
)
_OUT_OF_EPOLL = -1
_PEER_IS_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN})


class Pipe:
    """A pipe and how many bytes lie in it."""

    __slots__ = ("held", "read_end", "write_end")

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0
        with contextlib.suppress(OSError):  # over the user's limit for pipes: the default size does, in more turns
            fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def close(self) -> None:
        """Close both ends."""
        os.close(self.read_end)
        os.close(self.write_end)


class Context:
    """What all connections of a worker share: the ring, the clock, the pipes, epoll."""

    def __init__(self, shared: Shared, epoll: select.epoll) -> None:
        self.words, self.table = shared.words, shared.table
        self.ring = RingWriter(shared)
        self.epoll = epoll
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.recording = True
        self.scratch = memoryview(bytearray(CHUNK))
        self.owed: deque[tuple[int, int, int, int, int, bytes]] = deque()
        self._pipes = [Pipe()]
        self._free_slots = list(range(sh.SLOTS - 1, -1, -1))

    def now_ns(self) -> int:
        """UTC nanoseconds: CLOCK_MONOTONIC plus the offset fixed at the start (R5)."""
        return time.monotonic_ns() + self.words[sh.CLOCK_OFFSET]

    def record(self, kind: int, direction: int, connection: int, offset: int, payload: bytes = b"") -> None:
        """Put a record without traffic into the ring, or owe it until there is room; never lost, never out of order."""
        if not self.recording:
            return
        entry = (kind, direction, connection, offset, self.now_ns(), payload)
        if self.owed or not self.ring.control(*entry):
            self.owed.append(entry)

    def pay(self) -> None:
        """Write the records that found no room earlier, as far as there is room now."""
        while self.owed and self.ring.control(*self.owed[0]):
            self.owed.popleft()

    def take_pipe(self) -> Pipe | None:
        """An empty pipe, or None where no descriptors are left."""
        if self._pipes:
            return self._pipes.pop()
        try:
            return Pipe()
        except OSError:
            return None

    def give_pipe(self, pipe: Pipe) -> None:
        """Take an empty pipe back."""
        if pipe.held == 0 and len(self._pipes) < _SPARE_PIPES:
            self._pipes.append(pipe)
        else:
            pipe.close()

    def take_slot(self) -> int:
        """First word of a free row of the table, -1 if it is full."""
        self.words[sh.ROWS] = max(self.words[sh.ROWS], sh.SLOTS - len(self._free_slots) + 1)
        return self._free_slots.pop() * sh.SLOT_WORDS if self._free_slots else -1

    def give_slot(self, base: int) -> None:
        """Free a row."""
        self.table[base] = 0
        self._free_slots.append(base // sh.SLOT_WORDS)

    def close(self) -> None:
        """Close the spare pipes."""
        for pipe in self._pipes:
            pipe.close()


class Half:
    """One direction: from `source` to `target`."""

    __slots__ = (
        "broken",
        "done",
        "end_recorded",
        "ended",
        "index",
        "message",
        "offset",
        "pipe",
        "source",
        "source_fd",
        "target",
        "target_fd",
        "waiting",
    )

    def __init__(self, index: int, source: socket.socket, target: socket.socket) -> None:
        self.index = index
        self.source, self.target = source, target
        self.source_fd, self.target_fd = source.fileno(), target.fileno()
        self.offset = 0
        """Bytes read from the source so far."""
        self.pipe: Pipe | None = None
        """Filled while the target is full."""
        self.message: tuple[bytes, list[int]] | None = None
        """A message with descriptors that the target has not taken yet (R7)."""
        self.waiting = False
        """The target is full, and no pipe was to be had: the bytes are still in the source."""
        self.ended = False
        """The source's end was read."""
        self.end_recorded = False
        self.broken = False
        """The source takes nothing any more: it closed with bytes unread, or died."""
        self.done = False
        """… and passed on: nothing moves in this direction any more."""

    @property
    def blocked(self) -> bool:
        """Whether bytes wait for the target."""
        return self.pipe is not None or self.message is not None or self.waiting


class Connection:
    """A client and its upstream, relayed."""

    __slots__ = ("base", "closed", "context", "halves", "hung", "masks", "number", "on_close", "sockets")

    def __init__(
        self,
        context: Context,
        number: int,
        listener: int,
        client: socket.socket,
        upstream: socket.socket,
        on_close: Callable[[Connection], None],
    ) -> None:
        self.context, self.number, self.on_close = context, number, on_close
        self.sockets = (client, upstream)
        self.halves = (Half(REQUEST, client, upstream), Half(RESPONSE, upstream, client))
        self.masks = [_OUT_OF_EPOLL, _OUT_OF_EPOLL]
        self.hung = [False, False]
        self.closed = False
        self.base = context.take_slot()
        if self.base >= 0:
            row = (sh.Row.OPEN, number, client.fileno(), upstream.fileno(), listener, 0, 0, 0, 0)
            for word, value in enumerate(row):
                context.table[self.base + word] = value
        context.handlers[client.fileno()] = self._client_event
        context.handlers[upstream.fileno()] = self._upstream_event
        self._set_mask(CLIENT, _IN)
        self._set_mask(UPSTREAM, _IN)

    def _client_event(self, events: int) -> None:
        self._event(CLIENT, events)

    def _upstream_event(self, events: int) -> None:
        self._event(UPSTREAM, events)

    def _event(self, side: int, events: int) -> None:
        """Epoll says something of one socket: it is the source of one half and the target of the other."""
        reading, writing = self.halves[side], self.halves[1 - side]
        if events & _HUP:
            self.hung[side] = True
        if events & (_IN | _HUP | _ERR | _RDHUP):
            self._forward(reading)
        if writing.blocked and events & (_OUT | _HUP | _ERR):
            self._forward(writing)
        self._settle()

    def _settle(self) -> None:
        """After anything moved: end what is over, and ask epoll for what is left."""
        halves = self.halves
        for side in (CLIENT, UPSTREAM):
            # This side has closed both ways, and all it sent is delivered: nothing can reach it any more. What the
            # other side had sent is still read once, and recorded.
            if self.hung[side] and halves[side].done and not halves[1 - side].done:
                self._forward(halves[1 - side])
                halves[1 - side].done = True
        if halves[0].done and halves[1].done:
            self.close()
            return
        for side in (CLIENT, UPSTREAM):
            mask = 0 if halves[side].ended or halves[side].blocked else _IN
            if halves[1 - side].blocked:
                mask |= _OUT
            if mask != self.masks[side] or (mask == 0 and self.hung[side]):
                self._set_mask(side, mask)

    def _set_mask(self, side: int, mask: int) -> None:
        """Ask epoll for these events of one socket; -1 in `masks` is a socket that is not in epoll."""
        fd, epoll, old = self.sockets[side].fileno(), self.context.epoll, self.masks[side]
        if mask == 0 and self.hung[side]:
            # epoll reports a hang-up whatever the mask: a blocked direction's descriptor has to leave it (R1).
            mask = _OUT_OF_EPOLL
        if mask == old:
            return
        if mask == _OUT_OF_EPOLL:
            epoll.unregister(fd)
        elif old == _OUT_OF_EPOLL:
            epoll.register(fd, mask)
        else:
            epoll.modify(fd, mask)
        self.masks[side] = mask

    def _forward(self, half: Half) -> None:
        """Move what can be moved from source to target."""
        context, source = self.context, half.source
        for _ in range(_CHUNKS_A_TURN):
            if half.done or (half.blocked and not self._deliver(half)):
                return
            if half.ended:
                self._finish(half)
                return
            room = context.ring.reserve(CHUNK) if context.recording and not context.owed else None
            buffer = context.scratch if room is None else room
            try:
                length, _, flags, _ = source.recvmsg_into((buffer,), 0, socket.MSG_PEEK)
            except BlockingIOError:
                return
            except OSError:
                self._source_ended(half, Kind.RESET)
                continue
            if length == 0:
                self._source_ended(half, Kind.FIN)
                continue
            if room is not None:
                context.ring.lay(Kind.DATA, half.index, length, self.number, half.offset, context.now_ns())
            moved = self._forward_message(half, length) if flags & socket.MSG_CTRUNC else self._splice(half, length)
            if moved == 0:
                return
            if room is not None:
                context.ring.commit(length, moved)
            else:
                context.words[sh.LOST_BYTES] += moved
                context.words[sh.LOST_CHUNKS] += 1
            half.offset += moved

    def _splice(self, half: Half, length: int) -> int:
        """Source → pipe → target; returns how many bytes left the source."""
        pipe = self.context.take_pipe()
        if pipe is None:
            return self._copy(half, length)
        pipe.held = moved = os.splice(half.source_fd, pipe.write_end, length, flags=_SPLICE)
        half.pipe = pipe
        self._deliver(half)
        if self.base >= 0:
            table, word = self.context.table, self.base + sh.S_IN0 + 2 * half.index
            table[word] += moved
        return moved

    def _copy(self, half: Half, length: int) -> int:
        """Without a pipe: send from a peek, then take as much off the source. Slower, and still nothing is held."""
        peeked = half.source.recv(length, socket.MSG_PEEK)
        try:
            sent = half.target.send(peeked)
        except BlockingIOError:
            half.waiting = True
            return 0
        except OSError:
            self._target_gone(half)
            return 0
        half.source.recv_into(self.context.scratch, sent)
        return sent

    def _deliver(self, half: Half) -> bool:
        """Write what waits in the half's pipe; True when nothing waits any more."""
        if half.message is not None:
            return self._deliver_message(half)
        half.waiting = False
        pipe = half.pipe
        if pipe is None:
            return True
        try:
            while pipe.held:
                sent = os.splice(pipe.read_end, half.target_fd, pipe.held, flags=_SPLICE)
                pipe.held -= sent
                if self.base >= 0:
                    self.context.table[self.base + sh.S_OUT0 + 2 * half.index] += sent
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _PEER_IS_GONE:
                raise
            self._target_gone(half)
        half.pipe = None
        self.context.give_pipe(pipe)
        return True

    def _forward_message(self, half: Half, length: int) -> int:
        """A chunk with descriptors: splice would drop them silently (R7), so it goes as one message."""
        room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)
        data, ancillary, _, _ = half.source.recvmsg(length, room)
        descriptors = array.array("i")
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(value[: len(value) - len(value) % descriptors.itemsize])
        half.message = (data, list(descriptors))
        self._deliver_message(half)
        return len(data)

    def _deliver_message(self, half: Half) -> bool:
        assert half.message is not None
        data, descriptors = half.message
        try:
            while data:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
                data = data[half.target.sendmsg([data], ancillary if descriptors else []) :]
                _close_all(descriptors)
                descriptors = []
        except BlockingIOError:
            half.message = (data, descriptors)
            return False
        except OSError as error:
            if error.errno not in _PEER_IS_GONE:
                raise
            _close_all(descriptors)
            self._target_gone(half)
        half.message = None
        return True

    def _source_ended(self, half: Half, kind: Kind) -> None:
        half.ended = half.end_recorded = True
        self.context.record(Kind.RESET if half.broken else kind, half.index, self.number, half.offset)

    def _finish(self, half: Half) -> None:
        """Pass the end on, once all before it is delivered (R6)."""
        half.done = True
        try:
            half.target.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno not in _PEER_IS_GONE:
                raise

    def _target_gone(self, half: Half) -> None:
        """The target takes nothing any more. What it had sent before is the other half's, and still delivered."""
        other = self.halves[1 - half.index]
        if not other.ended:
            # Its own bytes may still lie unread; its end is recorded, as a reset, when they are read.
            self.hung[1 - half.index] = other.broken = True
        half.done = True
        if not half.ended:
            half.ended = True
            try:
                half.source.shutdown(socket.SHUT_RD)  # so that its writer learns of it, as it would have
            except OSError as error:
                if error.errno not in _PEER_IS_GONE:
                    raise

    def close(self) -> None:
        """Close both sockets and forget them; what is recorded of it is that it ended."""
        if self.closed:
            return
        self.closed = True
        context = self.context
        for side, half in enumerate(self.halves):
            if not half.end_recorded:
                kind = Kind.RESET if half.broken else Kind.FIN
                context.record(kind, half.index, self.number, half.offset)
            if half.pipe is not None:
                half.pipe.close()
            if half.message is not None:
                _close_all(half.message[1])
            fd = self.sockets[side].fileno()
            if self.masks[side] != _OUT_OF_EPOLL:
                context.epoll.unregister(fd)
            del context.handlers[fd]
            self.sockets[side].close()
        if self.base >= 0:
            context.give_slot(self.base)
        self.on_close(self)


def _close_all(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)
