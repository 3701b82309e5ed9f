"""Read what `strace -f -yy -xx` wrote of a program's reads and writes into the bytes of each unix connection.

In: the text of strace's output file. Out: one `Connection` per accepted or connected unix socket, with the bytes of
both directions in order. It knows nothing of the protocols in them.

A line of strace (6.1), each call's strings in \\x form:
    1234 read(7<UNIX-STREAM:[55->56,"/run/s"]>, "\\x00\\x01", 4096) = 2
    1234 write(7<UNIX-STREAM:[55->56]>, "\\x00", 1 <unfinished ...>
    1234 <... write resumed>)              = 1
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

STRACE = (
    "strace", "-f", "-yy", "-xx", "-s", "10000000", "--quiet=attach,exit,path-resolution,personality,superseded",
    "-e", "signal=none", "-e", "trace=read,write,readv,writev,sendmsg,recvmsg",
)  # fmt: skip

READS = ("read", "readv", "recvmsg")
WRITES = ("write", "writev", "sendmsg")

_CALL = re.compile(r"^(\d+) +(\w+)\((\d+)<UNIX-STREAM:\[(\d+)(?:->(\d+))?(?:,\"([^\"]*)\")?\]>, ")
_UNFINISHED = " <unfinished ...>"
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>")
_RESULT = re.compile(r"\) += (-?\d+)[^\"]*$")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


@dataclass
class Connection:
    """One end of a unix connection, as the process that holds it read and wrote it."""

    inode: int
    peer: int
    path: str
    """Of the socket's own name: the server's end has it, a client's is empty."""
    read: bytearray = field(default_factory=bytearray)
    written: bytearray = field(default_factory=bytearray)
    pids: set[int] = field(default_factory=set)
    """Threads that read or wrote it."""


def wrapper(output: str) -> tuple[str, ...]:
    """The command to put before a program's own so that strace writes `output`."""
    return (*STRACE, "-A", "-o", output)


def connections(lines: Iterable[str]) -> list[Connection]:
    """Every unix stream connection that was read or written, in the order of its first call."""
    found: dict[int, Connection] = {}
    for line in _whole(lines):
        call = _CALL.match(line)
        result = _RESULT.search(line)
        if call is None or result is None or int(result[1]) <= 0:
            continue
        name, inode = call[2], int(call[4])
        connection = found.setdefault(inode, Connection(inode, int(call[5] or 0), _text(call[6] or "")))
        connection.pids.add(int(call[1]))
        # A vector's parts are separate strings; a control message's come after them and are no strings of this form.
        count, data = int(result[1]), b""
        for part in _STRING.finditer(line, call.end()):
            if part[2]:
                raise ValueError(f"strace cut a string: {line[:120]}")
            data += bytes.fromhex(part[1].replace("\\x", ""))
        (connection.read if name in READS else connection.written).extend(data[:count])
    return list(found.values())


def _whole(lines: Iterable[str]) -> Iterator[str]:
    """Join what was interrupted: a thread's resumed line goes behind its unfinished one, at the place of its end."""
    unfinished: dict[str, str] = {}
    for line in lines:
        line = line.rstrip("\n")
        if line.endswith(_UNFINISHED):
            unfinished[line.split(None, 1)[0]] = line.removesuffix(_UNFINISHED)
        elif resumed := _RESUMED.match(line):
            begun = unfinished.pop(resumed[1], None)
            if begun is not None:
                yield begun + line[resumed.end() :]
        else:
            yield line


def _text(name: str) -> str:
    """A socket's name is written in \\x form too (-xx)."""
    return bytes.fromhex(name.replace("\\x", "")).decode() if "\\x" in name else name
