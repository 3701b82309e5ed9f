"""The table of what matters names real methods and real fields."""

from __future__ import annotations

import pytest

from protos.registry import Registry
from protos.schema_set import resolve
from tracer.output.fields import EVENT_FIELDS, EVENT_ID_PATHS, EXPECTED_FAILURES, FIELDS, ID_PATHS, STREAMED
from tracer.output.summary import _FORMS, parse_item
from tracer.waiting import WAITING

ODD_FORMS = {"exit", "count", "exec", "set", "args"}

ENTRIES = [(service, method, text) for service, methods in FIELDS.items() for method, text in methods.items()]


@pytest.mark.parametrize("service", [service for service in FIELDS if "v1alpha2" not in service])
def test_every_method_of_a_service_has_its_entry(registry: Registry, service: str) -> None:
    package, _, name = service.rpartition(".")
    methods = [found for method in FIELDS[service] if (found := registry.method(service, method)) is not None]
    own = [found.input_type for found in methods if found.input_type.startswith(package)]
    if not own:  # its one method has foreign types alone
        assert service.endswith((".Streaming", ".Version"))
        return
    described = registry.message_class(own[0]).DESCRIPTOR.file.services_by_name[name]
    assert {method.name for method in described.methods} - set(FIELDS[service]) == set()


@pytest.mark.parametrize(("service", "method", "text"), ENTRIES)
def test_every_field_of_the_table_exists(registry: Registry, service: str, method: str, text: str) -> None:
    found = registry.method(service, method)
    if found is None:  # v1 and v1alpha2 share a table, and the two services of CRI too
        assert service.startswith("runtime.v1")
        return
    request, _, response = text.partition("→")
    for side, type_name in ((request, found.input_type), (response, found.output_type)):
        descriptor = registry.message_class(type_name).DESCRIPTOR
        for word in side.split():
            label, paths, form = parse_item(word)
            assert form in _FORMS or form in ODD_FORMS
            assert form != "count" or label
            for path in paths:
                assert resolve(path, descriptor) is not None or "v1alpha2" in service, path


def test_every_method_of_the_table_exists_in_one_of_its_services(registry: Registry) -> None:
    for service, methods in FIELDS.items():
        if service.startswith("runtime.v1"):
            both = ("runtime.v1.RuntimeService", "runtime.v1.ImageService")
        else:
            both = (service,)
        for method in methods:
            assert any(registry.method(each, method) for each in both), (service, method)


STREAMS = [(service, method, text) for service, methods in STREAMED.items() for method, text in methods.items()]


@pytest.mark.parametrize(("service", "method", "text"), STREAMS)
def test_every_field_of_a_stream_exists(registry: Registry, service: str, method: str, text: str) -> None:
    found = registry.method(service, method)
    assert found is not None
    assert found.client_streaming or found.server_streaming
    for name, words in zip((found.input_type, found.output_type), text.split("→"), strict=True):
        for word in words.split():
            for path in parse_item(word)[1]:
                assert resolve(path, registry.message_class(name).DESCRIPTOR) is not None, (name, path)


@pytest.mark.parametrize(("name", "text"), EVENT_FIELDS.items())
def test_every_field_of_an_event_exists(registry: Registry, name: str, text: str) -> None:
    descriptor = registry.message_class(name).DESCRIPTOR
    assert any(resolve(path, descriptor) for path in EVENT_ID_PATHS) == name.startswith("containerd.events.Task")
    for word in text.split():
        for path in parse_item(word)[1]:
            assert resolve(path, descriptor) is not None


def test_services_named_elsewhere_exist(registry: Registry) -> None:
    known = set(registry.services())
    elsewhere = {"grpc.health.v1.Health"}  # gRPC's own; it comes with whoever uses it
    assert (set(ID_PATHS) | set(WAITING) | set(EXPECTED_FAILURES)) - known - elsewhere == set()
    for service, methods in WAITING.items():
        for method in methods:
            newer = (service, method) == ("runtime.v1alpha2.RuntimeService", "GetContainerEvents")
            assert service in elsewhere or newer or registry.method(service, method), (service, method)
