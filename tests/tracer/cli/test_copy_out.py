"""What `-w -` writes: whole blocks of a ring's files, through what stands between, to a reader that may be gone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path

import pytest

from tests.tracer.capture.files import small_capture
from tracer.capture.ring import Ring
from tracer.cli.copy_out import CopyOut, whole_blocks

DATA = small_capture()


class Counted:
    """Passes everything on, and an end of its own."""

    def __init__(self) -> None:
        self.fed = 0

    def feed(self, data: bytes) -> bytes:
        self.fed += 1
        return data

    def finish(self) -> bytes:
        return b"end"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        with suppress(OSError):  # the test may have closed it
            os.close(fd)


def file_of(ring: Ring, number: int) -> Path:
    return Path(ring.name(number))


def test_a_block_that_is_written_anew_goes_out_once(tmp_path: Path, pipe: tuple[int, int]) -> None:
    ring = Ring(str(tmp_path / "x.pcapng"))
    path = file_of(ring, 1)
    path.write_bytes(DATA[:-30])
    copy = CopyOut(ring, pipe[1])
    assert copy.copy()
    first = os.read(pipe[0], 1 << 16)
    assert DATA.startswith(first)
    assert len(DATA) - 200 < len(first) < len(DATA) - 30
    path.write_bytes(DATA[: len(first)] + bytes(3))  # what was no block is another one now
    assert copy.copy()
    path.write_bytes(DATA)
    assert copy.finish(1) == 0
    assert first + os.read(pipe[0], 1 << 16) == DATA


def test_the_next_file_follows_once_the_one_before_is_read(tmp_path: Path, pipe: tuple[int, int]) -> None:
    ring = Ring(str(tmp_path / "x.pcapng"))
    file_of(ring, 1).write_bytes(DATA)
    stage = Counted()
    copy = CopyOut(ring, pipe[1], stage)
    file_of(ring, 2).write_bytes(DATA)
    file_of(ring, 3).write_bytes(b"")
    assert copy.copy()
    assert copy.finish(1) == 0
    assert os.read(pipe[0], 1 << 16) == DATA + DATA + b"end"
    fed = stage.fed
    assert fed >= 3  # also of nothing: time has passed


def test_a_file_that_is_removed_before_its_turn_is_counted(tmp_path: Path, pipe: tuple[int, int]) -> None:
    ring = Ring(str(tmp_path / "x.pcapng"))
    file_of(ring, 1).write_bytes(DATA)
    copy = CopyOut(ring, pipe[1])
    file_of(ring, 2).write_bytes(DATA)
    with suppress(BlockingIOError):  # its reader is slow
        while True:
            os.write(pipe[1], bytes(4096))
    assert not copy.copy()
    assert copy.lost == 0
    file_of(ring, 2).unlink()
    file_of(ring, 3).write_bytes(DATA)
    os.set_blocking(pipe[0], False)
    with suppress(BlockingIOError):
        while True:
            os.read(pipe[0], 1 << 16)
    assert copy.copy()
    assert copy.lost == len(DATA)
    copy.finish(1)


def test_a_block_longer_than_what_is_read_at_once_is_whole(tmp_path: Path) -> None:
    size = 200_000
    block = (0x0BAD).to_bytes(4, "little") + size.to_bytes(4, "little") + bytes(size - 12) + size.to_bytes(4, "little")
    (tmp_path / "x").write_bytes(DATA + block + DATA + block[:-1])
    with FileIO(tmp_path / "x") as file:
        assert b"".join(iter(lambda: whole_blocks(file), b"")) == DATA + block + DATA


def test_a_reader_that_is_gone_is_noticed_although_there_is_nothing_to_write(
    tmp_path: Path, pipe: tuple[int, int]
) -> None:
    ring = Ring(str(tmp_path / "x.pcapng"))
    file_of(ring, 1).write_bytes(b"")
    copy = CopyOut(ring, pipe[1])
    assert copy.copy()
    os.close(pipe[0])
    with pytest.raises(BrokenPipeError):
        copy.copy()
