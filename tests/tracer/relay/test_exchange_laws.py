"""E1 to E9, each against a real relay, real servers in processes of their own, and the kernel."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tracer.relay.harness import Server, answers, ask, connect, eventually, inode, main_target, running_relay
from tracer.relay import listeners
from tracer.relay.exchange import Homes, Left, Refused, take
from tracer.relay.held import mend, read_held
from tracer.relay.targets import AGENT_SOCKETS, Target

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
SHIM = "0123456789abcdef" * 4
Serve = Callable[..., Server]


def refused_in(path: Path) -> float:
    """Seconds until a dial of the path fails as it does without a server."""
    start = time.monotonic()
    while time.monotonic() - start < 2:
        try:
            connect(path).close()
        except (ConnectionRefusedError, FileNotFoundError):
            return time.monotonic() - start
    raise AssertionError("still answers")


# --- E1 ---


@pytest.mark.parametrize("connected", [False, True])
def test_e1_a_path_of_ours_never_outlives_the_server_behind_it(folder: Path, serve: Serve, connected: bool) -> None:
    path = folder / "s.sock"
    server = serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        relay.listen(0.3)  # until the recorder has found the server
        clients = [connect(path)] if connected else []
        for client in clients:
            assert ask(client, b"hello") == b"hello"
        server.kill()
        assert refused_in(path) < 1.0
        assert relay.until("retired")["reason"] == "its server ended"
        assert not path.exists()
        for client in clients:
            assert client.recv(10) == b""
            client.close()
    assert list((folder / "rt").iterdir()) == []


def test_e1_a_refused_connect_gives_the_path_up(folder: Path) -> None:
    path = folder / "s.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        relay.listen(0.1)
        server.close()  # its process, this one, lives on: no pidfd tells of it
        client = connect(path)
        assert client.recv(1) == b""
        client.close()
        relay.until("retired")
        assert not path.exists()


def test_e1_the_end_of_an_upstream_connection_makes_us_look(folder: Path) -> None:
    path = folder / "s.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        client = connect(path)
        upstream, _ = server.accept()
        relay.listen(0.1)
        server.close()
        upstream.close()
        assert client.recv(1) == b""
        client.close()
        relay.until("retired")
        assert not path.exists()


# --- E2 ---


def test_e2_leaving_a_path_with_a_live_server_gives_back_its_own_socket(folder: Path, serve: Serve) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    before = inode(path)
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        assert inode(path) != before
        relay.leave()
        relay.wait_end()
    assert inode(path) == before
    client = connect(path)
    assert ask(client, b"direct") == b"direct"
    client.close()
    assert list((folder / "rt").iterdir()) == []


def test_e2_a_path_that_is_not_ours_any_more_is_not_touched(folder: Path, serve: Serve) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    homes = Homes(str(folder), 1)
    taken = take(1, "cri", str(folder), "s.sock", homes, lambda *_: None, force=False)
    os.unlink(path)
    other = socket.socket(socket.AF_UNIX)
    other.bind(str(path))
    theirs = inode(path)
    assert taken.exchange.leave() is Left.NOT_OURS
    assert inode(path) == theirs
    assert os.listdir(folder / "1") == []
    taken.exchange.close()
    taken.listener.close()
    homes.remove()
    other.close()


def test_e2_what_came_into_our_folder_is_checked_and_put_back(folder: Path, serve: Serve) -> None:
    """A server that binds anew between our look and our swap keeps its path."""
    path = folder / "s.sock"
    serve(path).ready()
    homes = Homes(str(folder), 1)
    taken = take(1, "cri", str(folder), "s.sock", homes, lambda *_: None, force=False)
    exchange = taken.exchange
    other = socket.socket(socket.AF_UNIX)
    listens, exchange_class = exchange.twin_listens, type(exchange)

    def race(_self: object) -> bool:
        alive = listens()
        os.unlink(path)
        other.bind(str(path))
        return alive

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange_class, "twin_listens", race)
        assert exchange.leave() is Left.NOT_OURS
    assert inode(path) == os.stat(path).st_ino
    other.listen()
    connect(path).close()  # theirs is at its path, and answers
    assert os.listdir(folder / "1") == []
    exchange.close()
    taken.listener.close()
    homes.remove()
    other.close()


def test_e2_a_dead_servers_path_is_removed_when_leaving(folder: Path) -> None:
    path = folder / "s.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    homes = Homes(str(folder), 1)
    taken = take(1, "cri", str(folder), "s.sock", homes, lambda *_: None, force=False)
    server.close()
    assert taken.exchange.leave() is Left.REMOVED
    assert not path.exists()
    taken.exchange.close()
    taken.listener.close()
    homes.remove()


# --- E3 ---


def test_e3_a_server_that_starts_again_is_a_new_generation(folder: Path, serve: Serve) -> None:
    path = folder / "s.sock"
    first = serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken", number=1)
        first.kill()
        relay.until("retired")
        serve(path, mode="640").ready()
        relay.until("taken", number=2)
        client = connect(path)
        assert ask(client, b"again") == b"again"
        client.close()
        relay.leave()
        relay.wait_end()
    assert os.stat(path).st_mode & 0o777 == 0o640
    client = connect(path)
    assert ask(client, b"direct") == b"direct"
    client.close()


def test_e3_a_server_that_binds_over_a_live_one_is_a_new_generation(folder: Path, serve: Serve) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken", number=1)
        serve(path).ready()  # unlinks our path, as containerd does
        relay.until("taken", number=2)
        assert answers(path)


def test_e3_sockets_of_a_folder_that_comes_later_are_taken(folder: Path, serve: Serve) -> None:
    shims = folder / "later" / "s"
    with running_relay(folder, [Target("task", str(shims), "", False, False)]) as relay:
        (folder / "later").mkdir()
        shims.mkdir()
        path = shims / SHIM
        serve(path).ready()
        assert relay.until("taken")["path"] == str(path)
        assert answers(path)


def test_e3_lost_inotify_events_are_made_up_by_looking_again(folder: Path, serve: Serve) -> None:
    from tracer.relay import system
    from tracer.relay.watch import Watcher, _event

    seen: list[str] = []

    class Observer:
        def appeared(self, target: Target, folder: str, name: str, *, initial: bool) -> None:
            seen.append(name)

        def changed(self, folder: str, name: str) -> None: ...

        def gone(self, folder: str, name: str) -> None: ...

        def vanished(self, target: Target, folder: str) -> None: ...

    shims = folder / "s"
    shims.mkdir()
    watcher = Watcher([Target("task", str(shims), "", False, False)], Observer())
    watcher.start()
    os.close(watcher.fd)  # nothing of what comes now is told of …
    (shims / SHIM).touch()
    read, write = os.pipe2(os.O_NONBLOCK)
    watcher.fd = read
    os.write(write, _event.pack(-1, system.IN_Q_OVERFLOW, 0, 0))  # … but that something was lost
    watcher.fd, overflow = system.inotify_init(), watcher.fd
    inotify, watcher.fd = watcher.fd, overflow
    data = os.read(overflow, 4096)
    watcher.fd = inotify
    _, mask, _, _ = _event.unpack_from(data)
    assert mask & system.IN_Q_OVERFLOW
    watcher.rescan()
    assert seen == [SHIM]
    for fd in (read, write, inotify):
        os.close(fd)


# --- E4 ---


def test_e4_only_known_names_are_exchanged(folder: Path) -> None:
    shims, vms = folder / "s", folder / "vm" / "sandbox-1"
    shims.mkdir()
    vms.mkdir(parents=True)
    known = [shims / SHIM, shims / SHIM.upper(), *(vms / name for name in AGENT_SOCKETS)]
    unknown = [shims / SHIM[:-1], shims / f"{SHIM}0", shims / ("g" * 64), vms / "qmp.sock", vms / "clh-api.sock"]
    unknown += [vms / "vhost-fs.sock", vms / f"{SHIM}"]
    targets = [
        Target("task", str(shims), "", False, False),
        Target("agent", f"{folder}/vm/*", "", True, False),
    ]
    servers = []
    with running_relay(folder, targets) as relay:
        for path in [*known, *unknown]:
            server = socket.socket(socket.AF_UNIX)
            unnamed = path.with_name("unnamed")  # looked at before it has the name that is taken
            server.bind(str(unnamed))
            server.listen()
            servers.append((path, inode(unnamed), server))
            unnamed.rename(path)
        for path in known:
            relay.until("taken", path=str(path))
        relay.listen(0.2)
        for path, before, _ in servers:
            assert (inode(path) == before) == (path in unknown), path
    for path, before, server in servers:
        assert inode(path) == before
        server.close()


# --- E5 ---


@pytest.mark.parametrize("existing", [False, True])
def test_e5_shims_that_ran_before_are_left_alone_unless_asked(folder: Path, serve: Serve, existing: bool) -> None:
    path = folder / SHIM
    serve(path).ready()
    before = inode(path)
    with running_relay(folder, [Target("task", str(folder), "", existing, False)]) as relay:
        relay.listen(0.2)
        assert (inode(path) == before) is not existing


# --- E6 ---


def test_e6_mode_and_owner_set_while_exchanged_are_the_servers_when_we_leave(folder: Path, serve: Serve) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        os.chmod(path, 0o611)
        if os.geteuid() == 0:
            os.chown(path, 1, 2)
        twin = next((folder / "rt" / str(relay.pid)).iterdir())
        assert eventually(lambda: os.stat(twin).st_mode & 0o777 == 0o611)
        relay.leave()
        relay.wait_end()
    status = os.stat(path)
    assert status.st_mode & 0o777 == 0o611
    assert os.geteuid() != 0 or (status.st_uid, status.st_gid) == (1, 2)


def test_e6_our_socket_has_the_mode_and_owner_of_the_one_it_replaces(folder: Path, serve: Serve) -> None:
    path = folder / "s.sock"
    serve(path, mode="617").ready()
    if os.geteuid() == 0:
        os.chown(path, 3, 4)
    before = os.stat(path)
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        after = os.stat(path)
        assert after.st_ino != before.st_ino
        assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_e6_a_server_that_binds_and_listens_a_moment_later_is_waited_for(folder: Path, serve: Serve) -> None:
    with running_relay(folder, [Target("task", str(folder), "", False, False)]) as relay:
        server = serve(folder / SHIM, pause=0.012)
        relay.until("taken")
        client = connect(folder / SHIM)
        assert ask(client, b"early") == b"early"
        client.close()
        server.ready()


def test_e6_a_socket_that_nobody_listens_on_is_put_back(folder: Path) -> None:
    path = folder / SHIM
    with running_relay(folder, [Target("task", str(folder), "", False, False)]) as relay:
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(str(path))
        before = os.fstat(bound.fileno()).st_ino
        relay.until("retired")
        assert path.exists()
        bound.listen()
        connect(path).close()  # it is the server's own socket that answers now
        assert before == os.fstat(bound.fileno()).st_ino
        bound.close()


def test_e6_so_it_is_when_the_recorder_says_late_that_nobody_listens(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked who listens, and its answer may come before the look that is due."""
    monkeypatch.setattr(listeners, "YOUNG_S", -1.0)
    monkeypatch.setattr(listeners.Listeners, "_grown_up", lambda *_: None)
    path = folder / SHIM
    with (
        running_relay(folder, [Target("task", str(folder), "", False, False)]) as relay,
        socket.socket(socket.AF_UNIX) as bound,
    ):
        bound.bind(str(path))
        assert relay.until("retired")["reason"] == "nobody listens on it"
        assert path.exists()
        bound.listen()
        connect(path).close()


