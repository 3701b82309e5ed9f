"""gRPC over TCP as tcpdump captures it while grpcio talks: whole, shuffled, with segments lost, joined midway."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from tests.tracer.cli.live import REGISTRY, SERVICE, message
from tracer.capture.link import Segment, segment
from tracer.capture.packets import Packet
from tracer.capture.pcap import PcapReader

ROOT = Path(__file__).parents[3]
CONNECTIONS, CALLS = 6, 40
LAST = b"podwire: the last of it"
HEADER = 24
RECORD = struct.Struct("<4I")


class Truth(NamedTuple):
    """A pcap file's header, its records, and what was said."""

    header: bytes
    records: list[bytes]
    answers: dict[str, str]


def answer_for(version: str) -> str:
    return version + "x" * random.Random(version).randrange(3000)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Calls of grpcio over the loopback, captured by tcpdump."""
    if os.geteuid() or shutil.which("tcpdump") is None:
        pytest.skip("needs root and tcpdump")

    def version(request: Any, _context: Any) -> Any:
        return message("VersionResponse", version=request.version, runtime_version=answer_for(request.version))

    kind = REGISTRY.message_class("runtime.v1.VersionRequest")
    handler = grpc.unary_unary_rpc_method_handler(version, kind.FromString, lambda each: each.SerializeToString())
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Version": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    path = tmp_path_factory.mktemp("tcpdump") / "x.pcap"
    command = ["tcpdump", "-i", "lo", "-U", "-w", str(path), "tcp", "port", str(port)]
    watching = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert watching.stderr is not None
    try:
        while "listening" not in (line := watching.stderr.readline()):
            if not line:
                pytest.skip("tcpdump cannot capture here")
        answers: dict[str, str] = {}
        for connection in range(CONNECTIONS):
            answers |= talk(port, connection)
        with socket.create_connection(("127.0.0.1", port)) as last:  # once it is in the file, all before it is
            last.sendall(LAST)
            own = last.getsockname()[1].to_bytes(2, "big")
            until = time.monotonic() + 20
            while LAST not in path.read_bytes():
                assert time.monotonic() < until
                time.sleep(0.05)
        server.stop(0).wait()
        watching.terminate()
        watching.communicate(timeout=20)
    finally:
        watching.kill()
        watching.wait()
    data = path.read_bytes()
    records, at = [], HEADER
    while at < len(data):
        size = RECORD.size + RECORD.unpack_from(data, at)[2]
        records.append(data[at : at + size])
        at += size
    known = Truth(data[:HEADER], records, answers)
    return known._replace(records=[each for each in records if own not in segment_of(known, each).key[-4:]])


def talk(port: int, connection: int) -> dict[str, str]:
    """Make a connection's calls, many at once; return what has to be answered to each."""
    kind = REGISTRY.message_class("runtime.v1.VersionResponse")
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_unary(f"/{SERVICE}/Version", lambda each: each.SerializeToString(), kind.FromString)
        names = [f"{connection}-{number}" for number in range(CALLS)]
        futures = [call.future(message("VersionRequest", version=name), metadata=[("n", name)]) for name in names]
        for name, future in zip(names, futures, strict=True):
            assert future.result(20).version == name
    return {name: answer_for(name) for name in names}


