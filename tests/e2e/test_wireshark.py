"""podwire as Wireshark's capture interface on a real containerd: tshark starts it, shows its calls, and stops it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from protos.registry import Registry
from tests.e2e.containerd import SHIM_SOCKETS, Containerd, wait_until
from tests.e2e.cri import CriClient, Pod
from tests.e2e.tracing import PODWIRE
from tracer.wireshark import profile
from tracer.wireshark.folders import find_folders
from tracer.wireshark.install import EXTCAP, extcap_script

pytestmark = [
    pytest.mark.root,
    pytest.mark.containerd,
    pytest.mark.tshark,
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
]

ENVIRONMENT = b"PURPOSE=podwire"
"""Of each container here."""


class Tshark:
    """`tshark -i podwire` of a containerd's sockets, printing lines of fields."""

    def __init__(self, containerd: Containerd, folder: Path, *words: str) -> None:
        self.out, self.errors = folder / "tshark.out", folder / "tshark.err"
        self.paths = [Path(containerd.address), Path(containerd.events_address)]
        self._before = [path.stat().st_ino for path in self.paths]
        place = folder / "extcap"
        place.mkdir()
        (place / EXTCAP).write_text(extcap_script())
        (place / EXTCAP).chmod(0o755)
        sockets = f"cri={containerd.address},events={containerd.events_address},task={SHIM_SOCKETS}"
        # As root 4.0 looks into its global folder alone: ours lies over that, for tshark.
        script = f'mount --bind {place} {find_folders().global_extcap} && exec tshark "$@"'
        options = [*profile.options(), "-o", f"extcap.podwire.sockets:{sockets}", "-i", EXTCAP, "-l", *words]
        with self.out.open("wb") as out, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", script, "sh", *options],
                stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
                env={**os.environ, "HOME": str(folder), "TMPDIR": str(folder)},
            )  # fmt: skip

    def exchanged(self) -> bool:
        """podwire has got between."""
        assert self.process.poll() is None, self.errors.read_text()
        return all(path.stat().st_ino != inode for path, inode in zip(self.paths, self._before, strict=True))

    def given_back(self) -> bool:
        """The paths are the server's again."""
        return [path.stat().st_ino for path in self.paths] == self._before

    def shown(self) -> list[str]:
        return self.out.read_text().splitlines()

    def children(self) -> list[int]:
        """The processes that it started: dumpcap and podwire."""
        return list(map(int, Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()))

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@contextmanager
def capturing(containerd: Containerd, folder: Path, *words: str) -> Iterator[Tshark]:
    tshark = Tshark(containerd, folder, *words)
    try:
        assert wait_until(tshark.exchanged, 15), tshark.errors.read_text()
        yield tshark
    finally:
        tshark.end()
        wait_until(tshark.given_back, 5)


@contextmanager
def ran_pod(containerd: Containerd, registry: Registry, name: str) -> Iterator[Pod]:
    """A pod with a container that runs."""
    with CriClient(containerd.address, registry) as client:
        pod = Pod(client, f"{name}-{containerd.token}", containerd.cgroup_parent)
        try:
            pod.run()
            pod.start_container()
            yield pod
        finally:
            pod.remove()


def status() -> str:
    return subprocess.run([*PODWIRE, "status"], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("mask", [True, False])
def test_tshark_shows_the_calls_of_a_pod_as_they_happen_and_gives_the_paths_back(
    mask: bool, containerd: Containerd, registry: Registry, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.pcapng"
    words = ["-w", str(kept), "-P", "-T", "fields", "-e", "ttrpc.method", "-e", "http2.headers.path"]
    words += ["-o", f"extcap.podwire.mask:{str(mask).lower()}"]
    with capturing(containerd, tmp_path, *words) as tshark, ran_pod(containerd, registry, "wireshark") as pod:
        assert pod.exec("echo", "hello")[0] == 0
        shown = lambda: " ".join(tshark.shown())  # noqa: E731
        wanted = ("Create", "Start", "Exec", "Forward", "/runtime.v1.RuntimeService/ExecSync")
        assert wait_until(lambda: all(word in shown() for word in wanted), 10), shown()
        tshark.process.send_signal(signal.SIGINT)
        assert tshark.process.wait(10) == 0
        assert tshark.given_back()
        assert pod.exec("echo", "hello")[0] == 0  # by the connection that is open since before
    assert containerd.address not in status()
    assert "extcap pipe" not in tshark.errors.read_text()  # so it says what a capture program complains of
    data = kept.read_bytes()
    assert (ENVIRONMENT in data) is not mask
    assert (b"PURPOSE=*******" in data) is mask
    decoded = subprocess.run([*PODWIRE, "decode", kept], capture_output=True, text=True, check=True)
    assert "ExecSync" in decoded.stdout
    assert "malformed" not in decoded.stdout + decoded.stderr


def test_a_capture_filter_lets_a_pods_connections_through_and_no_other_pods(
    containerd: Containerd, registry: Registry, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.pcapng"
    one, other = f"one-{containerd.token}", f"other-{containerd.token}"
    words = ["-f", f"call.hop == 'task' && call.pod == 'default/{one}'", "-w", str(kept), "-P"]
    with capturing(containerd, tmp_path, *words) as tshark:
        with ran_pod(containerd, registry, "other"), ran_pod(containerd, registry, "one") as pod:
            assert pod.exec("echo", "hello")[0] == 0
        shown = lambda: " ".join(tshark.shown())  # noqa: E731
        assert wait_until(lambda: "Task/Shutdown" in shown(), 10), shown()
        tshark.process.send_signal(signal.SIGINT)
        assert tshark.process.wait(10) == 0
    assert "extcap pipe" not in tshark.errors.read_text()
    decoded = subprocess.run([*PODWIRE, "decode", "--json", kept], capture_output=True, text=True, check=True)
    calls = [json.loads(line) for line in decoded.stdout.splitlines()]
    assert {call["hop"] for call in calls} == {"task"}
    assert {"Create", "Start", "Exec", "Shutdown"} <= {call["method"] for call in calls}
    assert len({call["socket"] for call in calls}) == 1
    assert other not in kept.read_bytes().decode("utf-8", "replace")


def test_a_tshark_that_is_killed_leaves_nothing_behind(
    containerd: Containerd, registry: Registry, tmp_path: Path
) -> None:
    with capturing(containerd, tmp_path) as tshark:
        children = tshark.children()
        assert len(children) == 2
        tshark.process.kill()
        assert wait_until(tshark.given_back, 10)
        assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 10)
    assert containerd.address not in status()
    with ran_pod(containerd, registry, "after") as pod:
        assert pod.exec("echo", "hello")[0] == 0


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("sockets:cri=/nowhere.sock", "--socket cri=/nowhere.sock: there is no such socket"),
        ("sockets:/nowhere.sock", "--socket /nowhere.sock: is not HOP=PATH"),
        ("hops:cri,tusk", "no hop 'tusk' (there are: cri, task, "),
        ("filter:call.pid == 1", "filter: line 1, column 5: undeclared reference to 'call.pid'"),
    ],
)
def test_a_wrong_value_in_the_dialog_is_one_line_that_tshark_shows(
    value: str, said: str, containerd: Containerd, tmp_path: Path
) -> None:
    tshark = Tshark(containerd, tmp_path, "-o", f"extcap.podwire.{value}")
    try:
        assert tshark.process.wait(20) == 1
    finally:
        tshark.end()
    (line,) = (line for line in tshark.errors.read_text().splitlines() if "extcap pipe" in line)
    assert line.startswith("tshark: Error by extcap pipe: podwire: ")
    assert said in line
    assert tshark.given_back()
