"""Which sockets there are to trace on this machine, who holds them, and who was connected before."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass

from protos.errors import PodwireError
from protos.hops import HOPS
from tracer import processes
from tracer.relay import sockdiag, surroundings
from tracer.relay.held import Held, read_held, runtime_folder
from tracer.relay.targets import FOLDER_HOPS, VM_FOLDERS, Target

SHIM_FOLDER = "/run/containerd/s"
"""Fixed up to containerd 2.2, the default of `socket_dir` since; shims of k3s and microk8s lie there too."""

NRI_SOCKET = "/run/nri/nri.sock"
"""The default of containerd and CRI-O, whichever runs."""


def default_sockets() -> list[tuple[str, str]]:
    """Hop and path of each main socket where runtimes put it, rootless ones of this user too."""
    found = [
        ("cri", "/run/containerd/containerd.sock"),
        ("cri", "/run/k3s/containerd/containerd.sock"),
        ("cri", "/var/snap/microk8s/common/run/containerd.sock"),
        ("cri", "/run/crio/crio.sock"),
    ]
    user = os.environ.get("XDG_RUNTIME_DIR")
    if user:
        found.append(("cri", f"{user}/containerd/containerd.sock"))
    return found


def is_socket(path: str) -> bool:
    """Whether a socket lies there (links followed)."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def find_targets(named: list[str], *, existing: bool, hops: Collection[str] = HOPS) -> list[Target]:
    """What to trace: the sockets that were named (`HOP=PATH`), or those of the runtimes that run here; of these hops.

    Raises PodwireError for a name that makes no sense, a socket that is not there, and where nothing is found.
    """
    if named:
        targets = [target for text in named for target in _named(text)]
    else:
        targets = []
        looked = default_sockets()
        for hop, path in looked:
            if is_socket(path):
                targets.append(_main(hop, path, required=False))
                events = f"{path}.ttrpc"
                if is_socket(events):
                    targets.append(_main("events", events, required=False))
        if targets and is_socket(NRI_SOCKET):
            targets.append(_main("nri", NRI_SOCKET, required=False))
        if not targets:
            paths = ", ".join(path for _, path in looked)
            raise PodwireError(
                f"no runtime socket found (looked at {paths}): "
                "--socket HOP=PATH names one, podwire demo shows it without"
            )
    if not any(target.hop in FOLDER_HOPS for target in targets):
        targets.append(Target("task", SHIM_FOLDER, "", existing=existing, required=False))
        targets += [Target("agent", folder, "", existing=existing, required=False) for folder in VM_FOLDERS]
    targets = [each._replace(existing=existing or bool(each.name)) for each in targets if each.hop in hops]
    if not targets:
        raise PodwireError(f"no socket of {' or '.join(hops)} found: --socket HOP=PATH names one")
    return targets


def _named(text: str) -> list[Target]:
    hop, separator, path = text.partition("=")
    if not separator or hop not in HOPS or not path:
        raise PodwireError(f"--socket {text}: is not HOP=PATH, with HOP one of {', '.join(HOPS)}")
    path = os.path.abspath(path)
    if hop == "agent" and not is_socket(path):
        if os.path.exists(path) and not os.path.isdir(path):
            raise PodwireError(f"--socket {text}: for hop agent PATH is a socket, or a folder in which VMs have theirs")
        folder = os.path.realpath(path)
        below = [Target(hop, f"{folder}/{each}", "", existing=False, required=False) for each in ("*", "*/root")]
        return [Target(hop, folder, "", existing=False, required=True), *below]
    if hop == "task":
        if os.path.exists(path) and not os.path.isdir(path):
            raise PodwireError(f"--socket {text}: for hop {hop} PATH is the folder of the sockets")
        return [Target(hop, os.path.realpath(path), "", existing=False, required=True)]
    if not os.path.exists(path):
        raise PodwireError(f"--socket {text}: there is no such socket")
    if not is_socket(path):
        raise PodwireError(f"--socket {text}: is no socket")
    return [_main(hop, path, required=True)]


