"""What is written for the user is for them alone, and lies where they said."""

from __future__ import annotations

import os
import re
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from protos.errors import PodwireError
from tracer.cli import main
from tracer.files import create_output

CAPTURE = Path(__file__).parents[2] / "captures" / "own16-pod.pcapng.gz"
WORDS = {
    "export": ("export", str(CAPTURE), "--to", "json", "-o"),
    "story": ("story", "pod", str(CAPTURE), "--html"),
    "redact": ("redact", str(CAPTURE)),
}
"""Commands that write a file, whose name comes behind these words."""


def content_and_mode(path: Path) -> tuple[bytes, int]:
    return path.read_bytes(), stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_made_or_replaced_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for before in (None, b"what was there, and longer"):
        if before is not None:
            path.write_bytes(before)
            path.chmod(0o644)
        with open(create_output(str(path)), "wb") as file:
            file.write(b"new")
        assert content_and_mode(path) == (b"new", 0o600)


def test_what_is_not_to_be_replaced_stays(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(PodwireError, match=f"^{path}: File exists$"):
        create_output(str(path), replace=False)
    assert path.read_bytes() == b"old"
    os.close(create_output(str(tmp_path / "y"), replace=False))


def test_what_is_refused_leaves_no_descriptor(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(PodwireError, match=r"^-w FILE: is no regular file$"):
        create_output(str(tmp_path / "fifo"), name="-w FILE")
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_no_command_follows_a_link_or_writes_into_what_is_no_file(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link, there, fifo = tmp_path / "link", tmp_path / "there", tmp_path / "fifo"
    there.write_bytes(b"somebody's")
    link.symlink_to(there)
    os.mkfifo(fifo)
    for path, reason in (
        (link, "is a symbolic link, which is not followed"),
        (fifo, "is no regular file"),
        (tmp_path, "is no regular file"),
    ):
        assert main([*words, str(path)]) == 2
        assert capsys.readouterr() == ("", f"podwire: {path}: {reason}\n")
    assert there.read_bytes() == b"somebody's"
    assert link.is_symlink()
    assert fifo.is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["fifo", "link", "there"]


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_every_command_writes_for_its_user_alone(words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    path.chmod(0o644)
    assert main([*words, str(path)]) == 0
    content, mode = content_and_mode(path)
    assert mode == 0o600
    assert content not in (b"", b"old")


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_a_file_that_cannot_be_written_to_its_end_is_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    """export showed a traceback, redact no name."""
    path = tmp_path / "x"
    done = subprocess.run(
        [sys.executable, "-m", "tracer.cli", *words, str(path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert done.returncode == 2
    assert re.fullmatch(rf"podwire: {path}(\.partial)?: File too large\n", done.stderr)
