"""sockdump's pcap: made here of a real runtime's connections, since sockdump needs a kernel with eBPF and its headers.

Its form is as its source has it: records of the native order, link type 147, before each write the reader's pid and the
writer's as big-endian numbers of eight bytes, and the true length of a write that was cut.
"""

from __future__ import annotations

import gzip
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tracer.cli.live import run
from tracer.calls import Call, CallUpdate, State
from tracer.capture.flows import FlowData, FlowTable
from tracer.capture.growing import open_recorded
from tracer.capture.packets import Packet
from tracer.capture.sockdump import HEADER, MOST_PID, DumpTable, Written
from tracer.pipeline import Decoder

CAPTURE = Path(__file__).parents[3] / "captures" / "own16-pod.pcapng.gz"
SEGMENT = 51_200
Write = tuple[int, int, int, bytes]
"""Time, reader, writer, bytes."""


def writes() -> list[Write]:
    """What was written on each connection of the recording, those of one pair of processes told apart by their pids."""
    table, found = FlowTable(), []
    with open_recorded(str(CAPTURE)) as capture:
        for item in capture:
            for event in table.feed(item) if isinstance(item, Packet) else ():
                if isinstance(event, FlowData) and event.data:
                    client, server = 1000 + event.flow.id, 50
                    reader, writer = (client, server) if event.direction else (server, client)
                    found.append((event.time_ns, reader, writer, event.data))
    return found


def dump(path: Path, written: list[Write], segment: int = SEGMENT) -> Path:
    with path.open("wb") as out:
        out.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, segment, 147))
        for time_ns, reader, writer, data in written:
            record = struct.pack(">QQ", reader, writer) + data[:segment]
            second, rest = divmod(time_ns, 10**9)
            out.write(struct.pack("=IIII", second, rest // 1000, len(record), len(data) + 16) + record)
    return path


def calls(path: Path) -> list[Call]:
    decoder, found = Decoder(), []
    with open_recorded(str(path)) as capture:
        for updates in [*(decoder.feed(item) for item in capture), decoder.finish()]:
            found += [each.call for each in updates if isinstance(each, CallUpdate) and each.kind == "opened"]
    return found


def told(call: Call) -> tuple[str, str, object, list[tuple[bool, bytes | None]]]:
    messages = [(bool(message.direction), message.payload) for message in call.messages]
    return call.service, call.method, call.status and call.status.code, messages


def test_a_runtimes_calls_are_those_of_its_own_capture(tmp_path: Path) -> None:
    found, true = calls(dump(tmp_path / "dump.pcap", writes())), calls(CAPTURE)
    assert sorted(map(repr, map(told, found))) == sorted(map(repr, map(told, true)))
    assert {call.flow.client.pid for call in found} == {1000 + call.flow.id for call in true}
    done = run("decode", str(tmp_path / "dump.pcap"))
    assert done.returncode == 0
    assert "RunPodSandbox" in done.stdout


def test_a_write_that_was_cut_is_a_gap_of_its_size(tmp_path: Path) -> None:
    written = writes()
    at = next(number for number, (_, reader, _, data) in enumerate(written) if len(data) > 400 and reader == 50)
    path = dump(tmp_path / "dump.pcap", written[: at + 1], segment=300)
    decoder = Decoder()
    with open_recorded(str(path)) as capture:
        updates = [update for item in capture for update in decoder.feed(item)]
    gaps = [update.length for update in updates if update.kind == "gap"]
    assert len(written[at][3]) - 300 in gaps


@pytest.mark.tshark
def test_wireshark_may_have_saved_it_as_pcapng(tmp_path: Path) -> None:
    path = dump(tmp_path / "dump.pcap", writes(), segment=300)
    subprocess.run(["editcap", "-F", "pcapng", str(path), str(tmp_path / "dump.pcapng")], check=True)
    assert [told(call) for call in calls(tmp_path / "dump.pcapng")] == [told(call) for call in calls(path)]
    assert any(call.gap for call in calls(path))


def test_who_asks_is_the_client_also_where_the_capture_begins_with_an_answer() -> None:
    answer = struct.pack(">IIBB", 3, 1, 2, 0) + b"abc"
    assert DumpTable().feed(HEADER.pack(7, 9) + answer, 0) == Written(7, 9, 1, answer, 0, True)
    assert DumpTable().feed(HEADER.pack(7, 9) + b"PRI * HTTP/2.0\r\n", 0) == Written(
        9, 7, 0, b"PRI * HTTP/2.0\r\n", 0, True
    )


def test_a_preface_begins_another_connection_of_the_same_two(tmp_path: Path) -> None:
    written = [each for each in writes() if 1001 in each[1:3]]
    twice = [*written, *((time_ns + 10**9, reader, writer, data) for time_ns, reader, writer, data in written)]
    once = calls(dump(tmp_path / "once.pcap", written))
    both = calls(dump(tmp_path / "twice.pcap", twice))
    assert [told(call)[:3] for call in both] == [told(call)[:3] for call in once] * 2
    assert len({call.flow.id for call in both}) == 2
    cut = calls(dump(tmp_path / "cut.pcap", [*written[: len(written) // 2], *twice[len(written) :]]))
    assert State.CUT in {call.state for call in cut if call.flow.id == 1}  # that connection has ended
    assert len(cut) > len(once)


@pytest.mark.parametrize("pids", [(0, 0), (1, MOST_PID + 1), (MOST_PID + 1, 1)])
def test_user0_of_others_is_passed_over(pids: tuple[int, int]) -> None:
    assert DumpTable().feed(HEADER.pack(*pids) + b"x", 0) == "link type 147"


@given(st.lists(st.binary(max_size=40)))
def test_any_bytes_raise_nothing(packets: list[bytes]) -> None:
    table = FlowTable()
    for data in packets:
        table.feed(Packet(1, 1, None, 147, data, "", 0, 0, 3))


def test_a_pcapng_with_times_in_nanoseconds_says_what_was_cut_too(tmp_path: Path) -> None:
    data = bytearray(gzip.decompress(CAPTURE.read_bytes()))
    with open_recorded(str(CAPTURE)) as capture:
        at = next(item.offset for item in capture if isinstance(item, Packet) and not item.comment)
    (original,) = struct.unpack_from("<I", data, at + 24)
    struct.pack_into("<I", data, at + 24, original + 77)
    path = tmp_path / "cut.pcapng"
    path.write_bytes(data)
    with open_recorded(str(path)) as capture:
        packets = [item for item in capture if isinstance(item, Packet)]
    assert [packet.missing for packet in packets if not packet.comment][:3] == [77, 0, 0]
