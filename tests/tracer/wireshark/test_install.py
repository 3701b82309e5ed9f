"""`podwire wireshark`: what it writes, what tshark makes of it, and that nothing of the user's own is touched."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from protos.errors import PodwireError
from tests.tracer.capture.files import Capture
from tracer.cli import main
from tracer.wireshark import profile
from tracer.wireshark.folders import Folders, read_folders
from tracer.wireshark.install import install, is_installed, uninstall

OF_4_0 = """Temp:                \t/tmp
Personal configuration:\t/home/user/.config/wireshark
Personal Plugins:    \t/home/user/.local/lib/wireshark/plugins/4.0
Personal Lua Plugins:\t/home/user/.local/lib/wireshark/plugins
Extcap path:         \t/usr/lib/x86_64-linux-gnu/wireshark/extcap
MaxMind database path:\t/usr/share/GeoIP
"""
OF_4_4 = """Personal configuration:\t/home/user/.config/wireshark
Personal Plugins:    \t/home/user/.local/lib/wireshark/plugins/4-4
Personal Lua Plugins:\t/home/user/.local/lib/wireshark/plugins
Personal Extcap path:\t/home/user/.local/lib/wireshark/extcap
Global Extcap path:  \t/usr/lib/wireshark/extcap
"""


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "config", tmp_path / "plugins", tmp_path / "extcap", False, "/usr/lib/extcap")


def everything(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without any file, who has tshark."""
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")
    for name in [name for name in os.environ if name.startswith(("XDG_", "WIRESHARK_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def tshark(*words: str | Path) -> list[str]:
    done = subprocess.run(["tshark", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    complaints = [line for line in done.stderr.splitlines() if "Running as user" not in line]
    assert complaints == []
    return done.stdout.splitlines()


def test_folders_are_where_each_version_says() -> None:
    lua = Path("/home/user/.local/lib/wireshark/plugins")
    old = read_folders(OF_4_0)
    assert old == Folders(
        Path("/home/user/.config/wireshark"),
        lua,
        lua.parent / "extcap",
        False,
        "/usr/lib/x86_64-linux-gnu/wireshark/extcap",
    )
    new = read_folders(OF_4_4)
    assert new.extcap == Path("/home/user/.local/lib/wireshark/extcap")
    assert new.extcap_is_searched


def test_what_does_not_say_its_folders_is_a_mistake() -> None:
    with pytest.raises(PodwireError, match="does not say"):
        read_folders("Temp:\t/tmp\n")


def test_what_is_installed_goes_again_and_the_users_own_stays(folders: Folders, tmp_path: Path) -> None:
    own = {
        folders.configuration / "preferences": "gui.x: 1\n",
        folders.configuration / "profiles" / "mine" / "colorfilters": "@x@tcp@[0,0,0][1,1,1]\n",
        folders.plugins / "mine.lua": "-- mine\n",
    }
    for path, text in own.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    before = everything(tmp_path)
    written = install(folders)
    assert is_installed(folders)
    assert {str(path.relative_to(tmp_path)) for path in written} == everything(tmp_path).keys() - before.keys()
    assert {name: text for name, text in everything(tmp_path).items() if name in before} == before
    assert stat.S_IMODE((folders.extcap / "podwire").stat().st_mode) == 0o755
    assert sorted(uninstall(folders)) == sorted(written)
    assert everything(tmp_path) == before
    assert not (folders.configuration / "profiles" / "podwire").exists()
    assert uninstall(folders) == []


def test_what_the_user_put_into_the_profile_stays(folders: Folders) -> None:
    install(folders)
    kept = folders.configuration / "profiles" / "podwire" / "recent"
    kept.write_text("x")
    uninstall(folders)
    assert kept.read_text() == "x"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PodwireError, match="cannot be written"):
        install(Folders(tmp_path / "file", tmp_path, tmp_path, True, ""))


@pytest.mark.tshark
def test_tshark_takes_the_profile_and_shows_what_it_is_for(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.dissectors.test_wireshark import request, response

    assert main(["wireshark", "install"]) == 0
    assert "WIRESHARK_EXTCAP_DIR" in capsys.readouterr().err
    capture = Capture("task").open().data(0, 0, request(1)).data(1, 0, response(1, code=5, text="gone"), after_ns=10**6)
    path = home / "x.pcapng"
    path.write_bytes(capture.finish())
    *_, asked, answered = tshark("-C", "podwire", "-r", path)
    assert "kubelet → containerd" in asked
    assert "ttrpc State" in asked
    assert "ttrpc State NOT_FOUND 0.001000000" in answered


@pytest.mark.tshark
def test_every_filter_of_the_profile_is_one(home: Path) -> None:
    path = home / "x.pcapng"
    path.write_bytes(Capture().open().finish())
    rules = [rule for _, rule, _, _ in profile.COLOURS] + [rule for _, rule, _ in profile.BUTTONS]
    for rule in rules:
        tshark(*profile.options(), "-r", path, "-Y", rule)


@pytest.mark.tshark
def test_the_command_line_that_is_printed_does_the_same(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.dissectors.test_wireshark import request

    path = home / "a capture.pcapng"
    path.write_bytes(Capture("task").open().data(0, 0, request(1)).finish())
    assert main(["wireshark", "--print", str(path)]) == 0
    program, *words = shlex.split(capsys.readouterr().out)
    assert program == "tshark"
    assert "State" in tshark(*words, "-Y", "ttrpc")[0]
    assert not (home / ".config").exists()


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wireshark"]) == 2
    assert main(["wireshark", str(tmp_path / "none.pcapng")]) == 2
    assert [line.startswith("podwire: ") for line in capsys.readouterr().err.splitlines()] == [True, True]


def test_without_tshark_install_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["wireshark", "install"]) == 2
    assert capsys.readouterr().err == "podwire: tshark is not installed\n"


def test_wireshark_is_started_with_the_file_and_all_that_it_needs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "x.pcapng"
    path.write_bytes(Capture().open().finish())
    tools = home / "bin"
    tools.mkdir()
    (tools / "wireshark").write_text("#!/bin/sh\n")
    (tools / "wireshark").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words))
    main(["wireshark", str(path)])
    assert started[-1][1:] == [*profile.options(), "-r", str(path)]
    main(["wireshark", "install"])
    main(["wireshark", str(path)])
    assert started[-1][1:] == ["-C", "podwire", "-r", str(path)]
