"""Fixtures: a private containerd for the whole session, and a maker of more for tests that kill theirs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.containerd import Containerd, missing_programs


def _need_containerd() -> None:
    if os.geteuid() != 0:
        pytest.skip("a real containerd needs root")
    if missing := missing_programs():
        pytest.skip(f"a real containerd needs {', '.join(missing)}")


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    """A running containerd that tests share: leave it running, and no pod in it."""
    _need_containerd()
    with Containerd() as server:
        yield server


@pytest.fixture
def make_containerd() -> Iterator[Callable[..., Containerd]]:
    """Make a running containerd of the test's own, to be killed and restarted at will; ended with the test."""
    _need_containerd()
    with contextlib.ExitStack() as stack:

        def make(**options: tuple[str, ...]) -> Containerd:
            return stack.enter_context(Containerd(**options))

        yield make
