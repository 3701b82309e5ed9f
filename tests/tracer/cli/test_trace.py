from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.e2e.killing import kill_all
from tests.tracer.cli.live import COMMAND, Start, Trace, client, grpc_server, run
from tracer.capture.packets import Packet
from tracer.capture.reader import open_capture
from tracer.live import spool_folder
from tracer.relay.held import read_held, runtime_folder

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it runs a command as another user")


def test_each_call_is_printed_as_it_ends_and_decode_prints_the_same(folder: Path, server: Path, trace: Start) -> None:
    traced = trace("-w", str(folder / "x.pcapng"))
    with client(server) as call:
        assert call("Version", version="first").runtime_version == "first"
        traced.wait_for(lambda: len(traced.printed()) == 1)
        call("Version", version="second")
        traced.wait_for(lambda: len(traced.printed()) == 2)
    assert traced.interrupt() == 0
    assert run("decode", str(folder / "x.pcapng")).stdout.splitlines() == traced.printed()
    assert "grpcio first" in traced.printed()[0]
    assert (folder / "x.pcapng").stat().st_mode & 0o777 == 0o600


def test_json_of_trace_and_of_decode_are_the_same_bytes(folder: Path, server: Path, trace: Start) -> None:
    traced = trace("-w", str(folder / "x.pcapng"), "--json")
    with client(server) as call:
        call("Version", version="first")
        waiting = call("Status", wait=False)
        call("Version", version="second")
        traced.wait_for(lambda: len(traced.printed()) == 2)
        assert traced.interrupt() == 0
        waiting.cancel()
    assert run("decode", "--json", str(folder / "x.pcapng")).stdout == traced.out.read_text()
    states = [json.loads(line)["state"] for line in traced.printed()]
    assert states == ["ended", "ended", "open"]


def test_a_server_that_never_answers_is_shown_live_in_stuck_and_in_the_capture(
    folder: Path, server: Path, trace: Start
) -> None:
    traced = trace("-w", str(folder / "x.pcapng"))
    with client(server) as call:
        waiting = call("Status", wait=False)
        traced.wait_for(lambda: any("Status" in line and "open" in line for line in traced.printed()))
        stuck = run("stuck", str(folder / "x.pcapng")).stdout.splitlines()
        assert len(stuck) == 2
        assert "Status" in stuck[1]
        assert "python" in stuck[1]
        assert traced.interrupt() == 0
        waiting.cancel()
    assert "draining: 1 connection" in traced.said()[-1]
    after = run("stuck", str(folder / "x.pcapng")).stdout.splitlines()
    assert "Status" in after[1]
    assert "(open at the end of the capture" in run("decode", str(folder / "x.pcapng")).stdout.splitlines()[-1]


def test_stuck_without_a_file_finds_the_running_trace(folder: Path, server: Path, trace: Start) -> None:
    traced = trace("-w", str(folder / "x.pcapng"))
    with client(server) as call:
        waiting = call("Status", wait=False)
        traced.wait_for(lambda: any("Status" in line for line in traced.printed()))
        done = run("stuck")
        assert "Status" in done.stdout, done.stderr
        waiting.cancel()


def test_packets_calls_duration_and_size_stop_it(folder: Path, server: Path, trace: Start) -> None:
    for options, file in (
        (("-c", "9"), "c"),
        (("--calls", "3"), "calls"),
        (("-a", "duration:1.5"), "duration"),
        (("-a", "filesize:4"), "size"),
    ):
        capture = folder / file
        started = time.monotonic()
        traced = trace("-w", str(capture), *options)
        with client(server) as call:
            while traced.process.poll() is None:
                call("Version")
                time.sleep(0.01)
                assert time.monotonic() - started < 20
        assert traced.process.returncode == 0
        with open_capture(str(capture)) as read:
            packets = len([item for item in read if isinstance(item, Packet)])
        if file == "c":
            assert packets == 9
        elif file == "calls":
            assert len(traced.printed()) == 3
        elif file == "duration":
            assert 1.4 < time.monotonic() - started < 6
        else:
            assert 4000 <= capture.stat().st_size < 8000


