"""`podwire trace --detach` and `podwire attach`: recording in the background, and looking on."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from protos.errors import PodwireError
from protos.registry import Registry
from tests.tracer.cli.live import Running, client, run
from tests.tracer.cli.sessions import eventually, gone, kill_relay, of_folder
from tracer.capture.growing import newest
from tracer.capture.packets import Notice, Packet
from tracer.capture.reader import open_capture
from tracer.cli import attach as attach_module
from tracer.cli import main
from tracer.cli.decode import make_printer
from tracer.cli.trace import Shown
from tracer.live import spool_folder
from tracer.relay.held import locked, runtime_folder
from tracer.spool import forgotten

Detach = Callable[..., int]
Attach = Callable[..., Running]


@pytest.fixture
def attach(folder: Path) -> Iterator[Attach]:
    running: list[Running] = []

    def start(*options: str) -> Running:
        running.append(Running(folder, "attach", *options))
        return running[-1]

    yield start
    for each in running:
        each.close()


def test_it_prints_the_calls_that_end_from_now_on_as_decode_does(
    folder: Path, server: Path, detach: Detach, attach: Attach
) -> None:
    session = detach()
    with client(server) as call:
        call("Version", version="before")
        (held,) = of_folder(folder)
        eventually(lambda: "before" in run("decode", held.capture).stdout, "the first call to be in the capture")
        attached = attach()
        attached.wait_for(lambda: any("following from now on" in line for line in attached.said()))
        call("Version", version="after")
        attached.wait_for(lambda: len(attached.printed()) == 1)
    assert attached.interrupt() == 0
    assert attached.said()[-1] == f"podwire {session} goes on: podwire stop {session} ends it"
    assert [each.state for each in of_folder(folder)] == ["tracing"]
    assert run("stop").returncode == 0
    gone(session)
    assert attached.printed() == run("decode", held.capture).stdout.splitlines()[1:]
    assert "grpcio after" in attached.printed()[0]


def test_from_the_start_until_the_end_it_gives_the_same_bytes_as_decode(
    folder: Path, server: Path, detach: Detach, attach: Attach
) -> None:
    session = detach()
    (held,) = of_folder(folder)
    with client(server) as call:
        call("Version", version="first")
        waiting = call("Status", wait=False)
        attached = attach(str(session), "--from-start", "--json")
        attached.wait_for(lambda: len(attached.printed()) == 1)
        call("Version", version="second")
        attached.wait_for(lambda: len(attached.printed()) == 2)
        assert run("stop").returncode == 0
        assert attached.process.wait(10) == 0
        assert attached.said() == [f"podwire {session} records no more; its capture is {held.capture}"]
        waiting.cancel()
    assert attached.out.read_text() == run("decode", "--json", held.capture).stdout
    assert [json.loads(line)["state"] for line in attached.printed()] == ["ended", "ended", "open"]


def test_a_call_that_hangs_already_is_shown(folder: Path, server: Path, detach: Detach, attach: Attach) -> None:
    detach()
    with client(server) as call:
        waiting = call("Status", wait=False)
        eventually(lambda: "Status" in run("stuck").stdout, "the call to be in the capture")
        attached = attach()
        attached.wait_for(lambda: any("Status" in line and "open" in line for line in attached.printed()))
        assert "following from now on; 1 older call without an answer yet" in attached.said()
        waiting.cancel()
        attached.wait_for(lambda: any("Status" in line and "cancelled" in line for line in attached.printed()))


def test_a_session_that_is_killed_ends_it_with_status_1(
    folder: Path, server: Path, detach: Detach, attach: Attach
) -> None:
    session = detach()
    attached = attach()
    attached.wait_for(lambda: bool(attached.said()))
    kill_relay(session)
    assert attached.process.wait(10) == 1
    assert attached.said()[-1].startswith(f"podwire {session}: it was killed: every connection through cri {server} ")


def test_a_detached_trace_says_how_to_go_on_and_records_without_its_starter(folder: Path, server: Path) -> None:
    sockets = ("--socket", f"cri={server}", "--socket", f"task={folder}/s")
    done = run("trace", "--detach", *sockets)
    assert done.returncode == 0
    (session,) = of_folder(folder)
    try:
        assert done.stdout == ""
        assert f"cri {server}: tracing" in done.stderr.splitlines()
        assert done.stderr.splitlines()[-1] == (
            f"podwire {session.pid} goes on recording into {session.capture}: "
            f"podwire attach {session.pid} follows it, podwire stop {session.pid} ends it"
        )
        with client(server) as call:
            call("Version", version="alone")
        eventually(lambda: "grpcio alone" in run("decode", session.capture).stdout, "the call to be recorded")
    finally:
        run("stop", str(session.pid), "--now", "--yes")


def test_a_spooled_capture_lasts_as_long_as_its_trace_and_until_the_next(folder: Path, detach: Detach) -> None:
    session = detach()
    (held,) = of_folder(folder)
    run("doctor", "--mend")
    file = newest(held.capture)
    with locked(runtime_folder()):
        assert file not in forgotten()
    assert os.path.exists(file)
    run("stop", str(session))
    gone(session)
    assert os.path.exists(file)
    assert f"spool: {file}: " in run("doctor").stdout
    second = detach()
    assert not os.path.exists(file)
    (held,) = of_folder(folder)
    file = newest(held.capture)
    run("stop", str(second))
    gone(second)
    assert f"removed: {file}, " in run("doctor", "--mend").stdout
    assert not os.path.exists(file)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("-w", "-"), "it does not go with -w -, -P and --calls"),
        (("-P",), "it does not go with -w -, -P and --calls"),
        (("--calls", "3"), "it does not go with -w -, -P and --calls"),
        (("-w", "/dev/null/x.pcapng"), "--detach -w FILE needs -b"),
    ],
)
@pytest.mark.usefixtures("detach")  # which ends what should not have begun
def test_what_does_not_go_with_detach(folder: Path, server: Path, options: tuple[str, ...], reason: str) -> None:
    done = run("trace", "--detach", "--socket", f"cri={server}", "--socket", f"task={folder}/s", *options)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert reason in line
    assert of_folder(folder) == []


def test_a_detached_trace_that_cannot_start_leaves_no_spool(
    folder: Path, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise PodwireError("no relay")

    monkeypatch.setattr("tracer.live.start_relay", fails)
    before = set(os.listdir(spool_folder()))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        assert main(["trace", "--detach", "--socket", f"cri={server}", "--socket", f"task={folder}/s"]) == 2
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert set(os.listdir(spool_folder())) == before


class Recorded:
    """A capture that grows: the first half is there when somebody begins to look on."""

    def __init__(self, path: str) -> None:
        with open_capture(path) as capture:
            items = list(capture)
        self.halves = items[: len(items) // 2], items[len(items) // 2 :]
        self.file = SimpleNamespace(size=1, position=1)

    def batches(self) -> Iterator[list[Packet | Notice]]:
        yield from self.halves


def test_pods_that_were_named_before_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(Path(__file__).parents[3] / "captures" / "own16-pod.pcapng.gz")
    args = argparse.Namespace(json=True, verbose=0, utc=True, show_secrets=False)
    printer = make_printer(args, sys.stdout, Registry.bundled())
    attach_module._print(Recorded(path), Shown(printer, sys.stdout, 0), from_start=False)  # type: ignore[arg-type]
    calls = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "RunPodSandbox" not in {call["method"] for call in calls}
    assert {call["pod"]["name"] for call in calls if call["hop"] == "task"} == {"pod"}
