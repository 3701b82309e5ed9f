"""The recorder: records of the ring come in, blocks of a pcapng file go out, in a process of its own.

It may be slow, stopped or dead: that costs bytes of the capture, never traffic. It also finds out who is who (R8),
since reading /proc would hold up the relay: clients by their pid, servers by the inode of their listening socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from dataclasses import dataclass, field
from typing import Any

from tracer import processes
from tracer.capture.conversation import CaptureWriter
from tracer.relay import shared as sh
from tracer.relay import sockdiag
from tracer.relay.shared import Kind, Record, RingReader, Shared

_SLICE = 64 << 10
"""Most that one write takes (R9): a good neighbour on the disk."""
_PAUSE_S = 0.003
"""Between two looks at a ring that had something: records then come in batches."""
_IDLE_MS = 250
_NICENESS = 5
_ENHANCED_PACKET = b"\x06\0\0\0"


@dataclass(frozen=True, slots=True)
class Limits:
    """When the capture ends by itself; 0 is never."""

    packets: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Socket:
    """A traced socket."""

    interface: int
    hop: str
    file: tuple[int, int]
    """Inode and device of the server's socket."""
    server: processes.Process | None = None
    server_pid: int = 0


@dataclass(slots=True)
class Recorder:
    """Writes one file from one ring."""

    fd: int
    limits: Limits
    link: socket.socket
    """To the worker: `{"listener": N, "server": PID}`, `{"limit": TEXT}`."""
    _writer: CaptureWriter = field(init=False)
    _pending: list[bytes] = field(init=False, default_factory=list)
    _pending_bytes: int = field(init=False, default=0)
    _sockets: dict[int, _Socket] = field(init=False, default_factory=dict)
    _open: dict[int, int] = field(init=False, default_factory=dict)
    """Connections in the file, with how many of their directions are open."""
    _written: int = field(init=False, default=0)
    _full: bool = field(init=False, default=False)
    """No more packets."""
    _failed: bool = field(init=False, default=False)
    """Nothing more at all."""
    _ended: bool = field(init=False, default=False)
    _shared: Shared = field(init=False)

    def __post_init__(self) -> None:
        self._writer = CaptureWriter(self._take)

    def run(self, shared: Shared) -> None:
        """Until the END record, or until the worker is gone."""
        os.nice(_NICENESS)
        reader = RingReader(shared)
        self._shared = shared
        poll = select.poll()
        poll.register(shared.recorder_wake, select.POLLIN)
        poll.register(self.link, select.POLLIN)
        self._writer.start(self._now(shared), "")
        worker_is_gone = False
        while not self._ended:
            if self._drain(reader):
                time.sleep(_PAUSE_S)
                continue
            if worker_is_gone:
                break
            self._write_out()
            shared.words[sh.WAITING] = 1
            if reader.has_more():
                continue
            for fd, _ in poll.poll(_IDLE_MS):
                if fd == shared.recorder_wake:
                    os.eventfd_read(fd)
                else:
                    worker_is_gone = not self.link.recv(4096)
        self._writer.finish(self._now(shared))
        self._write_out()
        shared.words[sh.RECORDER_STATE] = sh.RecorderState.FAILED if self._failed else sh.RecorderState.COMPLETE
        os.close(self.fd)

    @staticmethod
    def _now(shared: Shared) -> int:
        return time.monotonic_ns() + shared.words[sh.CLOCK_OFFSET]

    def _drain(self, reader: RingReader) -> bool:
        """Take what is there; whether there was anything."""
        any_record = False
        for record in reader.read():
            any_record = True
            self._record(record)
            if self._pending_bytes >= _SLICE:
                self._write_out()
        reader.release()
        self._write_out()
        self._shared.words[sh.CAPTURE_PACKETS] = self._writer.packets
        self._shared.words[sh.CAPTURE_BYTES] = self._written
        return any_record

    def _record(self, record: Record) -> None:
        number = record.connection
        if record.kind == Kind.DATA:
            if number in self._open:
                self._writer.data(number, record.direction, record.offset, record.time_ns, record.payload)
        elif record.kind == Kind.OPEN:
            self._opened(number, record.time_ns, bytes(record.payload))
        elif record.kind in (Kind.FIN, Kind.RESET):
            if number in self._open:
                reset = record.kind == Kind.RESET
                self._writer.close(number, record.direction, record.offset, record.time_ns, reset)
                self._open[number] -= 1
                if not self._open[number]:
                    del self._open[number]
        elif record.kind == Kind.LISTENER:
            self._listener(json.loads(bytes(record.payload)))
        elif record.kind == Kind.CLOCK:
            self._writer.note(record.time_ns, {"podwire": "clock set", "by_ns": int(bytes(record.payload))})
        elif record.kind == Kind.END:
            self._ended = True

    def _listener(self, about: dict[str, Any]) -> None:
        number, hop, path = about["listener"], about["hop"], about["path"]
        interface = self._writer.interface(path, f"{hop} {path}")
        self._sockets[number] = _Socket(interface, hop, tuple(about["file"]))
        self._find_server(number)

    def _find_server(self, number: int) -> None:
        """Find who listens, and tell the worker, which watches for that process's end (E1)."""
        at = self._sockets[number]
        listener = sockdiag.find_listener(*at.file)
        if listener is not None:
            at.server_pid = processes.holders({listener.inode}).get(listener.inode, 0)
            at.server = processes.describe(at.server_pid) if at.server_pid else None
        with contextlib.suppress(OSError):  # the worker is gone
            self.link.send(json.dumps({"listener": number, "server": at.server_pid}).encode())

    def _opened(self, number: int, time_ns: int, payload: bytes) -> None:
        listener, pid, uid, gid = (int(part) for part in payload.split(b","))
        at = self._sockets[listener]
        if not at.server_pid:
            self._find_server(listener)  # it may not have listened yet when it was taken
        client, client_address = self._about(processes.describe(pid), pid, f"pid-{pid}")
        server, server_address = self._about(at.server, at.server_pid, f"{at.hop}-server")
        client |= {"uid": uid, "gid": gid}
        if pid and pid == at.server_pid:
            client["self"] = True  # R8: CRI-O calls its own socket
        self._open[number] = 2
        peers = {"client": client, "server": server}
        self._writer.open(number, at.interface, at.hop, client_address, server_address, time_ns, peers)

    def _about(self, who: processes.Process | None, pid: int, unknown: str) -> tuple[dict[str, object], str]:
        """What the opening packet's comment says of a process, and its address; `unknown` is its name if it is gone."""
        if who is None:
            return {"pid": pid} if pid else {}, self._writer.endpoint((unknown, pid), unknown)
        about: dict[str, object] = {"pid": pid, "uid": who.uid, "name": who.label, "exe": who.exe}
        if who.command:
            about["command"] = " ".join(who.command)
        if who.unit:
            about["unit"] = who.unit
        return about, self._writer.endpoint((str(who.start), pid), who.label)

    # --- the file ---

    def _take(self, block: bytes) -> None:
        is_packet = block[:4] == _ENHANCED_PACKET
        if self._failed or (self._full and is_packet):
            return
        self._pending.append(block)
        self._pending_bytes += len(block)
        limits = self.limits
        if is_packet and limits.packets and self._writer.packets + 1 >= limits.packets:
            self._stop(f"{limits.packets} packets captured")
        elif limits.bytes and not self._full and self._written + self._pending_bytes >= limits.bytes:
            self._stop(f"{limits.bytes} bytes captured")

    def _stop(self, why: str) -> None:
        self._full = True
        with contextlib.suppress(OSError):  # the worker is gone: so is the traffic
            self.link.send(json.dumps({"limit": why}).encode())

    def _write_out(self) -> None:
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        try:
            for start in range(0, len(data), _SLICE):
                part = data[start : start + _SLICE]
                while part:
                    part = part[os.write(self.fd, part) :]
        except OSError as error:
            # A packet that is cut in its middle would make every reader stop there.
            os.ftruncate(self.fd, self._written)
            os.lseek(self.fd, self._written, os.SEEK_SET)
            self._failed = True
            self._stop(f"capture stopped: {error.strerror}")
        else:
            self._written += len(data)
