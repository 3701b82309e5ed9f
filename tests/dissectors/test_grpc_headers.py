"""What gRPC's header lists say."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissectors.events import Status
from dissectors.grpc_headers import parse_timeout, read_request, read_response, unquote
from dissectors.hpack import UNKNOWN, Header

CALL: list[Header] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/runtime.v1.RuntimeService/Version"),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [":path", ":status", "content-type", "grpc-status", "grpc-timeout", "a-bin", "grpc-message", UNKNOWN]
        )
        | st.text(st.characters(max_codepoint=255), max_size=8),
        st.text(st.characters(max_codepoint=255), max_size=20) | st.just(UNKNOWN),
    ),
    max_size=8,
)


def test_a_call_is_named_by_its_path_and_keeps_its_metadata_in_order() -> None:
    head = read_request([*CALL, ("x", "1"), ("grpc-timeout", "15S"), ("x", "2")])
    assert (head.service, head.method, head.timeout_ns) == ("runtime.v1.RuntimeService", "Version", 15_000_000_000)
    assert head.problem == ""
    assert head.metadata == (
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("x", "1"),
        ("grpc-timeout", "15S"),
        ("x", "2"),
    )


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc;charset=x"])
def test_content_types_of_grpc(kind: str) -> None:
    assert read_request([*CALL[:4], ("content-type", kind)]).problem == ""


@pytest.mark.parametrize("kind", ["application/json", "application/grpcx", ""])
def test_other_content_types_are_no_grpc(kind: str) -> None:
    head = read_request([(":method", "GET"), (":path", "/version"), ("content-type", kind)])
    assert head.problem == f"no gRPC request: GET /version, content-type {kind or 'none'}"
    assert (head.service, head.method) == ("", "/version")


def test_what_is_unknown_is_not_held_against_a_request() -> None:
    head = read_request([(":method", "POST"), (UNKNOWN, UNKNOWN), ("x", "1")])
    assert head.problem == ""
    assert (head.service, head.method) == ("", "")


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1H", 3600 * 10**9),
        ("2M", 120 * 10**9),
        ("3S", 3 * 10**9),
        ("4m", 4 * 10**6),
        ("5u", 5000),
        ("6n", 6),
        ("99999999n", 99999999),
        ("0n", 0),
    ],
)
def test_timeouts_in_all_units(text: str, ns: int) -> None:
    assert parse_timeout(text) == ns


@pytest.mark.parametrize("text", ["", "1", "S", "1s", "123456789S", "-1S", "1.5S", "1S\n", "\u0661S"])
def test_what_is_no_timeout_is_none(text: str) -> None:
    assert parse_timeout(text) is None


@given(st.binary(max_size=40), st.booleans())
def test_binary_metadata_is_decoded_with_and_without_padding(data: bytes, padded: bool) -> None:
    text = base64.b64encode(data).decode()
    text = text if padded else text.rstrip("=")
    assert read_request([*CALL, ("a-bin", text)]).metadata[-1] == ("a-bin", data)


def test_several_binary_values_may_stand_in_one_header() -> None:
    assert read_request([("a-bin", "YQ,Yg==")]).metadata == (("a-bin", b"a"), ("a-bin", b"b"))


def test_binary_metadata_that_is_none_stays_text() -> None:
    assert read_request([("a-bin", "not base64!")]).metadata == (("a-bin", "not base64!"),)


def test_values_beyond_ascii_are_utf8_or_escapes() -> None:
    head = read_request([("a", "é".encode().decode("latin-1")), ("b", "\xff")])
    assert head.metadata == (("a", "é"), ("b", "\\xff"))


def test_trailers_give_a_status_and_the_rest_of_them() -> None:
    details = base64.b64encode(b"\x08\x05").decode().rstrip("=")
    head = read_response(
        [
            ("grpc-status", "5"),
            ("grpc-message", "not%20found: %C3%A9"),
            ("grpc-status-details-bin", details),
            ("x", "1"),
        ]
    )
    assert head.status == Status(5, "not found: é", b"\x08\x05")
    assert head.metadata == (("x", "1"),)
    assert head.problem == ""


def test_trailers_without_a_status_have_none() -> None:
    assert read_response([("x", "1")]).status is None


@pytest.mark.parametrize("status", ["", "ok", "-1", "1 ", "1" * 30])
def test_a_status_that_is_no_number_is_a_problem(status: str) -> None:
    head = read_response([("grpc-status", status)])
    assert head.status is None
    assert "is no number" in head.problem


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ([(":status", "404"), ("content-type", "text/plain")], "HTTP status 404, content-type text/plain"),
        ([(":status", "200"), ("content-type", "text/html")], "HTTP status 200, content-type text/html"),
        ([(":status", "503")], "HTTP status 503, content-type none"),
        ([(":status", "200"), ("content-type", "application/grpc")], ""),
        ([(":status", "100")], ""),
        ([(UNKNOWN, UNKNOWN)], ""),
    ],
)
def test_answers_that_are_no_grpc_are_told(headers: list[Header], problem: str) -> None:
    told = read_response(headers).problem
    assert told == (f"no gRPC answer: {problem}" if problem else "")
    assert read_response(headers).status is None


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_a_message_percent_encoded_is_itself_again(text: str) -> None:
    assert unquote(quote(text)) == text


@pytest.mark.parametrize(("value", "text"), [("100%", "100%"), ("%zz", "%zz"), ("%ff", "\\xff"), ("a%2", "a%2")])
def test_what_is_badly_encoded_stays_readable(value: str, text: str) -> None:
    assert unquote(value) == text


@given(HEADERS)
def test_any_headers_are_read(headers: list[Header]) -> None:
    for head in (read_request(headers), read_response(headers)):
        for key, value in head.metadata:
            assert isinstance(value, str) or key.endswith("-bin")
