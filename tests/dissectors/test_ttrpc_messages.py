"""ttrpc's Request and Response by hand, against protobuf."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import example, given
from hypothesis import strategies as st

from dissectors.ttrpc_messages import (
    BadMessage,
    Request,
    Response,
    build_request,
    build_response,
    parse_request,
    parse_request_head,
    parse_response,
    parse_response_head,
    sound_request,
    sound_response,
)
from tests.dissectors.support import ttrpc_classes

REQUEST, RESPONSE = ttrpc_classes()
TEXT = st.text(max_size=200)
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=4)


def theirs_request(data: bytes) -> Request | None:
    try:
        message = REQUEST.FromString(data)
    except DecodeError:
        return None
    metadata = tuple((pair.key, pair.value) for pair in message.metadata)
    return Request(message.service, message.method, message.payload, message.timeout_nano, metadata)


def theirs_response(data: bytes) -> Response | None:
    try:
        message = RESPONSE.FromString(data)
    except DecodeError:
        return None
    return Response(message.status.code, message.status.message, b"", message.payload)


@given(TEXT, TEXT, st.binary(max_size=300), INT64, PAIRS)
def test_a_request_is_parsed_and_built_as_protobuf_does(
    service: str, method: str, payload: bytes, timeout: int, metadata: list[tuple[str, str]]
) -> None:
    message = REQUEST(service=service, method=method, payload=payload, timeout_nano=timeout)
    for key, value in metadata:
        message.metadata.add(key=key, value=value)
    wire = message.SerializeToString()
    assert parse_request(wire) == Request(service, method, payload, timeout, tuple(metadata))
    assert REQUEST.FromString(build_request(service, method, payload, timeout, metadata)) == message


@given(
    st.lists(
        st.sampled_from((b"\x0a\x01s", b"\x0a\x02xy", b"\x12\x01m", b"\x12\x00", b"\x1a\x01p", b"\x20\x07")), max_size=5
    )
)
@example([b"\x0a\x01s", b"\x12\x01m", b"\x12\x01n", b"\x0a\x01t"])
@example([b"\x0a\x80\x01" + b"x" * 127 + b"\x12", b"\x12\x11" + b"m" * 17])
@example([b"\x0a\x01s", b"\x12\x80\x01" + b"m" * 128])
@example([b"\x0a\x01s", b"\x12\x81\x00m", b"\x1a\x01p"])
@example([b"\x0a\x01s", b"\x12\x05m"])
def test_fields_in_any_order_and_number_are_parsed_as_protobuf_does(fields: list[bytes]) -> None:
    wire = b"".join(fields)
    theirs = theirs_request(wire)
    if theirs is None:
        with pytest.raises(BadMessage):
            parse_request(wire)
    else:
        assert parse_request(wire) == theirs
        assert parse_request(wire) == theirs  # the names are known by now


@given(st.integers(-(1 << 31), (1 << 31) - 1), TEXT, st.binary(max_size=300), st.lists(st.binary(max_size=9)))
def test_a_response_is_parsed_as_protobuf_does(code: int, text: str, payload: bytes, details: list[bytes]) -> None:
    message = RESPONSE(payload=payload)
    message.status.code, message.status.message = code, text
    message.status.details.extend(details)
    response = parse_response(message.SerializeToString())
    assert response == Response(code, text, message.status.SerializeToString(), payload)


@given(st.integers(0, 16), TEXT, st.binary(max_size=300))
def test_a_built_response_is_protobufs(code: int, text: str, payload: bytes) -> None:
    message = RESPONSE.FromString(build_response(code, text, payload))
    assert (message.status.code, message.status.message, message.payload) == (code, text, payload)


def field(message: type[Message]) -> st.SearchStrategy[bytes]:
    """Return fields of that message, broken ones and ones in odd encodings among them."""
    return st.one_of(
        st.builds(lambda text: message(payload=text).SerializeToString(), st.binary(max_size=40)),
        st.sampled_from(
            [
                b"\x0a\x01a",
                b"\x8a\x00\x01b",  # the same tag in two bytes
                b"\x12\x81\x00c",  # a length in two bytes
                b"\x20\x85\x80\x00",
                b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
                b"\x31\x00\x00\x00\x00\x00\x00\x00\x00",  # an unknown field of 8 bytes
                b"\x35\x00\x00\x00\x00",
                b"\xfa\x01\x02zz",
                b"\x2a\x06\x0a\x01k\x12\x01v",
                b"\x1a\x05short",
                b"\x1a\x7f",
                b"\x00\x00",  # field number 0
                b"\x0a\x02\x08\x05",
                b"\x0a\x04\x12\x02no",
            ]
        ),
    )


@given(st.lists(field(REQUEST), max_size=5).map(b"".join))
@example(b"\x0a")
@example(b"\x20")
def test_odd_requests_give_what_protobuf_gives(data: bytes) -> None:
    theirs = theirs_request(data)
    try:
        ours = parse_request(data)
    except BadMessage:
        assert theirs is None
    else:
        assert theirs is None or ours == theirs


@given(st.lists(field(RESPONSE), max_size=5).map(b"".join))
def test_odd_responses_give_what_protobuf_gives(data: bytes) -> None:
    theirs = theirs_response(data)
    try:
        ours = parse_response(data)
    except BadMessage:
        assert theirs is None
    else:
        assert theirs is None or ours._replace(status=b"") == theirs


@given(st.binary(max_size=100))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    for parse, theirs in ((parse_request, theirs_request), (parse_response, theirs_response)):
        try:
            parse(data)
        except BadMessage:
            assert theirs(data) is None


def test_text_that_is_not_utf8_keeps_the_rest() -> None:
    request = parse_request(b"\x0a\x02a\xff\x12\x01m\x1a\x01p")
    assert request == Request("a\\xff", "m", b"p", 0, ())


def test_an_empty_response_is_ok() -> None:
    assert parse_response(b"") == Response(0, "", b"", b"")


@given(st.text("abc.", min_size=1, max_size=30), st.text("xyz", min_size=1, max_size=20), st.integers(200, 5000))
def test_the_head_of_a_request_names_the_call(service: str, method: str, size: int) -> None:
    wire = build_request(service, method, b"\x00" * size, 5, [("a", "b")])
    head = parse_request_head(wire[:120])
    assert (head.service, head.method, head.payload_length) == (service, method, size)


@pytest.mark.parametrize("cut", range(11))
def test_a_head_cut_anywhere_gives_what_is_whole(cut: int) -> None:
    head = parse_request_head(build_request("svc", "met", b"")[:cut])
    assert head.service == ("svc" if cut >= 5 else "")
    assert head.method == ("met" if cut >= 10 else "")
    assert head.payload_length is None


def test_the_head_of_a_response_tells_its_status() -> None:
    assert parse_response_head(build_response(0, "", b"x" * 900)[:40]) == Response(0, "", b"", b"")
    failed = parse_response_head(build_response(5, "no such", b"x" * 900)[:40])
    assert failed is not None
    assert (failed.code, failed.message) == (5, "no such")
    assert parse_response_head(b"") is None
    assert parse_response_head(b"\x18\x01") is None


@given(st.text("abc.", min_size=1, max_size=90), st.text("xyz", min_size=1, max_size=20), st.binary(max_size=200))
def test_a_request_is_sound(service: str, method: str, payload: bytes) -> None:
    wire = build_request(service, method, payload)
    assert sound_request(wire, len(wire))


@given(st.integers(0, 16), st.text(max_size=50), st.binary(max_size=200))
def test_a_response_is_sound(code: int, message: str, payload: bytes) -> None:
    wire = build_response(code, message if code else "", payload)
    assert sound_response(wire, len(wire))


def test_a_response_with_a_long_status_is_sound_by_its_head() -> None:
    wire = build_response(2, "x" * 5000, b"")
    assert sound_response(wire[:1024], len(wire))


@pytest.mark.parametrize("data", [b"text", b"\x0a\x05short", b"\x12\x7fx", b"\x08\x01", b"\x0a\x02ab\x1a\x00"])
def test_other_bytes_are_not_sound(data: bytes) -> None:
    assert not sound_request(data, len(data))
    assert not sound_response(data, len(data))
