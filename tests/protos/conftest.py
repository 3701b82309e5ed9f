"""One registry for all tests that only read it."""

from __future__ import annotations

import pytest

from protos.registry import Registry


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry.bundled()
