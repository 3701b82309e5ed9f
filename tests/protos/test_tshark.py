"""tshark takes the schemas as they are: one file that it could not parse would keep it from loading any."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from protos.registry import Registry

pytestmark = [
    pytest.mark.tshark,
    pytest.mark.skipif(not (shutil.which("tshark") and shutil.which("text2pcap")), reason="tshark is not installed"),
]

SCHEMAS = Path(__file__).resolve().parents[2] / "protos" / "schemas"


def dissect(payload: bytes, type_name: str, folder: Path) -> str:
    """What `tshark -V` says of one UDP packet whose payload is a message of that type."""
    dump = "".join(f"{at:06x} {payload[at : at + 16].hex(' ')}\n" for at in range(0, len(payload), 16))
    capture = folder / "message.pcapng"
    subprocess.run(
        ["text2pcap", "-q", "-u", "9999,9999", "-", str(capture)],
        input=dump,
        text=True,
        check=True,
        capture_output=True,
    )
    types = f'uat:protobuf_udp_message_types:"9999","{type_name}"'
    command = ["tshark", "-o", f'uat:protobuf_search_paths:"{SCHEMAS}","TRUE"', "-o", types, "-V", "-r", str(capture)]
    done = subprocess.run(command, text=True, check=False, capture_output=True)
    complaints = [line for line in done.stderr.splitlines() if "Running as user" not in line]
    assert (done.returncode, complaints) == (0, [])
    return done.stdout


def test_tshark_names_the_fields_of_a_cri_message(registry: Registry, tmp_path: Path) -> None:
    message = registry.message_class("runtime.v1.VersionResponse")(runtime_name="containerd", runtime_version="v2.3.4")
    shown = dissect(message.SerializeToString(), "runtime.v1.VersionResponse", tmp_path)
    assert "Field(2): runtime_name = containerd (string)" in shown
    assert "Field(3): runtime_version = v2.3.4 (string)" in shown


@pytest.mark.parametrize(
    ("type_name", "field", "line"),
    [
        ("containerd.task.v2.CreateTaskRequest", "bundle", "Field(2): bundle = here (string)"),
        ("containerd.task.v3.StartRequest", "exec_id", "Field(2): exec_id = here (string)"),
        ("containerd.runtime.linux.shim.v1.StateRequest", "id", "Field(1): id = here (string)"),
        ("containerd.runtime.bootstrap.v1.BootstrapParams", "socket_dir", "Field(9): socket_dir = here (string)"),
        ("containerd.services.tasks.v1.GetRequest", "container_id", "Field(1): container_id = here (string)"),
        ("containerd.linux.runc.RuncOptions", "runtime_root", "Field(2): runtime_root = here (string)"),
        ("containerd.runc.v1.Options", "shim_cgroup", "Field(3): shim_cgroup = here (string)"),
        ("runtime.v1alpha2.VersionRequest", "version", "Field(1): version = here (string)"),
        ("grpc.CreateContainerRequest", "exec_id", "Field(2): exec_id = here (string)"),
        ("types.Interface", "device", "Field(1): device = here (string)"),
        ("nri.pkg.api.v1alpha1.RegisterPluginRequest", "plugin_idx", "Field(2): plugin_idx = here (string)"),
        ("ttrpc.Request", "service", "Field(1): service = here (string)"),
        ("google.rpc.Status", "message", "Field(2): message = here (string)"),
        ("google.protobuf.Any", "type_url", "Field(1): type_url = here (string)"),
    ],
)
def test_tshark_loads_every_family(registry: Registry, tmp_path: Path, type_name: str, field: str, line: str) -> None:
    message = registry.message_class(type_name)(**{field: "here"})
    assert line in dissect(message.SerializeToString(), type_name, tmp_path)
