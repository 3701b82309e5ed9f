"""What the stand-ins say: a pod, its containers, what its programs print, and the specs that a runtime would make.

Values only, as a real node has them in shape and size; all made up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

RUNTIME_NAME = "stand-in"
IMAGE = "registry.example/shop/web:2.4"
PAUSE_IMAGE = "registry.example/pause:3.10"
IMAGE_ID = "sha256:8a7819d361018e75b5a12bcfb8a117c6ea2a9d058a6aad3c16f37f4c979293b4"
KATA_CONFIG = "/opt/kata/share/defaults/kata-containers/configuration-clh.toml"
MISSING_PROGRAM = "/bin/wbe"
"""The program of the container that fails to start: a slip of the pen, as it happens."""

POD_CONFIG: dict[str, Any] = {
    "metadata": {"name": "web-0", "uid": "6b1e5f1c-9d0c-4a5e-8f57-2f0f8d1b7c31", "namespace": "shop", "attempt": 0},
    "hostname": "web-0",
    "log_directory": "/var/log/pods/shop_web-0_6b1e5f1c-9d0c-4a5e-8f57-2f0f8d1b7c31",
    "dns_config": {"servers": ["10.96.0.10"], "searches": ["shop.svc.cluster.local", "svc.cluster.local"]},
    "port_mappings": [{"container_port": 8080}],
    "labels": {
        "app": "web",
        "io.kubernetes.pod.name": "web-0",
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.pod.uid": "6b1e5f1c-9d0c-4a5e-8f57-2f0f8d1b7c31",
    },
    "annotations": {"kubernetes.io/config.source": "api"},
    "linux": {
        "cgroup_parent": "/kubepods/burstable/pod6b1e5f1c-9d0c-4a5e-8f57-2f0f8d1b7c31",
        "security_context": {"namespace_options": {"pid": 1}, "seccomp": {"profile_type": 0}},
        "sysctls": {"net.ipv4.ip_unprivileged_port_start": "0"},
    },
}


def container_config(name: str, program: str) -> dict[str, Any]:
    """Return a CRI ContainerConfig of the pod's image."""
    return {
        "metadata": {"name": name, "attempt": 0},
        "image": {"image": IMAGE_ID, "user_specified_image": IMAGE},
        "command": [program, "--listen", ":8080"],
        "working_dir": "/srv",
        "envs": [{"key": "SHOP_MODE", "value": b"demo"}, {"key": "KUBERNETES_SERVICE_HOST", "value": b"10.96.0.1"}],
        "mounts": [{"container_path": "/etc/hosts", "host_path": "/var/lib/kubelet/pods/6b1e5f1c/etc-hosts"}],
        "labels": {"io.kubernetes.container.name": name, "io.kubernetes.pod.name": "web-0"},
        "annotations": {"io.kubernetes.container.restartCount": "0"},
        "log_path": f"{name}/0.log",
        "linux": {
            "resources": {"cpu_shares": 256, "memory_limit_in_bytes": 128 << 20, "oom_score_adj": 985},
            "security_context": {"run_as_user": {"value": 1000}, "masked_paths": ["/proc/kcore", "/proc/keys"]},
        },
    }


class Ran(NamedTuple):
    """What a program does when it is run in the container."""

    seconds: float
    exit_code: int
    stdout: bytes
    stderr: bytes


PROGRAMS = {
    ("cat", "/etc/hostname"): Ran(0.03, 0, b"web-0\n", b""),
    ("sh", "-c", "curl -s localhost:8080/ready"): Ran(1.2, 7, b"", b"curl: (7) Failed to connect to localhost\n"),
}
"""By arguments. The second takes longer than a second, so that it shows as open before it ends."""


def run(arguments: tuple[str, ...]) -> Ran:
    """Return what a program does; one that is not known exits 127, as in a shell."""
    return PROGRAMS.get(arguments, Ran(0.02, 127, b"", f"{arguments[0]}: not found\n".encode()))


