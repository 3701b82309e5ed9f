"""A way to make payloads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf import json_format

from protos.registry import Registry

Make = Callable[[str, dict[str, object]], bytes]


@pytest.fixture(scope="session")
def make(registry: Registry) -> Make:
    """Serialise a message given as in the proto JSON mapping."""

    def serialise(type_name: str, fields: dict[str, object]) -> bytes:
        return json_format.ParseDict(fields, registry.message_class(type_name)()).SerializeToString()

    return serialise
