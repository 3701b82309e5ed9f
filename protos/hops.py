"""Which hop a service belongs to, by its full name alone. In: a service's name. Out: the hop's name, or None."""

from __future__ import annotations

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


def hop_of_service(service: str) -> str | None:
    """Return `cri`, `task`, `events`, `agent` or `nri`; None for a service of no known API."""
    for prefix, hop in _PREFIXES:
        if service.startswith(prefix):
            return hop
    return None