def process_spec(arguments: list[str]) -> dict[str, Any]:
    """Return an OCI process (runtime-spec, config.md#process)."""
    capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_NET_BIND_SERVICE", "CAP_KILL"]
    return {
        "user": {"uid": 1000, "gid": 1000, "additionalGids": [1000]},
        "args": arguments,
        "env": ["PATH=/usr/local/bin:/usr/bin:/bin", "HOSTNAME=web-0", "SHOP_MODE=demo"],
        "cwd": "/srv",
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "oomScoreAdj": 985,
    }


def oci_spec(arguments: list[str], annotations: dict[str, str]) -> dict[str, Any]:
    """Return a bundle's config.json, which the shim reads: on the hop to the shim it never is in a message."""
    return {
        "ociVersion": "1.2.0",
        "process": process_spec(arguments),
        "root": {"path": "rootfs"},
        "hostname": "web-0",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "size=65536k", "mode=755"],
            },
            {
                "destination": "/etc/hosts",
                "type": "bind",
                "source": "/var/lib/kubelet/pods/6b1e5f1c/etc-hosts",
                "options": ["rbind", "rprivate", "rw"],
            },
        ],
        "annotations": annotations,
        "linux": {
            "cgroupsPath": "/kubepods/burstable/pod6b1e5f1c-9d0c-4a5e-8f57-2f0f8d1b7c31",
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "mount"}, {"type": "cgroup"}],
            "resources": {"memory": {"limit": 128 << 20}, "cpu": {"shares": 256, "period": 100_000}},
            "maskedPaths": ["/proc/kcore", "/proc/keys"],
        },
    }


def agent_process(process: dict[str, Any]) -> dict[str, Any]:
    """Return an OCI process as a `grpc.Process`."""
    user, capabilities = process["user"], process["capabilities"]
    return {
        "User": {"UID": user["uid"], "GID": user["gid"], "AdditionalGids": user["additionalGids"]},
        "Args": process["args"],
        "Env": process["env"],
        "Cwd": process["cwd"],
        "Capabilities": {name.capitalize(): values for name, values in capabilities.items()},
        "OOMScoreAdj": process["oomScoreAdj"],
    }


def agent_spec(spec: dict[str, Any], container_id: str) -> dict[str, Any]:
    """Return an OCI spec as a `grpc.Spec`: what Kata's shim makes of config.json for its guest."""
    linux = spec["linux"]
    memory, cpu = linux["resources"]["memory"], linux["resources"]["cpu"]
    return {
        "Version": spec["ociVersion"],
        "Process": agent_process(spec["process"]),
        "Root": {"Path": f"/run/kata-containers/{container_id}/rootfs"},
        "Hostname": spec["hostname"],
        "Mounts": spec["mounts"],
        "Annotations": spec["annotations"],
        "Linux": {
            "CgroupsPath": linux["cgroupsPath"],
            "Namespaces": [{"Type": each["type"]} for each in linux["namespaces"]],
            "Resources": {
                "Memory": {"Limit": memory["limit"]},
                "CPU": {"Shares": cpu["shares"], "Period": cpu["period"]},
            },
            "MaskedPaths": linux["maskedPaths"],
        },
    }


CGROUP_METRICS: dict[str, Any] = {
    "pids": {"current": 3, "limit": 4096},
    "cpu": {"usage_usec": 184_220, "user_usec": 122_010, "system_usec": 62_210, "nr_periods": 40},
    "memory": {"anon": 9_437_184, "file": 2_220_032, "usage": 12_713_984, "usage_limit": 128 << 20, "pgfault": 4_120},
    "io": {"usage": [{"major": 253, "minor": 0, "rbytes": 1_048_576, "wbytes": 4096, "rios": 31, "wios": 1}]},
}
"""io.containerd.cgroups.v2.Metrics"""

AGENT_METRICS: dict[str, Any] = {
    "cpu_stats": {"cpu_usage": {"total_usage": 184_220_000, "usage_in_usermode": 122_010_000}},
    "memory_stats": {"cache": 2_220_032, "usage": {"usage": 12_713_984, "limit": 128 << 20}},
    "pids_stats": {"current": 3, "limit": 4096},
}
"""The same as the guest's agent counts it: grpc.CgroupStats."""
