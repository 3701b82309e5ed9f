"""A `vsockmon` interface, live: the kernel shows there each packet of AF_VSOCK, which no path leads to.

In: the interface's name. Out: what `vsock` makes of its packets, each with the time at which the kernel saw it. Reading
it changes nothing for those who talk. Packets that come faster than they are read are lost, which the counts in later
ones show.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import time
from collections.abc import Iterator
from typing import Final

from protos.errors import PodwireError
from tracer.capture.vsock import ARPHRD_VSOCKMON, Event, VsockTable

HOW_TO_MAKE: Final = "ip link add vsockmon0 type vsockmon && ip link set vsockmon0 up"
_SIOCGIFFLAGS, _SIOCGIFHWADDR = 0x8913, 0x8927
_ETH_P_ALL: Final = 3
_UP: Final = 1  # IFF_UP
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35
_BUFFER: Final = 8 << 20
_LARGEST: Final = 128 << 10
"""Two headers and the 64 KiB that one packet has at most."""
_AT_ONCE: Final = 256
_stamp = struct.Struct("@ll")
_ifreq = struct.Struct("@16sH22x")
"""An interface's name; its flags, or the type of its hardware address."""


def interfaces() -> list[str]:
    """The interfaces of this kind that there are."""
    return sorted(name for _, name in socket.if_nameindex() if _asked(name, _SIOCGIFHWADDR) == ARPHRD_VSOCKMON)


def is_up(name: str) -> bool:
    """Whether it is up: else nothing is seen on it."""
    return bool(_asked(name, _SIOCGIFFLAGS) & _UP)


def _asked(name: str, request: int) -> int:
    """The number that the kernel has of an interface; 0 if that has gone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket, contextlib.suppress(OSError):
        answer = fcntl.ioctl(any_socket, request, _ifreq.pack(name.encode(), 0))
        return int(_ifreq.unpack(answer)[1])
    return 0


def open_monitor(name: str) -> socket.socket:
    """Return a packet socket on an interface. Raises PodwireError."""
    if name not in interfaces():
        raise PodwireError(f"-i {name}: there is no such vsockmon interface ({HOW_TO_MAKE} makes one)")
    if not is_up(name):
        raise PodwireError(f"-i {name}: is down: ip link set {name} up")
    try:
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    except OSError as error:
        raise PodwireError(f"-i {name}: {error.strerror} (try sudo)") from error
    with contextlib.suppress(OSError):  # without root's right to it the default size has to do
        packets.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    packets.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    packets.bind((name, _ETH_P_ALL))
    return packets


class Monitor:
    """What passes on one interface."""

    def __init__(self, packets: socket.socket) -> None:
        self._packets = packets
        self._table = VsockTable()

    def fileno(self) -> int:
        """For poll."""
        return self._packets.fileno()

    def read(self, now_ns: int) -> Iterator[tuple[int, Event]]:
        """Take some of the packets that wait; `now_ns` is the capture's time, which is not to jump with the clock."""
        for _ in range(_AT_ONCE):
            try:
                packet, ancillary, _, _ = self._packets.recvmsg(_LARGEST, socket.CMSG_SPACE(_stamp.size))
            except OSError:  # no more; or the interface has gone
                return
            time_ns = now_ns
            for level, kind, value in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(value) >= _stamp.size:
                    seconds, rest = _stamp.unpack_from(value)
                    time_ns = now_ns - max(0, time.time_ns() - seconds * 10**9 - rest)
            events = self._table.feed(packet)
            if not isinstance(events, str):
                for event in events:
                    yield time_ns, event