# --- E7 ---


@needs_root
def test_e7_we_connect_with_the_credentials_of_the_server(folder: Path, serve: Serve) -> None:
    os.chmod(folder, 0o777)
    path = folder / "s.sock"
    serve(path, uid=65534, what="tell").ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        with connect(path) as client:
            _, uid, gid = struct.unpack("=iII", client.recv(12))
    assert (uid, gid) == (65534, 65534)


@needs_root
def test_e7_a_socket_whose_server_we_cannot_act_as_is_not_exchanged(folder: Path, serve: Serve) -> None:
    os.chmod(folder, 0o777)
    path = folder / "s.sock"
    serve(path).ready()
    os.chmod(path, 0o777)
    before = inode(path)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # no exec: another user may not be allowed to read where we are installed
        os.setgid(65534)
        os.setuid(65534)
        homes = Homes(str(folder), 7)
        try:
            take(1, "cri", str(folder), "s.sock", homes, lambda *_: None, force=False)
        except Refused as refused:
            os.write(write, str(refused).encode())
        homes.remove()
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    assert os.read(read, 100) == b"its server runs as uid 0: run podwire as that user, or as root"
    os.close(read)
    assert inode(path) == before


def test_e7_a_label_that_an_enforcing_policy_refuses_is_not_exchanged(folder: Path) -> None:
    """SELinux is not to be had here: files stand in for its two in /proc and /sys."""
    from tracer.relay.label import LabelRefused, sockets_made_as

    enforce, refuses = folder / "enforce", folder / "no" / "sockcreate"
    enforce.write_text("1")
    with pytest.raises(LabelRefused), sockets_made_as(b"u:r:t:s0", str(refuses), str(enforce)):
        raise AssertionError("a socket was made all the same")
    enforce.write_text("0")
    with sockets_made_as(b"u:r:t:s0", str(refuses), str(enforce)):
        pass
    takes = folder / "sockcreate"
    takes.touch()
    with sockets_made_as(b"u:r:t:s0", str(takes), str(enforce)):
        assert takes.read_bytes() == b"u:r:t:s0"


