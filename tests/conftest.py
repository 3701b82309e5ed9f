from __future__ import annotations

import signal


def pytest_configure() -> None:
    """A shell that runs tests in the background has them ignore SIGINT, and so all that they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
