from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tracer.relay.harness import Server


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket's path ends at 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="pw-", dir="/run" if os.geteuid() == 0 else None))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts echo servers, and ends them."""
    servers: list[Server] = []

    def start(path: Path, **options: Any) -> Server:
        servers.append(Server(path, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
