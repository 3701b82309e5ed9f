"""Which names are exchanged (E4), and where they are looked for."""

from __future__ import annotations

import re
from typing import NamedTuple

_SHIM_SOCKET = re.compile(r"[0-9a-fA-F]{64}")
"""containerd's shims: sha256 of the address, in lower case, and in upper case from Kata's runtime-rs."""

AGENT_SOCKETS = frozenset({"clh.sock", "kata.hvsock", "ch-vm.sock", "vsock.sock"})
"""Hybrid vsock sockets of VMMs. What lies beside them (QMP, virtiofsd, VMM API) passes descriptors: never touched."""

VM_FOLDERS = ("/run/vc/vm/*", "/run/vc/*/*/root", "/run/kata/*", "/run/kata/*/root")
"""Where Kata's VMMs have them, one folder a VM: Go's shim (Cloud Hypervisor; Firecracker, below a folder with the name
of its program) and runtime-rs (Cloud Hypervisor, Firecracker and OpenVMM; Dragonball and a jailed Firecracker)."""


def vm_of(path: str) -> str:
    """The VM that a hybrid vsock socket is of, by the name of its folder, which is the sandbox's id; else empty."""
    *_, above, folder, name = ["", "", *path.split("/")]
    if name not in AGENT_SOCKETS:
        return ""
    return above if folder == "root" else folder


FOLDER_HOPS = frozenset({"task", "agent"})
"""Hops whose sockets come and go in a folder; the others have one path."""


class Target(NamedTuple):
    """One path, or one folder, whose sockets are to be exchanged."""

    hop: str
    folder: str
    """Absolute; a component `*` stands for any folder of that level (one per VM)."""
    name: str
    """The socket's name; empty: every known name of the hop."""
    existing: bool
    """Take what is there at the start too (E5: shims that ran before are left alone unless asked)."""
    required: bool
    """The user named it: that it vanishes is an error."""

    def matches(self, name: str) -> bool:
        """Whether a file of this name is one to exchange."""
        if self.name:
            return name == self.name
        if self.hop == "task":
            return _SHIM_SOCKET.fullmatch(name) is not None
        return name in AGENT_SOCKETS
