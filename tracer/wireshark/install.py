"""Put the profile, the dissector and the capture interface into Wireshark's personal folders, and take them away.

What is written is ours by its name: a profile's folder, a plug-in, a capture program. Nothing else is touched.
"""

from __future__ import annotations

import shlex
import sys
from contextlib import suppress
from pathlib import Path

from protos.errors import PodwireError
from tracer.wireshark import profile
from tracer.wireshark.folders import Folders

EXTCAP = "podwire"


def install(folders: Folders) -> list[Path]:
    """Write all files; return them. Raises PodwireError where one cannot be written."""
    wanted = {_profile(folders) / name: text for name, text in profile.files().items()}
    wanted[folders.plugins / profile.PLUGIN] = profile.LUA.read_text()
    program = folders.extcap / EXTCAP
    wanted[program] = extcap_script()
    for path, text in wanted.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            if path == program:
                path.chmod(0o755)
        except OSError as error:
            raise PodwireError(f"{path}: cannot be written: {(error.strerror or '').lower()}") from error
    return list(wanted)


def uninstall(folders: Folders) -> list[Path]:
    """Remove what `install` wrote; return what was there. The profile's folder goes if nothing else is in it."""
    ours = [_profile(folders) / name for name in profile.files()]
    ours += [folders.plugins / profile.PLUGIN, folders.extcap / EXTCAP]
    gone = []
    for path in ours:
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise PodwireError(f"{path}: cannot be removed: {(error.strerror or '').lower()}") from error
        gone.append(path)
    with suppress(OSError):  # never made, or something is kept there (Wireshark itself writes `recent`)
        _profile(folders).rmdir()
    return gone


def is_installed(folders: Folders) -> bool:
    """Tell whether profile and dissector are there."""
    return (folders.plugins / profile.PLUGIN).exists() and (_profile(folders) / "preferences").exists()


def extcap_script() -> str:
    """The program that Wireshark runs: this podwire, whatever PATH says and wherever it is started."""
    return f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m tracer.wireshark.extcap "$@"\n'


def _profile(folders: Folders) -> Path:
    return folders.configuration / "profiles" / profile.NAME
