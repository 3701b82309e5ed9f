"""What the kernel's table of unix sockets says, against sockets of our own."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tests.tracer.relay.harness import connect
from tracer.relay import sockdiag


def test_clients_are_found_before_their_server_accepts_them(folder: Path) -> None:
    path = folder / "s.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(4)
        file = os.lstat(path)
        with connect(path) as accepted, connect(path) as waiting:
            own, _ = server.accept()
            with own:
                clients = {os.fstat(each.fileno()).st_ino for each in (accepted, waiting)}
                assert sockdiag.client_sockets(file.st_ino, file.st_dev) == clients
                accepted.close()
                clients = {os.fstat(waiting.fileno()).st_ino}
                assert sockdiag.client_sockets(file.st_ino, file.st_dev) == clients
