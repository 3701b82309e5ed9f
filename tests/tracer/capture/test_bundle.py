"""Bundles: read when a call names them, whatever lies there; kept in the capture; shown with their call, masked."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissectors.ttrpc_frames import build_frame
from dissectors.ttrpc_messages import build_request
from protos.registry import Registry
from tests.tracer.capture.files import read_pcapng
from tests.tracer.made import POD, TASK
from tests.tracer.written import Written
from tracer.capture import bundle as bundles
from tracer.capture.bundle import (
    MAX_FILE,
    NAMES,
    Bundle,
    BundleFile,
    Named,
    Watcher,
    build_block,
    parse_block,
    read_bundle,
)
from tracer.cli import main

REGISTRY = Registry.bundled()
WORD = "hunter2"
CRI = {"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": POD}
CRIO = {"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": POD}


def specification(annotations: dict[str, str]) -> str:
    return json.dumps({"process": {"args": ["sh"], "env": [f"KEY={WORD}"]}, "annotations": annotations})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle as Kata's shim leaves it."""
    path = tmp_path / POD
    path.mkdir()
    (path / "config.json").write_text(specification(CRI))
    (path / "address").write_text("unix:///run/containerd/s/abc")
    (path / "shim.pid").write_text("4711")
    (path / "rootfs").mkdir()
    (path / "work").symlink_to("/var/lib/containerd/x")
    os.mkfifo(path / "log")
    return path


def named(path: Path | str, names: tuple[str, ...] = NAMES) -> Named:
    return Named(1, POD, str(path), names)


def files(bundle: Bundle) -> dict[str, BundleFile]:
    return {each.name: each for each in bundle.files}


def test_what_lies_in_a_bundle_is_read_or_named(folder: Path) -> None:
    found = files(read_bundle(7, named(folder)))
    assert tuple(found) == NAMES
    assert found["address"].content == b"unix:///run/containerd/s/abc"
    assert found["config.json"].size == len(specification(CRI))
    assert found["work"] == BundleFile("work", "link", note="/var/lib/containerd/x")
    kinds = {name: found[name].kind for name in ("rootfs", "log", "bootstrap.json", "monitor_address")}
    assert kinds == {"rootfs": "directory", "log": "fifo", "bootstrap.json": "missing", "monitor_address": "missing"}


def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    assert {each.kind for each in read_bundle(1, named(tmp_path / "gone")).files} == {"missing"}


def test_a_link_in_the_place_of_a_file_is_not_followed(folder: Path) -> None:
    (folder / "address").unlink()
    (folder / "address").symlink_to("/etc/shadow")
    assert files(read_bundle(1, named(folder)))["address"] == BundleFile("address", "link", note="/etc/shadow")


def test_a_file_that_is_too_large_is_cut(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"x" * (MAX_FILE + 9))
    found = files(read_bundle(1, named(folder)))["config.json"]
    assert (len(found.content), found.size) == (MAX_FILE, MAX_FILE + 9)
    assert "cut" in found.note


def test_a_file_that_cannot_be_read_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(bundles.os, "open", refuse)
    assert files(read_bundle(1, named(folder)))["config.json"] == BundleFile(
        "config.json", "unreadable", note="permission denied"
    )


def test_a_fifo_and_a_socket_do_not_hold_up(folder: Path) -> None:
    (folder / "address").unlink()
    os.mkfifo(folder / "address")
    with socket.socket(socket.AF_UNIX) as listener:
        previous = os.getcwd()
        os.chdir(folder)
        try:
            listener.bind("monitor_address")
        finally:
            os.chdir(previous)
        result: list[Bundle] = []
        thread = threading.Thread(target=lambda: result.append(read_bundle(1, named(folder))), daemon=True)
        thread.start()
        thread.join(20)
    assert [files(result[0])[name].kind for name in ("address", "monitor_address")] == ["fifo", "socket"]


class TestWatcher:
    def create(self, path: str, stream: int = 1, method: str = "Create", service: str = TASK) -> bytes:
        found = REGISTRY.method(service, method)
        assert found is not None
        kind = REGISTRY.message_class(found.input_type)
        fields = {"id": POD} | ({"bundle": path} if method == "Create" else {})
        return build_frame(stream, 1, 0, build_request(service, method, kind(**fields).SerializeToString()))

    def test_a_create_names_its_bundle_once(self) -> None:
        watcher = Watcher()
        data = self.create("/run/b", 5)
        assert watcher.feed(1, 0, data) == [Named(5, POD, "/run/b", NAMES)]
        assert watcher.feed(1, len(data), self.create("/run/b", 7)) == []
        assert watcher.feed(2, 0, self.create("/run/b")) == []

    @pytest.mark.parametrize("service", ["containerd.task.v2.Task", "containerd.task.v3.Task"])
    def test_in_pieces_behind_other_calls_and_after_a_gap(self, service: str) -> None:
        watcher = Watcher()
        data = self.create("", 1, "State") + self.create("/run/a", 3, service=service)
        found = [each for at, byte in enumerate(data) for each in watcher.feed(1, at, bytes((byte,)))]
        again = self.create("", 9, "State") + self.create("/run/c", 11)
        found += watcher.feed(1, len(data) + 100, again + self.create("/run/d", 13))
        assert [each.path for each in found] == ["/run/a", "/run/c", "/run/d"]

    @pytest.mark.parametrize("path", ["", "run/b", "/run/../etc", "/run/\0b"])
    def test_paths_that_are_none_are_passed_over(self, path: str) -> None:
        assert Watcher().feed(1, 0, self.create(path)) == []

    def test_a_sandbox_of_katas_is_read_when_it_is_started(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bundles, "KATA", str(tmp_path))
        assert Watcher().feed(1, 0, self.create("", 1, "Start")) == []
        (tmp_path / POD).mkdir()
        (tmp_path / POD / "persist.json").write_text('{"State": "running"}')
        (found,) = Watcher().feed(1, 0, self.create("", 1, "Start"))
        assert files(read_bundle(1, found))["persist.json"].content == b'{"State": "running"}'

    @given(st.binary())
    def test_no_bytes_raise(self, data: bytes) -> None:
        assert Watcher().feed(1, 0, data) == []

    def test_a_connection_that_has_ended_is_forgotten(self) -> None:
        watcher = Watcher()
        watcher.feed(1, 0, b"\0")
        watcher.ended(1)
        assert watcher.feed(1, 0, self.create("/run/b")) != []


