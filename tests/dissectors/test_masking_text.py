"""Secrets in free text: what a name or its own form tells is masked, lengths stay, the rest is untouched."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dissectors.masking_text import mask_text

SECRET = b"s3cr3t-v4lue"

MASKED = [
    b"login password=%s failed",
    b'login password="%s" failed',
    b'time="2026-11-23T14:58:01Z" level=info msg="pull" auth="%s" host=x',
    b'msg="config {\\"apiKey\\": \\"%s\\", \\"n\\": 1}"',
    b'msg="config {\\\\\\"api_key\\\\\\":\\\\\\"%s with \\\\\\\\\\\\\\"quotes\\\\\\\\\\\\\\" and spaces\\\\\\"}"',
    b'{"token":"%s","user":"me"}',
    b'{"credentials":{"a":["%s",{"b":"%s"}]},"user":"me"}',
    b"Authorization: Bearer %s",
    b"request.header.authorization=[Basic %s]",
    b"Envs:[]*KeyValue{&KeyValue{Key:GREETING,Value:%s,},&KeyValue{Key:OTHER,Value:%s and, more %s,},}",
    b'envs:{key:\\"GREETING\\"  value:\\"%s it is\\"} envs:{key:\\"B\\" value:\\"%s\\"}',
    b'annotations:{key:"example.com/secret-of" value:"%s"}',
    b"Args:([]string)[/bin/sh] Env:([]string)[PATH=/bin greeting=%s and %s] Cwd:(string) /",
    b'"env":["a=%s","B=%s"],"cwd":"/"',
    b'"env":[{"name":"A","value":"%s"}]',
    b"starting with DB_URL=%s DEBUG=1",
    b"dial postgres://me:%s@db:5432/x",
    b"Exec returns URL http://127.0.0.1:3456/exec/%s",
    b"mounted /var/lib/kubelet/pods/1/volumes/kubernetes.io~secret/%s/data",
    b"got eyJhbGciOiJI.%s.x back",
    b"-----BEGIN RSA PRIVATE KEY-----\n%s\n-----END RSA PRIVATE KEY-----",
    b"-----BEGIN PRIVATE KEY-----\\n%s",
    b"cookie: %s",
    b"password='%s'",
    b'password="%s',
    b'msg="one\\nDB_URL=%s"',
]


@pytest.mark.parametrize("line", MASKED)
def test_a_secret_beside_its_name_or_of_a_known_form_is_masked(line: bytes) -> None:
    text = line.replace(b"%s", SECRET)
    masked = mask_text(text)
    assert SECRET not in masked
    assert len(masked) == len(text)


@pytest.mark.parametrize(
    "line",
    [
        b'time="2026-11-23T14:58:01.755994856Z" level=info msg="PullImage \\"127.0.0.1:1/none:1\\""',
        b'I1129 17:13:24.123456     812 kubelet.go:2345] "SyncLoop ADD" source="api" pods=["default/web-0"]',
        b"RunPodSandbox for &PodSandboxMetadata{Name:pod1,Uid:uid-pod1,Namespace:default,Attempt:1,}",
        b'labels:{key:"app" value:"web"} envs:{} Envs:[] env: none',
        b'fetch failed" host="127.0.0.1:1" method=HEAD url="https://127.0.0.1:1/v2/none/manifests/1"',
    ],
)
def test_an_ordinary_line_stays_as_it_is(line: bytes) -> None:
    assert mask_text(line) == line


def test_what_stands_around_a_secret_stays() -> None:
    assert mask_text(b'a password="x y" user=me') == b'a password="***" user=me'
    assert mask_text(b'envs:{key:\\"A\\" value:\\"b c\\"} x:1') == b'envs:{key:\\"A\\" value:\\"***\\"} x:1'
    assert mask_text(b"Env:[A=b c] next=1") == b"Env:[A=***] next=1"
    assert mask_text(b"go TOKEN=abc, then") == b"go TOKEN=***, then"


words = st.sampled_from(
    [b"password", b"=", b":", b'"', b'\\"', b"{", b"}", b"[", b"]", b"Env:", b"A=", b" ", b"x", b"\xff"]
)


@given(st.lists(words, max_size=30).map(b"".join))
@example(b'password=\\"')
@example(b"Env:[")
@example(b"password={{[")
def test_any_text_keeps_its_length_and_what_is_masked_stays_masked(text: bytes) -> None:
    masked = mask_text(text)
    assert len(masked) == len(text)
    assert re.sub(rb"\*", b"", masked) == bytes(a for a, b in zip(text, masked, strict=True) if a == b)


@pytest.mark.parametrize("quote", [b"'", b'"', b'\\"', b'\\\\\\"'])
@given(st.binary(max_size=20).filter(lambda value: not re.search(rb"[\"'\\]", value)))
def test_a_quoted_value_is_masked_whole(quote: bytes, value: bytes) -> None:
    masked = mask_text(b"a secret=" + quote + value + quote + b" b=1")
    assert masked.endswith(b"*" * len(value) + quote + b" b=1")
