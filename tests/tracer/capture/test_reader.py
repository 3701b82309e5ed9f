"""Capture files: whatever a path leads to is read, followed, or refused with one clear line."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from protos.errors import PodwireError
from tests.tracer.capture.files import enhanced, interface, read_pcapng, section, small_capture
from tests.tracer.capture.test_pcap import SAMPLE
from tracer.capture import reader
from tracer.capture.packets import Notice, Packet
from tracer.capture.reader import open_capture

SMALL = small_capture()
PACKETS = read_pcapng(SMALL)


def written(folder: Path, data: bytes) -> str:
    path = folder / "x.pcapng"
    path.write_bytes(data)
    return str(path)


def everything(path: str) -> list[Packet | Notice]:
    with open_capture(path) as capture:
        return list(capture)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_pcapng_file_is_read(tmp_path: Path, pack: type[bytes]) -> None:
    assert everything(written(tmp_path, pack(SMALL))) == PACKETS


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_pcap_file_is_read(tmp_path: Path, pack: type[bytes]) -> None:
    found = everything(written(tmp_path, pack(SAMPLE)))
    assert [each.data for each in found if isinstance(each, Packet)] == [b"one", b"", b"three"]


def test_a_gzip_file_may_have_several_members_and_zeros_behind_them(tmp_path: Path) -> None:
    members = b"".join(gzip.compress(SMALL[at : at + 100]) for at in range(0, len(SMALL), 100))
    assert everything(written(tmp_path, members + bytes(512))) == PACKETS


@pytest.mark.parametrize("chunk", [1, 3, 1_000])
def test_the_size_of_a_read_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(reader, "CHUNK", chunk)
    assert everything(written(tmp_path, SMALL)) == PACKETS
    assert everything(written(tmp_path, gzip.compress(SMALL))) == PACKETS


def test_a_gzip_file_that_is_cut_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    packed = gzip.compress(SMALL)
    found = everything(written(tmp_path, packed[:-9]))
    complete = [item for item in found if isinstance(item, Packet)]
    assert complete == PACKETS[: len(complete)]
    last = found[-1]
    assert isinstance(last, Notice)
    assert (last.text, last.fatal) == ("the gzip file is cut: the rest of it is missing", True)


def test_a_gzip_file_that_is_damaged_gives_what_came_before_and_says_where(tmp_path: Path) -> None:
    packed = gzip.compress(SMALL)
    found = everything(written(tmp_path, packed[:-8] + bytes(8)))
    assert found[:9] == PACKETS
    damage = [item for item in found if isinstance(item, Notice) and "damaged" in item.text]
    assert len(damage) == 1
    assert damage[0].fatal


def test_a_small_gzip_file_of_much_is_unpacked_piece_by_piece(tmp_path: Path) -> None:
    squeeze = zlib.compressobj(wbits=31)
    packed = squeeze.compress(section() + interface())
    zeros = enhanced(bytes(1 << 20))
    packed += b"".join(squeeze.compress(zeros) for _ in range(40)) + squeeze.flush()
    assert len(packed) < 100_000
    with open_capture(written(tmp_path, packed)) as capture:
        most = 0
        while not capture.at_end:
            most = max(most, len(capture.read_available()))
    assert most <= 2


def test_an_empty_capture_with_a_header_is_no_error(tmp_path: Path) -> None:
    assert everything(written(tmp_path, section() + interface())) == []
    assert everything(written(tmp_path, SAMPLE[:24])) == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty, no capture"),
        (b"hello, this is text\n", "is no pcapng or pcap file"),
        (b"\n\r", "is no pcapng or pcap file"),
        (gzip.compress(b"hello"), "is no pcapng or pcap file"),
        (gzip.compress(b""), "is no pcapng or pcap file"),
        (b"\x1f\x8bnot really", "the gzip data is damaged"),
        (b"\x34\xcd\xb2\xa1" + bytes(20), "editcap -F pcapng"),
        (b"\xa1\xb2\xcd\x34" + bytes(20), "editcap -F pcapng"),
    ],
)
def test_what_is_no_capture_is_refused_in_one_line(tmp_path: Path, data: bytes, says: str) -> None:
    path = written(tmp_path, data)
    with pytest.raises(PodwireError) as raised:
        open_capture(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_can_not_be_opened_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(PodwireError, match=r"nowhere: cannot be read: no such file or directory$"):
        open_capture(str(tmp_path / "nowhere"))
    with pytest.raises(PodwireError, match=r"cannot be read: is a directory$"):
        open_capture(str(tmp_path))


def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL)
    Path(path).chmod(0)
    code = "import os, sys; sys.path.insert(0, sys.argv[2])\n"
    code += (
        "from tracer.capture.reader import open_capture\nos.geteuid() or os.setuid(65534)\nopen_capture(sys.argv[1])"
    )
    visible = os.open(path, os.O_PATH)  # a path that another user can reach, whatever folder the test is in
    try:
        run = subprocess.run(
            [sys.executable, "-c", code, f"/proc/self/fd/{visible}", os.getcwd()],
            capture_output=True, text=True, pass_fds=[visible], check=False,
        )  # fmt: skip
    finally:
        os.close(visible)
    assert "permission denied" in run.stderr


def test_a_growing_file_is_followed_from_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, b"")
    found: list[Packet | Notice] = []
    with open_capture(path, follow=True) as capture, open(path, "ab", buffering=0) as out:
        assert capture.read_available() == []
        for at in range(0, len(SMALL), 37):
            out.write(SMALL[at : at + 37])
            found += capture.read_available()
            assert capture.read_available() == []
            assert capture.at_end
        assert capture.finish() == []
        assert (capture.position, capture.size) == (len(SMALL), len(SMALL))
    assert found == PACKETS


def test_a_followed_file_that_turns_out_to_be_no_capture_is_refused(tmp_path: Path) -> None:
    with open_capture(written(tmp_path, b"text that is none"), follow=True) as capture, pytest.raises(PodwireError):
        capture.read_available()


def test_after_a_fatal_notice_no_more_is_read(tmp_path: Path) -> None:
    with open_capture(written(tmp_path, SMALL + bytes(12) + SMALL * 3)) as capture:
        found = list(capture)
        assert capture.at_end
    assert found[:-1] == PACKETS
    assert found[-1] == Notice(len(SMALL), "a block can't be 0 bytes long", True)


READ_STANDARD_INPUT = """
import sys; sys.path.insert(0, sys.argv[1])
from tracer.capture.reader import open_capture
with open_capture("-") as capture:
    print(sum(1 for item in capture), capture.size)
"""


def test_standard_input_is_read_as_it_comes() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", READ_STANDARD_INPUT, os.getcwd()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        for at in range(0, len(SMALL), 400):
            process.stdin.write(SMALL[at : at + 400])
            process.stdin.flush()
        output, _ = process.communicate(timeout=30)
    assert output.split() == [b"9", b"0"]


def test_a_pipe_without_anything_in_it_is_not_waited_for() -> None:
    out, into = os.pipe()
    capture = reader.CaptureFile(out, "a pipe")
    try:
        assert capture.read_available() == []
        assert not capture.at_end
        os.write(into, SMALL)
        assert len(capture.read_available()) == 9
    finally:
        os.close(into)
        assert capture.read_available() == []
        assert capture.at_end
        capture.close()
