"""What traces behind the screen, as the status line and the page of the session say it.

A capture that is only read has none of it; our own trace has the relay's words, an attached one what `status` sees.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from tracer.live import Live
from tracer.output.units import counted, size
from tracer.sessions import Session, read_session

KEPT_LINES = 500
"""What the relay said last."""

Describe = Callable[[Session], list[str]]
"""Says of a session what `podwire status` says."""


class Behind(Protocol):
    """What a screen needs to know of who makes its capture."""

    kind: str
    """`open`, `live` or `attached`."""

    @property
    def growing(self) -> bool:
        """More may come into the capture."""
        ...

    @property
    def left(self) -> bool:
        """It was told from outside to leave: the screen goes too."""
        ...

    def look(self) -> None:
        """See how it is; asked about once a second."""
        ...

    def brief(self) -> str:
        """For the status line."""
        ...

    def lines(self) -> list[str]:
        """All there is to say."""
        ...

    def leaving(self) -> str:
        """What leaving the screen does."""
        ...

    def detaching(self) -> str:
        """Why it cannot go on without the screen; empty if it can."""
        ...


class NothingBehind:
    """A capture that is read and no more."""

    kind = "open"
    growing = False
    left = False

    def __init__(self, capture: str) -> None:
        self._capture = capture

    def look(self) -> None:
        """Nothing changes."""

    def brief(self) -> str:
        return self._capture.rpartition("/")[2]

    def lines(self) -> list[str]:
        return [f"the capture {self._capture} is read; nothing is traced"]

    def leaving(self) -> str:
        return "leave"

    def detaching(self) -> str:
        return "nothing is traced: there is nothing that could go on"


class AttachedSession:
    """A session that somebody else began."""

    kind = "attached"
    left = False

    def __init__(self, session: Session, describe: Describe) -> None:
        self._describe = describe
        self._pid, self._capture = session.pid, session.capture
        self._session: Session | None = session
        self.growing = session.recording

    def look(self) -> None:
        if self.growing:
            self._session = read_session(self._pid) or None
            self.growing = self._session is not None and self._session.recording

    def brief(self) -> str:
        if self._session is None:
            return f"podwire {self._pid} has ended"
        return brief_of(self._session)

    def lines(self) -> list[str]:
        if self._session is None:
            return [f"podwire {self._pid} records no more; its capture is {self._capture}"]
        return self._describe(self._session)

    def leaving(self) -> str:
        return "leave; the session goes on"

    def detaching(self) -> str:
        return "it goes on anyway: leave with q"


class LiveSession:
    """The trace of this very command."""

    kind = "live"

    def __init__(self, live: Live, said: list[str], describe: Describe, *, bounded: bool) -> None:
        self._describe = describe
        self._live = live
        self._bounded = bounded
        self._before = said
        """What was said before there was a screen."""
        self._said: deque[str] = deque(maxlen=KEPT_LINES)
        self._session: Session | None = None
        self._listening = False
        live.say, live.screen = self.say, True

    def say(self, text: str) -> None:
        """Take a line that a trace without a screen prints on stderr."""
        self._said.append(text)

    def said_meanwhile(self) -> list[str]:
        """What was said while there was a screen."""
        return [*self._said]

    def listen(self) -> None:
        """Hear the relay from now on, between keys."""
        self._listening = True
        asyncio.get_running_loop().add_reader(self._live.control.fileno(), self._hear)

    def _hear(self) -> None:
        if not self._live.hear():
            self.deafen()

    def deafen(self) -> None:
        """Hear it no more: whoever ends the trace does it now."""
        if self._listening:
            self._listening = False
            asyncio.get_running_loop().remove_reader(self._live.control.fileno())

    @property
    def growing(self) -> bool:
        return not self._live.ended

    @property
    def left(self) -> bool:
        return self._live.signalled

    def look(self) -> None:
        self._session = read_session(self._live.session)

    def brief(self) -> str:
        if self._live.ended:
            return "the trace has ended"
        text = f"podwire {self._live.session}"
        return text if self._session is None else brief_of(self._session)

    def lines(self) -> list[str]:
        found = [] if self._session is None else self._describe(self._session)
        return [*found, "", *self._before, *self._said]

    def leaving(self) -> str:
        return "leave: gives every path back, finishes the file; what is open goes on through the relay"

    def detaching(self) -> str:
        if self._live.ended:
            return "the trace has ended"
        return "" if self._bounded else "the capture would grow without end: -w FILE needs -b for that"


def brief_of(session: Session) -> str:
    """What it is, how many sockets, what is missing."""
    parts = [f"podwire {session.pid} {session.state}", counted(len(session.held.sockets), "socket")]
    counters = session.counters
    if counters is not None:
        parts.append(size(counters.bytes))
        lost = counters.lost_bytes + counters.dropped_bytes
        if lost:
            parts.append(f"{size(lost)} lost")
        if counters.direct:
            parts.append(f"{counters.direct} not seen")
    return " · ".join([*parts, *session.troubles])
