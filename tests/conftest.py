from __future__ import annotations

import signal

import pytest

from protos.registry import Registry


def pytest_configure() -> None:
    """A shell that runs tests in the background has them ignore SIGINT, and so all that they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def registry() -> Registry:
    """One for all tests that only read it."""
    return Registry.bundled()
