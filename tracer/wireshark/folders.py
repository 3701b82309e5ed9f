"""Where the user's Wireshark keeps its files, as `tshark -G folders` says: they moved with 4.0, 4.2 and 4.4."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from protos.errors import PodwireError


class Folders(NamedTuple):
    """Those that we need."""

    configuration: Path
    plugins: Path
    """Of the user's Lua plug-ins."""
    extcap: Path
    """Of the user's own capture programs: where versions since 4.2 look for them."""
    extcap_is_searched: bool
    """False: this version looks into its global folder alone."""
    global_extcap: str


def find_program(name: str) -> str:
    """Return the path of `tshark` or `wireshark`. Raises PodwireError."""
    path = shutil.which(name)
    if path is None:
        raise PodwireError(f"{name} is not installed")
    return path


def find_folders() -> Folders:
    """Ask tshark. Raises PodwireError."""
    program = find_program("tshark")
    done = subprocess.run([program, "-G", "folders"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PodwireError(f"tshark -G folders fails: {done.stderr.strip().splitlines()[-1:]}")
    return read_folders(done.stdout)


def read_folders(text: str) -> Folders:
    """Read what `tshark -G folders` prints: lines of a label, a colon, tabs and a path. Raises PodwireError."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        label, _, path = line.partition(":")
        found.setdefault(label.strip().lower(), path.strip())
    configuration = found.get("personal configuration")
    plugins = found.get("personal lua plugins") or found.get("personal plugins")
    if not configuration or not plugins:
        raise PodwireError("tshark -G folders does not say where its personal files are")
    extcap = found.get("personal extcap path")
    place = Path(extcap) if extcap else Path(plugins).parent / "extcap"
    return Folders(Path(configuration), Path(plugins), place, bool(extcap), found.get("extcap path", ""))
