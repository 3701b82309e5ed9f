from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tracer.relay.harness import Server


@pytest.fixture
def folder(run_folder: Path) -> Path:
    return run_folder


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
