"""Who is who: from both kinds of comment, else from names; never an exception."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.capture.peers import Endpoint, client_of, read_comment, server_of

NAMES = {"198.18.0.1": "kubelet"}


def test_our_comment_names_both_ends() -> None:
    about = {"pid": 812, "uid": 0, "name": "kubelet", "exe": "/usr/bin/kubelet", "unit": "kubelet.service"}
    comment = read_comment(
        json.dumps({"podwire": 1, "client": about, "server": {"pid": 4, "command": "containerd -l"}})
    )
    assert client_of(comment, "198.18.0.9", 50_000, NAMES) == Endpoint(
        "198.18.0.9", 50_000, "kubelet", 812, 0, "/usr/bin/kubelet", "kubelet.service"
    )
    assert server_of(comment, "198.18.0.2", 8080, {}) == Endpoint("198.18.0.2", 8080, "", 4, None, "containerd -l", "")


def test_a_flat_comment_names_both_ends() -> None:
    comment = read_comment(
        '{"pid":7,"uid":1,"comm":"crictl","exe":"/bin/crictl","server_pid":9,"server_shim_id":"9f57c2b6405e"}'
    )
    assert client_of(comment, "a", 1, {}) == Endpoint("a", 1, "crictl", 7, 1, "/bin/crictl", "")
    assert server_of(comment, "b", 2, {}) == Endpoint("b", 2, "shim-9f57c2b6", 9, None, "", "")
    shim = read_comment('{"comm":"containerd-shim","shim_id":"9f57c2b6405e"}')
    assert client_of(shim, "a", 1, {}).name == "shim-9f57c2b6"


def test_without_a_comment_the_capture_names_an_address_or_nothing_does() -> None:
    assert client_of({}, "198.18.0.1", 1, NAMES) == Endpoint("198.18.0.1", 1, "kubelet", None, None, "", "")
    assert server_of({}, "198.18.0.2", 2, NAMES).name == ""


def test_a_second_comment_beside_the_object_does_not_hide_it() -> None:
    assert read_comment('podwire: carried over\n{"hop":"cri"}') == {"hop": "cri"}


@pytest.mark.parametrize("text", ["", "plain", "{", "[1]", '{"a":1} trailing', "{" * 5_000, '{"a":' * 5_000])
def test_a_comment_that_is_no_object_is_empty(text: str) -> None:
    assert read_comment(text) == {}


ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.integers()))
ABOUT = st.dictionaries(st.sampled_from(["pid", "name", "unit", "command"]), ANYTHING)
KEYS = ["client", "server", "pid", "comm", "shim_id", "server_pid", "uid", "exe"]


@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING | ABOUT))
def test_values_of_a_wrong_type_are_left_out(comment: dict[str, object]) -> None:
    for end in (client_of(comment, "a", 1, {}), server_of(comment, "b", 2, {})):
        assert type(end.pid) in (int, type(None))
        assert type(end.uid) in (int, type(None))
        assert all(type(text) is str for text in (end.name, end.command, end.unit))
