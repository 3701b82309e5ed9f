"""How payloads are shown as lines for people."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from dissectors.render import Renderer
from dissectors.render_text import bytes_text
from protos.registry import Registry

REGISTRY = Registry.bundled()
RENDERER = Renderer(REGISTRY, show_secrets=True)


def lines(type_name: str, indent: int = 0, **fields: Any) -> list[str]:
    return RENDERER.to_text(type_name, REGISTRY.message_class(type_name)(**fields).SerializeToString(), indent)


def test_a_message_is_an_indented_tree_with_strings_in_quotes() -> None:
    config = {
        "metadata": {"name": "web", "attempt": 1},
        "labels": {"b": "2", "a": "1"},
        "port_mappings": [{"protocol": 1, "host_port": 80}, {"container_port": 81}],
        "linux": {},
    }
    assert lines("runtime.v1.RunPodSandboxRequest", config=config, runtime_handler="runc") == [
        "config:",
        "  metadata:",
        '    name: "web"',
        "    attempt: 1",
        "  port_mappings:",
        "    - protocol: UDP",
        "      host_port: 80",
        "    - container_port: 81",
        "  labels:",
        '    a: "1"',
        '    b: "2"',
        "  linux: {}",
        'runtime_handler: "runc"',
    ]


def test_every_line_has_the_indent_that_was_asked_for() -> None:
    assert lines("runtime.v1.VersionResponse", 4, version="0.1.0") == ['    version: "0.1.0"']


def test_a_short_list_is_on_one_line_and_a_long_one_is_not() -> None:
    assert lines("runtime.v1.ExecSyncRequest", cmd=["sh", "-c", ""]) == ['cmd: ["sh", "-c", ""]']
    assert lines("runtime.v1.ExecSyncRequest", cmd=["x" * 60, "y" * 60]) == [
        "cmd:",
        f'  - "{"x" * 60}"',
        f'  - "{"y" * 60}"',
    ]


def test_numbers_enums_bools_and_times_have_no_quotes() -> None:
    assert lines("runtime.v1.Container", state=1, created_at=-5) == ["state: CONTAINER_RUNNING", "created_at: -5"]
    assert lines("containerd.task.v2.DeleteResponse", pid=7, exited_at={"seconds": 5}) == [
        "pid: 7",
        "exited_at: 1970-01-01T00:00:05Z",
    ]
    assert lines("runtime.v1.StatusRequest", verbose=True) == ["verbose: true"]


def test_the_value_of_an_environment_variable_is_text_where_it_is_text() -> None:
    assert lines("runtime.v1.ContainerConfig", envs=[{"key": "PATH", "value": b"/bin"}]) == [
        "envs:",
        '  - key: "PATH"',
        '    value: "/bin"',
    ]


def test_an_any_names_its_type_on_its_own_line() -> None:
    value = REGISTRY.message_class("containerd.runc.v1.Options")(binary_name="runc").SerializeToString()
    any_options = {"type_url": "containerd.runc.v1.Options", "value": value}
    assert lines("containerd.task.v2.CreateTaskRequest", options=any_options) == [
        "options: (containerd.runc.v1.Options)",
        '  binary_name: "runc"',
    ]


def test_json_in_an_any_is_a_tree_like_any_other() -> None:
    url = "types.containerd.io/opencontainers/runtime-spec/1/Process"
    value = b'{"args": ["a"], "mounts": [[1, 2], {}, null], "user": {"uid": 0, "none": null, "no": false}}'
    assert lines("containerd.task.v2.ExecProcessRequest", spec={"type_url": url, "value": value}) == [
        f"spec: ({url})",
        "  value:",
        '    args: ["a"]',
        "    mounts:",
        "      - [1, 2]",
        "      - {}",
        "      - null",
        "    user:",
        "      uid: 0",
        "      none: null",
        "      no: false",
    ]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", '""'),
        (b"two\nlines\t\xc3\xa4", '"two\nlines\tä"'),
        (b"\x00\x01", "0x0001 (2 bytes)"),
        (b"bell\x07", "0x62656c6c07 (5 bytes)"),
        (b"\x1b[31m", "0x1b5b33316d (5 bytes)"),
        (b"\xff" * 100, f"0x{'ff' * 64}… (100 bytes)"),
        (b"a" * 1024, f'"{"a" * 1024}"'),
        (b"a" * 5000, f'"{"a" * 1024}"… (5000 bytes)'),
        (b"a" * 1023 + "ä".encode() * 100, f'"{"a" * 1023}"… (1223 bytes)'),
        (b"a" * 1023 + b"\xc3", f"0x{'61' * 64}… (1024 bytes)"),
        (b"a" * 10 + b"\xff" + b"a" * 5000, f"0x{'61' * 10}ff{'61' * 53}… (5011 bytes)"),
    ],
)
def test_bytes_are_text_or_hexadecimal_and_cut_where_they_are_long(data: bytes, text: str) -> None:
    assert bytes_text(data) == text


def test_json_in_a_string_is_shown_as_the_tree_that_it_is() -> None:
    info = {"b": "OK", "info": '{"pid":7,"inner":"[{\\"deep\\":true}]"}', "odd": '{"pid":7} more', "none": "{}"}
    assert lines("runtime.v1.StatusResponse", info=info) == [
        "info:",
        '  b: "OK"',
        "  info (JSON):",
        "    pid: 7",
        "    inner (JSON):",
        "      - deep: true",
        '  none: "{}"',
        '  odd: "{"pid":7} more"',
    ]


def test_json_in_bytes_is_shown_as_the_tree_that_it_is_unless_it_is_long() -> None:
    assert lines("runtime.v1.ExecSyncResponse", stdout=b'{"a":[1,2]}') == ["stdout (JSON):", "  a: [1, 2]"]
    long = b"[" + b"1," * 40_000 + b"1]"
    (line,) = lines("runtime.v1.ExecSyncResponse", stdout=long)
    assert line.endswith("… (80003 bytes)")


def test_json_in_a_string_that_lies_deep_is_shown_as_text_so_that_it_ends() -> None:
    text = '{"a":' * 40 + json.dumps('{"b":1}') + "}" * 40
    assert lines("runtime.v1.VersionResponse", version=text)[-1].strip() == 'a: "{"b":1}"'


def test_strings_of_a_message_are_never_cut() -> None:
    assert lines("runtime.v1.VersionResponse", version="x" * 5000) == [f'version: "{"x" * 5000}"']


def test_what_does_not_parse_says_why_and_shows_its_bytes() -> None:
    assert RENDERER.to_text("runtime.v1.VersionRequest", b"\x0a\xff", 2) == [
        "  @error: does not parse as runtime.v1.VersionRequest",
        "  @base64: 0x0aff (2 bytes)",
    ]


def test_unknown_fields_and_bad_text_are_named() -> None:
    assert RENDERER.to_text("runtime.v1.VersionRequest", b"\x0a\x01\xff\x78\x05") == [
        'version: "\\xff"',
        '@not_utf8: ["version"]',
        "@unknown:",
        "  - 15: 5 (varint; as sint -3)",
    ]


def test_a_message_that_no_schema_has_is_marked_as_a_guess_with_the_likeliest_reading_first() -> None:
    payload = b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" + b"\x11" + struct.pack("<d", 2.5)
    payload += b"\x19" + struct.pack("<q", -7) + b"\x25" + struct.pack("<f", 0.5) + b"\x2a\x02\x08\x07"
    payload += b"\x32\x03web" + b"\x3a\x02\xff\xff" + b"\x42\x00"
    assert RENDERER.guess_text(payload, 2) == [
        "  guess:",
        "    - 1: -1 (varint; as sint -9223372036854775808)",
        "    - 2: 2.5 (fixed64; as integer 4612811918334230528)",
        "    - 3: -7 (fixed64)",
        "    - 4: 0.5 (fixed32; as integer 1056964608)",
        "    - 5:",
        "        - 1: 7 (varint; as sint -4)",
        '    - 6: "web"',
        "    - 7: 0xffff (2 bytes)",
        '    - 8: ""',
    ]


def test_what_is_no_message_is_shown_as_bytes() -> None:
    assert RENDERER.guess_text(b"GET / HTTP/1.1\r\n") == ['bytes: "GET / HTTP/1.1\r\n"']
    assert RENDERER.guess_text(b"") == []


def test_nothing_is_escaped_here() -> None:
    assert lines("runtime.v1.VersionResponse", version="\x1b[31m\n") == ['version: "\x1b[31m\n"']
