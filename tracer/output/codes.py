"""Names of numbers: gRPC's status codes and HTTP/2's error codes. Both protocols use the status codes."""

from __future__ import annotations

STATUS = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""google.rpc.Code by number."""

RESET = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)
"""HTTP/2 error codes by number (RFC 9113 §7)."""


def status_name(code: int) -> str:
    """`NOT_FOUND` for 5; `CODE_99` for what has no name."""
    return STATUS[code] if 0 <= code < len(STATUS) else f"CODE_{code}"


def reset_name(code: int) -> str:
    """`CANCEL` for 8; `CODE_99` for what has no name."""
    return RESET[code] if 0 <= code < len(RESET) else f"CODE_{code}"
