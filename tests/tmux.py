"""A real terminal: a tmux server of our own with one window, keys that go in, and the screen as it stands."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.tracer.cli.live import COMMAND
from tracer.tui.keys import sign_of

NAMES = {"escape": "Escape", "tab": "Tab", "shift+tab": "BTab", "enter": "Enter", "space": "Space"}
"""What tmux calls a key, where that is not as people read it."""


def tmux_name(key: str) -> str:
    """A key as `send-keys` takes it."""
    return f"C-{key.removeprefix('ctrl+')}" if key.startswith("ctrl+") else NAMES.get(key) or sign_of(key)


class Tmux:
    """The command in a window of its own."""

    def __init__(self, folder: Path, *words: str, size: tuple[int, int] = (120, 40), **environment: str) -> None:
        self._socket = Path(tempfile.mkdtemp(dir=folder)) / "tmux"  # the one before may not be gone yet
        command = shlex.join([*COMMAND, *words])
        self._run("-f", "/dev/null", "new-session", "-d", "-x", str(size[0]), "-y", str(size[1]),
                  *[word for name, value in environment.items() for word in ("-e", f"{name}={value}")],
                  f"{command}; echo ended with $?; exec sleep 60")  # fmt: skip

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-u", "-S", str(self._socket), *words],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
        )
        return done.stdout

    @property
    def text(self) -> str:
        """The screen as it stands."""
        return self._run("capture-pane", "-p")

    def press(self, *keys: str) -> None:
        """Press keys, by the names that Textual has for them."""
        for key in keys:
            self._run("send-keys", tmux_name(key))

    def type(self, text: str) -> None:
        """Type words, and enter."""
        self._run("send-keys", "-l", text)
        self.press("enter")

    def wait(self, seen: Callable[[str], object], what: str, seconds: float = 20.0) -> str:
        """Wait until the screen is so; return it."""
        until = time.monotonic() + seconds
        while not seen(text := self.text):
            assert time.monotonic() < until, f"not seen: {what}\n{text}"
            time.sleep(0.02)
        return text

    def wait_for(self, *words: str) -> str:
        """Wait until words stand on the screen."""
        return self.wait(lambda text: all(each in text for each in words), f"{words}")

    def close(self) -> None:
        """End the window, and with it the command."""
        subprocess.run(["tmux", "-S", str(self._socket), "kill-server"], capture_output=True, check=False)
