"""The hops, and which of them a service belongs to, by its full name alone."""

from __future__ import annotations

from typing import Final

HOPS: Final = ("cri", "task", "events", "agent", "nri", "other")
"""In the order in which they are listed."""

# First match wins, so the exceptions stand before the rule they are exceptions from.
_PREFIXES = (
    ("containerd.services.events.ttrpc.", "events"),
    ("containerd.task.", "task"),
    ("containerd.runtime.sandbox.", "task"),
    ("containerd.runtime.linux.shim.", "task"),
    ("containerd.services.", "cri"),
    ("runtime.v1.", "cri"),
    ("runtime.v1alpha", "cri"),
    # gRPC's own services share the sockets of CRI; Kata's package has the bare name.
    ("grpc.health.", "cri"),
    ("grpc.reflection.", "cri"),
    ("grpc.", "agent"),
    ("nri.", "nri"),
)


def hop_order(hop: str) -> int:
    """Return where a hop stands in a list; what is no hop (a connection of which none is known) stands last."""
    return HOPS.index(hop) if hop in HOPS else len(HOPS)


def hop_of_service(service: str) -> str | None:
    """Return `cri`, `task`, `events`, `agent` or `nri`; None for a service of no known API."""
    for prefix, hop in _PREFIXES:
        if service.startswith(prefix):
            return hop
    return None
