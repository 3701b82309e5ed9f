"""`podwire decode` as it is typed: good captures, bad input, limits, pipes."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tracer.cli import main

ROOT = Path(__file__).parents[3]
CAPTURES = ROOT / "captures"
POD = CAPTURES / "ctrd2-pod.pcapng.gz"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process; return its status, stdout and stderr."""
    monkeypatch.setenv("TZ", "UTC")

    def run_it(*words: str | Path) -> tuple[int, str, str]:
        status = main([str(word) for word in words])
        told = capsys.readouterr()
        return status, told.out, told.err

    return run_it


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture without its compression."""
    path = tmp_path_factory.mktemp("captures") / "pod.pcapng"
    path.write_bytes(gzip.decompress(POD.read_bytes()))
    return path


def command(*words: str | Path, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run it as a process of its own."""
    return subprocess.run(  # type: ignore[call-overload, no-any-return] # options are passed on as they are
        [sys.executable, "-m", "tracer.cli", *map(str, words)], cwd=ROOT, capture_output=True, check=False, **options
    )


def test_a_capture_prints_a_line_for_every_call(run: Run) -> None:
    status, out, err = run("decode", "--utc", POD)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("14:58:01.136949   cri                                   Version              OK ")
    ended = [line for line in lines if line[16] not in "…·"]
    told = json.loads((CAPTURES / "ctrd2-pod.wire.json").read_text())
    assert len(ended) == sum(
        each["calls"] for methods in (told["grpc_calls"], *told["ttrpc_calls"].values()) for each in methods.values()
    )
    assert any(" RunPodSandbox " in line and "default/pod1 → 9f57c2b6405e1" in line for line in lines)
    assert any(line[16] == "E" and " PullImage " in line and "connection refused" in line for line in lines)
    assert any("/tasks/oom" in line for line in lines)


def test_json_is_the_same_bytes_each_time(run: Run) -> None:
    first, second = run("decode", "--json", POD), run("decode", "--json", POD)
    assert first == second
    assert [json.loads(line)["kind"] for line in first[1].splitlines()].count("call") == 492


def test_a_pipe_and_gzip_and_the_plain_file_decode_to_the_same(plain: Path, run: Run) -> None:
    _, expected, _ = run("decode", "--json", plain)
    with plain.open("rb") as file:
        piped = command("decode", "--json", "-", stdin=file)
    assert (piped.returncode, piped.stderr) == (0, b"")
    assert piped.stdout.decode() == expected == run("decode", "--json", "-r", POD)[1]


def test_verbose_shows_whole_messages_safely(run: Run) -> None:
    status, out, _ = run("decode", "-v", POD)
    assert status == 0
    assert '            name: "pod1"' in out
    assert all(line.isprintable() for line in out.splitlines())


def test_c_counts_packets_and_calls_counts_ended_calls(run: Run) -> None:
    assert len(run("decode", "--json", "--calls", "3", POD)[1].splitlines()) == 3
    status, out, _ = run("decode", "--json", "-c", "30", POD)
    assert status == 0
    assert 0 < len(out.splitlines()) < 15


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty, no capture"),
        (b"just some text\n" * 9, "is no pcapng or pcap file"),
        (b"\x0a", "is no pcapng or pcap file"),
    ],
)
def test_a_file_that_is_no_capture_is_one_line_and_status_2(
    run: Run, tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "bad.pcapng"
    path.write_bytes(content)
    assert run("decode", path) == (2, "", f"podwire: {path}: {said}\n")


def test_a_missing_file_and_a_folder_are_one_line_and_status_2(run: Run, tmp_path: Path) -> None:
    missing = tmp_path / "none.pcapng"
    assert run("decode", missing) == (2, "", f"podwire: {missing}: cannot be read: no such file or directory\n")
    assert run("decode", tmp_path) == (2, "", f"podwire: {tmp_path}: cannot be read: is a directory\n")


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Root may read everything; for this test it is somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_without_permission_is_one_line_and_status_2(
    run: Run, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "secret.pcapng"
    path.write_bytes(gzip.decompress(POD.read_bytes())[:4096])
    path.chmod(0)
    tmp_path.chmod(0o755)
    run("decode", "-c", "1", POD)  # what is imported on the way is read as who we are
    request.getfixturevalue("as_nobody")
    assert run("decode", path) == (2, "", f"podwire: {path}: cannot be read: permission denied\n")


def test_a_pcapng_cut_in_the_middle_is_decoded_up_to_the_cut(run: Run, plain: Path, tmp_path: Path) -> None:
    whole = plain.read_bytes()
    path = tmp_path / "cut.pcapng"
    path.write_bytes(whole[: len(whole) // 2 + 3])
    status, out, err = run("decode", "--json", path)
    objects = [json.loads(line) for line in out.splitlines()]
    (notice,) = [shown for shown in objects if shown["kind"] == "notice"]
    assert status == 2
    assert err.startswith(f"podwire: {path}: ")
    assert err.endswith(f"(at byte {notice['offset']}; what came before is decoded)\n")
    assert err.count("\n") == 1
    assert notice["fatal"]
    assert len(whole) // 2 - 70_000 < notice["offset"] <= len(whole) // 2 + 3
    assert len(objects) > 100
    whole_out = run("decode", "--json", plain)[1].splitlines()
    ended = [line for line in out.splitlines() if '"kind":"call"' in line and '"state":"open"' not in line]
    assert ended == whole_out[: len(ended)]


def test_an_empty_capture_with_a_header_is_no_error(run: Run, plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "header.pcapng"
    length = int.from_bytes(plain.read_bytes()[4:8], "little")
    path.write_bytes(plain.read_bytes()[:length])
    for form in ("--text", "--json"):
        assert run("decode", form, path) == (0, "", "")


@pytest.mark.parametrize(
    "words", [("decode",), ("decode", "a", "-r", "b"), ("decode", "-c", "0", "a"), ("decode", "--calls", "x", "a")]
)
def test_bad_usage_is_status_2(run: Run, words: tuple[str, ...]) -> None:
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert "podwire" in err


def test_a_schema_that_is_not_there_is_one_line(run: Run, tmp_path: Path) -> None:
    status, out, err = run("decode", "--descriptor-set", tmp_path / "none.binpb", POD)
    assert (status, out) == (2, "")
    assert err.startswith("podwire: ")
    assert err.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error(plain: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tracer.cli", "decode", "--json", str(plain)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait(30) == 0


def test_output_in_an_ascii_locale_is_ascii(plain: Path) -> None:
    told = command("decode", plain, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (told.returncode, told.stderr) == (0, b"")
    assert told.stdout.isascii()
    assert b" -> " in told.stdout


def test_colours_come_on_a_terminal_alone_and_not_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    from tracer.output.look import Look

    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert Look.of(Terminal()) == Look(colour=True, unicode=True)
    assert Look.of(io.StringIO()).colour is False
    monkeypatch.setenv("NO_COLOR", "1")
    assert Look.of(Terminal()).colour is False