def decoded(folder: Path, truth: Truth, records: list[bytes]) -> list[dict[str, Any]]:
    path = folder / "y.pcap"
    path.write_bytes(truth.header + b"".join(records))
    command = [sys.executable, "-m", "tracer.cli", "decode", "--json", "--show-secrets", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(truth: Truth, found: list[dict[str, Any]]) -> set[str]:
    """Nothing is wrong: each message is one that was sent, in its own call. Return the calls that are whole."""
    whole = set()
    for call in found:
        if call["kind"] != "call":
            continue
        assert call["method"] in ("Version", "", "(unknown)")
        name = dict(call.get("metadata", [])).get("n")
        for each in call["messages"]:
            body = each.get("body")
            if body is None:
                continue
            name = name if name in truth.answers else body["version"]
            assert body["version"] == name
            if each["direction"] == "response":
                assert body["runtime_version"] == truth.answers[name]
        if call["status"] is not None and len(call["messages"]) == 2 and name is not None:
            assert call["status"] == {"code": 0, "name": "OK"}
            whole.add(name)
    return whole


def segment_of(truth: Truth, record: bytes) -> Segment:
    (packet,) = PcapReader().feed(truth.header + record)
    assert isinstance(packet, Packet)
    found = segment(packet.link_type, packet.data)
    assert isinstance(found, Segment)
    return found


def payload_of(truth: Truth, record: bytes) -> int:
    """Bytes of TCP payload in a record."""
    return len(segment_of(truth, record).payload)


def shuffled(records: list[bytes], dice: random.Random) -> list[bytes]:
    """Move some packets a few places on: answers before their questions, bytes before their handshake."""
    places = [at + (dice.random() < 0.2) * dice.uniform(1, 6) for at in range(len(records))]
    return [record for _, record in sorted(zip(places, records, strict=True), key=lambda pair: pair[0])]


def recut(truth: Truth, record: bytes, dice: random.Random) -> list[bytes]:
    """A segment as it may be sent again: in two pieces."""
    found = segment_of(truth, record)
    if len(found.payload) < 2 or found.flags & 7:
        return [record]
    cut, pieces = dice.randrange(1, len(found.payload)), []
    start = len(record) - len(found.payload)
    ip = RECORD.size + 14
    for begin, end in ((0, cut), (cut, len(found.payload))):
        head = bytearray(record[:start])
        at = head.index(found.sequence.to_bytes(4), ip + 20)
        head[at : at + 4] = (found.sequence + begin & 0xFFFFFFFF).to_bytes(4)
        size = len(head) - RECORD.size + end - begin
        head[8:16] = struct.pack("<II", size, size)
        head[ip + 2 : ip + 4] = (size - 14).to_bytes(2)
        pieces.append(bytes(head) + found.payload[begin:end])
    return pieces


@pytest.mark.root
def test_all_calls_are_decoded(truth: Truth, tmp_path: Path) -> None:
    assert check(truth, decoded(tmp_path, truth, truth.records)) == truth.answers.keys()


@pytest.mark.root
@pytest.mark.parametrize("seed", range(4))
def test_packets_that_are_swapped_or_sent_again_in_other_pieces_change_nothing(
    truth: Truth, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    records = shuffled(truth.records, dice)
    assert records != truth.records
    for at in reversed(range(len(records))):
        if dice.random() < 0.02:
            records[at + 1 : at + 1] = [*records[at + 1 : at + 3], *recut(truth, records[at], dice)]
    found = decoded(tmp_path, truth, records)
    assert check(truth, found) == truth.answers.keys()
    assert [each for each in found if each["kind"] == "gap"] == []


@pytest.mark.root
@pytest.mark.parametrize("seed", range(6))
def test_of_a_capture_that_lost_segments_nothing_is_wrong_and_what_is_lost_is_named(
    truth: Truth, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    records, lost = [], 0
    for record in truth.records:
        size = payload_of(truth, record)
        if size and dice.random() < 0.01:
            lost += size
        else:
            records.append(record)
    found = decoded(tmp_path, truth, shuffled(records, dice))
    whole = check(truth, found)
    assert sum(each["kind"] == "call" for each in found) <= CALLS * CONNECTIONS
    gaps = [each for each in found if each["kind"] == "gap"]
    assert sum(each.get("length", 0) for each in gaps if each["reason"] == "lost") == lost
    touched = {each["connection"] for each in gaps}
    for call in found:
        if call["kind"] == "call" and call["connection"] not in touched:
            assert dict(call["metadata"])["n"] in whole
    assert len(whole) >= CALLS * (CONNECTIONS - len(touched))


@pytest.mark.root
@pytest.mark.parametrize("part", [0.05, 0.1, 0.3, 0.5])
def test_a_capture_that_begins_in_the_middle_has_unknown_names_and_no_wrong_ones(
    truth: Truth, tmp_path: Path, part: float
) -> None:
    records = truth.records[int(len(truth.records) * part) :]
    whole = check(truth, decoded(tmp_path, truth, records))
    later = {name for name in truth.answers if int(name.split("-")[0]) > CONNECTIONS * part + 1}
    assert later <= whole
