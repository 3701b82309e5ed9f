"""The written layouts and the struct forms beside them are the same format."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dissectors import grpc_messages, http2, layouts, nri_mux, ttrpc

U8, U16, U32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)


@given(U32, U32, U8, U8)
def test_ttrpc_header(length: int, stream_id: int, kind: int, flags: int) -> None:
    wire = layouts.TTRPC_HEADER.build({"length": length, "stream_id": stream_id, "type": kind, "flags": flags})
    assert ttrpc.HEADER.unpack(wire) == (length, stream_id, kind, flags)
    assert ttrpc.HEADER.pack(length, stream_id, kind, flags) == wire
    parsed = layouts.TTRPC_HEADER.parse(wire)
    assert (parsed.length, parsed.stream_id, parsed.type, parsed.flags) == (length, stream_id, kind, flags)


@given(st.binary(max_size=40), U32, st.sampled_from([1, 2, 3]), U8)
def test_ttrpc_frames_are_built_as_laid_out(payload: bytes, stream_id: int, kind: int, flags: int) -> None:
    header = {"length": len(payload), "stream_id": stream_id, "type": kind, "flags": flags}
    assert ttrpc.build_frame(stream_id, kind, flags, payload) == layouts.TTRPC_HEADER.build(header) + payload


@given(U32, U32)
def test_nri_mux_header(channel: int, length: int) -> None:
    wire = layouts.NRI_MUX_HEADER.build({"channel": channel, "length": length})
    assert nri_mux.HEADER.unpack(wire) == (channel, length)
    parsed = layouts.NRI_MUX_HEADER.parse(wire)
    assert (parsed.channel, parsed.length) == (channel, length)


@given(st.integers(1, 2), st.binary(max_size=40))
def test_nri_mux_frames_are_built_as_laid_out(channel: int, payload: bytes) -> None:
    header = layouts.NRI_MUX_HEADER.build({"channel": channel, "length": len(payload)})
    assert nri_mux.build_frame(channel, payload) == header + payload


@given(st.integers(0, 0xFFFFFF), U8, U8, st.booleans(), st.integers(0, 0x7FFFFFFF))
def test_http2_header(length: int, kind: int, flags: int, reserved: bool, stream_id: int) -> None:
    wire = layouts.HTTP2_HEADER.build(
        {"length": length, "type": kind, "flags": flags, "stream": {"reserved": reserved, "id": stream_id}}
    )
    high, low, kind_flags, stream = http2.HEADER.unpack(wire)
    assert (high << 16 | low, kind_flags >> 8, kind_flags & 0xFF) == (length, kind, flags)
    assert (stream >> 31, stream & 0x7FFFFFFF) == (reserved, stream_id)
    assert http2.HEADER.pack(high, low, kind_flags, stream) == wire


@given(st.lists(st.tuples(U16, U32), max_size=6))
def test_http2_settings(settings: list[tuple[int, int]]) -> None:
    wire = layouts.HTTP2_SETTINGS.build([{"id": number, "value": value} for number, value in settings])
    assert list(http2.SETTING.iter_unpack(wire)) == settings


@given(st.integers(0, 0x7FFFFFFF), U32, st.binary(max_size=20))
def test_http2_goaway(last: int, error: int, debug: bytes) -> None:
    fields = {"last": {"reserved": 0, "stream_id": last}, "error": error, "debug": debug}
    wire = layouts.HTTP2_GOAWAY.build(fields)
    assert http2.GOAWAY_HEAD.unpack_from(wire) == (last, error)
    assert wire[http2.GOAWAY_HEAD.size :] == debug


@given(U8, U32)
def test_grpc_prefix(compressed: int, length: int) -> None:
    wire = layouts.GRPC_PREFIX.build({"compressed": compressed, "length": length})
    assert grpc_messages.PREFIX.unpack(wire) == (compressed, length)


def test_the_layouts_that_are_read_by_hand_parse_what_the_rfc_draws() -> None:
    assert layouts.HTTP2_RST_STREAM.parse(b"\x00\x00\x00\x08").error == 8
    assert layouts.HTTP2_WINDOW_UPDATE.parse(b"\x80\x00\x00\x05").window.increment == 5
    assert layouts.HTTP2_PRIORITY.parse(b"\x80\x00\x00\x03\x0f").dependency.stream_id == 3
    promise = layouts.HTTP2_PUSH_PROMISE.parse(b"\x00\x00\x00\x02rest")
    assert (promise.promised.stream_id, promise.fragment) == (2, b"rest")
    assert layouts.HTTP2_PING.parse(b"12345678").data == b"12345678"
