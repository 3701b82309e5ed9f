"""podwire as a capture interface: the answers that Wireshark wants, and tshark itself capturing through it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from protos.hops import HOPS
from tests.tracer.cli.live import client, grpc_server
from tracer.wireshark import extcap
from tracer.wireshark.capture import Wanted
from tracer.wireshark.folders import find_folders
from tracer.wireshark.install import EXTCAP, extcap_script


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str], str]:
    status = extcap.main(list(words))
    told = capsys.readouterr()
    return status, told.out.splitlines(), told.err


def test_the_questions_are_answered(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines, _ = ask(capsys, "--extcap-interfaces", "--extcap-version=4.0")
    assert status == 0
    assert lines[0].startswith("extcap {version=")
    assert lines[1] == "interface {value=podwire}{display=Container runtime sockets}"
    assert [line.split("{display=")[1].split("}")[0] for line in lines[2:]] == ["Trace", "Open calls", "Status", "Log"]
    assert ask(capsys, "--extcap-dlts", "--extcap-interface", "podwire")[1] == [
        "dlt {number=1}{name=EN10MB}{display=Ethernet}"
    ]
    _, lines, _ = ask(capsys, "--extcap-config", "--extcap-interface", "podwire")
    assert [line.split("{call=")[1].split("}")[0] for line in lines if line.startswith("arg ")] == [
        "--hops",
        "--sockets",
        "--existing",
        "--filter",
        "--mask",
    ]
    values = [line for line in lines if line.startswith("value ")]
    assert len(values) == len(HOPS)
    assert all("{enabled=true}" in line for line in values)  # else 4.0 shows boxes that cannot be ticked


def test_a_capture_filter_is_checked_before_the_capture(capsys: pytest.CaptureFixture[str]) -> None:
    about = ("--extcap-interface", "podwire", "--extcap-capture-filter")
    assert ask(capsys, *about, "call.pod == 'default/web-0'") == (0, [], "")
    status, (line,), _ = ask(capsys, *about, "tcp port 80")
    assert status == 0
    assert line.startswith("filter: line 1, column ")


@pytest.mark.parametrize(
    "words",
    [
        ("--extcap-dlts", "--extcap-interface", "eth0"),
        ("--extcap-interface", "podwire"),
        ("--capture", "--extcap-interface", "podwire", "--fifo", "/nowhere/x"),
        ("--extcap-interface",),
    ],
)
def test_what_it_cannot_do_is_one_line(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    status, lines, error = ask(capsys, *words)
    assert (status, lines) == (2, [])
    assert error.startswith("podwire: ")
    assert error.count("\n") == 1


def test_the_dialogs_values_become_options_of_trace() -> None:
    assert Wanted().trace_words() == ["trace", "-w", "-"]
    wanted = Wanted(hops=("cri", "task"), sockets=("cri=/a", "task=/b"), existing=True)
    assert wanted.trace_words()[3:] == ["--hop=cri", "--hop=task", "--socket=cri=/a", "--socket=task=/b", "--existing"]


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = Path(f"/tmp/pw-ext-{os.getpid()}")
    (folder / "s").mkdir(parents=True)
    with grpc_server(folder / "cri.sock"):
        yield folder
    shutil.rmtree(folder)


def sockets_of(server: Path) -> str:
    return f"extcap.podwire.sockets:cri={server}/cri.sock,task={server}/s"


def tshark(folder: Path, script: str) -> subprocess.Popen[str]:
    """Run a script where tshark finds our program: as root 4.0 looks into its global folder alone, so ours lies over
    that."""
    place = folder / "extcap"
    place.mkdir()
    (place / EXTCAP).write_text(extcap_script())
    (place / EXTCAP).chmod(0o755)
    return subprocess.Popen(
        ["unshare", "-m", "sh", "-c", f"mount --bind {place} {find_folders().global_extcap} && {script}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOME": str(folder), "TMPDIR": str(folder)},
    )


@pytest.mark.root
@pytest.mark.tshark
def test_without_the_right_to_it_is_one_line_that_tshark_shows(server: Path, tmp_path: Path) -> None:
    if os.geteuid() or shutil.which("tshark") is None:
        pytest.skip("needs root and tshark")
    os.chown(server, 65534, 65534)
    as_others = "setpriv --bounding-set=-dac_override,-dac_read_search"
    with tshark(tmp_path, f"exec {as_others} tshark -o {sockets_of(server)} -i {EXTCAP}") as running:
        try:
            _, error = running.communicate(timeout=30)
        finally:
            running.kill()
    (line,) = (line for line in error.splitlines() if "extcap pipe" in line)
    why = f"cri {server}/cri.sock: needs write access to {server} (try sudo)"
    assert line == f"tshark: Error by extcap pipe: podwire: {why}"
    assert running.returncode == 1


@pytest.mark.root
@pytest.mark.tshark
def test_tshark_captures_a_runtime_live_and_the_socket_is_back_afterwards(server: Path, tmp_path: Path) -> None:
    if os.geteuid() or shutil.which("tshark") is None:
        pytest.skip("needs root and tshark")
    path = server / "cri.sock"
    before = path.stat().st_ino
    words = ["-o", sockets_of(server), "-i", EXTCAP, "-l", "-c", "12", "-T", "fields", "-e", "frame.interface_name"]
    running = tshark(tmp_path, f"tshark -D >&2 && exec tshark {shlex.join(words)}")
    try:
        while path.stat().st_ino == before:
            assert running.poll() is None, running.communicate()
        while running.poll() is None:
            with client(path) as call:
                call("Version", version="1")
        told, error = running.communicate()
    finally:
        running.kill()
        running.wait()
    assert f"{EXTCAP} (Container runtime sockets)" in error
    assert told.splitlines() == [str(path)] * 12
    status = subprocess.run([sys.executable, "-m", "tracer.cli", "status"], capture_output=True, text=True, check=False)
    assert str(path) not in status.stdout
    assert path.stat().st_ino == before
