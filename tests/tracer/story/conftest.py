"""A node whose traffic is told call by call."""

from __future__ import annotations

import pytest

from protos.registry import Registry
from tests.tracer.story.node import Node


@pytest.fixture
def node(registry: Registry) -> Node:
    return Node(registry)
