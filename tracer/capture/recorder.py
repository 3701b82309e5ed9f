"""The recorder: records of the ring come in, blocks of a pcapng file go out, in a process of its own.

It may be slow, stopped or dead: that costs bytes of the capture, never traffic. One that is started after another was
killed goes on with its file: what that holds is read from it (`resume`), and what the ring still has is taken once
more, in which whatever the file has already is passed over. It also finds out who is who (R8), since reading /proc
would hold up the relay: clients by their pid, servers by the inode of their listening socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from dataclasses import dataclass
from typing import Any

from tracer import processes
from tracer.capture.conversation import CaptureWriter
from tracer.capture.resume import Listener, process_key, read_state
from tracer.capture.store import SLICE, Store
from tracer.relay import shared as sh
from tracer.relay import sockdiag
from tracer.relay.shared import Kind, Record, RecorderState, RingReader, Shared

_PAUSE_S = 0.003
"""Between two looks at a ring that had something: records then come in batches."""
_IDLE_MS = 250
_NICENESS = 5
_ENHANCED_PACKET = b"\x06\0\0\0"
_MISSING = 4096
"""How many numbers of connections that have not come are remembered: after a worker's death they may come later."""


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


class _Known:
    """Which connections have come, without a list of all of them."""

    def __init__(self) -> None:
        self._highest = 0
        self._missing: dict[int, None] = {}

    def add(self, number: int) -> bool:
        """Take note of one; False: it was there."""
        if number in self._missing:
            del self._missing[number]
            return True
        if number <= self._highest:
            return False
        for each in range(max(self._highest + 1, number - _MISSING), number):
            self._missing[each] = None
        while len(self._missing) > _MISSING:
            del self._missing[next(iter(self._missing))]
        self._highest = number
        return True


class Recorder:
    """Writes one file from one ring. `fd` may have what another recorder wrote before it was killed.

    `link` is to the worker: `{"listener": N, "server": PID}`, `{"limit": TEXT}`.
    """

    def __init__(self, fd: int, limits: Limits, link: socket.socket) -> None:
        self.limits = limits
        self.link = link
        self._store = Store(fd)
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._full = False
        """No more packets."""
        self._failed = False
        """Nothing more at all."""
        self._ended = False

    def run(self, shared: Shared) -> None:
        """Until the END record, or until the worker is gone."""
        os.nice(_NICENESS)
        words = self._words = shared.words
        self._go_on()
        reader = RingReader(shared)
        self._shared = shared
        poll = select.poll()
        poll.register(shared.recorder_wake, select.POLLIN)
        poll.register(self.link, select.POLLIN)
        worker_is_gone = False
        while not self._ended:
            if self._drain(reader):
                time.sleep(_PAUSE_S)
                continue
            if worker_is_gone:
                break
            words[sh.WAITING] = 1
            if reader.has_more():
                continue
            for fd, _ in poll.poll(_IDLE_MS):
                if fd == shared.recorder_wake:
                    os.eventfd_read(fd)
                else:
                    worker_is_gone = not self.link.recv(4096)
        self._writer.finish(self._now(), self._statistics)
        self._write_out()
        words[sh.RECORDER_STATE] = RecorderState.FAILED if self._failed else RecorderState.COMPLETE
        self._store.close()

    def _now(self) -> int:
        return time.monotonic_ns() + self._words[sh.CLOCK_OFFSET]

    def _go_on(self) -> None:
        """Go on where the file ends."""
        with self._store.read() as data:
            found = read_state(data)
        self._store.cut(found.size)
        self._writer = CaptureWriter(self._take, found.state)
        self._statistics = found.statistics
        self._last_ns = found.last_ns
        self._known = _Known()
        for number in sorted(found.connections):
            self._known.add(number)
        self._open = {
            number: sum(not side.closed for side in talk.sides) for number, talk in found.state.conversations.items()
        }
        """Connections in the file, with how many of their directions are open."""
        self._sockets: dict[int, _Socket] = {}
        for interface in found.state.interfaces:
            listener = Listener.of(interface)
            hop = interface.description.split(" ", 1)[0]
            self._sockets[listener.number] = _Socket(interface.number, hop, listener.file)
        if not found.size:
            self._writer.start(self._now(), "")
        if found.shaken is not None:
            self._writer.shake_hands(*found.shaken, found.last_ns)
        if found.unheard is not None:
            self._writer.last_word(*found.unheard, found.last_ns)
        limits = self.limits
        if limits.packets and found.state.packets >= limits.packets:
            self._stop(f"{limits.packets} packets captured")
        self._write_out()

    def _drain(self, reader: RingReader) -> bool:
        """Take what is there; whether there was anything."""
        any_record = False
        for record in reader.read():
            any_record = True
            self._record(record)
            if self._pending_bytes >= SLICE:
                self._write_out()
        self._write_out()
        if not self._ended:  # else whoever comes after us has to see that it is
            reader.release()
        return any_record

    def _record(self, record: Record) -> None:
        number = record.connection
        if record.kind == Kind.DATA:
            if number in self._open:
                self._writer.data(number, record.direction, record.offset, record.time_ns, record.payload)
        elif record.kind == Kind.OPEN:
            if self._known.add(number):
                self._opened(number, record.time_ns, bytes(record.payload))
        elif record.kind in (Kind.FIN, Kind.RESET):
            if number in self._open and not self._writer.state.conversations[number].sides[record.direction].closed:
                reset = record.kind == Kind.RESET
                self._writer.close(number, record.direction, record.offset, record.time_ns, reset)
                self._open[number] -= 1
                if not self._open[number]:
                    del self._open[number]
        elif record.kind == Kind.LISTENER:
            self._listener(json.loads(bytes(record.payload)))
        elif record.kind == Kind.CLOCK:
            if record.time_ns > self._last_ns:  # else it is noted already
                self._writer.note(record.time_ns, {"podwire": "clock set", "by_ns": int(bytes(record.payload))})
        elif record.kind == Kind.END:
            self._ended = True

    def _listener(self, about: dict[str, Any]) -> None:
        number, hop, path, file = about["listener"], about["hop"], about["path"], tuple(about["file"])
        if number not in self._sockets:
            comment = Listener(number, file).comment()
            self._sockets[number] = _Socket(self._writer.interface(path, f"{hop} {path}", comment), hop, file)
        self._find_server(number)  # again after a takeover: a worker may have died of the very answer

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
        about: dict[str, object]
        if who is None:
            about = {"pid": pid} if pid else {}
            return about, self._writer.endpoint(process_key(about, unknown), unknown)
        about = {"pid": pid, "start": who.start, "uid": who.uid, "name": who.label, "exe": who.exe}
        if who.command:
            about["command"] = " ".join(who.command)
        if who.unit:
            about["unit"] = who.unit
        return about, self._writer.endpoint(process_key(about, who.label), who.label)

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
        elif limits.bytes and not self._full and self._store.size + self._pending_bytes >= limits.bytes:
            self._stop(f"{limits.bytes} bytes captured")

    def _stop(self, why: str) -> None:
        self._full = True
        with contextlib.suppress(OSError):  # the worker is gone: so is the traffic
            self.link.send(json.dumps({"limit": why}).encode())

    def _write_out(self) -> None:
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        before = self._store.size
        try:
            self._store.write(data)
        except OSError as error:
            # A packet that is cut in its middle would make every reader stop there.
            self._store.cut(before)
            self._failed = True
            self._stop(f"capture stopped: {error.strerror}")
        self._words[sh.CAPTURE_PACKETS] = self._writer.packets
        self._words[sh.CAPTURE_BYTES] = self._store.size
