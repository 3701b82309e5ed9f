"""The files of a ring: `base_00001_YYYYMMDDHHMMSS.ext`, as dumpcap names them. What is in them is not known here."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ring:
    """A row of files that one capture is written to."""

    path: str
    """`base.ext`, of which the files' names are made."""
    seconds: float = 0
    bytes: int = 0
    """After so much time, or so many bytes, the next file is begun; 0 is never."""
    files: int = 0
    """So many are kept, the oldest go; 0 is all."""
    most: int = 0
    """After so many the capture ends; 0 is never."""
    since: str = ""
    """When the capture began, as the names have it: older files are not ours."""

    def name(self, number: int) -> str:
        """Return the path of a file that begins now."""
        base, ext = os.path.splitext(self.path)
        return f"{base}_{number:05d}_{stamp()}{ext}"

    def partial(self) -> str:
        """Return the path of a file that is being begun."""
        folder, name = os.path.split(self.path)
        return f"{folder}/.{name}.begun"

    def forget_begun(self) -> None:
        """Remove the file that somebody was beginning when they were killed."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.partial())

    def list(self) -> list[tuple[int, str]]:
        """Return the files that are there, by number, the oldest first."""
        folder = os.path.dirname(self.path) or "."
        try:
            names = os.listdir(folder)
        except OSError:
            return []
        form = self._form()
        found = [(match, name) for name in names if (match := form.fullmatch(name)) and match[2] >= self.since]
        return sorted((int(match[1]), f"{folder}/{name}") for match, name in found)

    def number_of(self, path: str) -> int:
        """Return the number of one of the files."""
        match = self._form().fullmatch(os.path.basename(path))
        assert match is not None, path
        return int(match[1])

    def _form(self) -> re.Pattern[str]:
        base, ext = os.path.splitext(os.path.basename(self.path))
        return re.compile(re.escape(base) + r"_(\d{5,})_(\d{14})" + re.escape(ext))


def stamp() -> str:
    """Return the local time as it stands in names."""
    return time.strftime("%Y%m%d%H%M%S")


def create(path: str) -> int:
    """Make a file that was not there, of mode 0600, for writing."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
