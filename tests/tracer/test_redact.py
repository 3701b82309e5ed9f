"""A redacted capture has no secret in it, decodes as the one before does when it is shown, and says what it blanked."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import pytest

from dissectors.nri_mux import build_frame as build_mux_frame
from dissectors.ttrpc_frames import build_frame
from dissectors.ttrpc_messages import build_request, build_response
from protos.registry import Registry
from tests.tracer.capture.files import ACK, SYN, enhanced, ethernet, interface, raw_block, section, tcp
from tests.tracer.made import TASK
from tests.tracer.written import Written
from tracer.capture.packets import Packet
from tracer.capture.reader import open_capture
from tracer.cli import main
from tracer.redact import Account, redact

CAPTURES = Path(__file__).parents[2] / "captures"
SECRET = b"hunter2-is-the-word"
REGISTRY = Registry.bundled()
RUNTIME = "runtime.v1.RuntimeService"


def redacted(path: Path) -> tuple[bytes, Account]:
    target = io.BytesIO()
    account = redact(str(path), target, REGISTRY)
    return target.getvalue(), account


def decoded(path: Path | str, *options: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tracer.cli", "decode", "--json", *options, str(path)]
    lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def create_container() -> bytes:
    request: Any = REGISTRY.message_class("runtime.v1.CreateContainerRequest")()
    request.config.metadata.name = "main"
    request.config.envs.add(key="WORD", value=SECRET)
    request.config.labels["filler"] = "x" * 3000
    return bytes(request.SerializeToString())


def checksum(packet: bytes) -> int:
    """What TCP's checksum is off by, of an IPv4 packet over Ethernet."""
    total = int.from_bytes(packet[16:18])
    covered = packet[26:34] + b"\0\x06" + (total - 20).to_bytes(2) + packet[34 : 14 + total]
    return int.from_bytes(covered + bytes(len(covered) % 2)) % 0xFFFF


