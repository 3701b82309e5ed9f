"""A service's full name tells its hop."""

from __future__ import annotations

import pytest

from protos.hops import HOPS, hop_of_service, hop_order
from protos.registry import Registry


@pytest.mark.parametrize(
    ("service", "hop"),
    [
        ("runtime.v1.RuntimeService", "cri"),
        ("runtime.v1alpha2.ImageService", "cri"),
        ("containerd.services.events.v1.Events", "cri"),
        ("containerd.services.events.ttrpc.v1.Events", "events"),
        ("containerd.task.v2.Task", "task"),
        ("containerd.task.v3.Task", "task"),
        ("containerd.runtime.sandbox.v1.Sandbox", "task"),
        ("containerd.runtime.linux.shim.v1.Shim", "task"),
        ("grpc.AgentService", "agent"),
        ("grpc.Health", "agent"),
        ("grpc.health.v1.Health", "cri"),
        ("grpc.reflection.v1.ServerReflection", "cri"),
        ("nri.pkg.api.v1alpha1.Plugin", "nri"),
        ("runtime.v2.RuntimeService", None),
        ("containerd.tasks", None),
        ("", None),
    ],
)
def test_hop_of_service(service: str, hop: str | None) -> None:
    assert hop_of_service(service) == hop


def test_every_bundled_service_has_a_hop_but_for_those_that_kata_has_elsewhere(registry: Registry) -> None:
    elsewhere = ("api.", "cache.", "hypervisor.", "remote.", "v1.", "vmservice.")
    without = [service for service in registry.services() if hop_of_service(service) is None]
    assert without == [service for service in registry.services() if service.startswith(elsewhere)]


def test_what_is_no_hop_stands_last() -> None:
    assert sorted(["", "other", "what", "nri", "cri"], key=hop_order) == ["cri", "nri", "other", "", "what"]
    assert sorted(HOPS, key=hop_order) == list(HOPS)
