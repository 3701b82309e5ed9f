"""Move the bytes of one connection, both ways, and put a copy of each chunk into the ring.

A chunk takes three calls: peek into the ring's memory, splice into a pipe, splice out of it. Bytes in transit lie in
the source socket or in a pipe, never in this process alone. Nothing in here waits (R1): what cannot go on now is
asked for again by epoll. Where the ring has no room the peek goes to a scratch buffer: the capture has a gap, the
traffic does not.

A worker can die between any two of these lines, so each step is written down in shared memory around the call that
does it, in this order: the record is laid, ACTIVE says whose bytes go into the pipe, splice in, IN, splice out, OUT,
the record is committed. Its successor compares IN − OUT with what lies in the pipe (takeover.py).
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
from tracer.relay.shared import RECORD, Kind, RingWriter, Shared

CHUNK = 256 << 10
"""Most that one read takes; a unix socket holds about 208 KiB unless its owner raised it."""
_CHUNKS_A_TURN = 8
"""Then the other connections have their turn (epoll is level-triggered: it comes back)."""
_PIPE_BYTES = 1 << 20
_SPARE_PIPES = 4
_DESCRIPTORS_ROOM = socket.CMSG_SPACE(253 * array.array("i").itemsize)  # SCM_MAX_FD
_PASSFD = b"passfd\n"
"""What a client of a hybrid vsock socket says before the message with a descriptor: a VMM that reads this line takes
no descriptors with it, so the two may not become one message."""
_END_RECORDED, _BROKEN = 1, 2
"""Flags of a direction, in its row."""
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

    __slots__ = ("held", "read_end", "word", "write_end")

    def __init__(self, read_end: int, write_end: int, held: int = 0) -> None:
        self.read_end, self.write_end, self.held = read_end, write_end, held
        self.word = read_end << 32 | write_end
        """As shared memory has it; never 0, which is descriptor 0 twice."""

    @classmethod
    def make(cls) -> Pipe:
        """An empty one. Raises OSError where no descriptors are left."""
        pipe = cls(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        with contextlib.suppress(OSError):  # over the user's limit for pipes: the default size does, in more turns
            fcntl.fcntl(pipe.write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return pipe

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
        self.pipe: Pipe | None = None
        """The one that bytes pass through now, empty between chunks."""
        self._spare: list[Pipe] = []
        self._free_rows = [
            row * sh.SLOT_WORDS
            for row in range(self.words[sh.ROWS] - 1, -1, -1)
            if self.table[row * sh.SLOT_WORDS + sh.S_STATE] == sh.Row.FREE
        ]
        """Of those that were in use before."""
        self.next_pipe()

    def now_ns(self) -> int:
        """UTC nanoseconds: CLOCK_MONOTONIC plus the offset fixed at the start (R5)."""
        return time.monotonic_ns() + self.words[sh.CLOCK_OFFSET]

    def record(self, kind: int, direction: int, connection: int, offset: int, payload: bytes = b"") -> None:
        """Put a record without traffic into the ring, or owe it until there is room; never out of order."""
        if not self.recording:
            return
        entry = (kind, direction, connection, offset, self.now_ns(), payload)
        if self.owed or not self.ring.control(*entry):
            self.owed.append(entry)

    def pay(self) -> None:
        """Write the records that found no room earlier, as far as there is room now."""
        while self.owed and self.ring.control(*self.owed[0]):
            self.owed.popleft()

    def next_pipe(self) -> None:
        """Have an empty pipe for the next chunk: a spare one, a new one, or none where no descriptors are left."""
        self.pipe = self._spare.pop() if self._spare else None
        if self.pipe is None:
            with contextlib.suppress(OSError):
                self.pipe = Pipe.make()
        self.words[sh.PIPE] = self.pipe.word if self.pipe is not None else 0

    def give_pipe(self, pipe: Pipe) -> None:
        """Take a pipe back that a direction had kept."""
        if pipe.held == 0 and len(self._spare) < _SPARE_PIPES:
            self._spare.append(pipe)
        else:
            pipe.close()

    def take_row(self, number: int, listener: int, client: socket.socket, upstream: socket.socket, pid: int) -> int:
        """Write a new connection into a free row; returns the row's first word. Raises OSError (EMFILE) if there is
        none: no more can be relayed."""
        used = self.words[sh.ROWS]
        if not self._free_rows and used == sh.SLOTS:
            raise OSError(errno.EMFILE, "the table of connections is full")
        base = self._free_rows.pop() if self._free_rows else used * sh.SLOT_WORDS
        for word in range(sh.SLOT_WORDS):
            self.table[base + word] = 0
        row = (number, client.fileno(), upstream.fileno(), listener)
        for word, value in zip((sh.S_NUMBER, sh.S_CLIENT, sh.S_UPSTREAM, sh.S_LISTENER), row, strict=True):
            self.table[base + word] = value
        self.table[base + sh.S_PID] = pid
        self.words[sh.ROWS] = max(self.words[sh.ROWS], base // sh.SLOT_WORDS + 1)
        self.table[base + sh.S_STATE] = sh.Row.MADE  # last: from now on it is there
        return base

    def give_row(self, base: int) -> None:
        """Free a row."""
        self.table[base + sh.S_STATE] = sh.Row.FREE
        self._free_rows.append(base)

    def close(self) -> None:
        """Close the pipes."""
        for pipe in self._spare:
            pipe.close()
        if self.pipe is not None:
            self.pipe.close()


class Half:
    """One direction: from `source` to `target`."""

    __slots__ = (
        "active",
        "broken",
        "done",
        "end_recorded",
        "ended",
        "index",
        "offset",
        "out",
        "pipe",
        "source",
        "source_fd",
        "target",
        "target_fd",
        "waiting",
        "word_flags",
        "word_in",
        "word_out",
        "word_pipe",
    )

    def __init__(self, index: int, base: int, source: socket.socket, target: socket.socket) -> None:
        self.index = index
        self.source, self.target = source, target
        self.source_fd, self.target_fd = source.fileno(), target.fileno()
        self.word_in, self.word_out = base + sh.S_IN0 + 2 * index, base + sh.S_OUT0 + 2 * index
        self.word_pipe, self.word_flags = base + sh.S_PIPE0 + index, base + sh.S_FLAGS0 + index
        self.active = base * 2 + index + 1
        """What ACTIVE is while this direction's bytes go into the pipe."""
        self.offset = self.out = 0
        """Bytes read from the source so far, and bytes that the target has taken."""
        self.pipe: Pipe | None = None
        """Filled while the target is full."""
        self.waiting = False
        """The target is full, and the bytes are still in the source."""
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
        return self.pipe is not None or self.waiting


