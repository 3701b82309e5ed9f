"""A private, real containerd (Debian's 1.6.20) with runc: started by a file, stopped by its pid, cleaned away.

In: nothing but the machine's own packages. Out: the paths of its sockets, its pid, its shims, its metrics.
It knows nothing of podwire. What it did not start, it never touches: shims are its own if they were given its address,
sockets in the shared folder of shim sockets if their name is the hash of its address and an id of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import grpc

from tests.e2e.images import PAUSE_IMAGE, write_image_layout

PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", "runc")
SHIM_SOCKETS = Path("/run/containerd/s")
RUNC_ROOT = Path("/run/containerd/runc")
CNI_BIN = Path("/usr/lib/cni")
CGROUPS = Path("/sys/fs/cgroup")
NAMESPACE = "k8s.io"
SHIM_ACTIONS = ("start", "delete")

CONFIG = """\
version = 2
root = "{base}/root"
state = "{run}/state"

[grpc]
  address = "{run}/containerd.sock"

[debug]
  level = "debug"

[metrics]
  address = "{metrics}"
  grpc_histogram = false

[plugins."io.containerd.internal.v1.opt"]
  path = "{base}/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_bin}"
    conf_dir = "{base}/cni"
"""

LOOPBACK = '{"cniVersion": "0.3.1", "name": "loopback", "plugins": [{"type": "loopback"}]}\n'


def missing_programs() -> list[str]:
    """What a private containerd needs and this machine does not have; empty if it can run (as root)."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return missing + [str(path) for path in (Path("/bin/busybox"), CNI_BIN / "loopback") if not path.exists()]


