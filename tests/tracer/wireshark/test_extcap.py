"""podwire as a capture interface: the answers that Wireshark wants, and tshark itself capturing through it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracer.cli.live import client, grpc_server
from tracer.wireshark import extcap
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
    assert lines[1:] == ["interface {value=podwire}{display=Container runtime sockets}"]
    assert ask(capsys, "--extcap-dlts", "--extcap-interface", "podwire")[1] == [
        "dlt {number=1}{name=EN10MB}{display=Ethernet}"
    ]
    _, lines, _ = ask(capsys, "--extcap-config", "--extcap-interface", "podwire")
    assert [line.split("{call=")[1].split("}")[0] for line in lines] == ["--sockets", "--existing"]


@pytest.mark.parametrize(
    "words",
    [
        ("--extcap-dlts", "--extcap-interface", "eth0"),
        ("--extcap-interface", "podwire"),
        ("--capture", "--extcap-interface", "podwire", "--fifo", "/nowhere/x"),
        ("--capture", "--extcap-interface", "podwire", "--fifo", "/x", "--extcap-capture-filter", "tcp"),
    ],
)
def test_what_it_cannot_do_is_one_line(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    status, lines, error = ask(capsys, *words)
    assert (status, lines) == (2, [])
    assert error.startswith("podwire: ")
    assert error.count("\n") == 1


def test_the_dialogs_values_become_options_of_trace() -> None:
    assert extcap.trace_words("", False) == ["trace", "-w", "-"]
    assert extcap.trace_words("cri=/a, task=/b", True)[3:] == [
        "--socket",
        "cri=/a",
        "--socket",
        "task=/b",
        "--existing",
    ]


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = Path(f"/tmp/pw-ext-{os.getpid()}")
    (folder / "s").mkdir(parents=True)
    with grpc_server(folder / "cri.sock"):
        yield folder
    shutil.rmtree(folder)


@pytest.mark.root
@pytest.mark.tshark
def test_tshark_captures_a_runtime_live_and_the_socket_is_back_afterwards(server: Path, tmp_path: Path) -> None:
    if os.geteuid() or shutil.which("tshark") is None:
        pytest.skip("needs root and tshark")
    path = server / "cri.sock"
    before = path.stat().st_ino
    place = tmp_path / "extcap"
    place.mkdir()
    (place / EXTCAP).write_text(extcap_script())
    (place / EXTCAP).chmod(0o755)
    sockets = f"extcap.podwire.sockets:cri={path},task={server}/s"
    # 4.0 as root looks into its global folder alone: ours lies over that, for tshark.
    script = f'mount --bind {place} {find_folders().global_extcap} && tshark -D >&2 && exec tshark "$@"'
    words = ["-o", sockets, "-i", EXTCAP, "-l", "-c", "12", "-T", "fields", "-e", "frame.interface_name"]
    running = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script, "sh", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
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
