"""What sockdump (github.com/mechpen/sockdump) writes as pcap, of link type USER0: each write to a unix socket, by whom
and for whom.

Two pids are all that names a connection, so several ones of the same two processes at a time cannot be told apart; a
client's preface begins another. Whose socket a server was given by another process (a shim's) has that one's pid on the
client's side: each side is a connection of its own then.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

LINK_TYPE: Final = 147
HEADER: Final = struct.Struct(">QQ")
"""The reader's pid and the writer's."""
MOST_PID: Final = 1 << 22
"""Linux has none above; USER0 is anybody's, and other numbers are other files."""
PREFACE: Final = b"PRI * HTTP/2.0\r\n"
_TTRPC: Final = struct.Struct(">IIBB")
_RESPONSE: Final = 2


class Written(NamedTuple):
    """One write."""

    client: int
    """Pids of both ends."""
    server: int
    direction: int
    """0 is from the client."""
    data: bytes
    missing: int
    """Bytes of it that are not in the capture: sockdump's --seg-size was too small."""
    begins: bool
    """It is the first one of its connection; one of the same two that was there before has ended."""


class DumpTable:
    """All connections of one capture."""

    def __init__(self) -> None:
        self._clients: dict[tuple[int, int], int] = {}
        """By both pids, the lower one first."""

    def feed(self, packet: bytes, missing: int) -> Written | str:
        """Take one packet; return what was written, or why it is passed over. Never raises on content."""
        if len(packet) < HEADER.size:
            return "cut short"
        reader, writer = HEADER.unpack_from(packet)
        if not 0 < writer <= MOST_PID or reader > MOST_PID:
            return f"link type {LINK_TYPE}"
        data = packet[HEADER.size :]
        key = (min(reader, writer), max(reader, writer))
        client = self._clients.get(key)
        begins = client is None or (data.startswith(PREFACE) and client == writer)
        if client is None:
            client = self._clients[key] = reader if _is_answer(data) else writer
        server = reader + writer - client
        return Written(client, server, int(writer != client), data, missing, begins)


def _is_answer(data: bytes) -> bool:
    """Whether ttrpc's header says that it is a server's."""
    if len(data) < _TTRPC.size:
        return False
    length, stream_id, kind, _ = _TTRPC.unpack_from(data)
    return bool(kind == _RESPONSE and stream_id & 1 and length == len(data) - _TTRPC.size)
