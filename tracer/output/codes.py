"""Names of numbers: status codes, which both protocols share, HTTP/2's error codes, signals, exit statuses."""

from __future__ import annotations

import signal

from dissectors.http2 import ERROR_NAMES

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


def status_name(code: int) -> str:
    """`NOT_FOUND` for 5; `CODE_99` for what has no name."""
    return STATUS[code] if 0 <= code < len(STATUS) else f"CODE_{code}"


def reset_name(code: int) -> str:
    """`CANCEL` for 8; `CODE_99` for what has no name."""
    return ERROR_NAMES[code] if 0 <= code < len(ERROR_NAMES) else f"CODE_{code}"


def signal_name(number: int) -> str | None:
    """`SIGTERM` for 15, `SIGRTMIN+3` for 37; None for what is no signal of Linux."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - 34}" if 34 < number < 64 else None


def exit_reason(status: int) -> str | None:
    """Why a process ended, where its exit status tells it by the shell's rules: `SIGKILL` for 137."""
    if status in _EXITS:
        return _EXITS[status]
    return signal_name(status - 128) if status > 128 else None


_EXITS = {126: "could not be executed", 127: "command not found"}
