"""What `--web` takes, and by which names its page may be asked for."""

from __future__ import annotations

import re
from contextlib import closing

import pytest

from protos.errors import PodwireError
from tracer.web.address import Address, listen, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8000", Address("127.0.0.1", 8000)),
        ("0", Address("127.0.0.1", 0)),
        ("127.0.0.1:80", Address("127.0.0.1", 80)),
        ("[::1]:65535", Address("::1", 65535)),
        ("node-1.example:8000", Address("node-1.example", 8000)),
    ],
)
def test_an_address_is_read(text: str, address: Address) -> None:
    assert parse(text) == address


@pytest.mark.parametrize("text", ["", ":", ":80", "127.0.0.1", "65536", "-1", "::1:80", "[a]:80", "x:y", "²", "a:"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        parse(text)


def test_each_site_has_a_token_of_its_own() -> None:
    one, other = listen(parse("0")), listen(parse("0"))
    with closing(one.listener), closing(other.listener):
        assert one.token != other.token
        assert len(one.token) >= 43  # 256 bits
        assert one.loopback
        assert one.url == f"http://127.0.0.1:{one.listener.getsockname()[1]}/{one.token}/"


def test_on_loopback_it_is_known_by_loopbacks_names_alone() -> None:
    site = listen(parse("0"))
    with closing(site.listener):
        for name in ("127.0.0.1:80", "localhost", "LOCALHOST:9000", "[::1]:80"):
            assert site.known(name), name
        for name in ("", "evil.example", "localhost.evil.example", "192.0.2.1:80", "[::1", "127.0.0.1.evil.example:80"):
            assert not site.known(name), name


def test_on_all_addresses_it_is_known_by_any_address_and_by_no_other_name() -> None:
    site = listen(parse("0.0.0.0:0"))
    with closing(site.listener):
        assert not site.loopback
        assert "0.0.0.0" not in site.url
        assert site.known("192.0.2.1:80")
        assert not site.known("evil.example")


def test_a_port_in_use_is_said() -> None:
    site = listen(parse("0"))
    with closing(site.listener):
        port = site.listener.getsockname()[1]
        with pytest.raises(PodwireError, match=rf"^--web 127\.0\.0\.1:{port}: Address already in use$"):
            listen(parse(str(port)))


def test_an_address_that_is_not_ours_is_said() -> None:
    with pytest.raises(PodwireError, match=r"^--web 192\.0\.2\.1:0: Cannot assign requested address$"):
        listen(parse("192.0.2.1:0"))
