"""The two ends of a connection by name: process, executable, systemd unit, as far as the capture says."""

from __future__ import annotations

from tracer.capture.flows import Endpoint
from tracer.output.escape import escape


def peer_text(endpoint: Endpoint) -> str:
    """`kubelet (pid 812, uid 0, /usr/bin/kubelet, kubelet.service)`; an address where nothing else is known."""
    facts = []
    if endpoint.pid is not None:
        facts.append(f"pid {endpoint.pid}")
    if endpoint.uid is not None:
        facts.append(f"uid {endpoint.uid}")
    facts += [escape(text) for text in (endpoint.command, endpoint.unit) if text]
    name = escape(endpoint.name) or f"{escape(endpoint.address)}:{endpoint.port}"
    return f"{name} ({', '.join(facts)})" if facts else name