def test_a_ring_prints_what_one_file_would_and_keeps_the_newest(folder: Path, server: Path, trace: Start) -> None:
    ring = folder / "x.pcapng"
    traced = trace("-w", str(ring), "-b", "filesize:40", "-b", "files:3", "--json")
    with client(server) as call:
        waiting = call("Status", wait=False)
        for number in range(40):
            call("Version", version=f"{number:03d}" * 1000)
            # Three files hold twenty calls: whoever is behind by more would miss some.
            traced.wait_for(lambda number=number: len(traced.printed()) > number - 5)  # type: ignore[misc]
        traced.wait_for(lambda: len(traced.printed()) == 40)
        stuck = run("stuck").stdout
        assert "Status" in stuck, stuck
        assert traced.interrupt() == 0
        waiting.cancel()
    lines = [json.loads(line) for line in traced.printed()]
    assert [line["state"] for line in lines] == ["ended"] * 40 + ["open"]
    assert all(line["seen_start"] for line in lines)
    names = sorted(path.name for path in folder.glob("x_*"))
    assert len(names) == 3
    assert int(names[-1].split("_")[1]) > 3
    assert not ring.exists()
    last = [json.loads(line) for line in run("decode", "--json", str(folder / names[-1])).stdout.splitlines()]
    (status,) = (line for line in last if line["method"] == "Status")
    assert (status["state"], status["seen_start"]) == ("open", False)
    assert status["time"] == lines[-1]["time"]


def test_it_stops_after_so_many_files(folder: Path, server: Path, trace: Start) -> None:
    traced = trace("-w", str(folder / "x.pcapng"), "-b", "duration:0.3", "-a", "files:3")
    with client(server) as call:
        while traced.process.poll() is None:
            call("Version")
            time.sleep(0.02)
    assert traced.process.returncode == 0
    assert len(list(folder.glob("x_0000[123]_*.pcapng"))) == len(list(folder.glob("x_*"))) == 3


def test_w_minus_is_one_capture_although_the_spool_is_many_files(folder: Path, server: Path, trace: Start) -> None:
    traced = trace("-w", "-", "--spool", "8x1")
    with client(server) as call:
        waiting = call("Status", wait=False)
        for number in range(60):
            call("Version", version=f"{number:03d}" * 10_000)
        assert traced.interrupt() == 0
        waiting.cancel()
    with traced.out.open("rb") as piped:
        decoded = [json.loads(line) for line in run("decode", "--json", "-", stdin=piped).stdout.splitlines()]
    assert [line.get("state", line) for line in decoded] == ["ended"] * 60 + ["open"]
    assert traced.out.read_bytes().count(b"\n\r\r\n") > 2  # sections
    if shutil.which("tshark"):
        with traced.out.open("rb") as piped:
            read = subprocess.run(
                ["tshark", "-r", "-", "-Y", "grpc", "-T", "fields", "-e", "grpc.message_length"],
                stdin=piped, capture_output=True, text=True, check=True,
            )  # fmt: skip
        assert len(read.stdout.splitlines()) >= 120


def test_b_and_spool_by_mistake(folder: Path, server: Path) -> None:
    for words, said in (
        (("-b", "filesize:10"), "-b needs -w FILE"),
        (("-w", "x", "-b", "files:3"), "-b files:N needs -b duration:S or -b filesize:KB"),
        (("-w", "x", "-a", "files:3"), "-a files:N needs -b"),
        (("-b", "packets:3"), "is not duration:SECONDS, filesize:KB or files:N"),
        (("--spool", "1x1"), "is not FILESxMIB"),
    ):
        done = run("trace", "--socket", f"cri={server}", "--socket", f"task={folder}/s", *words)
        assert done.returncode == 2
        assert said in done.stderr


def test_with_w_minus_stdout_carries_the_capture_and_p_prints_on_stderr(
    folder: Path, server: Path, trace: Start
) -> None:
    traced = trace("-w", "-", "-P")
    with client(server) as call:
        call("Version", version="first")
        traced.wait_for(lambda: any("grpcio first" in line for line in traced.said()))
    assert traced.interrupt() == 0
    shutil.copy(traced.out, folder / "copy.pcapng")
    assert "grpcio first" in run("decode", str(folder / "copy.pcapng")).stdout
    with traced.out.open("rb") as piped:
        assert "grpcio first" in run("decode", "-", stdin=piped).stdout


