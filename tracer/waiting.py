"""Which calls are meant to wait, so that nobody takes them for hung ones. Names in, an answer out."""

from __future__ import annotations

WAITING: dict[str, frozenset[str]] = {
    "containerd.task.v2.Task": frozenset({"Wait"}),
    "containerd.task.v3.Task": frozenset({"Wait"}),
    "containerd.runtime.sandbox.v1.Sandbox": frozenset({"WaitSandbox"}),
    "containerd.services.tasks.v1.Tasks": frozenset({"Wait"}),
    "containerd.services.sandbox.v1.Controller": frozenset({"Wait"}),
    "containerd.services.events.v1.Events": frozenset({"Subscribe"}),
    "containerd.services.streaming.v1.Streaming": frozenset({"Stream"}),
    "runtime.v1.RuntimeService": frozenset({"GetContainerEvents"}),
    "runtime.v1alpha2.RuntimeService": frozenset({"GetContainerEvents"}),
    "grpc.AgentService": frozenset({"WaitProcess", "GetOOMEvent", "ReadStdout", "ReadStderr"}),
    "grpc.health.v1.Health": frozenset({"Watch"}),
}
"""Calls that stay open for as long as a process, a stream or a subscriber lives."""


def meant_to_wait(service: str, method: str) -> bool:
    """Whether a call of this method without an answer is as it should be."""
    return method in WAITING.get(service, ())
