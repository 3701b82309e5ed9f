"""What a trace makes of a relay's end."""

from __future__ import annotations

import socket

from tracer.capture.room import Limits
from tracer.live import Live, Options


def test_a_relay_that_ends_before_it_reads_what_it_was_told_has_ended() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    said: list[str] = []
    live = Live(Options([], Limits()), "/none", said.append)
    live.control = ours
    with ours:
        live._worker = 1
        live.leave()
        theirs.close()  # with `leave` unread: the next read is refused (ECONNRESET)
        live._hear()
    assert live.ended
    assert not live.failed
    assert said == []
