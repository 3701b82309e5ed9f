"""The demo: a stand-in runtime in a temporary folder, the real `podwire trace` between it and its client.

In: where the capture shall go and how calls are printed. Out: the trace's own lines, and the capture. Every process
that it starts is ended by it; should it be killed itself, the stand-ins see their stdin close and the trace its limit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from protos.errors import PodwireError

PAUSE_S = 0.1
"""Before each call, so that a reader can follow; the whole story then takes about five seconds."""
READY_S = 5.0
CLIENT_S = 9.0
LIMIT_S = 20
"""The trace ends by itself after so long, whatever has become of us."""

_PYTHON = (sys.executable, "-P", "-m")


@contextmanager
def socket_folder() -> Iterator[Path]:
    """Make a folder whose VMs' sockets have paths below 108 bytes (unix(7)), and remove it at the end."""
    place = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(prefix="podwire-demo-", dir=place if len(place) < 9 else "/tmp") as name:
        yield Path(name)


@contextmanager
def stand_in(folder: Path, mute: Sequence[str] = ()) -> Iterator[None]:
    """Run the stand-in runtime with its sockets in `folder`; it never answers the methods in `mute`."""
    command = [*_PYTHON, "tracer.demo.cri_server", str(folder), *(f"--mute={name}" for name in mute)]
    # A session of its own: Ctrl-C is for the one who shows it, who then ends this in order.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            if server.stdout.readline() != b"ready\n":
                raise PodwireError(f"the stand-in runtime did not start (in {folder})")
            yield
        finally:
            server.stdin.close()
            server.wait()


def run_client(folder: Path, pause_s: float = 0, timeout_s: float = CLIENT_S) -> subprocess.Popen[bytes]:
    """Start the stand-in client; its exit status is 0 if the runtime answered as it should."""
    command = [*_PYTHON, "tracer.demo.client", str(folder / "containerd.sock")]
    command += [f"--pause={pause_s}", f"--timeout={timeout_s}"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


def trace_command(folder: Path, capture: str, options: Sequence[str] = ()) -> list[str]:
    """Return the `podwire trace` that sees everything of the stand-in."""
    # The folders first: once the two sockets are exchanged, they are watched.
    sockets = [f"task={folder}/s", f"agent={folder}/vm"]
    sockets += [f"events={folder}/containerd.sock.ttrpc", f"cri={folder}/containerd.sock"]
    return [*_PYTHON, "tracer.cli", "trace", "-w", capture, *(f"--socket={each}" for each in sockets), *options]


def run_demo(capture: str, options: Sequence[str], pause_s: float = PAUSE_S) -> int:
    """Trace the stand-in through a pod's life; return the exit status of the trace, or 1 if the story went wrong."""
    _say("a stand-in runtime and client, not a real one: the sockets, the protocols and the relay are real,")
    _say("what is said is made up. podwire trace, as it would run on a node:")
    with socket_folder() as folder, stand_in(folder):
        sockets = [folder / "containerd.sock", folder / "containerd.sock.ttrpc"]
        inodes = [path.stat().st_ino for path in sockets]
        command = trace_command(folder, capture, [*(options or ["--text"]), "-a", f"duration:{LIMIT_S}"])
        trace = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        client = None
        told = 0
        try:
            _await_exchange(trace, sockets, inodes)
            client = run_client(folder, pause_s)
            told = client.wait(CLIENT_S)
        except subprocess.TimeoutExpired:
            raise PodwireError(f"the stand-in did not end within {CLIENT_S:.0f} s") from None
        except KeyboardInterrupt:
            _say("stopped early")
        finally:
            if client is not None and client.poll() is None:
                client.kill()
                client.wait()
            if trace.poll() is None:
                trace.send_signal(signal.SIGINT)
            status = trace.wait()
    if status == 0:
        _say(f"the capture is kept: {capture}")
        _say(f"next: podwire decode -v {capture}   (or --json; Wireshark and tshark open it too)")
    return status or (1 if told else 0)


def _await_exchange(trace: subprocess.Popen[bytes], sockets: list[Path], inodes: list[int]) -> None:
    """Wait until the relay's own sockets are at the paths."""
    until = time.monotonic() + READY_S
    while any(path.stat().st_ino == inode for path, inode in zip(sockets, inodes, strict=True)):
        if trace.poll() is not None:
            raise PodwireError("the trace ended before it began (its own line above says why)")
        if time.monotonic() > until:
            raise PodwireError(f"the sockets were not exchanged within {READY_S:.0f} s")
        time.sleep(0.01)


def _say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


def new_capture() -> str:
    """Return the path of a new, empty file of mode 0600 in the temporary folder."""
    descriptor, path = tempfile.mkstemp(prefix="podwire-demo-", suffix=".pcapng")
    os.close(descriptor)
    return path
