"""R3: what a relay leaves behind of what started it. Pods and cgroup v2 are files made up here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracer.relay import surroundings

V1 = "9:name=systemd:/user.slice\n4:cpu,cpuacct:/kubepods/pod1\n3:memory:/\n"
V2 = "0::/kubepods.slice/pod1\n"
MOUNTS = (
    "cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n"
    "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\n"
    "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n"
    "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
)
HOST = {"pid": "pid:[4026531836]", "cgroup": "cgroup:[4026531835]"}


@pytest.mark.parametrize(
    ("cgroup", "roots"),
    [(V1, ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/cpu"]), (V2, ["/sys/fs/cgroup/unified"]), ("0::/\n", [])],
)
def test_r3_every_hierarchy_in_which_it_is_not_in_the_root_is_left(
    tmp_path: Path, cgroup: str, roots: list[str]
) -> None:
    (tmp_path / "cgroup").write_text(cgroup)
    (tmp_path / "mounts").write_text(MOUNTS)
    assert surroundings.own_cgroups(str(tmp_path / "cgroup"), str(tmp_path / "mounts")) == roots


@pytest.mark.parametrize(
    ("cgroup", "environment", "namespaces", "dies"),
    [
        (V2, "", HOST, False),  # it leaves by moving to another cgroup
        (V2, "", HOST | {"pid": "pid:[1]"}, True),
        ("0::/\n", "10.0.0.1", HOST | {"cgroup": "cgroup:[1]"}, True),
        ("0::/\n", "", HOST | {"cgroup": "cgroup:[1]"}, False),  # a container that is no pod
    ],
)
def test_r3_a_pod_that_a_relay_cannot_leave_is_known(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cgroup: str,
    environment: str,
    namespaces: dict[str, str],
    dies: bool,
) -> None:
    (tmp_path / "cgroup").write_text(cgroup)
    (tmp_path / "ns").mkdir()
    for name, target in namespaces.items():
        os.symlink(target, tmp_path / "ns" / name)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if environment:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", environment)
    assert surroundings.dies_with_its_pod(str(tmp_path / "cgroup"), str(tmp_path / "ns")) == dies
