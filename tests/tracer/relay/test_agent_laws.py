"""The laws of exchange where VMs come and go: their folders, Kata's names in them, and what lies beside these."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tracer.relay.harness import Server, answers, ask, connect, eventually, inode, running_relay
from tracer.relay.targets import VM_FOLDERS, Target, vm_of
from tracer.relay.watch import Watcher

Serve = Callable[..., Server]
VM = "9f57c2b6405e"
KATA = {
    f"vc/vm/{VM}/clh.sock",
    f"vc/firecracker/{VM}/root/kata.hvsock",
    f"vc/firecracker-v1.12/{VM}/root/kata.hvsock",
    f"kata/{VM}/ch-vm.sock",
    f"kata/{VM}/kata.hvsock",
    f"kata/{VM}/vsock.sock",
    f"kata/{VM}/root/kata.hvsock",
}
BESIDE = {
    f"vc/vm/{VM}/{name}" for name in ("clh-api.sock", "qmp.sock", "extra-monitor.sock", "console.sock", "vhost-fs.sock")
} | {
    f"vc/sbs/{VM}/shim-monitor.sock",
    "vc/vm/clh.sock",
    f"vc/vm/{VM}/deep/clh.sock",
    f"vc/firecracker/{VM}/kata.hvsock",
    f"vc/firecracker/{VM}/root/firecracker.socket",
    f"vc/firecracker/{VM}/root/kata.hvsock_1026",
    f"kata/{VM}/ch-api.sock",
    f"kata/{VM}/shim-monitor.sock",
    f"kata/{VM}/root/virtiofsd.sock",
    f"kata/{VM}/root/api.sock",
    "kata/kata.hvsock",
}


def vm_targets(folder: Path, *, existing: bool = False) -> list[Target]:
    return [Target("agent", f"{folder}{each.removeprefix('/run')}", "", existing, False) for each in VM_FOLDERS]


def listen(path: Path) -> socket.socket:
    """A socket that has its name at once: one that was there before, for `inode`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    server = socket.socket(socket.AF_UNIX)
    unnamed = path.with_name("unnamed")
    server.bind(str(unnamed))
    server.listen()
    unnamed.rename(path)
    return server


def test_e4_of_a_vms_sockets_katas_names_alone_are_exchanged_and_given_back(folder: Path) -> None:
    with running_relay(folder, vm_targets(folder)) as relay:
        servers = {each: listen(folder / each) for each in sorted(KATA | BESIDE)}
        inodes = {each: os.stat(f"/proc/self/fd/{server.fileno()}").st_ino for each, server in servers.items()}
        files: dict[str, int] = {}
        for each in sorted(KATA):
            relay.until("taken", path=str(folder / each), hop="agent")
        relay.listen(0.2)
        assert {each["path"] for each in relay.told if each["event"] == "taken"} == {
            str(folder / each) for each in KATA
        }
        for each in sorted(BESIDE):  # a client of theirs is accepted by the server's own socket
            files[each] = inode(folder / each)
            with connect(folder / each) as client:
                accepted, _ = servers[each].accept()
                assert client.getpeername() == accepted.getsockname()
                accepted.close()
        relay.leave()
        relay.wait_end()
    assert {each: inode(folder / each) for each in BESIDE} == files
    assert len(inodes) == len(KATA | BESIDE)
    for each, server in servers.items():
        with connect(folder / each):
            server.settimeout(5)
            server.accept()[0].close()
        server.close()


def test_e3_vms_come_and_go_and_nothing_is_said_or_kept_of_their_folders(folder: Path, serve: Serve) -> None:
    with running_relay(folder, vm_targets(folder)) as relay:
        for number in range(6):
            vm = folder / "vc" / "vm" / f"vm-{number % 2}"  # a sandbox's folder may come again
            vm.mkdir(parents=True)
            server = serve(vm / "clh.sock").ready()
            relay.until("taken", path=str(vm / "clh.sock"), number=number + 1)
            assert answers(vm / "clh.sock")
            relay.listen(0.3)  # until the recorder has found the server
            server.kill()
            relay.until("retired", path=str(vm / "clh.sock"))
            relay.told.clear()
            shutil.rmtree(vm)
            relay.listen(0.2)  # longer than a path that was given up lingers
            assert [each for each in relay.told if each["event"] in ("vanished", "failed")] == []


