"""A journald of the tests' own: a real one, as an instance that shares nothing with the machine's own.

A program writes into it as a unit of systemd does: its stderr is a stream to journald. Here no systemd has to run.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType

from tests.e2e.containerd import wait_until

PROGRAM = "/lib/systemd/systemd-journald"
FOLDERS = (Path("/run/log/journal"), Path("/var/log/journal"))


def missing() -> list[str]:
    """What it needs and this machine does not have."""
    lacks = [] if os.path.exists(PROGRAM) else ["systemd-journald"]
    lacks += [] if shutil.which("journalctl") else ["journalctl"]
    machine = Path("/etc/machine-id")
    return lacks + ([] if machine.exists() and machine.read_text().strip() else ["an /etc/machine-id"])


class Journald:
    """A context manager that leaves nothing behind."""

    def __init__(self) -> None:
        self.name = "pwt" + secrets.token_hex(3)
        self.run = Path(f"/run/systemd/journal.{self.name}")
        self._process: subprocess.Popen[bytes] | None = None
        self._made: list[Path] = []

    def __enter__(self) -> Journald:
        for folder in (Path("/run/systemd"), FOLDERS[0]):
            while not folder.exists():  # of several that are missing, the outermost first
                lacking = next(each for each in (*reversed(folder.parents), folder) if not each.exists())
                lacking.mkdir()
                self._made.insert(0, lacking)
        self._process = subprocess.Popen(
            [PROGRAM, self.name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            assert wait_until(lambda: (self.run / "stdout").exists(), 10), "journald does not start"
            with self.stream("podwire-test") as stream:
                stream.sendall(b"hello\n")
            assert wait_until(lambda: self._folder() is not None, 10), "journald makes no journal"
        except BaseException:
            self._clean()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean()

    @property
    def folder(self) -> Path:
        """Where its files are."""
        found = self._folder()
        assert found is not None
        return found

    def stream(self, identifier: str) -> socket.socket:
        """What a program of this name writes its log to (as systemd-cat does it)."""
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(str(self.run / "stdout"))
        stream.sendall(f"{identifier}\n\n6\n0\n0\n0\n0\n".encode())
        stream.shutdown(socket.SHUT_RD)
        return stream

    def messages(self) -> list[str]:
        """All that it has."""
        done = subprocess.run(
            ["journalctl", "-q", "-D", str(self.folder), "-o", "cat"], check=True, capture_output=True, text=True
        )
        return done.stdout.splitlines()

    def _folder(self) -> Path | None:
        return next((path for folder in FOLDERS for path in folder.glob(f"*.{self.name}")), None)

    def _clean(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        while (found := self._folder()) is not None:
            shutil.rmtree(found)
        shutil.rmtree(self.run, ignore_errors=True)
        for folder in self._made:
            shutil.rmtree(folder)