def test_a_reader_of_w_minus_that_does_not_read_loses_what_is_counted(folder: Path, server: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "trace", "--socket", f"cri={server}", "--socket", f"task={folder}/s", "-w", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as traced:
        assert traced.stdout is not None
        assert traced.stderr is not None
        while "cri " not in traced.stderr.readline():
            pass
        with client(server) as call:
            for _ in range(5):
                call("Version", version="x" * 60_000)
        traced.send_signal(signal.SIGINT)
        assert traced.wait(10) == 0
        said = traced.stderr.read()
        lost = int(said.split("stdout was not read to the end: ")[1].split()[0])
        assert lost > 100_000
        read = len(traced.stdout.buffer.read())
        assert 600_000 < read + lost < 650_000  # five calls of 60 kB each way, whole


def test_a_trace_without_w_keeps_nothing(folder: Path, server: Path, trace: Start) -> None:
    before = set(os.listdir(spool_folder()))
    traced = trace()
    assert set(os.listdir(spool_folder())) - before
    with client(server) as call:
        call("Version")
        traced.wait_for(lambda: len(traced.printed()) == 1)
    assert traced.interrupt() == 0
    assert set(os.listdir(spool_folder())) == before


def test_it_ends_within_a_second_while_calls_are_open_and_the_relay_goes_on(
    folder: Path, server: Path, trace: Start
) -> None:
    traced = trace("-w", str(folder / "x.pcapng"))
    before = os.lstat(server).st_ino
    with client(server) as call:
        call("Version")
        started = time.monotonic()
        assert traced.interrupt() == 0
        assert time.monotonic() - started < 5  # an end, not a hang; how fast is the benchmark's
        assert os.lstat(server).st_ino != before
        assert call("Version", version="through").runtime_version == "through"
        assert [held.draining for held in read_held(runtime_folder()) if held.capture == str(folder / "x.pcapng")]
    until = time.monotonic() + 5
    while [held for held in read_held(runtime_folder()) if held.capture == str(folder / "x.pcapng")]:
        assert time.monotonic() < until, "the relay outlives its last connection"
        time.sleep(0.02)


def test_a_reader_of_lines_that_goes_away_ends_the_trace(folder: Path, server: Path) -> None:
    said = folder / "err"
    command = [*COMMAND, "trace", "--socket", f"cri={server}", "--socket", f"task={folder}/s"]
    with said.open("w") as err, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True) as traced:
        try:
            until = time.monotonic() + 15
            while "cri " not in said.read_text():
                assert time.monotonic() < until
                time.sleep(0.02)
            assert traced.stdout is not None
            with client(server) as call:
                call("Version")
                assert "Version" in traced.stdout.readline()
                traced.stdout.close()
                while traced.poll() is None:
                    call("Version")
                    time.sleep(0.02)
                    assert time.monotonic() < until
        finally:
            traced.terminate()
        assert traced.returncode == 0
    assert "Error" not in said.read_text()


# --- mistakes: one line, status 2 ---


def mistake(*words: str, **options: str) -> str:
    done = run("trace", *words, **options)
    assert done.returncode == 2, (done.stdout, done.stderr)
    lines = done.stderr.splitlines()
    assert len([line for line in lines if line.startswith("podwire: ")]) == 1, lines
    assert "Traceback" not in done.stderr
    return lines[-1]


def test_a_socket_that_does_not_exist(folder: Path) -> None:
    assert (
        mistake("--socket", f"cri={folder}/none.sock")
        == f"podwire: --socket cri={folder}/none.sock: there is no such socket"
    )


def test_a_socket_that_is_none(folder: Path) -> None:
    (folder / "file").touch()
    assert mistake("--socket", f"cri={folder}/file").endswith("is no socket")


def test_a_hop_that_is_none(folder: Path) -> None:
    assert "is not HOP=PATH, with HOP one of cri, task, events, agent, nri, other" in mistake(
        "--socket", f"crio={folder}/x"
    )


