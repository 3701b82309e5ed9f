"""The recorder: records of the ring come in, blocks of a pcapng file go out, in a process of its own.

It may be slow, stopped or dead: that costs bytes of the capture, never traffic. One that is started after another was
killed goes on with its file: that one left what it knew (`checkpoint`), what came into the file since is read from it
(`resume`), and what the ring still has is taken once more, in which whatever the file has already is passed over.

It also finds out who is who (`who`), since reading /proc would hold up the relay.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import time
from typing import Any

from tracer.capture import vsock
from tracer.capture.bundle import Named, Watcher, bundle_block
from tracer.capture.carry import Follower
from tracer.capture.checkpoint import Checkpoint, Saved
from tracer.capture.conversation import CaptureWriter
from tracer.capture.guests import Guests, cut
from tracer.capture.journal_source import Journal, LogsAt, Source
from tracer.capture.monitor import Monitor
from tracer.capture.notes import note_text
from tracer.capture.peers import number_of
from tracer.capture.resume import FIRST_GUEST, Found, Listener, read_state
from tracer.capture.ring import Ring, create
from tracer.capture.room import MARGIN, RESUME, Disk, Limits, Pause
from tracer.capture.state import Interface
from tracer.capture.store import SLICE, Store
from tracer.capture.who import Socket, client_of, listening, server_of
from tracer.output.units import size
from tracer.relay import shared as sh
from tracer.relay.shared import Kind, Record, RecorderState, RingReader, Shared

_PAUSE_S = 0.003
"""Between two looks at a ring that had something: records then come in batches."""
_IDLE_MS = 250
_NICENESS = 5
_LOOK_S = 0.25
"""How often a paused capture looks whether there is room again."""
_SAVE_S, _SAVE_BYTES = 1.0, 4 << 20
"""What is known is kept for a successor after so long and so many bytes of the file, whichever is later."""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_ENHANCED_PACKET = b"\x06\0\0\0"


class Recorder:
    """Writes a capture from one ring of records. `fd` may have what another recorder wrote before it was killed.

    `files`: the capture is a row of files instead, of which the first is there. `link` is to the worker: `{"listener":
    N, "server": PID}`, `{"limit": TEXT}`, `{"disk": TEXT}`.

    `monitor`: what it sees of AF_VSOCK is recorded too, as connections of hop agent. `logs`: so are its lines.

    Where its disk is full, or has less free than it is to keep, it pauses (R9): traffic that passes is dropped and
    counted, and shows as gaps once there is room again.
    """

    def __init__(
        self,
        fd: int | None,
        limits: Limits,
        link: socket.socket,
        files: Ring | None = None,
        monitor: Monitor | None = None,
        logs: Source | None = None,
        *,
        bundles: bool = True,
    ) -> None:
        self._monitor = monitor
        self._logs = logs
        self._journal: Journal | None = None
        self.limits = limits
        self._watcher = Watcher() if bundles else None
        self.link = link
        self._fd = fd
        self._files = files
        self._number = 1
        """Of the file."""
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._full = False
        """No more packets."""
        self._failed = False
        """Nothing more at all."""
        self._pause: Pause | None = None
        self._begun = b""
        """A ring's next file, which could not come into being yet."""
        self._look_at = 0.0
        self._dropped = 0
        """Bytes of traffic, of records that are not released yet."""
        self._save_at = 0.0
        self._saved_size = 0
        self._has_to_save = False
        """Before a record is released."""
        self._ended = False

    def run(self, shared: Shared) -> None:
        """Until the END record, or until the worker is gone."""
        os.nice(_NICENESS)
        shared.make_pages()
        words = self._words = shared.words
        self._checkpoint = Checkpoint(shared.recorder_notes)
        logs_at = self._go_on()
        reader = RingReader(shared)
        poll = select.poll()
        poll.register(shared.recorder_wake, select.POLLIN)
        poll.register(self.link, select.POLLIN)
        if self._monitor is not None:
            poll.register(self._monitor, select.POLLIN)
        if self._logs is not None:
            self._journal = Journal(self._logs, logs_at, words[sh.CLOCK_OFFSET], poll)
        worker_is_gone = False
        while not self._ended:
            if self._drain(reader):
                if reader.waiting() < sh.BATCH:
                    time.sleep(_PAUSE_S)
                continue
            if worker_is_gone:
                break
            words[sh.WAITING] = 1
            if reader.waiting():
                continue
            for fd, _ in poll.poll(_IDLE_MS):
                if fd == shared.recorder_wake:
                    os.eventfd_read(fd)
                elif fd == self.link.fileno():
                    worker_is_gone = not self.link.recv(4096)
        if self._journal is not None:
            self._logged(self._journal.rest())
            self._journal.close()
        if self._pause is not None:
            self._go_on_writing(self._pause)
        self._writer.finish(self._now(), self._statistics)
        self._write_out()
        if self._pause is not None:
            self._fail("capture stopped: no space left on its disk")
        words[sh.RECORDER_STATE] = RecorderState.FAILED if self._failed else RecorderState.COMPLETE
        self._store.close()
        self._checkpoint.clear()

    def _now(self) -> int:
        return time.monotonic_ns() + self._words[sh.CLOCK_OFFSET]

    def _go_on(self) -> LogsAt:
        """Go on where the file ends, the newest one of a ring; returns where in the log."""
        self._store = Store(self._open_file())
        saved = self._checkpoint.load()
        if not isinstance(saved, Saved):
            saved = Saved()
        elif saved.file != self._number or saved.found.size > self._store.size:
            for at in saved.sockets.values():  # this file may not describe all of them
                at.interface.number = -1
            saved = Saved(found=Found(logs_at=saved.found.logs_at), sockets=saved.sockets)
        self._followers, self._pause = saved.followers, saved.pause
        with self._store.read() as data:
            whole = data if saved.pause is None else data[: saved.found.size]
            found = read_state(whole, self._follow if self._files is not None else None, saved.found)
            whole.release()
        self._store.cut(found.size)
        self._saved_size = found.size
        self._writer = CaptureWriter(self._take, found.state)
        self._followers = {
            number: each for number, each in self._followers.items() if number in found.state.conversations
        }
        self._section = before = found.about
        self._packets_before = saved.packets_before or number_of(before.get("packets")) or 0
        self._bytes_before = saved.bytes_before or number_of(before.get("bytes")) or 0
        self._statistics = found.statistics
        self._last_ns = self._noted_ns = found.last_ns
        self._known = found.known
        found.state.addresses = max(found.state.addresses, number_of(before.get("addresses")) or 0)
        if saved.pending:
            self._pending, self._pending_bytes = [saved.pending], len(saved.pending)
        self._begun = saved.begun
        self._words[sh.PAUSED_NS] = 0
        if self._pause is not None:
            self._words[sh.PAUSED_NS] = self._pause.since_ns
            self._pause.bytes += self._words[sh.DROPPED_BYTES] - saved.dropped
            # What was held back is not noted yet.
            self._noted_ns = min((found.last_ns, *(each.time_ns - 1 for each in self._pause.kept.get(0, ()))))
        self._open = {
            number: sum(not side.closed for side in talk.sides) for number, talk in found.state.conversations.items()
        }
        """Connections in the file, with how many of their directions are open."""
        self._sockets = saved.sockets
        for interface in found.state.interfaces:
            listener = Listener.of(interface)
            hop = interface.description.split(" ", 1)[0]
            at = self._sockets.setdefault(listener.number, Socket(interface, hop, listener.file))
            at.interface = interface
        if not found.size and self._pause is None:
            self._writer.start(self._now(), "")
        if found.shaken is not None:
            self._writer.shake_hands(*found.shaken, found.last_ns)
        if found.unheard is not None:
            self._writer.last_word(*found.unheard, found.last_ns)
        self._guests = Guests(found.last_guest)
        for number in [number for number in self._open if number >= FIRST_GUEST]:
            cut(number, self._writer, self._last_ns)
            del self._open[number]
        limits = self.limits
        if limits.packets and self._packets_before + found.state.packets >= limits.packets:
            self._stop(f"{limits.packets} packets captured")
        if self._pause is None:
            self._write_out()
        return found.logs_at

    def _open_file(self) -> int:
        """Open the file, the newest one of a ring; the first one anew if somebody has removed them all."""
        files = self._files
        if files is None:
            assert self._fd is not None
            return self._fd
        self._switch_at = time.monotonic() + (files.seconds or float("inf"))
        files.forget_begun()
        written = files.list()
        if written:
            self._number, path = written[-1]
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._number = self._words[sh.CAPTURE_FILE] + 1
        return create(files.name(self._number))

    def _save(self) -> None:
        """Leave what is known to a successor, if it is time, or has to be."""
        if self._failed or not (
            self._has_to_save
            or (self._store.size - self._saved_size >= _SAVE_BYTES and time.monotonic() >= self._save_at)
        ):
            return
        found = Found(self._store.size, self._section, self._writer.state, self._last_ns, self._known)
        found.last_guest, found.statistics = self._guests.last, self._statistics
        found.logs_at = LogsAt() if self._journal is None else self._journal.at
        saved = Saved(self._number, found, self._packets_before, self._bytes_before, self._sockets, self._followers)
        saved.pause, saved.pending, saved.begun = self._pause, b"".join(self._pending), self._begun
        saved.dropped = self._words[sh.DROPPED_BYTES] + self._dropped
        # Once there are no more packets, the file is not what the writer takes it for.
        self._checkpoint.save(None if self._full else saved)
        self._has_to_save = False
        self._saved_size, self._save_at = self._store.size, time.monotonic() + _SAVE_S

    def _drain(self, reader: RingReader) -> bool:
        """Take what is there; whether there was anything."""
        self._look_at_disk()
        any_record = self._monitored()
        if self._files is not None and time.monotonic() >= self._switch_at:
            self._next_file(self._files)
        for record in reader.read():
            any_record = True
            self._keep_files_short()
            self._record(record)
            self._keep_slices_short()
        if self._journal is not None:
            any_record = self._logged(self._journal.read()) or any_record
        if self._pause is None:
            self._write_out()
        self._save()
        self._words[sh.DROPPED_BYTES] += self._dropped
        self._dropped = 0
        if not self._ended:  # else whoever comes after us has to see that it is
            reader.release()
        return any_record

    def _keep_files_short(self) -> None:
        """Begin the next file of a ring, if this one is as long as it may be."""
        if self._files and self._files.bytes and self._store.size + self._pending_bytes >= self._files.bytes:
            self._next_file(self._files)

    def _keep_slices_short(self) -> None:
        """Write what is pending, if that is enough."""
        if self._pending_bytes >= SLICE and self._pause is None:
            self._write_out()
            self._look_at_disk()

    def _record(self, record: Record) -> None:
        number = record.connection
        if self._pause is not None and record.kind not in (Kind.LISTENER, Kind.END):
            self._hold(record, self._pause)
        elif record.kind == Kind.DATA:
            if number in self._open:
                if self._files is not None:
                    self._follow_record(record)
                named = self._named(record)
                self._writer.data(number, record.direction, record.offset, record.time_ns, record.payload)
                for each in named:
                    self._writer.keep(bundle_block(number, each))
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
                    self._followers.pop(number, None)
                    if self._watcher is not None:
                        self._watcher.ended(number)
        elif record.kind == Kind.LISTENER:
            self._listener(json.loads(bytes(record.payload)))
        elif record.kind == Kind.CLOCK:
            if record.time_ns > self._noted_ns:  # else it is noted already
                self._writer.note(record.time_ns, {"podwire": "clock set", "by_ns": int(bytes(record.payload))})
        elif record.kind == Kind.END:
            self._ended = True
        self._last_ns = max(self._last_ns, record.time_ns)

    def _named(self, record: Record) -> list[Named]:
        """The bundles that a request to a shim names; none of what the file has already."""
        if self._watcher is None or record.direction:
            return []
        talk = self._writer.state.conversations[record.connection]
        if talk.about.get("hop") != "task" or record.offset < talk.sides[0].end:
            return []
        return self._watcher.feed(record.connection, record.offset, bytes(record.payload))

    # --- AF_VSOCK ---

    def _monitored(self) -> bool:
        """Take what the monitor has seen; whether there was anything."""
        any_event = False
        if self._monitor is not None:
            for time_ns, event in self._monitor.read(self._now()):
                any_event = True
                self._keep_files_short()
                self._of_guest(event, time_ns)
                self._keep_slices_short()
        return any_event

    def _logged(self, lines: list[bytes]) -> bool:
        """Write lines of a log, each a block, or count them in a pause; whether there was any."""
        for block in lines:
            if self._pause is not None:
                self._pause.lines += 1
            elif not self._full:
                self._keep_files_short()
                self._writer.keep(block)
                self._keep_slices_short()
        if self._journal is not None and (why := self._journal.take_end()):
            self._writer.note(self._last_ns or self._now(), {"podwire": "log ended", "why": why})
            self._tell_worker({"log": f"no more lines of the log are recorded: {why}"})
        return bool(lines)

    def _of_guest(self, event: vsock.Event, time_ns: int) -> None:
        if not self._guests.knows(event.connection):
            if self._pause is not None:
                return  # it begins when there is room again, with what is seen then
            self._open[self._guests.open(event, time_ns, self._writer)] = 2
        for record in self._guests.records(event, time_ns):
            self._record(record)

    def _follow_record(self, record: Record) -> None:
        """Let the connection's follower see what the file gets."""
        number, direction = record.connection, record.direction
        lost = record.offset - self._writer.state.conversations[number].sides[direction].end
        self._follow(number, direction, max(lost, 0), bytes(record.payload[max(-lost, 0) :]), record.time_ns)

    def _follow(self, number: int, direction: int, lost: int, data: bytes, time_ns: int) -> None:
        follower = self._followers.get(number)
        if follower is None:
            follower = self._followers[number] = Follower()
        if lost:
            follower.lost(direction, lost)
        if data:
            follower.feed(direction, data, time_ns)

    def _next_file(self, files: Ring) -> None:
        """Finish this file and begin the next, with what is open carried over."""
        if self._full or self._pause is not None:
            return
        if files.most and self._number >= files.most:
            self._stop(f"{files.most} files captured")
            return
        writer, time_ns = self._writer, self._last_ns or self._now()
        self._writer.finish(time_ns)
        self._write_out()
        rest = self._taken()
        self._packets_before += writer.packets
        self._bytes_before += self._store.size + len(rest)
        self._section = {
            "podwire": 1,
            "file": self._number + 1,
            "packets": self._packets_before,
            "bytes": self._bytes_before,
            "connections": self._known.highest,
            "addresses": writer.state.addresses,
        }
        if self._journal is not None:
            self._section["log"] = self._journal.at
        writer.next_file(time_ns, json.dumps(self._section), listening(self._sockets.values()))
        for number in self._open:
            follower = self._followers.get(number)
            writer.carry(number, time_ns, follower.carried() if follower is not None else [])
        self._begun = self._taken()
        if rest:
            self._pending, self._pending_bytes = [rest], len(rest)
        else:
            self._begin_file(files)

    def _begin_file(self, files: Ring) -> None:
        """Let the next file come into being. Pauses where it cannot."""
        try:
            self._store.begin(files, self._number + 1, self._begun)
        except OSError as error:
            self._trouble(error)
            return
        self._begun = b""
        self._number += 1
        self._saved_size = 0
        self._switch_at = time.monotonic() + (files.seconds or float("inf"))
        self._tell_words()

    def _listener(self, about: dict[str, Any]) -> None:
        number, hop, path, file = about["listener"], about["hop"], about["path"], tuple(about["file"])
        if number not in self._sockets and self._pause is not None:
            interface = Interface(-1, path, f"{hop} {path}", Listener(number, file).comment())
            self._sockets[number] = Socket(interface, hop, file)  # described once a connection comes
            self._has_to_save = True
        elif number not in self._sockets:
            interface = self._describe(path, f"{hop} {path}", Listener(number, file).comment())
            self._sockets[number] = Socket(interface, hop, file)
            self._has_to_save = True
        self._find_server(number)  # again too: a worker asks once more if that process ended, or if it took over

    def _describe(self, name: str, description: str, comment: str) -> Interface:
        return self._writer.state.interfaces[self._writer.interface(name, description, comment)]

    def _find_server(self, number: int) -> None:
        """Find who listens, and tell the worker, which watches for that process's end (E1)."""
        at = self._sockets[number]
        at.find_server()
        self._tell_worker({"listener": number, "server": at.server_pid})

    def _opened(self, number: int, time_ns: int, payload: bytes) -> None:
        listener, pid, uid, gid = (int(part) for part in payload.split(b","))
        at = self._sockets[listener]
        if at.interface.number < 0:
            at.interface = self._describe(*at.interface.described())
        if not at.has_server():
            self._find_server(listener)  # nobody listened yet when it was taken, or one that has handed it on since
        client, server = client_of(pid, uid, gid, at), server_of(at)
        client_address, server_address = (self._writer.endpoint(each.key, each.name) for each in (client, server))
        self._open[number] = 2
        peers = {"client": client.about, "server": server.about}
        self._writer.open(number, at.interface.number, at.hop, client_address, server_address, time_ns, peers)

    # --- the file ---

    def _take(self, block: bytes) -> None:
        is_packet = block[:4] == _ENHANCED_PACKET
        if self._failed or (self._full and is_packet):
            return
        self._pending.append(block)
        self._pending_bytes += len(block)
        limits = self.limits
        if is_packet and limits.packets and self._packets_before + self._writer.packets + 1 >= limits.packets:
            self._stop(f"{limits.packets} packets captured")
        elif limits.bytes and not self._full and self._size() >= limits.bytes:
            self._stop(f"{limits.bytes} bytes captured")

    def _size(self) -> int:
        return self._bytes_before + self._store.size + self._pending_bytes

    def _stop(self, why: str) -> None:
        self._full = True
        self._tell_worker({"limit": why})

    def _tell_worker(self, what: dict[str, object]) -> None:
        with contextlib.suppress(OSError):  # it is gone, or has died and its successor does not read yet
            self.link.send(json.dumps(what).encode(), socket.MSG_DONTWAIT)

    def _taken(self) -> bytes:
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        return data

    def _write_out(self) -> None:
        if self._failed:
            return
        data = self._taken()
        before = self._store.size
        try:
            self._store.write(data)
        except OSError as error:
            # A packet that is cut in its middle would make every reader stop there.
            self._store.cut(before)
            self._pending.append(data)
            self._pending_bytes = len(data)
            self._trouble(error)
        self._tell_words()

    # --- a disk without room (R9) ---

    def _look_at_disk(self) -> None:
        """Pause, or go on after a pause, as the room on the disk has it."""
        if self._pause is not None and time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK_S
        try:
            disk = Disk.of(self._store.fd)
        except OSError:
            return
        floor = self.limits.free.of(disk.total)
        if self._pause is not None:
            if disk.free >= floor + RESUME + self._pending_bytes + len(self._begun):
                self._go_on_writing(self._pause)
        elif floor and disk.free < floor + MARGIN:
            self._begin_pause(
                f"the capture's disk has {size(disk.free)} free, and {size(floor)} are to stay so: what passes is not "
                "recorded until there is more (--min-free)"
            )

    def _trouble(self, error: OSError) -> None:
        """The disk refused to take something, which is kept."""
        if error.errno not in _NO_ROOM:
            self._fail(f"capture stopped: {error.strerror}")
        elif self._pause is None:
            self._begin_pause("the capture's disk is full: what passes is not recorded until there is room again")

    def _fail(self, why: str) -> None:
        self._failed = True
        self._stop(why)

    def _begin_pause(self, why: str) -> None:
        self._pause = Pause(self._now())
        self._has_to_save = True
        self._words[sh.PAUSED_NS] = self._pause.since_ns
        self._tell_worker({"disk": why})

    def _hold(self, record: Record, pause: Pause) -> None:
        """Do with a record what can be done without writing."""
        number = record.connection
        if record.kind == Kind.OPEN:
            if self._known.add(number):
                self._keep(record, pause)
        elif record.kind == Kind.CLOCK or number in pause.kept:
            self._hold_known(record, pause)
        elif number in self._open:
            side = self._writer.state.conversations[number].sides[record.direction]
            if not side.closed and record.offset + len(record.payload) >= side.end:  # else it comes again
                self._hold_known(record, pause)
        self._last_ns = max(self._last_ns, record.time_ns)

    def _hold_known(self, record: Record, pause: Pause) -> None:
        if record.kind != Kind.DATA:
            self._keep(record, pause)
        elif not self._full:
            pause.drop(record)
            self._dropped += len(record.payload)

    def _keep(self, record: Record, pause: Pause) -> None:
        pause.keep(record)
        self._has_to_save = True

    def _go_on_writing(self, pause: Pause) -> None:
        """Write what was kept, as far as the disk takes it."""
        self._has_to_save = True
        self._pause = None
        self._write_out()
        if self._pause is None and self._begun and self._files is not None:
            self._begin_file(self._files)
        if self._pause is not None:
            self._pause = pause
            return
        for number in self._open.keys() & pause.packets.keys():
            self._writer.drop(number, pause.packets[number])
        for record in pause.records():
            number = record.connection
            if record.kind == Kind.OPEN:
                self._opened(number, record.time_ns, bytes(record.payload))
                self._writer.drop(number, pause.packets.get(number, 0))
            else:
                self._record(record)
        self._tell_of(pause)

    def _tell_of(self, pause: Pause) -> None:
        """Say what a pause has cost, in the capture, to `status` and to whoever started it."""
        about = {"podwire": "paused", "from_ns": pause.since_ns, "to_ns": self._now()}
        about |= {"bytes": pause.bytes, "connections": pause.connections, "lines": pause.lines}
        # Its place is among the packets: what comes next may be older than now.
        self._writer.note(self._last_ns or pause.since_ns, about)
        self._words[sh.DROPPED_CONNECTIONS] += pause.connections
        self._words[sh.PAUSED_NS] = 0
        self._tell_worker({"disk": f"the capture goes on; {note_text(about)}"})

    def _tell_words(self) -> None:
        self._words[sh.CAPTURE_PACKETS] = self._packets_before + self._writer.packets
        self._words[sh.CAPTURE_BYTES] = self._bytes_before + self._store.size
        self._words[sh.CAPTURE_FILE] = self._number
