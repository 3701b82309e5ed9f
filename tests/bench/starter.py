"""`python -m tests.bench.starter FOLDER SOCKET FD`: start a relay over this socket, hand its control over and end.

The relay is started by a process that has imported what a relay needs and nothing else, and that is gone afterwards:
its memory is its own, as after `--detach`.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from tests.tracer.relay.harness import main_target, running_relay


def main() -> None:
    folder, path, link = Path(sys.argv[1]), Path(sys.argv[2]), socket.socket(fileno=int(sys.argv[3]))
    with running_relay(folder, [main_target(path)]) as relay:
        session = os.getsid(int(relay.until("started")["pid"]))
        socket.send_fds(link, [b"%d" % session], [relay.control.fileno()])
        os._exit(0)  # not by the context, which would end the relay


if __name__ == "__main__":
    main()
