"""The toolbar of the capture interface: how the trace is, what it says, and two questions to it.

In: what the trace says, and Wireshark's control pipes. It never waits for them: what Wireshark does not take in time is
kept, up to a bound, and what is beyond that is counted and said in the log.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Final

from protos.errors import PodwireError
from tracer.output.escape import escape
from tracer.output.units import counted, size
from tracer.wireshark.controls import Command, Message, MessageReader

if TYPE_CHECKING:
    from tracer.live import Live

STATE, OPEN_CALLS, STATUS, LOG = range(4)
CONTROLS: Final = (
    f"control {{number={STATE}}}{{type=string}}{{display=Trace}}{{tooltip=How the trace is, once a second}}",
    f"control {{number={OPEN_CALLS}}}{{type=button}}{{display=Open calls}}"
    "{tooltip=List the calls without an answer, and what each waits for, in the log}",
    f"control {{number={STATUS}}}{{type=button}}{{display=Status}}"
    "{tooltip=List what is traced, what drains and what is missing, in the log}",
    f"control {{number={LOG}}}{{type=button}}{{role=logger}}{{display=Log}}{{tooltip=What the trace says}}",
)
"""How `--extcap-interfaces` declares them."""

_LOOK_S: Final = 1.0
"""How often the state is looked at."""
_MOST: Final = 1 << 20
"""Bytes kept for a Wireshark that does not read."""


class Toolbar:
    """One capture's toolbar. `tick` it often."""

    def __init__(self, fifo_in: str, fifo_out: str) -> None:
        """Open both pipes. Raises PodwireError."""
        try:
            # Open for both, a fifo neither waits for its other end nor tells of it: the capture's own does that.
            self._in, self._out = (os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in (fifo_in, fifo_out))
        except OSError as error:
            raise PodwireError(f"{error.filename}: {(error.strerror or '').lower()}") from error
        self._reader: MessageReader | None = MessageReader()
        self._waiting = bytearray()
        self._left_out = 0
        self._looked = 0.0
        self._state = ""
        self._asked: list[tuple[str, subprocess.Popen[bytes], IO[bytes]]] = []
        self._send(STATE, Command.DISABLE)

    def say(self, text: str) -> None:
        """Put a line into the log, with its time."""
        self._log(f"{time.strftime('%H:%M:%S')} {escape(text)}")

    def warn(self, text: str) -> None:
        """The same, in the status bar too."""
        self.say(text)
        self._send(0, Command.STATUSBAR, f"podwire: {escape(text)}")

    def tick(self, live: Live, notes: Sequence[str] = ()) -> None:
        """Tell how the trace is, and what else is to be noted; take what was pressed, give what was asked for."""
        for number in self._pressed():
            if number == OPEN_CALLS:
                from tracer.capture.growing import newest

                self._ask("stuck", newest(live.capture))
            elif number == STATUS:
                self._ask("status")
        self._answer()
        if time.monotonic() - self._looked >= _LOOK_S:
            self._looked = time.monotonic()
            state = "; ".join([state_text(live.session), *notes])
            if state != self._state:
                self._state = state
                self._send(STATE, Command.SET, state)
        self._flush()

    def close(self) -> None:
        """Let go of both pipes, and end what was asked for."""
        self._flush()
        for _, process, answer in self._asked:
            process.kill()
            process.wait()
            answer.close()
        self._asked.clear()
        os.close(self._in)
        os.close(self._out)

    def _pressed(self) -> list[int]:
        """The buttons that were pressed since."""
        if self._reader is None:
            return []
        try:
            messages = self._reader.feed(os.read(self._in, 1 << 16))
        except BlockingIOError:
            return []
        except PodwireError as error:
            self._reader = None
            self.say(f"{error}: the buttons do nothing any more")
            return []
        return [each.control for each in messages if each.command == Command.SET]

    def _ask(self, *words: str) -> None:
        """Have a command of podwire's answer, in a process of its own: the capture must not wait for it."""
        answer = tempfile.TemporaryFile()  # noqa: SIM115 # closed once it is read
        command = [sys.executable, "-P", "-m", "tracer.cli", *words]
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=answer, stderr=answer)
        except OSError as error:
            answer.close()
            self.say(f"podwire {words[0]}: {error.strerror}")
            return
        self._asked.append((words[0], process, answer))

    def _answer(self) -> None:
        for asked in self._asked.copy():
            command, process, answer = asked
            if process.poll() is not None:
                self._asked.remove(asked)
                answer.seek(0)
                told = answer.read().decode("utf-8", "replace")  # made for a terminal: it is escaped
                answer.close()
                self.say(f"podwire {command}:")
                for line in told.splitlines():
                    self._log(line)

    def _log(self, text: str) -> None:
        if self._left_out and len(self._waiting) < _MOST // 2:
            text = f"({counted(self._left_out, 'line')} left out)\n{text}"
            self._left_out = 0
        self._send(LOG, Command.ADD, f"{text}\n")

    def _send(self, control: int, command: Command, text: str = "") -> None:
        if len(self._waiting) > _MOST:
            self._left_out += 1
            return
        self._waiting += Message(control, command, text.encode("utf-8", "replace")).build()
        self._flush()

    def _flush(self) -> None:
        while self._waiting:
            try:
                del self._waiting[: os.write(self._out, self._waiting)]
            except BlockingIOError:
                return


def state_text(session: int) -> str:
    """How a trace is, in a line: connections, packets, and what is missing."""
    from tracer.sessions import read_session

    found = read_session(session)
    counters = None if found is None else found.counters
    if found is None or counters is None:
        return "its state cannot be read"
    parts = [
        f"{counted(len(found.connections), 'connection')} open, {counters.accepted} in all",
        f"{counted(counters.packets, 'packet')}, {size(counters.bytes)}",
    ]
    gaps = []
    if lost := counters.lost_bytes + counters.dropped_bytes:
        gaps.append(size(lost))
    if unseen := counters.dropped_connections + counters.direct:
        gaps.append(counted(unseen, "connection"))
    parts.append(f"missing: {', '.join(gaps)}" if gaps else "nothing missing")
    if counters.paused_ns:
        parts.append("paused: no room on the disk")
    return "; ".join([*parts, *found.troubles])