def test_a_block_keeps_all_of_a_bundle(folder: Path) -> None:
    (folder / "bootstrap.json").write_bytes(b"\xff\x00binary")
    bundle = read_bundle(7, named(folder))
    assert parse_block(build_block(bundle)[8:-4]) == bundle


@given(st.binary())
def test_a_block_of_anything_is_no_bundle(body: bytes) -> None:
    assert parse_block(body) is None


@pytest.fixture
def capture(folder: Path, tmp_path: Path) -> Callable[..., str]:
    """Write a capture in which a Create names the bundle; with a second bundle whose call is not there."""

    def write() -> str:
        written = Written()
        written.open(3)
        written.open(2)
        for connection, stream in ((2, 1), (3, 7)):  # open too, and named nothing
            written.ask(connection, stream, "Wait", 0, id=POD)
        written.ask(3, 1, "Create", 0, id=POD, bundle=str(folder))
        written.writer.keep(build_block(read_bundle(3, named(folder))))
        written.answer(3, 1, 5)
        written.writer.keep(build_block(read_bundle(9, named(tmp_path / "gone"))))
        return str(written.save(tmp_path / "x.pcapng", 9))

    return write


def decoded(capsys: pytest.CaptureFixture[str], *words: str) -> list[Any]:
    assert main(["decode", "--json", *words]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(("annotations", "role"), [(CRI, "sandbox"), (CRIO, "container"), ({}, None)])
def test_it_is_shown_with_its_call_as_what_it_is(
    annotations: dict[str, str],
    role: str | None,
    folder: Path,
    capture: Callable[[], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "config.json").write_text(specification(annotations))
    path = capture()
    found = decoded(capsys, path)
    assert [each["reason"] for each in found if each["kind"] == "notice"] == [f"the bundle {folder.parent}/gone"]
    assert [each["method"] for each in found if each.get("bundles")] == ["Create"]
    (bundle,) = next(each["bundles"] for each in found if each.get("bundles"))
    assert (bundle.get("role"), bundle.get("sandbox")) == ((role, POD) if role else (None, None))
    shown = {each["name"]: each for each in bundle["files"]}
    assert shown["config.json"]["json"]["process"]["env"] == ["KEY=*******"]
    assert shown["work"] == {"name": "work", "kind": "link", "note": "/var/lib/containerd/x"}
    assert WORD in json.dumps(decoded(capsys, "--show-secrets", path))
    assert main(["decode", "-v", path]) == 0
    lines = capsys.readouterr().out
    assert f"bundle {folder}" in lines
    assert "work: link → /var/lib/containerd/x" in lines
    assert "KEY=*******" in lines
    assert WORD not in lines


def test_redact_masks_it(capture: Callable[[], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, target = capture(), str(tmp_path / "out.pcapng")
    before = decoded(capsys, path)
    assert main(["redact", path, target]) == 0
    assert WORD not in Path(target).read_text(errors="replace")
    capsys.readouterr()
    assert [each.get("bundles") for each in decoded(capsys, "--show-secrets", target)] == [
        each.get("bundles") for each in before
    ]


def test_diff_tells_of_fields_of_the_specification(
    capture: Callable[[], str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = tmp_path / "one.pcapng"
    os.rename(capture(), one)
    (folder / "config.json").write_text(specification(CRI).replace('"sh"', '"ash"'))
    assert main(["diff", str(one), capture(), "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["service"], each["method"], each["path"], each["before"], each["after"]) for each in found] == [
        ("OCI specification", "sandbox", "process.args[]", ["sh"], ["ash"])
    ]


def test_a_block_that_cannot_be_read_is_said_and_the_rest_is_read(capture: Callable[[], str]) -> None:
    data = Path(capture()).read_bytes().replace(b'{"podwire":"bundle"', b'{"podwire":"bungle"')
    found = read_pcapng(data)
    assert [each.text for each in found if hasattr(each, "text")] == ["a bundle's block cannot be read"] * 2
    assert len(found) > 5