def test_no_runtime_at_all() -> None:
    if any(os.path.exists(path) for path in ("/run/containerd/containerd.sock", "/run/crio/crio.sock")):
        pytest.skip("a runtime is here")
    line = mistake()
    assert line.startswith("podwire: no runtime socket found (looked at /run/containerd/containerd.sock, ")
    assert line.endswith("--socket HOP=PATH names one, podwire demo shows it without")


def test_a_second_tracer_of_the_same_socket_or_folder(folder: Path, server: Path, trace: Start) -> None:
    traced = trace("-w", str(folder / "x.pcapng"))
    assert "is traced already, by podwire " in mistake("--socket", f"cri={server}")
    with grpc_server(folder / "other.sock"):
        words = ("--socket", f"cri={folder}/other.sock", "--socket", f"task={folder}/s")
        assert "is traced already, by podwire " in mistake(*words)
    assert traced.interrupt() == 0


@pytest.mark.parametrize("base", ["", "/dev/shm"])
def test_a_folder_that_vanishes(folder: Path, base: str) -> None:
    """On another mount than the runtime folder, ours lies in the one that vanishes."""
    inner = Path(tempfile.mkdtemp(prefix="pw-", dir=base or folder))
    with grpc_server(inner / "cri.sock"):
        traced = Trace(folder, "--socket", f"cri={inner}/cri.sock", "--socket", f"task={folder}")
        try:
            shutil.rmtree(inner)
            assert traced.process.wait(10) == 2
            assert traced.said()[-1] == f"podwire: {inner}: the folder was removed, nothing is left to trace"
        finally:
            traced.close()


def test_a_file_that_cannot_be_written(folder: Path, server: Path) -> None:
    words = ("--socket", f"cri={server}", "--socket", f"task={folder}/s")
    assert "No such file or directory" in mistake(*words, "-w", f"{folder}/none/x.pcapng")
    (folder / "link").symlink_to(folder / "target")
    assert "is a symbolic link, which is not followed" in mistake(*words, "-w", f"{folder}/link")
    assert not (folder / "target").exists()
    os.mkfifo(folder / "fifo")
    assert "is no regular file" in mistake(*words, "-w", f"{folder}/fifo")


