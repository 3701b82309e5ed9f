"""What a successor of a dead worker finds: bytes that were on their way, and descriptors that nobody wrote down.

A worker is killed between any two instructions. One call at most was under way then, and the kernel knows whether it
happened: what lies in a direction's pipe, against the bytes counted in and out, tells.

- more in the pipe than IN − OUT: a splice into it happened and was not counted
- less: a splice out of it
- a record laid and not committed: it is committed with what IN says was moved, or dropped if nothing was

Everything else a successor makes anew: epoll, inotify, timers. Descriptors that no record names are closed, but for
clients that were accepted and not connected on: they start anew.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress

from tracer.relay import shared as sh
from tracer.relay import system
from tracer.relay.held import Held
from tracer.relay.pump import Context
from tracer.relay.shared import Row, Shared


def rows(shared: Shared) -> Iterator[int]:
    """First word of each row in use."""
    for base in range(0, shared.words[sh.ROWS] * sh.SLOT_WORDS, sh.SLOT_WORDS):
        if shared.table[base + sh.S_STATE]:
            yield base


def close_epoll(shared: Shared) -> None:
    """The predecessor's: to list descriptors takes one."""
    with suppress(OSError):
        os.close(shared.words[sh.EPOLL])
    shared.words[sh.EPOLL] = 0


def count_again(shared: Shared) -> int:
    """Set IN and OUT of every direction to what has happened; returns the bytes that lie in pipes."""
    table, words = shared.table, shared.words
    found = 0
    for base in rows(shared):
        for half in (0, 1):
            pipe = table[base + sh.S_PIPE0 + half]
            if not pipe and words[sh.ACTIVE] == base * 2 + half + 1:
                pipe = words[sh.PIPE]
            word_in, word_out = base + sh.S_IN0 + 2 * half, base + sh.S_OUT0 + 2 * half
            if pipe:
                waiting = system.bytes_waiting(pipe >> 32)
                found += waiting
                counted = table[word_in] - table[word_out]
                if waiting > counted:
                    table[word_in] += waiting - counted
                else:
                    table[word_out] += counted - waiting
                # From now on it is that direction's own.
                table[base + sh.S_PIPE0 + half] = pipe if waiting else 0
            elif table[word_out] > table[word_in]:
                _take_off_the_source(table[base + sh.S_CLIENT + half], table[word_out] - table[word_in])
                table[word_in] = table[word_out]
    words[sh.ACTIVE] = words[sh.PIPE] = 0
    return found


def _take_off_the_source(fd: int, count: int) -> None:
    """Bytes that were sent from a peek, and still lie in the source unless the dead worker had taken them."""
    with socket.socket(fileno=os.dup(fd)) as source, suppress(OSError):
        source.recv(count, socket.MSG_DONTWAIT)


def finish_record(shared: Shared, context: Context) -> bool:
    """Commit the record that was laid, if its bytes moved; whether they did."""
    laid = context.ring.laid()
    context.ring.forget()
    if laid is None:
        return False
    direction, length, connection, offset = laid
    for base in rows(shared):
        if shared.table[base + sh.S_NUMBER] == connection:
            moved = shared.table[base + sh.S_IN0 + 2 * direction] - offset
            if 0 < moved <= length:
                context.ring.commit(length, moved)
                return True
    return False


def known(shared: Shared, held: Held, more: set[int]) -> set[int]:
    """The descriptors that something names: listeners, both ends of connections, pipes that hold bytes, and `more`."""
    table = shared.table
    found = more | {each.listening for each in held.sockets.values()}
    for base in rows(shared):
        found |= {table[base + sh.S_CLIENT], table[base + sh.S_UPSTREAM]}
        for at in (sh.S_PIPE0, sh.S_PIPE1):
            if table[base + at]:
                found |= {table[base + at] >> 32, table[base + at] & 0xFFFFFFFF}
    return found


def sort_descriptors(known: set[int]) -> list[tuple[int, socket.socket]]:
    """Close all that is not known, but for accepted clients: returns those with the number of their listener."""
    clients = []
    for entry in os.listdir("/proc/self/fd"):
        fd = int(entry)
        if fd <= 2 or fd in known:
            continue
        number = _accepted_by(fd)
        if number:
            clients.append((number, socket.socket(fileno=fd)))
            continue
        with suppress(OSError):  # the listing's own descriptor
            os.close(fd)
    return clients


def _accepted_by(fd: int) -> int:
    """The number of the listener that accepted this connection: it has that one's name. 0 if it is anything else."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return 0
        with socket.socket(fileno=os.dup(fd)) as one:
            if one.family != socket.AF_UNIX or one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return 0
            name = one.getsockname()
    except OSError:
        return 0
    folder, _, number = name.rpartition("/") if isinstance(name, str) else ("", "", "")
    return int(number) if folder.startswith("/proc/self/fd/") and number.isdigit() else 0


def close_half_closed(shared: Shared) -> None:
    """Rows whose connection was being closed: what is still open of it is closed, and the row is free."""
    for base in rows(shared):
        if shared.table[base + sh.S_STATE] == Row.CLOSING:
            for at in (sh.S_CLIENT, sh.S_UPSTREAM):
                with suppress(OSError):  # this one was
                    os.close(shared.table[base + at])
            shared.table[base + sh.S_STATE] = Row.FREE
