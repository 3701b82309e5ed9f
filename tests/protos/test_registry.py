"""The registry finds methods and types by the names on the wire, and parses what the wire holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.registry import Method, Registry

FACTS = Path(__file__).resolve().parents[1] / "facts"


def test_a_method_has_its_types_and_its_streaming(registry: Registry) -> None:
    assert registry.method("containerd.services.events.v1.Events", "Subscribe") == Method(
        "containerd.services.events.v1.Events",
        "Subscribe",
        "containerd.services.events.v1.SubscribeRequest",
        "containerd.types.Envelope",
        False,
        True,
    )


@pytest.mark.parametrize(
    ("service", "method"),
    [
        ("runtime.v1.RuntimeService", "NoSuchMethod"),
        ("runtime.v1.NoSuchService", "Version"),
        ("RuntimeService", "Version"),
        ("", ""),
        ("runtime.v1.", "Version"),
        (".runtime.v1.RuntimeService", "Version"),
    ],
)
def test_an_unknown_method_is_none(registry: Registry, service: str, method: str) -> None:
    assert registry.method(service, method) is None


@pytest.mark.parametrize(
    ("type_url", "name"),
    [
        ("containerd.runc.v1.Options", "containerd.runc.v1.Options"),
        ("type.googleapis.com/containerd.runc.v1.Options", "containerd.runc.v1.Options"),
        ("a/b/c/containerd.events.TaskExit", "containerd.events.TaskExit"),
        ("containerd.events.ContainerCreate.Runtime", "containerd.events.ContainerCreate.Runtime"),
        ("cri.runtimeoptions.v1.Options", "runtimeoptions.v1.Options"),
        ("types.containerd.io/opencontainers/runtime-spec/1/Spec", None),
        ("containerd.v1.types.Status", None),  # an enum
        ("containerd.runc.v1", None),
        ("containerd.runc.v1.", None),
        (".containerd.runc.v1.Options", None),
        ("", None),
    ],
)
def test_an_any_is_resolved_by_what_follows_the_last_slash(registry: Registry, type_url: str, name: str | None) -> None:
    assert registry.resolve_any(type_url) == name


def test_every_protobuf_type_url_of_the_facts_is_resolved_but_for_windows(registry: Registry) -> None:
    facts = json.loads((FACTS / "any-typeurls.json").read_text(encoding="utf-8"))
    urls = [url for entry in facts["protobuf"] for url in entry["type_urls"]]
    assert [url for url in urls if registry.resolve_any(url) is None] == ["containerd.runhcs.v1.Options"]


@given(name=st.text(max_size=40) | st.from_regex(r"(containerd|runtime|google|\.|v1|types){1,6}", fullmatch=True))
def test_no_name_from_the_wire_raises(registry: Registry, name: str) -> None:
    assert registry.resolve_any(name) in (None, name)
    assert registry.method(name, name) is None


def test_an_unknown_message_class_is_a_key_error(registry: Registry) -> None:
    with pytest.raises(KeyError, match=r"no\.such\.Message"):
        registry.message_class("no.such.Message")


def test_a_payload_parses(registry: Registry) -> None:
    parsed = registry.parse("runtime.v1.VersionRequest", b"\x0a\x02v1")
    assert (parsed.message, parsed.lenient, parsed.error) == (
        registry.message_class("runtime.v1.VersionRequest")(version="v1"),
        False,
        "",
    )


def test_a_string_that_is_not_utf8_is_parsed_as_bytes(registry: Registry) -> None:
    parsed = registry.parse("runtime.v1.VersionRequest", b"\x0a\x02\xff\xfe")
    assert parsed.lenient
    assert parsed.message is not None
    assert parsed.message.version == b"\xff\xfe"  # type: ignore[attr-defined]


def test_a_map_whose_keys_are_not_utf8_is_parsed_as_its_entries(registry: Registry) -> None:
    parsed = registry.parse("runtime.v1.ImageSpec", bytes.fromhex("12080a02fffe12026f6b"))
    assert parsed.lenient
    assert [(entry.key, entry.value) for entry in parsed.message.annotations] == [  # type: ignore[union-attr]
        (b"\xff\xfe", b"ok")
    ]


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("runtime.v1.VersionRequest", b"\x0a\x05v1", "does not parse as runtime.v1.VersionRequest"),
        ("runtime.v1.VersionRequest", b"\xff", "does not parse as runtime.v1.VersionRequest"),
        ("no.such.Message", b"", "no schema has no.such.Message"),
    ],
)
def test_what_does_not_parse_says_so(registry: Registry, name: str, data: bytes, error: str) -> None:
    assert registry.parse(name, data) == (None, False, error)


def test_a_class_made_for_one_message_builds_only_its_files(registry: Registry) -> None:
    fresh = Registry.bundled()
    fresh.message_class("runtime.v1.VersionRequest")
    assert fresh._bundled._built == {"pkg/apis/runtime/v1/api.proto"}


def test_nothing_gets_into_the_default_pool() -> None:
    script = (
        "from google.protobuf import descriptor_pool\n"
        "from protos.registry import Registry\n"
        "registry = Registry.bundled()\n"
        "[registry.message_class(registry.method(s, m).input_type, lenient=lenient)\n"
        " for s, m in [('runtime.v1.RuntimeService', 'Version'), ('containerd.task.v2.Task', 'Create')]\n"
        " for lenient in (False, True)]\n"
        "for name in ('runtime.v1.VersionRequest', 'containerd.task.v2.CreateTaskRequest', 'google.protobuf.Any'):\n"
        "    try:\n"
        "        descriptor_pool.Default().FindMessageTypeByName(name)\n"
        "    except KeyError:\n"
        "        continue\n"
        "    raise SystemExit(f'{name} is in the default pool')\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
