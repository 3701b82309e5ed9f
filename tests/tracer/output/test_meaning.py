"""What values mean stands beside them in text, and nowhere else."""

from __future__ import annotations

import json
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

import protos
from dissectors.render import Renderer
from protos.registry import Registry
from tests.tracer.made import REQUEST, RESPONSE, TASK, ended, message, opened
from tests.tracer.output.test_text import Printed
from tracer.output.meaning import MEANINGS, Meanings, meaning_of

if TYPE_CHECKING:
    from tests.tracer.output.conftest import Make

SPEC = "types.containerd.io/opencontainers/runtime-spec/1/"


def lines(registry: Registry, type_name: str, fields: dict[str, Any]) -> list[str]:
    payload = registry.message_class(type_name)(**fields).SerializeToString()
    return Renderer(registry, Meanings(utc=True), show_secrets=True).to_text(type_name, payload)


def all_fields(registry: Registry) -> dict[str, FieldDescriptor]:
    """Every field of every bundled message, by `message.field`."""
    data = Path(protos.__file__).with_name("descriptors.binpb").read_bytes()
    names: list[str] = []
    for file in FileDescriptorSet.FromString(data).file:
        waiting = [(file.package, message) for message in file.message_type]
        while waiting:
            outer, message = waiting.pop()
            names.append(f"{outer}.{message.name}")
            waiting += [(names[-1], nested) for nested in message.nested_type if not nested.options.map_entry]
    descriptors = {name: registry.message_class(name).DESCRIPTOR for name in names}
    return {f"{name}.{field.name}": field for name, found in descriptors.items() for field in found.fields}


def test_every_pattern_of_the_table_decides_about_a_field_that_exists(registry: Registry) -> None:
    fields = all_fields(registry)
    for kind, patterns in MEANINGS:
        for pattern in patterns.split():
            if not pattern.startswith("runtime-spec."):
                assert [name for name in fields if fnmatchcase(name, pattern) and meaning_of(name) == kind], pattern


def test_only_numbers_are_taken_for_numbers(registry: Registry) -> None:
    """What the table calls a size, a time and so on is an integer, or a message that wraps one in `value`."""
    other = {"plain", "together", "namespaces", "elsewhere", ""}
    wrong = []
    for name, field in all_fields(registry).items():
        if meaning_of(name) not in other:
            target: Any = field
            if field.message_type is not None:
                target = field.message_type.fields_by_name.get("value")
            if target is None or target.cpp_type not in (1, 2, 3, 4):
                wrong.append(name)
    assert wrong == []