class Client:
    """A gRPC client's side of a connection, in bytes."""

    def __init__(self) -> None:
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.connection.initiate_connection()

    def call(self, stream_id: int, payload: bytes, *, pieces: int = 1, encoding: str = "", **headers: str) -> None:
        named = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/{RUNTIME}/CreateContainer"),
            (":authority", "x"),
        ]
        more = [("content-type", "application/grpc"), ("authorization", f"Bearer {SECRET.decode()}"), *headers.items()]
        self.connection.send_headers(stream_id, named + more + ([("grpc-encoding", encoding)] if encoding else []))
        body = bytes((bool(encoding),)) + len(payload).to_bytes(4) + payload
        size = -(-len(body) // pieces)
        for at in range(0, len(body), size):
            self.connection.send_data(stream_id, body[at : at + size], end_stream=at + size >= len(body), pad_length=3)

    def sent(self) -> bytes:
        return self.connection.data_to_send()


@pytest.mark.parametrize("name", ["own16-pod", "ctrd2-pod", "ctrd2-nri"])
def test_a_recording_decodes_after_it_as_it_is_shown_before(name: str, tmp_path: Path) -> None:
    source = CAPTURES / f"{name}.pcapng.gz"
    data, account = redacted(source)
    (tmp_path / "out.pcapng").write_bytes(data)
    assert account.masked > 0
    assert not account.blanked
    assert decoded(tmp_path / "out.pcapng", "--show-secrets") == decoded(source)
    assert len(data) == len(gzip.decompress(source.read_bytes()))


def test_messages_in_pieces_padding_and_headers_are_masked(tmp_path: Path) -> None:
    client, written = Client(), Written()
    client.call(1, create_container(), pieces=3)
    client.call(3, create_container())
    written.open(1, "cri", "/run/containerd/containerd.sock")
    sent = client.sent()
    for at in range(0, len(sent), 700):
        written.send(1, 0, sent[at : at + 700], at)
    path = written.save(tmp_path / "in.pcapng", 10_000)
    data, account = redacted(path)
    assert SECRET in path.read_bytes()
    assert SECRET not in data
    assert account.masked == 2
    (tmp_path / "out.pcapng").write_bytes(data)
    with open_capture(str(tmp_path / "out.pcapng")) as capture:
        packets = [each.data for each in capture if isinstance(each, Packet)]
    assert {(checksum(packet), packet[52:54]) for packet in packets} == {(0, bytes(2))}  # with no urgent pointer
    for call in decoded(tmp_path / "out.pcapng", "--show-secrets"):
        env = call["messages"][0]["body"]["config"]["envs"]
        assert env == [{"key": "WORD", "value": "KioqKioqKioqKioqKioqKioqKg=="}]
        assert dict(call["metadata"])["authorization"] != f"Bearer {SECRET.decode()}"


@pytest.mark.parametrize("secret", [True, False])
def test_a_compressed_message_stays_if_it_has_no_secret_else_it_is_zeros(secret: bool, tmp_path: Path) -> None:
    client, written = Client(), Written()
    payload = create_container() if secret else b""
    packed = zlib.compressobj(wbits=31)
    client.call(1, packed.compress(payload) + packed.flush(), encoding="gzip")
    client.call(3, create_container())
    written.open(1, "cri", "/run/containerd/containerd.sock")
    written.send(1, 0, client.sent(), 0)
    data, _ = redacted(written.save(tmp_path / "in.pcapng", 1))
    (tmp_path / "out.pcapng").write_bytes(data)
    first, second = decoded(tmp_path / "out.pcapng", "--show-secrets")
    assert second["messages"][0]["body"]["config"]["metadata"] == {"name": "main"}
    assert first["messages"][0]["body"].keys() == ({"@error", "@base64"} if secret else set())


def test_of_an_unknown_method_numbers_stay_and_a_start_that_was_not_seen_is_one(tmp_path: Path) -> None:
    written = Written()
    written.open(1)
    request = build_request("acme.v1.Thing", "Do", b"\x08\x07\x12\x13" + SECRET, metadata=[("token", SECRET.decode())])
    written.send(1, 0, build_frame(1, 1, 0, request), 0)
    written.send(1, 1, build_frame(1, 2, 0, build_response(0, "", b"\x0a\x13" + SECRET)), 1)
    written.send(1, 1, build_frame(7, 2, 0, build_response(0, "", b"\x0a\x13" + SECRET)), 2)
    data, account = redacted(written.save(tmp_path / "in.pcapng", 3))
    assert SECRET not in data
    assert (account.masked, account.unreadable) == (3, 0)
    (tmp_path / "out.pcapng").write_bytes(data)
    call = decoded(tmp_path / "out.pcapng", "--show-secrets")[0]
    assert call["messages"][0]["guess"][0] == {"field": 1, "wire_type": "varint", "value": "7"}
    assert call["metadata"] == [["token", "*" * len(SECRET)]]


def test_a_plugins_connection_is_redacted_in_its_channels(tmp_path: Path) -> None:
    container = REGISTRY.message_class("nri.pkg.api.v1alpha1.CreateContainerRequest")()
    container.container.env.append(f"WORD={SECRET.decode()}")  # type: ignore[attr-defined] # made from the schema
    request = build_request("nri.pkg.api.v1alpha1.Plugin", "CreateContainer", container.SerializeToString())
    frame = build_frame(1, 1, 0, request)
    written = Written()
    written.open(1, "nri", "/run/nri/nri.sock")
    for at in (0, 40):  # one frame of ttrpc in two of the multiplexer
        written.send(1, 1, build_mux_frame(1, frame[at : at + 40] if not at else frame[at:]), at)
    data, account = redacted(written.save(tmp_path / "in.pcapng", 99))
    assert SECRET not in data
    assert (account.masked, account.blanked) == (1, {})
    (tmp_path / "out.pcapng").write_bytes(data)
    (call,) = decoded(tmp_path / "out.pcapng", "--show-secrets")
    assert call["messages"][0]["body"]["container"]["env"] == ["WORD=" + "*" * len(SECRET)]


@pytest.mark.parametrize("waits", [True, False])
def test_the_agents_calls_behind_a_vmms_handshake_are_redacted_and_other_ports_blanked(
    tmp_path: Path, waits: bool
) -> None:
    request: Any = REGISTRY.message_class("grpc.ExecProcessRequest")(container_id="c1")
    request.process.Args.extend(["sh"])
    request.process.Env.extend([f"PASSWORD={SECRET.decode()}", "HOME=/root"])
    ask = build_frame(1, 1, 0, build_request("grpc.AgentService", "ExecProcess", request.SerializeToString()))
    written = Written()
    for connection, port in ((1, 1024), (2, 1025)):
        written.open(connection, "agent", "/run/vc/vm/9f57/clh.sock")
        hello = b"CONNECT %d\n" % port
        written.send(connection, 0, hello if waits or port == 1025 else hello + ask, 0)
        written.send(connection, 1, b"OK 1073741824\n", 1000)
    if waits:
        written.send(1, 0, ask, 2000)
    written.send(1, 1, build_frame(1, 2, 0, build_response(0, "", b"")), 3000)
    written.send(1, 0, build_frame(3, 1, 0, build_request("grpc.AgentService", "DestroySandbox", b"")), 4000)
    written.send(2, 1, b"a line with " + SECRET + b"\n", 5000)
    data, account = redacted(written.save(tmp_path / "x", 6000))
    assert SECRET not in data
    (tmp_path / "y").write_bytes(data)
    before, after = decoded(tmp_path / "x"), decoded(tmp_path / "y")
    assert [each for each in after if each["kind"] == "call"] == [each for each in before if each["kind"] == "call"]
    assert len([each for each in after if each["kind"] == "call"]) == 2
    assert account.masked == 1
    assert account.blanked == {"connection 2, from the server": len(SECRET) + 13}


def test_what_a_gap_makes_unreadable_is_blanked_and_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    written = Written()
    written.open(1)
    frame = build_frame(1, 1, 0, build_request(TASK, "Exec", b"\x0a\x13" + SECRET))
    written.send(1, 0, frame[:-10], 0)
    written.lose(1, 0, 10)
    written.ask(1, 3, "State", 2, id="c")
    data, account = redacted(written.save(tmp_path / "in.pcapng", 3))
    assert SECRET[:9] not in data
    assert account.blanked == {"connection 1, from the client": len(frame) - 10}
    (tmp_path / "out.pcapng").write_bytes(data)
    assert any(each.get("method") == "State" for each in decoded(tmp_path / "out.pcapng"))


def foreign(*segments: tuple[int, bytes]) -> bytes:
    """A capture by somebody else: no comments, segments of a client to port 8088 by their place."""
    blocks = [section(), interface()]
    for number, (place, payload) in enumerate([(-1, b""), *segments]):
        data = ethernet(tcp(1000 + place, payload, SYN if place < 0 else ACK, ports=(40_000, 8088)))
        blocks.append(enhanced(data, number))
    return b"".join(blocks)


def test_segments_that_come_late_or_twice_are_redacted_at_each_place(tmp_path: Path) -> None:
    payload = b"\x0a\x13" + SECRET
    frame = build_frame(1, 1, 0, build_request("acme.v1.Thing", "Do", payload))
    half = len(frame) - 12
    path = tmp_path / "in.pcapng"
    path.write_bytes(foreign((half, frame[half:]), (0, frame[:half]), (0, frame), (10, frame[10:])))
    data, account = redacted(path)
    assert (account.masked, account.packets, account.blanked) == (1, 5, {})
    assert data.count(b"*" * len(SECRET)) == 2
    for size in (6, len(SECRET)):
        assert SECRET[-size:] not in data
        assert SECRET[:size] not in data


def test_what_is_no_tcp_is_blanked_and_foreign_blocks_are_left_out_and_both_are_said(tmp_path: Path) -> None:
    arp = ethernet(bytes(20) + SECRET, 0x0806)
    path = tmp_path / "in.pcapng"
    path.write_bytes(section() + interface() + enhanced(arp) + raw_block(10, SECRET))
    data, account = redacted(path)
    assert SECRET not in data
    assert account.blanked == {"packets that are no TCP segments": len(SECRET)}
    assert account.dropped == {"blocks of type 0xa": 1}
    with open_capture(str(path)) as before:
        (tmp_path / "out.pcapng").write_bytes(data)
        with open_capture(str(tmp_path / "out.pcapng")) as after:
            assert len(list(before)) == len(list(after)) == 1


def test_what_speaks_neither_protocol_is_blanked(tmp_path: Path) -> None:
    written = Written()
    written.open(1)
    written.send(1, 0, b"GET /" + SECRET + b" HTTP/1.1\r\n\r\n", 0)
    data, account = redacted(written.save(tmp_path / "in.pcapng", 3))
    assert SECRET not in data
    assert sum(account.blanked.values()) == len(SECRET) + 18


class TestCommand:
    def test_it_writes_a_file_for_its_owner_and_says_what_it_did(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = tmp_path / "out.pcapng"
        assert main(["redact", str(CAPTURES / "own16-pod.pcapng.gz"), str(target)]) == 0
        assert target.stat().st_mode & 0o777 == 0o600
        assert capsys.readouterr().err.startswith("podwire: 4 messages masked in 291 packets\n")
        assert list(tmp_path.iterdir()) == [target]

    def test_a_file_is_not_redacted_into_itself(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "in.pcapng"
        path.write_bytes((CAPTURES / "own16-pod.pcapng.gz").read_bytes())
        before = path.read_bytes()
        assert main(["redact", str(path), str(path)]) == 2
        assert "the same file" in capsys.readouterr().err
        assert path.read_bytes() == before

    @pytest.mark.parametrize("source", ["-", "missing.pcapng"])
    def test_what_cannot_be_read_twice_or_at_all_is_refused(
        self, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["redact", source, str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_breaks_off_is_redacted_up_to_there(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, target = tmp_path / "in.pcapng", tmp_path / "out.pcapng"
        whole = gzip.decompress((CAPTURES / "own16-pod.pcapng.gz").read_bytes())
        path.write_bytes(whole[:-1000])
        assert main(["redact", str(path), str(target)]) == 2
        assert "cut in the middle of a block" in capsys.readouterr().err
        assert target.stat().st_size > len(whole) - 5000