def test_a_vm_is_named_by_its_folder_whatever_its_vmm() -> None:
    assert {vm_of(f"/run/{each}") for each in KATA} == {VM}
    assert [vm_of(each) for each in ("/run/x/agent.ttrpc", "clh.sock", "/clh.sock", "")] == ["", "", "", ""]


class Seen:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.appeared_at: list[str] = []
        self.failed: list[str] = []

    def appeared(self, target: Target, folder: str, name: str, *, initial: bool) -> None:
        self.appeared_at.append(f"{folder}/{name}")

    def changed(self, folder: str, name: str) -> None: ...

    def gone(self, folder: str, name: str) -> None: ...

    def vanished(self, target: Target, folder: str) -> None: ...

    def unwatched(self, target: Target, folder: str, error: OSError) -> None:
        self.failed.append(folder)


def test_a_watcher_keeps_nothing_of_vms_that_have_gone(folder: Path) -> None:
    seen = Seen()
    watcher = Watcher(vm_targets(folder), seen)
    for place in ("vc/vm", "vc/firecracker", "kata"):
        (folder / place).mkdir(parents=True)
    watcher.start()

    def size() -> int:
        return sum(len(interests) for _, interests in watcher._folders.values())

    before = size()
    for number in range(50):
        for kind in ("vc/vm", "vc/firecracker", "kata"):
            vm = folder / kind / f"{number}"
            (vm / "root").mkdir(parents=True)
            watcher.read()
            shutil.rmtree(vm)
            watcher.read()
    assert size() == before
    (folder / "vc/vm/next").mkdir()
    (folder / "vc/vm/next/clh.sock").touch()
    watcher.read()
    watcher.read()
    assert seen.appeared_at == [f"{folder}/vc/vm/next/clh.sock"]
    watcher.close()


def test_a_vms_folder_that_cannot_be_watched_is_said_and_the_others_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tracer.relay import system

    add = system.inotify_add_watch

    def refuse(fd: int, path: str, mask: int) -> int:
        if path.endswith("/refused"):
            raise OSError(28, "No space left on device")  # fs.inotify.max_user_watches
        return add(fd, path, mask)

    monkeypatch.setattr(system, "inotify_add_watch", refuse)
    seen = Seen()
    watcher = Watcher([Target("agent", f"{folder}/*", "", True, False)], seen)
    watcher.start()
    for name in ("refused", "watched"):
        (folder / name).mkdir()
        (folder / name / "clh.sock").touch()
    watcher.read()
    assert seen.appeared_at == [f"{folder}/watched/clh.sock"]
    assert seen.failed == [f"{folder}/refused"]
    watcher.close()


@pytest.mark.parametrize("existing", [False, True])
def test_e5_vms_that_ran_before_are_left_alone_unless_asked(folder: Path, serve: Serve, existing: bool) -> None:
    path = folder / "kata" / VM / "root" / "kata.hvsock"
    path.parent.mkdir(parents=True)
    serve(path).ready()
    before = inode(path)
    with running_relay(folder, vm_targets(folder, existing=existing)) as relay:
        relay.listen(0.2)
        assert (inode(path) == before) is not existing


def test_e6_mode_and_owner_of_a_vmms_socket_are_kept_both_ways(folder: Path, serve: Serve) -> None:
    path = folder / "vc" / "vm" / VM / "clh.sock"
    path.parent.mkdir(parents=True)
    with running_relay(folder, vm_targets(folder)) as relay:
        serve(path, mode="660").ready()
        relay.until("taken")
        assert eventually(lambda: os.stat(path).st_mode & 0o777 == 0o660)
        os.chmod(path, 0o606)
        relay.listen(0.2)
        relay.leave()
        relay.wait_end()
    assert os.stat(path).st_mode & 0o777 == 0o606


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_e7_a_vmm_of_another_user_is_connected_to_as_that_user(folder: Path, serve: Serve) -> None:
    """Firecracker's jailer and Kata's rootless VMMs."""
    import struct

    path = folder / "kata" / VM / "root" / "kata.hvsock"
    path.parent.mkdir(parents=True)
    for each in (folder, *path.parents[:3]):
        os.chmod(each, 0o777)
    with running_relay(folder, vm_targets(folder)) as relay:
        serve(path, uid=65534, what="tell").ready()
        relay.until("taken")
        with connect(path) as client:
            _, uid, gid = struct.unpack("=iII", client.recv(12))
            assert ask(client, b"x") == b"x"
    assert (uid, gid) == (65534, 65534)