class Containerd:
    """One containerd with its own root, state and sockets; a context manager that leaves nothing behind.

    `wrapper` is a command put before containerd's own (strace), `stderr` where its log goes instead of into `log`.
    """

    def __init__(self, wrapper: tuple[str, ...] = (), stderr: int | None = None) -> None:
        self.token = "pwt-" + secrets.token_hex(3)
        self.run = Path("/run", self.token)
        self.base = Path(tempfile.mkdtemp(prefix=f"{self.token}-"))
        self.run.mkdir(mode=0o711)
        self.address = str(self.run / "containerd.sock")
        self.events_address = self.address + ".ttrpc"
        self.cgroup_parent = f"/{self.token}"
        self.log = self.base / "containerd.log"
        self.metrics_address = f"127.0.0.1:{_free_port()}"
        self.sandboxes: set[str] = set()
        """Every shim's id seen so far: what its socket's name is made of."""
        self._wrapper = wrapper
        self._stderr = stderr
        self._process: subprocess.Popen[bytes] | None = None
        self._config = self.base / "config.toml"
        self._config.write_text(
            CONFIG.format(
                base=self.base, run=self.run, metrics=self.metrics_address, pause=PAUSE_IMAGE, cni_bin=CNI_BIN
            )
        )
        (self.base / "cni").mkdir()
        (self.base / "cni/10-loopback.conflist").write_text(LOOPBACK)

    def __enter__(self) -> Containerd:
        try:
            self.start()
            self._import_images()
        except BaseException:
            self.clean()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clean()

    @property
    def pid(self) -> int:
        """Containerd's own process (not the wrapper's)."""
        assert self._process is not None, "not started"
        if not self._wrapper:
            return self._process.pid
        (pid,) = (child for child in _children(self._process.pid) if _command(child)[:1] == ["containerd"])
        return pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, seconds: float = 20) -> None:
        """Start it and return when its socket answers; raises RuntimeError with the log's end if it does not."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._wrapper, "containerd", "-c", str(self._config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log if self._stderr is None else self._stderr,
                start_new_session=True,
            )  # fmt: skip
        if not wait_until(self._answers, seconds):
            raise RuntimeError(f"containerd does not answer:\n{self.log_end()}")

    def stop(self, seconds: float = 10) -> None:
        """SIGTERM and wait; its shims and their containers go on. Raises TimeoutExpired if it does not end."""
        if self._process is None:
            return
        if self.running:
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(self.pid, signal.SIGTERM)
            if not self._wrapper or not self.shims():
                self._process.wait(seconds)
                self._process = None
                return
            wait_until(lambda: not self._answers(), seconds)

    def kill(self) -> None:
        """SIGKILL: its sockets stay in place, its shims go on."""
        assert self._process is not None, "not started"
        os.kill(self.pid, signal.SIGKILL)
        if not self._wrapper:
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stop it and start it again by the same configuration, with the pods left as they are."""
        self.stop()
        self.start()

    def ctr(self, *arguments: str, seconds: float = 60) -> str:
        """Run `ctr` on it in namespace k8s.io; return stdout. Raises CalledProcessError."""
        command = ["ctr", "--address", self.address, "--namespace", NAMESPACE, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds).stdout

    def log_end(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def shims(self) -> dict[str, int]:
        """Its running shims: id → pid. Each shim was given containerd's address, by which it is known as ours."""
        found: dict[str, int] = {}
        for pid in _processes():
            command = _command(pid)
            # "… start" and "… delete" are short-lived processes beside the shim that serves; it has their arguments.
            if self.address in command and command[0].endswith("-shim-runc-v2") and command[-1] not in SHIM_ACTIONS:
                found[command[command.index("-id") + 1]] = pid
        self.sandboxes |= found.keys()
        return found

    def shim_socket(self, sandbox_id: str) -> Path:
        """Where a shim of this containerd listens: the SHA-256 of address/namespace/id."""
        digest = hashlib.sha256(f"{self.address}/{NAMESPACE}/{sandbox_id}".encode()).hexdigest()
        return SHIM_SOCKETS / digest

    def metrics(self) -> dict[tuple[str, str], int]:
        """grpc_server_handled_total: (service/method, code name such as OK or NotFound) → calls ended so far."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/v1/metrics", timeout=10) as answer:
            return parse_handled(answer.read().decode())

    def settled_metrics(self) -> dict[tuple[str, str], int]:
        """The same, once nobody counts any more: what a test before this one cut off ends, and is counted, later."""
        last = self.metrics()
        for _ in range(20):
            time.sleep(0.25)
            before, last = last, self.metrics()
            if before == last:
                break
        return last

    def clean(self) -> None:
        """End it and its shims, containers included; take away mounts, sockets, cgroups and folders of its own."""
        shims = self.shims()
        bundles = self.run / "state/io.containerd.runtime.v2.task" / NAMESPACE
        with contextlib.suppress(FileNotFoundError):
            self.sandboxes |= {entry.name for entry in bundles.iterdir()}
        try:
            if self.running:
                os.kill(self.pid, signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            pass
        for pid in shims.values():
            for victim in [*_children(pid), pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
        self._empty_cgroups()
        if self._process is not None:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:  # a wrapper that has not noticed yet
                self._process.kill()
                self._process.wait()
            self._process = None
        wait_until(lambda: not self.shims(), 10)
        for _ in range(3):  # mounts on mounts; a container's own goes with its last process
            for mount in mounts_below(self.run, self.base):
                subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        for sandbox_id in self.sandboxes:
            self.shim_socket(sandbox_id).unlink(missing_ok=True)
            shutil.rmtree(RUNC_ROOT / NAMESPACE / sandbox_id, ignore_errors=True)
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.rmtree(self.base, ignore_errors=True)

    def left_behind(self) -> list[str]:
        """What is still there of it: folders, mounts, sockets, processes, cgroups; empty after clean()."""
        found = [f"folder {path}" for path in (self.run, self.base) if path.exists()]
        found += [f"mount {point}" for point in mounts_below(self.run, self.base)]
        found += [f"shim {sandbox_id}, pid {pid}" for sandbox_id, pid in self.shims().items()]
        for sandbox_id in self.sandboxes:
            paths = (self.shim_socket(sandbox_id), RUNC_ROOT / NAMESPACE / sandbox_id)
            found += [str(path) for path in paths if path.exists()]
        found += [f"cgroup {path}" for path in self._cgroups()]
        found += [f"process {pid}: {_command(pid)}" for pid in _processes() if self.token in " ".join(_command(pid))]
        return found

    def _answers(self) -> bool:
        """CRI answers too; until it has found its pods again it says that it is not initialized."""
        if not self.running:
            return False
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"unix:{self.address}", options=options) as channel:
            try:
                channel.unary_unary("/runtime.v1.RuntimeService/Status")(b"", timeout=1)
            except grpc.RpcError:
                return False
        return True

    def _import_images(self) -> None:
        layout = self.base / "images.tar"
        write_image_layout(layout)
        self.ctr("images", "import", str(layout))
        layout.unlink()

    def _cgroups(self) -> list[Path]:
        """The folders of our cgroup: one a hierarchy (v1), or one (v2)."""
        return [path for path in (*CGROUPS.glob(f"*/{self.token}"), CGROUPS / self.token) if path.is_dir()]

    def _empty_cgroups(self) -> None:
        folders = self._cgroups()

        def empty() -> bool:
            for top in folders:
                for folder, _, _ in os.walk(top, topdown=False):
                    with contextlib.suppress(OSError):
                        for pid in Path(folder, "cgroup.procs").read_text().split():
                            os.kill(int(pid), signal.SIGKILL)
                    with contextlib.suppress(OSError):
                        os.rmdir(folder)
            return not any(top.exists() for top in folders)

        wait_until(empty, 5)


def parse_handled(text: str) -> dict[tuple[str, str], int]:
    """Read Prometheus text: (grpc_service/grpc_method, grpc_code) → value of grpc_server_handled_total."""
    handled: dict[tuple[str, str], int] = {}
    for line in text.splitlines():
        if line.startswith("grpc_server_handled_total{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            key = (f"{labels['grpc_service']}/{labels['grpc_method']}", labels["grpc_code"])
            handled[key] = int(float(line.rsplit(" ", 1)[1]))
    return handled


def mounts_below(*folders: Path) -> list[str]:
    """Mount points in these folders, innermost first."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    ours = [point for point in points if any(point.startswith(f"{folder}/") for folder in folders)]
    return sorted(ours, key=len, reverse=True)


def wait_until(condition: Callable[[], bool], seconds: float, pause: float = 0.02) -> bool:
    """Ask `condition` until it holds (True) or the time is over (False)."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def _children(pid: int) -> list[int]:
    """Of all threads of the process."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found
