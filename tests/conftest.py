from __future__ import annotations

import signal

import pytest
from hypothesis import settings

from protos.registry import Registry


def pytest_configure() -> None:
    """Undo that a shell that runs tests in the background has them ignore SIGINT, and so all that they start; and have
    no test fail of a slow machine."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile("podwire", deadline=None)
    settings.load_profile("podwire")


@pytest.fixture(scope="session")
def registry() -> Registry:
    """One for all tests that only read it."""
    return Registry.bundled()