# --- E8 ---


@needs_root
def test_e8_a_container_that_mounted_our_socket_is_served_after_we_left(folder: Path, serve: Serve) -> None:
    path, inside = folder / "s.sock", folder / "inside"
    serve(path).ready()
    inside.touch()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        # A container: another mount namespace, in which our inode is mounted.
        container = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"mount --bind {path} {inside} && cat"],
            stdin=subprocess.PIPE,
        )
        try:
            mountinfo = Path(f"/proc/{container.pid}/mountinfo")
            assert eventually(lambda: str(inside) in mountinfo.read_text())
            relay.leave()
            assert relay.until("mounted")["pids"] == [container.pid]
            assert answers(path)
            through = Path(f"/proc/{container.pid}/root{inside}")
            client = connect(through)
            assert ask(client, b"inside") == b"inside"
            client.close()
        finally:
            assert container.stdin is not None
            container.stdin.close()
            container.wait()
        relay.wait_end(8.0)
    assert list((folder / "rt").iterdir()) == []


# --- E9 ---


def test_e9_the_file_says_what_a_relay_holds(folder: Path, serve: Serve) -> None:
    path = folder / "s.sock"
    serve(path).ready()
    with running_relay(folder, [main_target(path)]) as relay:
        relay.until("taken")
        (held,) = read_held(str(relay.runtime))
        assert held.alive
        assert (held.pid, held.capture) == (relay.pid, str(relay.capture))
        (socket_held,) = held.sockets.values()
        assert (socket_held.path, socket_held.ours[0]) == (str(path), inode(path))
        file = relay.runtime / f"{relay.pid}.json"
        assert file.stat().st_mode & 0o777 == 0o600
        assert relay.runtime.stat().st_mode & 0o777 == 0o700
        assert json.loads(file.read_text().splitlines()[0])["version"] == 1


