"""What is traced: the targets of what was named, and of what is found."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from protos.errors import PodwireError
from tracer import discover
from tracer.relay.targets import VM_FOLDERS, Target


def bound(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return path


def test_the_folders_of_shims_and_vms_are_traced_besides_a_named_socket(folder: Path) -> None:
    main, *folders = discover.find_targets([f"cri={bound(folder / 'c.sock')}"], existing=False)
    assert main == Target("cri", str(folder), "c.sock", True, True)
    assert folders == [
        Target("task", discover.SHIM_FOLDER, "", False, False),
        *(Target("agent", each, "", False, False) for each in VM_FOLDERS),
    ]


def test_of_all_that_is_found_the_wanted_hops_are_taken(folder: Path) -> None:
    named = [f"cri={bound(folder / 'c.sock')}", f"events={bound(folder / 'e.sock')}"]
    (task,) = discover.find_targets(named, existing=False, hops=("task",))
    assert task == Target("task", discover.SHIM_FOLDER, "", False, False)
    found = discover.find_targets(named, existing=False, hops=("events", "task"))
    assert [each.hop for each in found] == ["events", "task"]
    with pytest.raises(PodwireError, match="no socket of nri or other found"):
        discover.find_targets(named, existing=False, hops=("nri", "other"))


def test_a_named_folder_of_shims_or_vms_stands_for_all_usual_ones(folder: Path) -> None:
    assert discover.find_targets([f"task={folder}"], existing=False) == [Target("task", str(folder), "", False, True)]
    assert discover.find_targets([f"agent={folder}"], existing=True) == [
        Target("agent", str(folder), "", True, True),
        Target("agent", f"{folder}/*", "", True, False),
        Target("agent", f"{folder}/*/root", "", True, False),
    ]


def test_a_remote_hypervisors_agent_is_traced_when_its_socket_is_named_and_only_then(folder: Path) -> None:
    path = bound(folder / "vm-1" / "agent.ttrpc")
    assert discover.find_targets([f"agent={path}"], existing=False) == [
        Target("agent", str(path.parent), "agent.ttrpc", True, True)
    ]
    assert [discover.sockets_in(each) for each in discover.find_targets([f"agent={folder}"], existing=False)] == [
        [], [], [],
    ]  # fmt: skip
    (folder / "file").touch()
    with pytest.raises(PodwireError, match="PATH is a socket, or a folder"):
        discover.find_targets([f"agent={folder / 'file'}"], existing=False)


def test_sockets_that_are_there_are_found_by_a_targets_pattern(folder: Path) -> None:
    wanted = bound(folder / "[vm]" / "root" / "kata.hvsock")
    bound(folder / "[vm]" / "root" / "api.sock")
    bound(folder / "[vm]" / "kata.hvsock")
    assert discover.sockets_in(Target("agent", f"{folder}/*/root", "", False, False)) == [str(wanted)]


def test_in_a_pod_that_a_relay_cannot_leave_no_agent_is_traced_however_it_was_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.relay.surroundings.dies_with_its_pod", lambda: True)
    names = [f"cri={bound(folder / 'c.sock')}", f"agent={bound(folder / 'a.sock')}"]
    allowed, left_out = discover.without_those_a_pod_would_kill(discover.find_targets(names, existing=False))
    assert [each.hop for each in allowed] == ["cri"]
    assert [each.hop for each in left_out] == ["agent"]


def test_folders_of_vms_are_named_once_and_by_what_is_there(folder: Path) -> None:
    targets = [Target("agent", f"{folder}{each}", "", False, False) for each in ("/vc/vm/*", "/vc/*/*/root", "/kata/*")]
    assert discover.vm_places(targets) == []
    os.makedirs(folder / "vc" / "vm")
    (folder / "kata").mkdir()
    assert discover.vm_places(targets) == [f"{folder}/kata", f"{folder}/vc"]
