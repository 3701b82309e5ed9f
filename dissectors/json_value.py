"""JSON that comes over the wire inside an `Any`: which type URLs carry it, and a parse that is bounded.

In: bytes. Out: a value that `json.dumps` takes, at any place and in any encoding, or the reason why not.
"""

from __future__ import annotations

import json
import math
from typing import TypeAlias

JSONValue: TypeAlias = "bool | int | float | str | list[JSONValue] | dict[str, JSONValue] | None"
JSONObject: TypeAlias = dict[str, JSONValue]

MAX_DEPTH = 64
"""Deeper is an error shown beside the raw bytes. The OCI specification nests nine deep, and Python's recursion ends at
1,000 frames, of which the caller has some."""

PROCESS_URL = "types.containerd.io/opencontainers/runtime-spec/1/Process"

# Go types that containerd's typeurl registers under a path; their value is what encoding/json wrote.
JSON_TYPE_URLS = frozenset(
    {
        "types.containerd.io/opencontainers/runtime-spec/1/Spec",
        PROCESS_URL,
        "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
        "types.containerd.io/opencontainers/runtime-spec/1/WindowsResources",
        "types.containerd.io/opencontainers/runtime-spec/1/features/Features",
        "github.com/containerd/cri/pkg/store/sandbox/Metadata",
        "github.com/containerd/cri/pkg/store/container/Metadata",
        "io.containerd.cri.v1/UpdatedResources",
        "github.com/containerd/containerd/v2/core/remotes/errors/ErrUnexpectedStatus",
        "io.containerd.ocicrypt.v1.Payload",
    }
)


def parse_json(data: bytes) -> JSONValue:
    """Return the value. Raises ValueError, with the reason, for what is no JSON (RFC 8259) or nests too deep."""
    try:
        value: JSONValue = json.loads(data.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"nests more than {MAX_DEPTH} deep") from None
    if not _is_shallow(value):
        raise ValueError(f"nests more than {MAX_DEPTH} deep")
    if b"\\ud" in data.lower():
        # A lone surrogate cannot be written as UTF-8. Go's reader puts U+FFFD in its place; so do we.
        text = json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        value = json.loads(text)
    return value


def _refuse(constant: str) -> JSONValue:
    raise ValueError(f"{constant} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:20]} is too large")
    return number


def _is_shallow(value: JSONValue) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[JSONValue] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list):
                below += item
        if not below:
            return True
        level = below
    return False