def test_e9_what_a_killed_relay_left_is_mended(folder: Path, serve: Serve) -> None:
    paths = [folder / "alive.sock", folder / "dead.sock", folder / "new.sock"]
    servers = [serve(path).ready() for path in paths]
    before = inode(paths[0])
    with running_relay(folder, [main_target(path) for path in paths]) as relay:
        for path in paths:
            relay.until("taken", path=str(path))
        relay.kill_all()
        relay.wait_end()
        servers[1].kill()
        os.unlink(paths[2])
        serve(paths[2]).ready()
        theirs = inode(paths[2])
        # Its lock may go after what told of its end.
        assert eventually(lambda: not next(read_held(str(relay.runtime))).alive)
        (held,) = read_held(str(relay.runtime))
        done = dict(mend(held))
    assert done == {str(paths[0]): Left.GIVEN_BACK, str(paths[1]): Left.REMOVED, str(paths[2]): Left.NOT_OURS}
    assert inode(paths[0]) == before
    assert answers(paths[0])
    assert not paths[1].exists()
    assert inode(paths[2]) == theirs
    assert list((folder / "rt").iterdir()) == []


def test_e9_a_runtime_folder_of_somebody_else_is_refused(folder: Path) -> None:
    from tracer.relay.held import make_runtime_folder

    open_to_all = folder / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(PermissionError, match="not a folder of this user alone"):
        make_runtime_folder(str(open_to_all))


def test_a_file_that_is_no_socket_is_refused(folder: Path) -> None:
    (folder / "s.sock").touch()
    homes = Homes(str(folder), 1)
    with pytest.raises(Refused, match="is no socket"):
        take(1, "cri", str(folder), "s.sock", homes, lambda *_: None, force=False)
    homes.remove()


def test_e1_a_listener_that_was_handed_on_is_watched_for_the_end_of_who_has_it_now(folder: Path) -> None:
    path = folder / "s.sock"
    with running_relay(folder, [main_target(path)]) as relay:
        ready, told = os.pipe()
        first = os.fork()
        if first == 0:  # as a shim's `start`: makes the socket, hands it to a child, and ends
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
                server.listen(8)
                time.sleep(0.3)
                if os.fork() == 0:
                    os.write(told, b"%d" % os.getpid())
                    time.sleep(60)
            os._exit(0)
        relay.until("taken")
        os.waitpid(first, 0)
        second = int(os.read(ready, 20))
        os.close(ready)
        os.close(told)
        relay.listen(0.3)
        assert os.lstat(path).st_ino
        os.kill(second, 9)  # no connection ends with it: only the process itself tells
        relay.until("retired", reason="its server ended")
        assert not os.path.exists(path)
