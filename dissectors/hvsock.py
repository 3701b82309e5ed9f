"""Hybrid vsock: one connection through a VMM's unix socket to a port of its guest.

Comes in: both directions' bytes as they were read. Goes out: whether the VMM opened the port, then what that port
speaks: the agent's ttrpc as calls, the log as lines; of the debug console, and of ports that are not known, how many
bytes there were. The client says `CONNECT 1024` (Kata's runtime-rs in lower case), the VMM answers `OK 1073741824`
with the port that it took on the host; while the guest boots it closes without a word. `passfd` hands the VMM a
descriptor for the port that the next message names (Dragonball).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Protocol

from dissectors.events import Direction, Event, LogLine, Malformed, PortOpened, PortRefused, Skipped
from dissectors.ttrpc import TtrpcConnection

AGENT_PORT: Final = 1024
LOG_PORT: Final = 1025
PORT_NAMES: Final = {AGENT_PORT: "agent", LOG_PORT: "log", 1026: "debug console", 1027: "passfd I/O"}
"""Kata's ports in the guest."""

MAX_ANSWER: Final = 64
"""Bytes after which an answer without a line end is none."""
_MAX_UNANSWERED: Final = 64 << 10
MAX_LOG_LINE: Final = 64 << 10
"""Bytes of one line of the log; a longer one comes in pieces."""

_REQUEST, _RESPONSE = Direction.REQUEST, Direction.RESPONSE
_HELLO = re.compile(rb"(?:connect (\d{1,10})|passfd)\r?\n", re.IGNORECASE)
_PART = re.compile(rb"(?:connect \d{0,10}|passfd)\r?\Z", re.IGNORECASE)
_PASSED_PORT = re.compile(rb"(\d{1,10})(?: keep)?\n?")


def is_sound(head: bytes) -> bool:
    """Whether a client's first bytes are a whole first line."""
    return _HELLO.match(head) is not None


def may_begin(head: bytes) -> bool:
    """Whether a client's first bytes may become a first line."""
    start = head.lower()
    return _PART.match(head) is not None or b"connect ".startswith(start) or b"passfd\n".startswith(start)


def port_name(port: int) -> str:
    """Return what to call a port: `agent (port 1024)`, `port 7`."""
    name = PORT_NAMES.get(port)
    return f"{name} (port {port})" if name else f"port {port}"


class FirstLines(NamedTuple):
    """What both sides said before the port speaks."""

    port: int
    """0: it cannot be told."""
    passed: bool
    """By `passfd`."""
    accepted: bool
    """The answer is an OK, as far as it was seen."""
    ends: tuple[int, int]
    """Where each direction goes on."""

    @property
    def speaks(self) -> str:
        """`ttrpc`, `log`, or empty for bytes that are counted."""
        if self.passed or not self.accepted:
            return ""
        return {AGENT_PORT: "ttrpc", LOG_PORT: "log"}.get(self.port, "")


def first_lines(asked: bytes, answer: bytes, *, whole: bool = False) -> FirstLines | None:
    """Read them from both directions' first bytes; None while they are not whole, unless no more can come of them."""
    hello = _HELLO.match(asked)
    end = answer.find(b"\n", 0, MAX_ANSWER) + 1
    if not whole and (hello is None or not (end or len(answer) >= MAX_ANSWER or len(asked) > _MAX_UNANSWERED)):
        return None
    accepted = b"OK" in answer[:end] if end or len(answer) >= MAX_ANSWER else True
    if hello is None:
        return FirstLines(0, False, accepted, (len(asked), end))
    if hello[1]:
        return FirstLines(int(hello[1]), False, accepted, (hello.end(), end))
    number = _PASSED_PORT.match(asked, hello.end())
    if number is None:
        return FirstLines(0, True, accepted, (hello.end(), end))
    return FirstLines(int(number[1]), True, accepted, (number.end(), end))


class _Inside(Protocol):
    def feed(self, direction: Direction, data: bytes) -> list[Event]: ...
    def lost(self, direction: Direction, count: int) -> list[Event]: ...
    def close(self, direction: Direction) -> list[Event]: ...


