"""The Lua dissector: in tshark on captures made here, and in plain Lua of both versions with a stand-in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from dissectors.nri_mux import build_frame as build_mux
from dissectors.ttrpc_frames import build_frame
from dissectors.ttrpc_messages import build_request, build_response
from protos.registry import Registry
from tests.tracer.capture.files import Capture

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "dissectors" / "wireshark" / "ttrpc.lua"
SCHEMAS = ROOT / "protos" / "schemas"
STUB = Path(__file__).with_name("wireshark_stub.lua")
TASK = "containerd.task.v3.Task"
REQUEST, RESPONSE, DATA = 1, 2, 3

Piece = tuple[int, bytes]
"""A direction, and what one read gave."""


def message(type_name: str, **fields: object) -> bytes:
    made = Registry.bundled().message_class(type_name)(**fields)
    return made.SerializeToString()


def request(stream_id: int, method: str = "State", payload: bytes = b"", flags: int = 0, timeout_ns: int = 0) -> bytes:
    return build_frame(stream_id, REQUEST, flags, build_request(TASK, method, payload, timeout_ns, [("k", "v")]))


def response(stream_id: int, payload: bytes = b"", code: int = 0, text: str = "") -> bytes:
    return build_frame(stream_id, RESPONSE, 0, build_response(code, text, payload))


def captured(folder: Path, pieces: Sequence[Piece], hop: str = "task", step_ns: int = 1_000_000) -> Path:
    """Write a capture of one connection."""
    capture = Capture(hop).open()
    places = [0, 0]
    for number, (direction, data) in enumerate(pieces):
        capture.data(direction, places[direction], data, after_ns=(number + 1) * step_ns)
        places[direction] += len(data)
    path = folder / "made.pcapng"
    path.write_bytes(capture.finish())
    return path


def tshark(path: Path, *arguments: str) -> str:
    program = shutil.which("tshark")
    if program is None:
        pytest.skip("tshark is not installed")
    env = {"PATH": os.environ["PATH"], "HOME": str(path.parent), "LANG": "C.UTF-8", "TZ": "UTC"}
    search = f'uat:protobuf_search_paths:"{SCHEMAS}","TRUE"'
    command = [program, "-X", f"lua_script:{SCRIPT}", "-o", search, "-r", str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert "Lua" not in done.stderr, done.stderr
    assert "Lua Error" not in done.stdout, done.stdout
    return done.stdout


def fields(path: Path, *names: str, only: str = "ttrpc", options: Sequence[str] = ()) -> list[list[str]]:
    """Return the values of these fields, a row a packet; several in one packet are joined by a comma."""
    arguments = [each for name in names for each in ("-e", name)]
    lines = tshark(path, *options, "-Y", only, "-T", "fields", *arguments).splitlines()
    return [line.split("\t") for line in lines]


def complaints(path: Path) -> list[list[str]]:
    return fields(path, "_ws.expert.message", only="ttrpc.unsound or ttrpc.broken or _ws.malformed")


@pytest.mark.tshark
def test_a_call_is_matched_with_its_answer_its_time_and_its_messages(tmp_path: Path) -> None:
    state = message("containerd.task.v3.StateResponse", id="abc", pid=77)
    pieces = [
        (0, request(1, payload=message("containerd.task.v3.StateRequest", id="abc"), timeout_ns=5_000_000_001)),
        (0, request(3, "Pids")),
        (1, response(3, code=5, text="no such task")),
        (1, response(1, state)),
    ]
    path = captured(tmp_path, pieces)
    names = ["frame.number", "ttrpc.service", "ttrpc.method", "ttrpc.stream_id", "ttrpc.status", "ttrpc.time"]
    assert fields(path, *names) == [
        ["4", TASK, "State", "1", "", ""],
        ["5", TASK, "Pids", "3", "", ""],
        ["6", TASK, "Pids", "3", "5", "0.001000000"],
        ["7", TASK, "State", "1", "0", "0.003000000"],
    ]
    assert fields(path, "ttrpc.request_in", only="ttrpc.type == 2") == [["5"], ["4"]]
    assert fields(path, "ttrpc.response_in", only="ttrpc.type == 1", options=["-2"]) == [["7"], ["6"]]
    assert fields(path, "ttrpc.timeout", "ttrpc.metadata", only="frame.number == 4") == [["5.000000001", "k: v"]]
    assert fields(path, "protobuf.message.name", "protobuf.field.value.uint32", only="frame.number == 7") == [
        ["containerd.task.v3.StateResponse", "77"]
    ]
    assert fields(path, "_ws.expert.message", only="ttrpc.failed") == [["NOT_FOUND: no such task"]]
    assert complaints(path) == []


@pytest.mark.tshark
@pytest.mark.parametrize("size", [1, 3, 9, 10, 11, 64, 1000])
def test_frames_cut_anywhere_are_put_together(tmp_path: Path, size: int) -> None:
    asked = request(1, "State", b"\x0a\x03abc") + request(3, "Pids", b"\x0a\x03abc") + request(5, "Kill", b"\x0a\x01x")
    given = response(5) + response(3, code=13) + response(1, b"\x0a\x03abc")
    cut = [(0, asked[at : at + size]) for at in range(0, len(asked), size)]
    cut += [(1, given[at : at + size]) for at in range(0, len(given), size)]
    rows = fields(captured(tmp_path, cut), "ttrpc.method", "ttrpc.status", only="ttrpc.length")
    methods = ",".join(method for method, _ in rows).split(",")
    assert methods == ["State", "Pids", "Kill", "Kill", "Pids", "State"]
    assert ",".join(status for _, status in rows).strip(",").split(",") == ["0", "13", "0"]


@pytest.mark.tshark
def test_a_stream_has_messages_of_both_sides_with_their_types(tmp_path: Path) -> None:
    service = "containerd.services.streaming.v1.Streaming"
    any_type = "google.protobuf.Any"
    opened = build_frame(1, REQUEST, 2, build_request(service, "Stream", b""))
    asked = message(any_type, type_url="containerd.types.transfer.WindowUpdate", value=b"\x08\x05")
    given = message(any_type, type_url="containerd.types.transfer.Data", value=b"\x0a\x02hi")
    pieces = [
        (0, opened),
        (0, build_frame(1, DATA, 0, asked)),
        (1, build_frame(1, DATA, 0, given)),
        (0, build_frame(1, DATA, 5, b"")),
        (1, build_frame(1, DATA, 5, b"")),
    ]
    path = captured(tmp_path, pieces)
    assert fields(path, "ttrpc.from_client", "ttrpc.method", "protobuf.message.name", only="ttrpc.type == 3") == [
        ["1", "Stream", f"{any_type},containerd.types.transfer.WindowUpdate"],
        ["0", "Stream", f"{any_type},containerd.types.transfer.Data"],
        ["1", "Stream", ""],
        ["0", "Stream", ""],
    ]
    assert fields(path, "ttrpc.request_in", only="frame.number == 8") == [["4"]]


@pytest.mark.tshark
def test_json_in_an_any_is_unfolded_in_ttrpc(tmp_path: Path) -> None:
    spec = {
        "type_url": "types.containerd.io/opencontainers/runtime-spec/1/Process",
        "value": json.dumps({"args": ["sleep", "9"]}).encode(),
    }
    payload = message("containerd.task.v3.ExecProcessRequest", id="abc", spec=spec)
    path = captured(tmp_path, [(0, request(1, "Exec", payload))])
    assert fields(path, "json.member", "json.value.string") == [["args", "sleep,9"]]


@pytest.mark.tshark
@pytest.mark.parametrize("asks", [b"CONNECT 1024\n", b"connect 1024\n"])
def test_the_handshake_of_hybrid_vsock_comes_before_ttrpc(tmp_path: Path, asks: bytes) -> None:
    frame = build_frame(1, REQUEST, 0, build_request("grpc.Health", "Check", b""))
    pieces = [(0, asks), (1, b"OK 10737"), (1, b"41824\n"), (0, frame), (1, response(1))]
    path = captured(tmp_path, pieces, "agent")
    lines = [asks.decode().strip(), "OK 1073741824"]
    assert fields(path, "ttrpc.hvsock", only="ttrpc.hvsock") == [[line] for line in lines]
    assert fields(path, "ttrpc.method", "ttrpc.status", only="ttrpc.type") == [["Check", ""], ["Check", "0"]]
    assert complaints(path) == []


@pytest.mark.tshark
def test_nri_has_two_connections_inside_whose_frames_may_come_in_pieces(tmp_path: Path) -> None:
    runtime, plugin = "nri.pkg.api.v1alpha1.Runtime", "nri.pkg.api.v1alpha1.Plugin"
    registers = build_frame(1, REQUEST, 0, build_request(runtime, "RegisterPlugin", b"\x0a\x01p"))
    configures = build_frame(1, REQUEST, 0, build_request(plugin, "Configure", bytes.fromhex("0a0178") * 40))
    pieces = [
        (0, build_mux(2, registers)[:8]),
        (0, build_mux(2, registers)[8:]),
        (1, build_mux(2, response(1)) + build_mux(1, configures[:7])),
        (1, build_mux(1, configures[7:50]) + build_mux(1, configures[50:])),
        (0, build_mux(1, response(1))),
    ]
    path = captured(tmp_path, pieces, "nri")
    rows = fields(path, "ttrpc.nri.channel", "ttrpc.method", "ttrpc.status", only="ttrpc.length", options=["-2"])
    assert rows == [
        ["2", "RegisterPlugin", ""],
        ["2,1", "RegisterPlugin", "0"],
        ["1,1", "Configure", ""],
        ["1", "Configure", "0"],
    ]
    assert complaints(path) == []


@pytest.mark.tshark
def test_what_is_no_ttrpc_is_said_and_the_next_frame_found(tmp_path: Path) -> None:
    junk = bytes(range(128, 200)) + b"\0" * 30
    path = captured(tmp_path, [(0, request(1)), (0, junk + request(3, "Pids")), (1, response(3))])
    assert fields(path, "ttrpc.method", only="ttrpc.length") == [["State"], ["Pids"], ["Pids"]]
    assert complaints(path) == [["No ttrpc frame"]]


@pytest.mark.tshark
def test_an_envelope_that_does_not_parse_and_an_answer_to_nothing_are_said(tmp_path: Path) -> None:
    broken = build_frame(1, REQUEST, 0, b"\x0a\x03abc\x12\x7fno")
    path = captured(tmp_path, [(0, request(7)), (0, broken), (1, response(9)), (1, response(7))])
    assert complaints(path) == [["The envelope does not parse"]]
    assert fields(path, "ttrpc.stream_id", only="ttrpc.orphan") == [["9"]]


@pytest.mark.tshark
def test_an_answer_after_the_timeout_is_noted(tmp_path: Path) -> None:
    asked = [(0, request(1, timeout_ns=5_000_000)), (0, request(3, timeout_ns=500_000))]
    pieces = [*asked, (1, response(3)), (1, response(1))]
    assert fields(captured(tmp_path, pieces), "ttrpc.stream_id", only="ttrpc.late") == [["3"]]


@pytest.mark.tshark
def test_http_on_a_port_of_ours_stays_http(tmp_path: Path) -> None:
    path = captured(tmp_path, [(0, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), (1, b"HTTP/1.1 204 No Content\r\n\r\n")])
    assert fields(path, "http.request.method", only="http.request") == [["GET"]]
    assert fields(path, "frame.number") == []


@pytest.mark.parametrize("program", ["lua5.2", "lua5.4"])
def test_plain_lua_of_both_versions_runs_it(program: str) -> None:
    lua = shutil.which(program)
    if lua is None:
        pytest.skip(f"{program} is not installed")
    huge = build_request(TASK, "State", b"\x0a\x01x", timeout_nano=5_000_000_001)
    frames = [
        (0, build_frame(1, REQUEST, 0, huge)[:20]),
        (0, build_frame(1, REQUEST, 0, huge)[20:]),
        (1, response(1, code=5, text="gone")),
        (1, build_frame(3, RESPONSE, 0, b"")),
        (0, bytes(range(128, 148))),
    ]
    lines = "".join(f"{(50000, 8088)[way]} {(8088, 50000)[way]} {data.hex()}\n" for way, data in frames)
    done = subprocess.run([lua, str(STUB), str(SCRIPT)], input=lines, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert "ttrpc.timeout=5.000000001" in told
    assert f"protobuf=application/grpc,/{TASK}/State,request" in told
    assert "info=Task/State request " in told
    assert "ttrpc.status=5" in told
    assert "ttrpc.time=0.001000000" in told
    assert "expert=ttrpc.orphan" in told
    assert "expert=ttrpc.unsound" in told
    assert told.count("ttrpc.request_in=2") == 1


@pytest.mark.parametrize("version", ["5.2", "5.4"])
def test_both_compilers_take_it(version: str) -> None:
    luac = shutil.which(f"luac{version}")
    if luac is None:
        pytest.skip(f"luac{version} is not installed")
    subprocess.run([luac, "-p", str(SCRIPT)], check=True)
