"""Where the page is served, and the URL that leads there. A URL has a token: others share this machine's loopback."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from protos.errors import PodwireError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Address:
    """What the user wrote."""

    host: str
    port: int
    """0: any that is free."""


def parse(text: str) -> Address:
    """Read `[ADDRESS:]PORT`; an IPv6 address stands in brackets. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if colon:
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if not host or (":" in host) != bracketed:
            raise ValueError(text)
    if not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError(text)
    return Address(host or LOOPBACK, int(port))


@dataclass(frozen=True, slots=True)
class Site:
    """A socket that listens, and who is let in."""

    listener: socket.socket
    names: frozenset[str]
    """Names by which it is reached, besides addresses."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    @property
    def loopback(self) -> bool:
        """Whether this machine alone reaches it."""
        return ip_address(self.listener.getsockname()[0]).is_loopback

    @property
    def url(self) -> str:
        """What a browser is given."""
        host, port = self.listener.getsockname()[:2]
        if ip_address(host).is_unspecified:
            host = socket.gethostname()
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/{self.token}/"

    def known(self, host: str) -> bool:
        """Whether a `Host` header names this machine: any other name would be one that was bound to our address
        afterwards, so that a page from elsewhere could read ours (DNS rebinding)."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.loopback


def listen(address: Address) -> Site:
    """Take the port. Raises PodwireError where it cannot be had."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, where = found[0]
        listener = socket.create_server(where[:2], family=family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
        raise PodwireError(f"--web {address.host}:{address.port}: {reason}") from error
    return Site(listener, frozenset({"localhost", address.host.lower(), socket.gethostname().lower()}))
