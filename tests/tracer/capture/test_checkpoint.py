from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tracer.capture.checkpoint import Checkpoint


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    yield fd
    os.close(fd)


def test_the_last_that_was_kept_is_found_by_who_comes_after(memory: int) -> None:
    assert Checkpoint(memory).load() is None
    for what in ({"a": 1}, ["b"], "c"):
        Checkpoint(memory).save(what)
        assert Checkpoint(memory).load() == what
    one = Checkpoint(memory)
    one.save(None)
    assert one.load() is None


@pytest.mark.parametrize("bytes_written", [1, 15, 30])
def test_one_that_was_killed_while_it_wrote_leaves_the_one_before(
    memory: int, monkeypatch: pytest.MonkeyPatch, bytes_written: int
) -> None:
    one = Checkpoint(memory)
    for number in range(4):
        one.save(f"the last one that is whole, {number}")
    with monkeypatch.context() as patched:

        def torn(fd: int, parts: list[bytes], place: int) -> int:
            return os.pwrite(fd, b"".join(parts)[:bytes_written], place)

        patched.setattr(os, "pwritev", torn)
        one.save("what is torn, and longer than the others are")
    assert Checkpoint(memory).load() == "the last one that is whole, 3"


def test_where_there_is_no_memory_nothing_is_kept(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Checkpoint(memory)
    one.save("old")

    def fails(*_: object) -> int:
        raise OSError

    monkeypatch.setattr(os, "pwritev", fails)
    one.save("new")
    assert Checkpoint(memory).load() is None


def test_cleared_it_takes_no_memory(memory: int) -> None:
    one = Checkpoint(memory)
    one.save(bytes(1 << 20))
    one.clear()
    assert os.fstat(memory).st_blocks == 0
    assert Checkpoint(memory).load() is None
    one.save("more")
    assert Checkpoint(memory).load() == "more"