def _main(hop: str, path: str, *, required: bool) -> Target:
    folder, _, name = os.path.realpath(path).rpartition("/")
    return Target(hop, folder, name, existing=True, required=required)


def check_access(targets: list[Target]) -> list[Target]:
    """The targets whose folders we may write in; raises PodwireError for one that was named, or where none is left."""
    allowed, refused = [], ""
    for target in targets:
        folder = wanted = above_vms(target.folder)
        while not os.path.isdir(folder) and folder != "/":
            folder = os.path.dirname(folder)
        comes_later = folder != wanted and not target.required
        if comes_later or os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            allowed.append(target)
            continue
        reason = f"{target.hop} {target_path(target)}: needs write access to {folder} (try sudo)"
        if target.required:
            raise PodwireError(reason)
        refused = refused or reason
    if not any(target.name for target in allowed) and refused:
        raise PodwireError(refused)
    return allowed


def without_those_a_pod_would_kill(targets: list[Target]) -> tuple[list[Target], list[Target]]:
    """What may be traced, and what may not: in a pod that a relay cannot leave, no shim's or agent's connection may go
    through it (R3)."""
    if not surroundings.dies_with_its_pod():
        return targets, []
    left_out = [each for each in targets if each.hop in FOLDER_HOPS]
    return [each for each in targets if each not in left_out], left_out


def above_vms(folder: str) -> str:
    """The part of a target's folder that is the same for every VM."""
    return folder.partition("/*")[0] or "/"


def sockets_in(target: Target) -> list[str]:
    """The paths of the sockets of a folder's target that are there now."""
    places = [""]
    for part in target.folder.strip("/").split("/"):
        places = [f"{place}/{name}" for place in places for name in (_names(place or "/") if part == "*" else [part])]
    return [f"{place}/{name}" for place in places for name in _names(place) if target.matches(name)]


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def vm_places(targets: list[Target]) -> list[str]:
    """The folders, if they are there, below which VMs of these targets come and go."""
    places = {place for each in targets if os.path.isdir(place := above_vms(each.folder))}
    return sorted(place for place in places if os.path.dirname(place) not in places)


def target_path(target: Target) -> str:
    """The path a user knows it by."""
    return f"{target.folder.rstrip('/')}/{target.name}".rstrip("/")


def refuse_second_tracer(targets: list[Target]) -> None:
    """Raises PodwireError if a running podwire holds one of these (E9)."""
    for held in read_held(runtime_folder()):
        if not held.alive or held.draining:
            continue
        paths = {socket.path for socket in held.sockets.values()}
        folders = {folder for _, folder in held.folders}
        for target in targets:
            path = target_path(target)
            if path in paths or (not target.name and target.folder in folders):
                raise PodwireError(f"{target.hop} {path}: is traced already, by podwire {held.pid} ({held.file})")


def dead_relays() -> list[Held]:
    """What crashed relays left behind, to be mended."""
    return [held for held in read_held(runtime_folder()) if not held.alive]


@dataclass(frozen=True, slots=True)
class Older:
    """Connections to a socket that are there before it is traced, so not seen."""

    count: int
    clients: tuple[processes.Process, ...]
    """Those whose process could be found, once each."""


def older_connections(path: str) -> Older:
    """Who is connected to the socket at `path` (sock_diag, this network namespace)."""
    try:
        status = os.stat(path)
        peers = sockdiag.client_sockets(status.st_ino, status.st_dev)
    except OSError:
        return Older(0, ())
    found = processes.holders(peers) if peers else {}
    clients = [processes.describe(pid) for pid in sorted(set(found.values()))]
    return Older(len(peers), tuple(client for client in clients if client is not None))


def how_to_reopen(client: processes.Process) -> str:
    """What brings this client's traffic in, in words."""
    if client.label == "kubelet":
        unit = client.unit.removesuffix(".service") or "kubelet"
        return f"--reopen kubelet, or systemctl restart {unit}, reopens it; containers go on"
    return "its next connection is seen"


def container_name(pid: int) -> str:
    """What to call the container a process runs in."""
    container = processes.container_of(pid)
    return f"container {container[:13]}" if container else f"pid {pid}"
