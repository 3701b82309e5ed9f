"""Recorded connections of real programs, read by other people's parsers as well."""

from __future__ import annotations

import struct
from collections import Counter

import hpack
import pytest
from hyperframe.frame import DataFrame, Frame, HeadersFrame

from dissectors.detect import open_dissector
from dissectors.events import CallMessage, CallOpened, Malformed, Skipped
from tests.dissectors.support import (
    FOREIGN,
    REQUEST,
    RESPONSE,
    Sample,
    assert_any_split_gives_the_same,
    assert_every_cut_is_quiet,
    calls,
    faults,
    joined,
    load_sample,
    load_samples,
    run,
    ttrpc_classes,
)

SAMPLES = load_samples()
SOUND = [sample for sample in SAMPLES if sample.name not in FOREIGN]


def ids(sample: Sample) -> str:
    return sample.name


@pytest.mark.parametrize("sample", SOUND, ids=ids)
def test_real_traffic_has_no_fault(sample: Sample) -> None:
    assert faults(run(open_dissector(sample.expected), sample.script)) == []


@pytest.mark.parametrize("sample", SAMPLES, ids=ids)
def test_any_split_gives_the_same_events(sample: Sample) -> None:
    assert_any_split_gives_the_same(lambda: open_dissector(sample.expected), sample.script)


@pytest.mark.parametrize("sample", SAMPLES, ids=ids)
def test_what_is_expected_does_not_matter_where_the_bytes_tell(sample: Sample) -> None:
    told, alone = open_dissector(sample.expected), open_dissector(None)
    assert run(told, sample.script, close=False) == run(alone, sample.script, close=False)
    assert told.protocol == alone.protocol


@pytest.mark.parametrize("name", ["crictl-runp", "shim-create-fails", "http1-to-grpc"])
def test_every_cut_gives_a_beginning(name: str) -> None:
    sample = load_sample(name)
    assert_every_cut_is_quiet(lambda: open_dissector(sample.expected), sample.script, step=7)


def stream(sample: Sample, direction: int) -> bytes:
    return b"".join(data for side, data in sample.script if side == direction and isinstance(data, bytes))


def grpc_by_hyperframe(sample: Sample) -> tuple[list[tuple[str, str | None]], Counter[tuple[int, int]]]:
    """Return (path, grpc-status) of each stream, and the bytes of DATA by (stream, direction)."""
    paths: dict[int, list[str | None]] = {}
    sizes: Counter[tuple[int, int]] = Counter()
    for direction in (REQUEST, RESPONSE):
        data, decoder = stream(sample, direction), hpack.Decoder()
        position = 24 if direction == REQUEST else 0
        while position < len(data):
            frame, length = Frame.parse_frame_header(memoryview(data)[position : position + 9])
            frame.parse_body(memoryview(data)[position + 9 : position + 9 + length])
            position += 9 + length
            if isinstance(frame, HeadersFrame):
                headers = dict(decoder.decode(frame.data))
                if direction == REQUEST:
                    paths[frame.stream_id] = [headers[":path"], None]
                elif "grpc-status" in headers:
                    paths[frame.stream_id][1] = headers["grpc-status"]
            elif isinstance(frame, DataFrame):
                sizes[frame.stream_id, direction] += len(frame.data)
    return [(str(path), status) for path, status in (paths[stream_id] for stream_id in sorted(paths))], sizes


@pytest.mark.parametrize("sample", [sample for sample in SOUND if sample.expected == "grpc"], ids=ids)
def test_hyperframe_and_hpack_see_the_same_calls(sample: Sample) -> None:
    events = run(open_dissector("grpc"), sample.script)
    theirs, sizes = grpc_by_hyperframe(sample)
    ours = [
        (f"/{service}/{method}", str(end) if isinstance(end, int) else None) for service, method, end in calls(events)
    ]
    reset = [index for index, call in enumerate(calls(events)) if isinstance(call[2], str)]
    for index in reset:  # an answer that crossed with the reset
        theirs[index] = (theirs[index][0], None)
    assert ours == theirs
    messages: Counter[tuple[int, int]] = Counter()
    for event in events:
        if isinstance(event, CallMessage):
            assert event.payload is not None
            assert len(event.payload) == event.length
            messages[event.stream_id, event.direction] += 5 + event.length
    if not reset:
        assert messages == +sizes


@pytest.mark.parametrize("sample", [sample for sample in SOUND if sample.expected == "ttrpc"], ids=ids)
def test_protobuf_sees_the_same_calls(sample: Sample) -> None:
    classes = ttrpc_classes()
    theirs: dict[int, list[object]] = {}
    for direction in (REQUEST, RESPONSE):
        data, position = stream(sample, direction), 0
        while position < len(data):
            length, stream_id, kind, _ = struct.unpack_from(">IIBB", data, position)
            assert kind == direction + 1
            message = classes[direction].FromString(data[position + 10 : position + 10 + length])
            position += 10 + length
            if direction == REQUEST:
                metadata = tuple((pair.key, pair.value) for pair in message.metadata)
                theirs[stream_id] = [message.service, message.method, message.timeout_nano or None, metadata]
            else:
                theirs[stream_id] += [message.status.code]
            theirs[stream_id].append(message.payload)
    events = run(open_dissector("ttrpc"), sample.script)
    ours: dict[int, list[object]] = {}
    ends = {}
    for event in events:
        if isinstance(event, CallOpened):
            ours[event.stream_id] = [event.service, event.method, event.timeout_ns, event.metadata]
        elif isinstance(event, CallMessage):
            ends.setdefault(event.stream_id, {})[event.direction] = event.payload
    codes = [code for _, _, code in calls(events)]
    for (stream_id, fields), code in zip(ours.items(), codes, strict=True):
        fields.append(ends[stream_id].get(REQUEST, b""))
        if code is not None:
            fields += [code, ends[stream_id].get(RESPONSE, b"")]
    assert ours == theirs


def test_http1_on_a_grpc_socket_is_named_and_makes_no_call() -> None:
    sample = load_sample("http1-to-grpc")
    events = run(open_dissector("grpc"), sample.script)
    assert [type(event) for event in events] == [Malformed, Skipped]
    assert "HTTP/1" in events[0].reason
    assert events[1].length == len(joined(sample.script)[1][1])


def test_http2_on_a_ttrpc_socket_is_named_once_it_ends_unanswered() -> None:
    events = run(open_dissector("ttrpc"), load_sample("http2-to-ttrpc").script)
    assert [type(event) for event in events] == [Malformed]
    assert "HTTP/2 where ttrpc is spoken" in events[0].reason


@pytest.mark.parametrize(("name", "look"), [("text-to-ttrpc", "text"), ("four-bytes-to-ttrpc", "binary data")])
def test_what_is_no_protocol_is_named_and_counted(name: str, look: str) -> None:
    sample = load_sample(name)
    dissector = open_dissector("ttrpc")
    events = run(dissector, sample.script)
    assert dissector.protocol == "unknown"
    assert [type(event) for event in events] == [Malformed, Skipped]
    assert look in events[0].reason
    assert events[1].length == len(stream(sample, REQUEST))


def test_a_cancelled_call_ends_by_the_clients_reset() -> None:
    events = run(open_dissector("grpc"), load_sample("crictl-killed-in-a-call").script)
    assert calls(events)[-1] == ("runtime.v1.RuntimeService", "ListContainerStats", "reset 8")
