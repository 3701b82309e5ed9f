"""Captures of a vsockmon interface, packet by packet, as Linux writes them."""

from __future__ import annotations

import struct
from pathlib import Path

from tracer.capture.vsock import CREDIT_UPDATE, HEADER, REQUEST, RESPONSE, RST, RW, SHUTDOWN, VIRTIO

Address = tuple[int, int]
KINDS = {REQUEST: 1, RESPONSE: 1, RST: 2, SHUTDOWN: 2, RW: 4}
"""vsockmon's operation of each of virtio's; 3 (control) of the others."""
BUFFER = 256 << 10


class Talk:
    """One connection; keeps both sides' counts as the kernel does. Each method returns a packet."""

    def __init__(self, client: Address, server: Address) -> None:
        self.ends = client, server
        self.sent = [0, 0]
        self.taken = [0, 0]
        """Of each direction, by its receiver."""

    def packet(self, direction: int, operation: int, data: bytes = b"", flags: int = 0, kind: int = 1) -> bytes:
        source, destination = self.ends[direction], self.ends[1 - direction]
        ends = source[0], destination[0], source[1], destination[1]
        header = HEADER.pack(*ends, KINDS.get(operation, 3), 2, VIRTIO.size)
        taken = self.taken[1 - direction] & 0xFFFFFFFF
        return header + VIRTIO.pack(*ends, len(data), kind, operation, flags, BUFFER, taken) + data

    def request(self) -> bytes:
        return self.packet(0, REQUEST)

    def response(self) -> bytes:
        return self.packet(1, RESPONSE)

    def say(self, direction: int, data: bytes, *, takes: bool = True) -> bytes:
        """`takes`: the receiver reads it at once, as its next packet says."""
        made = self.packet(direction, RW, data)
        self.sent[direction] += len(data)
        if takes:
            self.taken[direction] = self.sent[direction]
        return made

    def credit(self, direction: int) -> bytes:
        return self.packet(direction, CREDIT_UPDATE)

    def shutdown(self, direction: int, flags: int = 3) -> bytes:
        return self.packet(direction, SHUTDOWN, flags=flags)

    def reset(self, direction: int) -> bytes:
        return self.packet(direction, RST)


def save(path: Path, packets: list[bytes]) -> Path:
    """A plain pcap file of link type 271 (DLT_VSOCK), a millisecond a packet."""
    data = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 271)  # nanoseconds
    for number, packet in enumerate(packets):
        data += struct.pack("<IIII", 1_795_445_881, number * 1_000_000, len(packet), len(packet)) + packet
    path.write_bytes(data)
    return path