@needs_root
def test_without_permission_it_says_what_is_needed(folder: Path, server: Path) -> None:
    os.chmod(folder, 0o755)
    # A user who may read us: a copy of the packages, since the tests may lie in a folder of root's alone.
    python = shutil.which("python3", path="/usr/bin:/bin")
    if python is None:
        pytest.skip("needs a Python outside root's folders")
    for room in ("tracer", "dissectors", "protos"):
        shutil.copytree(room, folder / "lib" / room)
    site = next(path for path in sys.path if path.endswith("site-packages"))
    for package in ("google", "construct"):
        shutil.copytree(f"{site}/{package}", folder / "lib" / package)
    done = subprocess.run(
        [python, "-m", "tracer.cli", "trace", "--socket", f"cri={server}"],
        capture_output=True, text=True, check=False, user=65534, group=65534, cwd="/",
        env={"PYTHONPATH": f"{folder}/lib", "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"podwire: cri {server}: needs write access to {folder} (try sudo)\n"


def test_e9_a_relay_that_is_killed_is_mended_by_its_trace_and_said(folder: Path, server: Path, trace: Start) -> None:
    traced = trace("-w", str(folder / "x.pcapng"))
    (held,) = [held for held in read_held(runtime_folder()) if held.capture == str(folder / "x.pcapng")]
    kill_all(held.pid)
    assert traced.process.wait(10) == 1
    assert any("the relay was killed" in line for line in traced.said())
    with client(server) as call:
        assert call("Version", version="direct").runtime_version == "direct"
    assert not os.path.exists(held.file)


def test_e9_doctor_mends_what_a_crash_left(folder: Path, server: Path, trace: Start) -> None:
    traced = trace("-w", str(folder / "x.pcapng"))
    (held,) = [held for held in read_held(runtime_folder()) if held.capture == str(folder / "x.pcapng")]
    traced.process.kill()
    traced.process.wait()
    with client(server) as call:
        assert call("Version", version="still").runtime_version == "still"  # traffic does not need the command
    kill_all(held.pid)
    eventually_dead(held.pid)
    said = run("doctor").stdout
    assert f"left behind: podwire {held.pid} died holding {server}" in said
    mended = run("doctor", "--mend")
    assert f"{server} of podwire {held.pid}: given back" in mended.stdout
    assert not os.path.exists(held.file)
    with client(server) as call:
        assert call("Version", version="direct").runtime_version == "direct"


def eventually_dead(pid: int) -> None:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            if ") Z" in Path(f"/proc/{pid}/stat").read_text():
                return
        except OSError:
            return
        time.sleep(0.01)
    raise AssertionError(f"{pid} lives")


def test_the_paths_are_given_back_even_while_nobody_reads_the_lines(folder: Path, server: Path) -> None:
    before = os.lstat(server).st_ino
    command = [*COMMAND, "trace", "-v", "--socket", f"cri={server}", "--socket", f"task={folder}/s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as traced:
        assert traced.stderr is not None
        while b"cri " not in traced.stderr.readline():
            pass
        assert os.lstat(server).st_ino != before
        with client(server) as call:
            for _ in range(10):
                call("Version", version="x" * 50_000)
        time.sleep(0.5)  # by now it waits for its reader
        traced.send_signal(signal.SIGTERM)
        until = time.monotonic() + 5
        while os.lstat(server).st_ino != before:
            assert time.monotonic() < until
            time.sleep(0.01)
        traced.send_signal(signal.SIGTERM)
        assert traced.wait(10) == 130


def entry_now(text: str) -> bytes:
    return f"__REALTIME_TIMESTAMP={time.time_ns() // 1000}\nSYSLOG_IDENTIFIER=containerd\nMESSAGE={text}\n\n".encode()


@pytest.mark.parametrize("through", ["file", "stdin"])
def test_lines_of_a_log_that_grows_stand_between_the_calls(
    folder: Path, server: Path, trace: Start, through: str
) -> None:
    log = folder / "journal.export"
    log.write_bytes(entry_now("older"))
    if through == "stdin":
        with client(server), subprocess.Popen(["tail", "-f", "-c", "+1", log], stdout=subprocess.PIPE) as tail:
            traced = trace("-w", str(folder / "x.pcapng"), "--journal", "-", stdin=tail.stdout)
            _log_and_call(folder, server, traced, log)
            tail.kill()
    else:
        traced = trace("-w", str(folder / "x.pcapng"), "--journal", str(log))
        _log_and_call(folder, server, traced, log)
        assert f"log {log}: following what the runtimes write" in traced.said()


def _log_and_call(folder: Path, server: Path, traced: Trace, log: Path) -> None:
    with client(server) as call:
        call("Version", version="first")
        traced.wait_for(lambda: len(traced.printed()) == 1)
        with log.open("ab") as file:
            file.write(entry_now("token=abc between"))
        traced.wait_for(lambda: len(traced.printed()) == 2)
        call("Version", version="second")
        traced.wait_for(lambda: len(traced.printed()) == 3)
        assert traced.interrupt() == 0
    first, line, second = traced.printed()
    assert "Version" in first
    assert line.split()[1:] == ["*", "log", "containerd", "token=***", "between"]
    assert "Version" in second
    times = [each.split()[0] for each in (first, line, second)]
    assert times == sorted(times)
    assert run("decode", str(folder / "x.pcapng")).stdout.splitlines() == traced.printed()


def test_without_a_journalctl_the_journal_is_refused_before_anything_is_done(
    folder: Path, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "bin").mkdir()
    monkeypatch.setenv("PATH", str(folder / "bin"))
    inode = server.stat().st_ino
    done = run("trace", f"--socket=cri={server}", "-w", str(folder / "x.pcapng"), "--journal")
    text = "podwire: --journal: there is no journalctl here (--journal FILE reads a log that is a file)\n"
    assert (done.returncode, done.stderr) == (2, text)
    assert not (folder / "x.pcapng").exists()
    assert server.stat().st_ino == inode
