"""How large messages may be, and which come near. In: a call. Out: a remark, or nothing."""

from __future__ import annotations

from tracer.calls import Call
from tracer.output.units import size

MESSAGE_LIMITS = {"ttrpc": 4 << 20, "grpc": 16 << 20}
"""Bytes of a message that runtimes take: ttrpc's own limit, and what containerd, CRI-O and kubelet set for gRPC."""
NEAR = 0.75
"""Of a limit: a message from there on stands out on its call's line."""
_NEAR_BYTES = int(min(MESSAGE_LIMITS.values()) * NEAR)


def near_limit(call: Call) -> str:
    """Say that a message of a call is near the limit of its protocol, or over it; empty if none is."""
    if call.request_bytes + call.response_bytes < _NEAR_BYTES:
        return ""
    limit = MESSAGE_LIMITS.get(call.protocol)
    largest = max(call.messages, key=lambda message: message.length, default=None)
    if limit is None or largest is None or largest.length < limit * NEAR:
        return ""
    side = "response" if largest.direction else "request"
    share = largest.length * 100 // limit
    return f"(a {side} of {size(largest.length)} is {share} % of the {limit >> 20} MiB that {call.protocol} peers take)"
