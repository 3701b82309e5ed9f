"""The scapy layers build what our own builders build, and take it apart again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("scapy", reason="needs scapy")

from hypothesis import given
from hypothesis import strategies as st
from scapy.packet import Raw

from dissectors.layouts import TTRPC_HEADER
from dissectors.scapy_ttrpc import DATA, REQUEST, RESPONSE, TTRPC, TTRPCRequest, TTRPCResponse, frames
from dissectors.ttrpc_frames import build_frame
from dissectors.ttrpc_messages import build_request, build_response
from tests.dissectors.test_wireshark import captured

PAGE = Path(__file__).parents[2] / "docs" / "scapy.md"
TEXT = st.text(max_size=20)


@given(TEXT, TEXT, st.binary(max_size=40), st.integers(-(1 << 63), (1 << 63) - 1), st.lists(st.tuples(TEXT, TEXT)))
def test_requests_both_ways(
    service: str, method: str, body: bytes, timeout: int, metadata: list[tuple[str, str]]
) -> None:
    request = TTRPCRequest(service=service, method=method, body=body, timeout_nano=timeout, metadata=metadata)
    built = bytes(TTRPC(stream_id=7) / request)
    assert built == build_frame(7, REQUEST, 0, build_request(service, method, body, timeout, metadata))
    again = TTRPC(built)
    assert again[TTRPC].length == len(built) - 10
    inside = again[TTRPC].payload
    if isinstance(inside, TTRPCRequest):  # scapy has no payload of no bytes
        assert (inside.service, inside.method, inside.body) == (service.encode(), method.encode(), body)
        assert (inside.timeout_nano, inside.metadata) == (timeout, metadata)
    else:
        assert len(built) == 10


@given(st.integers(-(1 << 31), (1 << 31) - 1), TEXT, st.binary(max_size=40))
def test_responses_both_ways(code: int, message: str, body: bytes) -> None:
    built = bytes(TTRPC(type=RESPONSE) / TTRPCResponse(code=code, message=message, body=body))
    assert built == build_frame(1, RESPONSE, 0, build_response(code, message, body))
    inside = TTRPC(built)[TTRPCResponse]
    assert (inside.code, inside.message, inside.body) == (code, message.encode(), body)


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 255), st.integers(0, 255), st.integers(0, 0xFFFFFFFF))
def test_headers_are_those_of_the_layout(stream: int, kind: int, flags: int, length: int) -> None:
    built = bytes(TTRPC(length=length, stream_id=stream, type=kind, flags=flags))
    assert built == TTRPC_HEADER.build({"length": length, "stream_id": stream, "type": kind, "flags": flags})


def test_data_and_what_does_not_parse_stay_raw() -> None:
    data = TTRPC(bytes(TTRPC(type=DATA, flags="remote_closed") / b"\x0a\x01x"))
    assert (data.flags.remote_closed, data[Raw].load) == (True, b"\x0a\x01x")
    assert TTRPC(build_frame(1, REQUEST, 0, b"\xff\xff"))[Raw].load == b"\xff\xff"


def test_frames_of_one_direction_are_cut() -> None:
    both = bytes(TTRPC(stream_id=1) / TTRPCRequest(method="A")) + bytes(TTRPC(stream_id=3) / TTRPCRequest(method="B"))
    assert [frame[TTRPCRequest].method for frame in frames(both + b"\0\0\0\x09")] == [b"A", b"B"]


def test_the_example_in_the_documents_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    captured(tmp_path, [(0, build_frame(1, REQUEST, 0, build_request("a.B", "C", b"")))]).rename("x.pcapng")
    told: list[str] = []
    exec(example, {"print": lambda *words: told.append(" ".join(map(str, words)))})
    assert told == ["b'State' 4", "198.18.0.1 b'C'"]
    assert (tmp_path / "crafted.pcap").exists()