@pytest.mark.parametrize(
    ("type_name", "fields", "expected"),
    [
        (
            "runtime.v1.LinuxContainerResources",
            {"memory_limit_in_bytes": 67108864, "cpu_quota": 50000, "cpu_shares": 128},
            ["cpu_quota: 50000 (50.000ms)", "cpu_shares: 128", "memory_limit_in_bytes: 67108864 (64 MiB)"],
        ),
        ("runtime.v1.LinuxContainerResources", {"cpu_quota": -1}, ["cpu_quota: -1 (no limit)"]),
        (
            "runtime.v1.MemoryUsage",
            {"timestamp": 1_795_445_885_121_693_154, "usage_bytes": {"value": 704512}, "page_faults": {"value": 3}},
            [
                "timestamp: 1795445885121693154 (2026-11-23 14:58:05.121693)",
                "usage_bytes: 704512 (688 KiB)",
                "page_faults:",
                "  value: 3",
            ],
        ),
        (
            "runtime.v1.CpuUsage",
            {"usage_core_nano_seconds": {"value": 65413477}, "usage_nano_cores": {"value": 11286427}},
            ["usage_core_nano_seconds: 65413477 (65.413ms)", "usage_nano_cores: 11286427 (0.011 cores)"],
        ),
        ("runtime.v1.StopContainerRequest", {"timeout": 300}, ["timeout: 300 (5m00s)"]),
        ("runtime.v1.ContainerStatus", {"created_at": -(2**63)}, ["created_at: -9223372036854775808"]),
        ("containerd.task.v3.KillRequest", {"signal": 15}, ["signal: 15 (SIGTERM)"]),
        ("containerd.task.v3.KillRequest", {"signal": 37}, ["signal: 37 (SIGRTMIN+3)"]),
        ("containerd.task.v3.KillRequest", {"signal": 99}, ["signal: 99"]),
        ("containerd.task.v3.WaitResponse", {"exit_status": 137}, ["exit_status: 137 (SIGKILL)"]),
        ("containerd.task.v3.WaitResponse", {"exit_status": 127}, ["exit_status: 127 (command not found)"]),
        ("containerd.task.v3.WaitResponse", {"exit_status": 3}, ["exit_status: 3"]),
        ("grpc.WaitProcessResponse", {"status": 139}, ["status: 139 (SIGSEGV)"]),
        ("io.containerd.cgroups.v1.CPUUsage", {"per_cpu": [1500, 0]}, ["per_cpu: [1500 (1µs), 0]"]),
        (
            "io.containerd.cgroups.v1.MemoryStat",
            {"rss": 4096, "pg_fault": 4096, "hierarchical_memory_limit": 9223372036854771712},
            ["rss: 4096 (4 KiB)", "pg_fault: 4096", "hierarchical_memory_limit: 9223372036854771712 (no limit)"],
        ),
        (
            "io.containerd.cgroups.v1.MemoryEntry",
            {"usage": 4096, "failcnt": 4096},
            ["usage: 4096 (4 KiB)", "failcnt: 4096"],
        ),
        ("io.containerd.cgroups.v2.CPUStat", {"usage_usec": 2_500_000}, ["usage_usec: 2500000 (2.500s)"]),
        ("io.containerd.cgroups.v2.MemoryStat", {"usage_limit": 2**64 - 1}, [f"usage_limit: {2**64 - 1} (no limit)"]),
        ("grpc.LinuxDevice", {"FileMode": 0o666}, ["FileMode: 438 (0666)"]),
        ("grpc.Mount", {"options": ["rbind", "ro"] * 20}, ["options: " + ",".join(["rbind", "ro"] * 20)]),
        (
            "grpc.Linux",
            {"Namespaces": [{"Type": "ipc"}, {"Type": "network", "Path": "/proc/7/ns/net"}]},
            ["Namespaces: ipc, network (/proc/7/ns/net)"],
        ),
        (
            "nri.pkg.api.v1alpha1.LinuxMemory",
            {"limit": {"value": 1 << 30}, "swappiness": {"value": 60}},
            ["limit: 1073741824 (1 GiB)", "swappiness:", "  value: 60"],
        ),
        ("nri.pkg.api.v1alpha1.LinuxDevice", {"file_mode": {"value": 0o600}}, ["file_mode: 384 (0600)"]),
        (
            "nri.pkg.api.v1alpha1.ConfigureResponse",
            {"events": 0b1001},
            ["events: 9 (RUN_POD_SANDBOX, CREATE_CONTAINER)"],
        ),
        (
            "runtime.v1.ExecResponse",
            {"url": "http://127.0.0.1:1/exec/x"},
            ['url: "http://127.0.0.1:1/exec/x" (the bytes of this stream go there, not through CRI)'],
        ),
        (
            "containerd.task.v3.WaitResponse",
            {"exited_at": {"seconds": -62_135_596_800}},
            ["exited_at: 0001-01-01T00:00:00Z (not set)"],
        ),
    ],
)
def test_a_value_is_explained_beside_its_number(
    registry: Registry, type_name: str, fields: dict[str, Any], expected: list[str]
) -> None:
    assert lines(registry, type_name, fields) == expected