class Connection:
    """A client and its upstream, relayed; what it has done lies in its row of the table."""

    __slots__ = ("base", "calm", "closed", "context", "halves", "hung", "masks", "number", "on_close", "sockets")

    def __init__(
        self,
        context: Context,
        base: int,
        client: socket.socket,
        upstream: socket.socket,
        on_close: Callable[[Connection], None],
    ) -> None:
        self.context, self.base, self.on_close = context, base, on_close
        self.number = context.table[base + sh.S_NUMBER]
        self.sockets = (client, upstream)
        self.halves = (Half(REQUEST, base, client, upstream), Half(RESPONSE, base, upstream, client))
        for half in self.halves:  # as a predecessor left it; all 0 of a new one
            half.offset, half.out = context.table[half.word_in], context.table[half.word_out]
            flags = context.table[half.word_flags]
            half.end_recorded, half.broken = bool(flags & _END_RECORDED), bool(flags & _BROKEN)
            pipe = context.table[half.word_pipe]
            if pipe:
                half.pipe = Pipe(pipe >> 32, pipe & 0xFFFFFFFF, half.offset - half.out)
        self.masks = [_OUT_OF_EPOLL, _OUT_OF_EPOLL]
        self.hung = [False, False]
        self.closed = False
        self.calm = False
        """Both directions only wait for bytes."""
        context.handlers[client.fileno()] = _lane(self, CLIENT)
        context.handlers[upstream.fileno()] = _lane(self, UPSTREAM)
        self._set_mask(CLIENT, _IN)
        self._set_mask(UPSTREAM, _IN)

    def go_on(self) -> None:
        """After a takeover: nobody knows what epoll had told already, so try everything once."""
        for half in self.halves:
            self._forward(half)
        self._settle()

    def event(self, side: int, events: int) -> None:
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
        self.calm = self.masks[CLIENT] == _IN == self.masks[UPSTREAM]

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
        context, source, words = self.context, half.source, self.context.words
        for _ in range(_CHUNKS_A_TURN):
            if half.done or (half.pipe is not None and not self._deliver(half, half.pipe)):
                return
            if half.ended:
                self._finish(half)
                return
            half.waiting = False
            room = context.ring.reserve(CHUNK) if context.recording and not context.owed else None
            buffer = context.scratch if room is None else room
            try:
                length, _, flags, _ = source.recvmsg_into((buffer,), 0, socket.MSG_PEEK)
            except BlockingIOError:
                return
            except OSError:
                self.source_ended(half, Kind.RESET)
                continue
            if length == 0:
                self.source_ended(half, Kind.FIN)
                continue
            if room is not None:
                context.ring.lay(Kind.DATA, half.index, length, self.number, half.offset, context.now_ns())
            pipe = context.pipe
            if pipe is None or flags & socket.MSG_CTRUNC:
                moved = self._send_peeked(half, length)
            else:
                words[sh.ACTIVE] = half.active
                moved = os.splice(half.source_fd, pipe.write_end, length, flags=_SPLICE)
                half.offset += moved
                context.table[half.word_in] = half.offset
                pipe.held = moved
                if not self._deliver(half, pipe):
                    self.keep(half, pipe)
            if moved == 0:
                context.ring.forget()
                return
            if room is not None:
                context.ring.commit(length, moved)
            else:
                words[sh.LOST_BYTES] += moved
                words[sh.LOST_CHUNKS] += 1
            if length < len(buffer):
                return  # that was all; epoll tells if more has come

    def _deliver(self, half: Half, pipe: Pipe) -> bool:
        """Write what waits in a pipe; True when nothing waits any more."""
        try:
            while pipe.held:
                sent = os.splice(pipe.read_end, half.target_fd, pipe.held, flags=_SPLICE)
                pipe.held -= sent
                half.out += sent
                self.context.table[half.word_out] = half.out
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _PEER_IS_GONE:
                raise
            self._drop(half, pipe)
            return True
        if half.pipe is not None:
            self._let_go(half)
        return True

    def keep(self, half: Half, pipe: Pipe) -> None:
        """The target is full: the pipe is this direction's until it is empty."""
        half.pipe = pipe
        self.context.table[half.word_pipe] = pipe.word  # before another is the current one: it has an owner then
        self.context.next_pipe()

    def _drop(self, half: Half, pipe: Pipe) -> None:
        """The target takes nothing any more: neither what lies in the pipe nor what may still come."""
        self._target_gone(half)
        if half.pipe is None:
            self.context.next_pipe()  # the current one was not emptied
        half.out = half.offset
        self.context.table[half.word_out] = half.out
        half.pipe = pipe
        self._let_go(half)

    def _let_go(self, half: Half) -> None:
        pipe = half.pipe
        assert pipe is not None
        half.pipe = None
        self.context.table[half.word_pipe] = 0
        self.context.give_pipe(pipe)

    def _send_peeked(self, half: Half, length: int) -> int:
        """Send what can be peeked, with the descriptors that come with it, and only then take it off the source: splice
        would drop descriptors silently (R7), and without a pipe there is no splice. Returns the bytes that went.

        Unlike a splice this cannot be told from outside to have happened: a worker that dies between the calls leaves
        its successor to believe what OUT says.
        """
        data, ancillary, _, _ = half.source.recvmsg(length, _DESCRIPTORS_ROOM, socket.MSG_PEEK)
        descriptors = array.array("i")
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(value[: len(value) - len(value) % descriptors.itemsize])
        line = len(_PASSFD)
        alone = not half.offset and length > line and data[:line].lower() == _PASSFD
        if alone:
            data = data[:line]
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if descriptors and not alone else []
        try:
            sent = half.target.sendmsg([data], passed)
        except BlockingIOError:
            half.waiting = True
            return 0
        except OSError as error:
            if error.errno not in _PEER_IS_GONE:
                raise
            self._target_gone(half)
            return 0
        finally:
            for fd in descriptors:
                os.close(fd)
        half.out += sent
        self.context.table[half.word_out] = half.out
        half.source.recv_into(self.context.scratch, sent)  # without room for descriptors: those are dropped here
        half.offset += sent
        self.context.table[half.word_in] = half.offset
        return sent

    def source_ended(self, half: Half, kind: Kind) -> None:
        half.ended = True
        self._record_end(half, kind)

    def _record_end(self, half: Half, kind: Kind) -> None:
        if not half.end_recorded:
            self.context.record(Kind.RESET if half.broken else kind, half.index, self.number, half.offset)
            half.end_recorded = True
            self.context.table[half.word_flags] |= _END_RECORDED

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
            self.context.table[other.word_flags] |= _BROKEN
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
        self.closed, self.calm = True, False
        context = self.context
        for half in self.halves:
            self._record_end(half, Kind.FIN)
        context.table[self.base + sh.S_STATE] = sh.Row.CLOSING
        for side, half in enumerate(self.halves):
            if half.pipe is not None:
                half.pipe.close()
            fd = self.sockets[side].fileno()
            if self.masks[side] != _OUT_OF_EPOLL:
                context.epoll.unregister(fd)
            del context.handlers[fd]
            self.sockets[side].close()
        context.give_row(self.base)
        self.on_close(self)


