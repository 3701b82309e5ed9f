"""A pcapng stream as plain pcap: blocks that `CaptureWriter` writes come in, pcap goes out.

Times in nanoseconds, link type Ethernet. Names, comments and interfaces have no place there and are left out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

_BLOCK = struct.Struct("<II")
_PACKET = struct.Struct("<7I")
_ENHANCED = 6


class PcapWriter:
    """`write_blocks` takes whole blocks; `write` gets a pcap file's bytes."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1))

    def write_blocks(self, data: bytes) -> None:
        """Take blocks, little-endian as they are written here."""
        at = 0
        while at < len(data):
            kind, length = _BLOCK.unpack_from(data, at)
            if kind == _ENHANCED:
                _, _, _, high, low, captured, original = _PACKET.unpack_from(data, at)
                seconds, part = divmod(high << 32 | low, 1_000_000_000)
                begin = at + _PACKET.size
                self._write(struct.pack("<4I", seconds, part, captured, original) + data[begin : begin + captured])
            at += length
