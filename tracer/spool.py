"""The spool: captures that nobody gave a name. Each lasts as long as something records into it; whoever started a trace
removes it at its end, and the next start, or `podwire doctor --mend`, those that were left."""

from __future__ import annotations

import contextlib
import os
import re

from tracer.relay import held as files

_SPOOL = re.compile(r"(trace-\d+)(_\d{5}_\d{14})?\.pcapng")
"""One file, or one of a ring."""


def spool_path() -> str:
    """The folder: `/var/lib/podwire` for root, else in the user's state folder."""
    if os.geteuid() == 0:
        return "/var/lib/podwire"
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return f"{base}/podwire"


def is_spooled(capture: str) -> bool:
    """Whether this capture lies in the spool, so will be removed."""
    folder, name = os.path.split(capture)
    return folder == spool_path() and _SPOOL.fullmatch(name) is not None


def forgotten() -> list[str]:
    """Spooled captures that no trace records into any more. While `held.locked` is held, none of them is just begun."""
    folder = spool_path()
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    live = [each for each in files.read_held(files.runtime_folder()) if each.alive and not each.draining]
    used = {_stem(os.path.basename(each.capture)) for each in live}
    return [f"{folder}/{name}" for name in names if (stem := _stem(name)) and stem not in used]


def remove_forgotten() -> list[str]:
    """Remove those; returns them. Only while `held.locked` is held."""
    paths = forgotten()
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # whoever started that trace is just removing it
            os.unlink(path)
    return paths


def _stem(name: str) -> str:
    found = _SPOOL.fullmatch(name)
    return found.group(1) if found else ""
