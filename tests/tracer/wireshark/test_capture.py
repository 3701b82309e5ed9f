"""The capture program between fifos, on a real server: what comes out, what the toolbar shows, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos.errors import PodwireError
from tests.e2e.killing import RelayProcesses
from tests.tracer.cli.live import REGISTRY, client, grpc_server
from tests.tracer.wireshark.fifos import Extcap
from tracer.wireshark import capture
from tracer.wireshark.controls import Command
from tracer.wireshark.toolbar import LOG, OPEN_CALLS, STATE, STATUS

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(f"/tmp/pw-fifo-{os.getpid()}")  # short: sockets lie in it
    (path / "s").mkdir(parents=True)
    with grpc_server(path / "cri.sock"):
        yield path
    shutil.rmtree(path)


def sockets(folder: Path) -> str:
    return f"--sockets=cri={folder}/cri.sock,task={folder}/s"


def exchanged(folder: Path, before: int) -> bool:
    return (folder / "cri.sock").stat().st_ino != before


def decoded(data: bytes) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tracer.cli", "decode", "--json", "-"]
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    assert done.stderr == b""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_capture_and_the_toolbar_live(folder: Path, tmp_path: Path) -> None:
    before = (folder / "cri.sock").stat().st_ino
    with Extcap(tmp_path, sockets(folder)) as extcap:
        extcap.wait_for(lambda: exchanged(folder, before))
        with client(folder / "cri.sock") as call:
            call("Version", version="first")
            extcap.wait_for(lambda: b"first" in extcap.capture)
            waiting = call("Status", wait=False)
            extcap.wait_for(lambda: b"Status" in extcap.capture or len(decoded(bytes(extcap.capture))) == 2)
            extcap.wait_for(lambda: "1 connection open, 1 in all" in extcap.texts(STATE, Command.SET))
            assert "nothing missing" in extcap.texts(STATE, Command.SET)
            extcap.press(OPEN_CALLS)
            extcap.wait_for(lambda: "Status" in extcap.texts(LOG, Command.ADD))
            extcap.press(STATUS)
            extcap.wait_for(lambda: "being written" in extcap.texts(LOG, Command.ADD))
            waiting.cancel()
        log = extcap.texts(LOG, Command.ADD)
        assert f"cri {folder}/cri.sock: tracing\n" in log
        assert "podwire stuck:\nAGE" in log
        extcap.process.send_signal(signal.SIGTERM)
        assert extcap.process.wait(10) == 0
        extcap.wait_for(lambda: len(decoded(bytes(extcap.capture))) == 2)
        assert extcap.said() == []
    assert (folder / "cri.sock").stat().st_ino == before


def test_without_a_toolbar_it_says_what_is_not_as_it_should_be_and_no_more(folder: Path, tmp_path: Path) -> None:
    before = (folder / "cri.sock").stat().st_ino
    with client(folder / "cri.sock") as call:
        call("Version", version="older")
        with Extcap(tmp_path, sockets(folder), toolbar=False) as extcap:
            extcap.wait_for(lambda: exchanged(folder, before))
            extcap.wait_for(lambda: any("1 older one is not seen" in line for line in extcap.said()))
    assert len(extcap.said()) == 1
    assert extcap.process.returncode == 0


def test_what_comes_through_the_control_pipe_by_mistake_is_said_and_the_capture_goes_on(
    folder: Path, tmp_path: Path
) -> None:
    before = (folder / "cri.sock").stat().st_ino
    with Extcap(tmp_path, sockets(folder)) as extcap:
        extcap.wait_for(lambda: exchanged(folder, before))
        extcap.write(b"GET / HTTP/1.1\r\n")
        extcap.wait_for(lambda: "no message of Wireshark's" in extcap.texts(LOG, Command.ADD))
        extcap.press(STATUS)
        with client(folder / "cri.sock") as call:
            call("Version", version="onwards")
        extcap.wait_for(lambda: b"onwards" in extcap.capture)
        extcap.wait_for(lambda: "1 in all" in extcap.texts(STATE, Command.SET))
        assert "podwire status" not in extcap.texts(LOG, Command.ADD)


def test_it_ends_when_nobody_reads_any_more_although_nothing_happens(folder: Path, tmp_path: Path) -> None:
    before = (folder / "cri.sock").stat().st_ino
    with Extcap(tmp_path, sockets(folder)) as extcap:
        extcap.wait_for(lambda: exchanged(folder, before))
        extcap.go_away()
        assert extcap.process.wait(10) == 0
        assert extcap.said() == []
    assert (folder / "cri.sock").stat().st_ino == before


def test_a_capture_that_is_not_complete_is_a_line_that_wireshark_shows(folder: Path, tmp_path: Path) -> None:
    before = (folder / "cri.sock").stat().st_ino
    with Extcap(tmp_path, sockets(folder)) as extcap:
        extcap.wait_for(lambda: exchanged(folder, before))
        with RelayProcesses.of(extcap.process.pid) as relay:
            relay.kill_all()
        assert extcap.process.wait(10) == 1
        assert extcap.said() == ["podwire: the capture is not complete: the toolbar's log says why"]
        extcap.wait_for(lambda: "the relay was killed" in extcap.texts(LOG, Command.ADD))
    assert (folder / "cri.sock").stat().st_ino == before


@pytest.mark.parametrize("mask", ["true", "false"])
def test_secrets_are_masked_unless_the_dialog_says_otherwise(mask: str, folder: Path, tmp_path: Path) -> None:
    before = (folder / "cri.sock").stat().st_ino
    with Extcap(tmp_path, sockets(folder), "--mask", mask) as extcap:
        extcap.wait_for(lambda: exchanged(folder, before))
        request: Any = REGISTRY.message_class("runtime.v1.CreateContainerRequest")()
        request.config.envs.add(key="WORD", value=b"hunter2")
        with grpc.insecure_channel(f"unix:{folder}/cri.sock") as channel:
            send = channel.unary_unary("/runtime.v1.RuntimeService/CreateContainer")
            with pytest.raises(grpc.RpcError):
                send(request.SerializeToString(), metadata=[("authorization", "Bearer hunter2")], timeout=10)
        extcap.wait_for(lambda: b"WORD" in extcap.capture)
    assert (b"hunter2" in extcap.capture) is (mask == "false")
    assert (b"*******" in extcap.capture) is (mask == "true")


def test_with_a_filter_only_connections_with_a_match_come_from_that_call_on(folder: Path, tmp_path: Path) -> None:
    before = (folder / "cri.sock").stat().st_ino
    wanted = ["--filter", "call.method == 'Version'", "--extcap-capture-filter", 'request.version == "wanted"']
    with Extcap(tmp_path, sockets(folder), *wanted) as extcap:
        extcap.wait_for(lambda: exchanged(folder, before))
        with client(folder / "cri.sock") as one, client(folder / "cri.sock") as other:
            other("Version", version="other")
            one("Version", version="before")
            one("Version", version="wanted")
            one("Version", version="after")
            extcap.wait_for(lambda: b"after" in extcap.capture)
            other("Version", version="other again")
        extcap.process.send_signal(signal.SIGTERM)
        assert extcap.process.wait(10) == 0
        extcap.wait_for(lambda: len(decoded(bytes(extcap.capture))) >= 2)
    asked = [each["messages"][0]["body"].get("version") for each in decoded(bytes(extcap.capture))]
    assert asked == ["wanted", "after"]


def test_a_fifo_that_nobody_reads_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setattr(capture, "_READER_S", 0.05)
    with pytest.raises(PodwireError, match="nobody reads it"):
        capture._open_fifo(str(tmp_path / "fifo"))