def _lane(connection: Connection, side: int) -> Callable[[int], None]:
    """What epoll's events of one socket go to: an ordinary chunk (the ring has room, the target takes it) passes on one
    straight path, with all that it needs at hand; anything else is `Connection.event`'s. Half of a relay's time would
    go into asking for what is the same in each chunk.
    """
    context, half = connection.context, connection.halves[side]
    words, table, ring, writer, owed = context.words, context.table, context.ring.bytes, context.ring, context.owed
    size, pack, splice, now_ns = len(ring), RECORD.pack_into, os.splice, time.monotonic_ns
    peek, source_fd, target_fd = half.source.recvmsg_into, half.source_fd, half.target_fd
    number, index, active = connection.number, half.index, half.active
    word_in, word_out, clock = half.word_in, half.word_out, words[sh.CLOCK_OFFSET]
    need = CHUNK + sh.CONTROL_ROOM + 2 * sh.RECORD_BYTES

    def handle(events: int) -> None:
        pipe, head = context.pipe, words[sh.HEAD]
        at = head % size
        if (
            events != _IN
            or not connection.calm
            or not context.recording
            or owed
            or pipe is None
            or size - at < need
            or size - head + words[sh.TAIL] < need
        ):
            connection.event(side, events)
            return
        start = at + sh.RECORD_BYTES
        try:
            length, _, flags, _ = peek((ring[start : start + CHUNK],), 0, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:  # the kernel tells it once: after that, it looks like an end in order
            connection.source_ended(half, Kind.RESET)
            length = 0
            flags = 0
        if not length or flags & socket.MSG_CTRUNC:
            connection.event(side, events)
            return
        record = (sh.RECORD_BYTES + length + 7) & ~7
        pack(ring, at, record, Kind.DATA, index, length, 0, number, half.offset, now_ns() + clock)
        words[sh.LAID] = head + 1
        words[sh.ACTIVE] = active
        moved = splice(source_fd, pipe.write_end, length, flags=_SPLICE)
        half.offset += moved
        table[word_in] = half.offset
        try:
            sent = splice(pipe.read_end, target_fd, moved, flags=_SPLICE)
        except OSError:  # `event` finds out why
            sent = 0
        half.out += sent
        table[word_out] = half.out
        if moved == length:
            writer.publish(head + record)
        else:
            writer.commit_at(at, length, moved)
        if sent != moved:
            pipe.held = moved - sent
            connection.keep(half, pipe)
            connection.event(side, events)

    return handle
