"""What is saved from the screen: the calls that are shown, in each form. What comes to no end leaves nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tracer.cli.live import run as podwire
from tests.tracer.tui.screen import CAPTURES, POD, Screen, run
from tracer.tui.session import NothingBehind

NRI = CAPTURES / "ctrd2-nri.pcapng.gz"


class Growing(NothingBehind):
    """A capture that is being written."""

    growing = True


def decoded(path: Path) -> list[dict[str, Any]]:
    done = podwire("decode", "--json", str(path))
    assert done.returncode == 0, done.stderr
    return decoded_lines(done.stdout)


def decoded_lines(text: str) -> list[dict[str, Any]]:
    return [found for found in map(json.loads, text.splitlines()) if "method" in found]


def bodies(call: dict[str, Any]) -> str:
    return json.dumps([call["hop"], call["method"], call["time"], call["duration_ns"], call["status"]])


def saved(path: Path, capture: Path, *before: str, filter: str = "", **setup: Any) -> str:
    """Save what a filter leaves; return what the screen said."""
    said = []

    async def play(screen: Screen) -> None:
        if filter:
            await screen.press("slash")
            await screen.type(filter)
        await screen.press(*before, "w")
        await screen.type(str(path))
        said.append(screen.footer)

    run(play, capture, size=(240, 30), **setup)
    return said[0]


@pytest.mark.parametrize(("capture", "filter"), [(POD, 'call.hop == "task"'), (NRI, 'call.hop == "nri"')])
def test_a_part_as_a_capture_stands_alone(capture: Path, filter: str, tmp_path: Path) -> None:
    part = tmp_path / "part.pcapng"
    said = saved(part, capture, filter=filter)
    wanted = [bodies(call) for call in decoded(capture) if f'== "{call["hop"]}"' in filter]
    assert f"part.pcapng: {len(wanted)} calls saved, with all else on their " in said
    assert "secrets too" in said
    found = [bodies(call) for call in decoded(part)]
    assert wanted
    assert set(wanted) <= set(found)
    assert {json.loads(each)[0] for each in found} == {json.loads(wanted[0])[0]}
    assert stat.S_IMODE(part.stat().st_mode) == 0o600


def test_json_is_what_decode_has_of_these_calls(tmp_path: Path) -> None:
    filter = 'call.method == "Start" || call.method == "Version"'
    said = saved(tmp_path / "some.jsonl", POD, filter=filter)
    wanted = podwire("decode", "--json", "-Y", filter, str(POD)).stdout
    assert '"pod"' in wanted
    assert f"some.jsonl: {wanted.count(chr(10))} calls saved" in said
    assert (tmp_path / "some.jsonl").read_text() == wanted


def test_the_marked_ones_alone_are_saved(tmp_path: Path) -> None:
    assert "marked.txt: 2 calls saved" in saved(tmp_path / "marked.txt", POD, "m", "j", "j", "m", "M")
    assert len((tmp_path / "marked.txt").read_text().splitlines()) == 2


def test_all_of_a_capture_is_its_very_bytes(tmp_path: Path) -> None:
    assert "all of the capture saved" in saved(tmp_path / "all.pcapng", POD)
    assert (tmp_path / "all.pcapng").read_bytes() == gzip.decompress(POD.read_bytes())


def test_of_a_capture_that_grows_there_is_what_it_has_by_now(tmp_path: Path) -> None:
    growing = tmp_path / "growing.pcapng"
    growing.write_bytes(gzip.decompress(POD.read_bytes())[:-300])  # in the middle of a block
    for name, filter in (("all", ""), ("part", 'call.hop == "cri"')):
        said = saved(tmp_path / f"{name}.pcapng", growing, filter=filter, behind=Growing(str(growing)))
        assert "saved" in said
        assert "breaks off" not in said
        assert podwire("decode", str(tmp_path / f"{name}.pcapng")).returncode == 0
    assert len(decoded(tmp_path / "all.pcapng")) >= 100


def test_of_a_ring_calls_are_found_whichever_of_its_files_are_gone_by_then(tmp_path: Path) -> None:
    ring = tmp_path / "ring.pcapng"
    files = [tmp_path / f"ring_0000{number}_20260101000000.pcapng" for number in (1, 2)]
    for path, option in zip(files, ("--until", "--since"), strict=True):
        assert podwire("export", str(POD), option, "0.3", "-o", str(path)).returncode == 0
    whole = [call for call in decoded(ring) if call["hop"] == "task"]
    later = sorted(bodies(call) for call in decoded(files[1]) if call["hop"] == "task")
    assert 0 < len(later) < len(whole)

    async def play(screen: Screen) -> None:
        await screen.press("slash")
        await screen.type('call.hop == "task"')
        files[0].unlink()
        await screen.press("w")
        await screen.type(f"{tmp_path}/part.json")
        assert f"{len(later)} calls saved of {len(whole)}: files of the ring are gone" in screen.footer

    run(play, ring, size=(240, 30))
    assert sorted(map(bodies, decoded_lines((tmp_path / "part.json").read_text()))) == later


def test_a_capture_that_breaks_off_says_so(tmp_path: Path) -> None:
    cut = tmp_path / "cut.pcapng"
    cut.write_bytes(gzip.decompress(POD.read_bytes())[:-300])
    assert "the capture breaks off" in saved(tmp_path / "part.json", cut, filter='call.hop == "cri"')


def test_nothing_is_overwritten_and_no_form_is_guessed(tmp_path: Path) -> None:
    (tmp_path / "there.pcapng").write_text("mine")
    assert "there.pcapng: File exists" in saved(tmp_path / "there.pcapng", POD)
    assert (tmp_path / "there.pcapng").read_text() == "mine"
    assert "its name has to end in .json, .txt or .pcapng" in saved(tmp_path / "what.xml", POD)
    assert "No such file or directory" in saved(tmp_path / "no" / "folder.json", POD)


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A capture of which nothing comes: whoever saves it waits. What is saved comes into its folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "silent"
    os.mkfifo(path)
    yield path
    path.unlink()


def test_keys_are_answered_while_it_is_saved_and_leaving_asks_once(silent: Path, tmp_path: Path) -> None:
    async def play(screen: Screen) -> None:
        keys = screen.pilot.press
        await keys("w", *"x.json", "enter")
        await keys("j", "j")
        assert screen.row == 2
        assert (tmp_path / "x.json").exists()
        await keys("w", *"y.json", "enter")
        assert "another file is still being saved" in screen.footer
        await keys("q")
        assert "a file is still being saved: leave once more to give it up" in screen.footer
        await keys("q")

    app = run(play, POD, path=str(silent))
    assert app.return_value == "leave"
    assert not (tmp_path / "x.json").exists()
    assert not (tmp_path / "y.json").exists()


def test_a_saver_that_is_killed_is_said_and_leaves_no_file(silent: Path, tmp_path: Path) -> None:
    async def play(screen: Screen) -> None:
        await screen.pilot.press("w", *"x.json", "enter")
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        async with asyncio.timeout(60):
            while not (pids := children.read_text().split()):
                await asyncio.sleep(0.01)
        for pid in pids:
            os.kill(int(pid), 9)
        await screen.app.workers.wait_for_complete()
        await screen.pilot.pause()
        assert "x.json: the process that saves was killed" in screen.footer

    run(play, POD, path=str(silent), size=(240, 30))
    assert not (tmp_path / "x.json").exists()
