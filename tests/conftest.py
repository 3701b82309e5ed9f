from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from protos.registry import Registry


def pytest_configure() -> None:
    """Undo that a shell that runs tests in the background has them ignore SIGINT, and so all that they start; and have
    no test fail of a slow machine."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile("podwire", deadline=None)
    settings.load_profile("podwire")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket's path ends at 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="pw-", ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture
def run_folder() -> Iterator[Path]:
    """The same, for root on the mount of the runtime folder."""
    with tempfile.TemporaryDirectory(prefix="pw-", dir="/run" if os.geteuid() == 0 else None) as path:
        yield Path(path)


@pytest.fixture(scope="session")
def registry() -> Registry:
    """One for all tests that only read it."""
    return Registry.bundled()