class HvsockConnection:
    """Both directions of one connection. `port`: it is one of AF_VSOCK's to this port, without first lines."""

    def __init__(self, port: int | None = None) -> None:
        self.protocol = "hvsock"
        self._heads = [b"", b""]
        self._closed = [False, False]
        self._inside: _Inside | None = None
        self._waiting: list[Event] = []
        """Told with the first bytes."""
        if port is not None:
            self._waiting = self._open(FirstLines(port, False, True, (0, 0)))

    def feed(self, direction: Direction, data: bytes) -> list[Event]:
        """Take bytes as they came; return what they completed, in order."""
        if self._inside is not None:
            events = self._inside.feed(direction, data)
            if self._waiting:
                events = self._waiting + events
                self._waiting = []
            return events
        self._heads[direction] += data
        return self._shake_hands()

    def lost(self, direction: Direction, count: int) -> list[Event]:
        """Take note of a gap. One in the answer is taken for an OK: what follows shows it."""
        events: list[Event] = []
        if self._inside is None and count:
            asked, answer = self._heads
            lines = first_lines(asked, answer, whole=True)
            assert lines is not None  # there is no more to wait for
            events += self._open(lines._replace(ends=(lines.ends[0], len(answer))))
        if self._inside is not None:
            events += self._inside.lost(direction, count)
        return events

    def close(self, direction: Direction) -> list[Event]:
        """Take note of this direction's end; return what stayed incomplete."""
        if self._inside is not None:
            return self._inside.close(direction)
        self._closed[direction] = True
        events: list[Event] = []
        asked, answer = self._heads
        hello = _HELLO.match(asked)
        if direction == _RESPONSE and hello is not None:
            events.append(PortRefused(int(hello[1] or 0)))
            if answer:
                events.append(Malformed(_RESPONSE, 0, "the answer breaks off", answer[:32], None))
        return events

    def _shake_hands(self) -> list[Event]:
        """Go on inside, once the answer is whole."""
        lines = first_lines(*self._heads)
        return [] if lines is None else self._open(lines)

    def _open(self, lines: FirstLines) -> list[Event]:
        events: list[Event] = []
        if lines.accepted:
            events.append(PortOpened(lines.port, lines.passed))
        else:
            line = self._heads[_RESPONSE][: lines.ends[_RESPONSE] or MAX_ANSWER]
            events.append(Malformed(_RESPONSE, 0, "an answer that is no OK", line[:32], None))
        if lines.speaks == "ttrpc":
            self._inside = TtrpcConnection(lines.ends)
        elif lines.speaks == "log":
            self._inside = _Lines(lines.ends)
        else:
            self._inside = _Bytes(port_name(lines.port), lines.ends)
        for direction, head in zip(Direction, self._heads, strict=True):
            if rest := head[lines.ends[direction] :]:
                events += self._inside.feed(direction, rest)
            if self._closed[direction]:
                events += self._inside.close(direction)
        self._heads = [b"", b""]
        return events


class _Lines:
    """A port of which each line is told: agents write JSON, one object a line."""

    def __init__(self, starts: tuple[int, int]) -> None:
        self._offsets = list(starts)
        self._buffers = [b"", b""]

    def feed(self, direction: Direction, data: bytes) -> list[Event]:
        events: list[Event] = []
        *lines, rest = (self._buffers[direction] + data).split(b"\n")
        for line in lines:
            events += self._told(direction, line, 1)
        while len(rest) >= MAX_LOG_LINE:
            events += self._told(direction, rest[:MAX_LOG_LINE], 0)
            rest = rest[MAX_LOG_LINE:]
        self._buffers[direction] = rest
        return events

    def lost(self, direction: Direction, count: int) -> list[Event]:
        events = self.close(direction)
        if count:
            events.append(Skipped(direction, self._offsets[direction], count, "lost"))
            self._offsets[direction] += count
        return events

    def close(self, direction: Direction) -> list[Event]:
        rest, self._buffers[direction] = self._buffers[direction], b""
        return self._told(direction, rest, 0) if rest else []

    def _told(self, direction: Direction, line: bytes, end: int) -> list[Event]:
        """Tell one line, in as many pieces as it takes."""
        events: list[Event] = []
        for at in range(0, len(line) or 1, MAX_LOG_LINE):
            piece = line[at : at + MAX_LOG_LINE]
            events.append(LogLine(direction, self._offsets[direction] + at, piece))
        self._offsets[direction] += len(line) + end
        return events


class _Bytes:
    """A port whose bytes are counted."""

    def __init__(self, what: str, starts: tuple[int, int]) -> None:
        self._what = what
        self._starts = starts
        self._counts = [0, 0]

    def feed(self, direction: Direction, data: bytes) -> list[Event]:
        self._counts[direction] += len(data)
        return []

    def lost(self, direction: Direction, count: int) -> list[Event]:
        self._counts[direction] += count
        return []

    def close(self, direction: Direction) -> list[Event]:
        count, self._counts[direction] = self._counts[direction], 0
        return [Skipped(direction, self._starts[direction], count, f"not decoded: {self._what}")] if count else []