def test_a_timestamp_has_the_local_time_beside_it(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = registry.message_class("containerd.task.v3.WaitResponse")(exited_at={"seconds": 5}).SerializeToString()
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EST5")
        time.tzset()
        shown = Renderer(registry, Meanings(), show_secrets=True).to_text("containerd.task.v3.WaitResponse", payload)
    time.tzset()
    assert shown == ["exited_at: 1970-01-01T00:00:05Z (1969-12-31 19:00:05.000000 here)"]


def test_json_of_the_runtime_specification_is_explained_too(registry: Registry) -> None:
    spec = {
        "process": {"capabilities": {"bounding": ["CAP_KILL", "CAP_CHOWN"]}},
        "mounts": [{"destination": "/proc", "options": ["nosuid", "ro"]}, {"options": "odd"}],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "network", "path": "/n"}],
            "resources": {"memory": {"limit": 67108864}, "cpu": {"quota": 50000, "shares": 5}},
        },
    }
    fields = {"type_url": SPEC + "Spec", "value": json.dumps(spec).encode()}
    assert lines(registry, "google.protobuf.Any", fields)[1:] == [
        "value:",
        "  process:",
        "    capabilities:",
        "      bounding: CAP_KILL,CAP_CHOWN",
        "  mounts:",
        '    - destination: "/proc"',
        "      options: nosuid,ro",
        '    - options: "odd"',
        "  linux:",
        "    namespaces: pid, network (/n)",
        "    resources:",
        "      memory:",
        "        limit: 67108864 (64 MiB)",
        "      cpu:",
        "        quota: 50000 (50.000ms)",
        "        shares: 5",
    ]


def test_the_specification_in_the_info_of_a_verbose_answer_is_explained(registry: Registry) -> None:
    info = {"pid": 7, "runtimeSpec": {"mounts": [{"options": ["ro", "bind"]}]}, "mounts": [{"options": ["ro"]}]}
    assert lines(registry, "runtime.v1.ContainerStatusResponse", {"info": {"info": json.dumps(info)}}) == [
        "info:",
        "  info (JSON):",
        "    pid: 7",
        "    runtimeSpec:",
        "      mounts:",
        "        - options: ro,bind",
        "    mounts:",
        '      - options: ["ro"]',
    ]


@pytest.mark.parametrize("odd", ["null", "[]", "3", '"x"', "[1]", "[null]", '[{"type":5}]', '{"a":{}}', "true", "1.5"])
def test_json_that_is_not_what_the_specification_says_is_shown_as_it_is(registry: Registry, odd: str) -> None:
    spec = f'{{"linux":{{"namespaces":{odd},"resources":{{"memory":{{"limit":{odd}}}}}}},"mounts":{odd}}}'
    fields = {"type_url": SPEC + "Spec", "value": spec.encode()}
    assert lines(registry, "google.protobuf.Any", fields)


def test_json_output_has_the_exact_values_alone(registry: Registry) -> None:
    renderer = Renderer(registry, Meanings())
    payload = registry.message_class("containerd.task.v3.WaitResponse")(exit_status=137).SerializeToString()
    assert renderer.to_json("containerd.task.v3.WaitResponse", payload) == {"exit_status": 137}


@pytest.mark.parametrize(
    ("protocol", "megabytes", "said"),
    [
        ("ttrpc", 3.1, None),
        ("ttrpc", 4, "(a response of 4.0 MB is 95 % of the 4 MiB that ttrpc peers take)"),
        ("grpc", 12.5, None),
        ("grpc", 20, "(a response of 20.0 MB is 119 % of the 16 MiB that grpc peers take)"),
    ],
)
def test_a_message_near_its_limit_stands_out(
    registry: Registry, make: Make, protocol: str, megabytes: float, said: str | None
) -> None:
    printed = Printed(registry)
    printed.at(0, opened(1, "State", TASK), message(1, REQUEST), protocol=protocol)
    printed.at(1, message(1, RESPONSE, bytes(int(megabytes * 1e6))), ended(1), protocol=protocol)
    (line,) = printed.page
    assert (said is None and "peers take" not in line) or (said is not None and line.endswith(said))
