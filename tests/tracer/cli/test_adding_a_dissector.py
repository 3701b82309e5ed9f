"""The worked example of docs/adding-a-dissector.md, done as the page says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from dissectors.ttrpc_frames import build_frame
from dissectors.ttrpc_messages import build_request, build_response
from protos.registry import Registry
from tests.tracer.cli.live import Trace, run
from tests.tracer.written import Written

pytest.importorskip("grpc_tools", reason="needs grpcio-tools")

PAGE = (Path(__file__).parents[3] / "docs" / "adding-a-dissector.md").read_text(encoding="utf-8")
SERVICE, METHOD = "v1beta1.Registration", "Register"
FIELDS = {"version": "v1beta1", "endpoint": "acme.sock", "resource_name": "acme.example/gpu"}


def block(language: str) -> str:
    """The page's one block of a language."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    return str(text)


@pytest.fixture
def plugins(folder: Path) -> Path:
    """The page's folder."""
    (name,) = re.findall(r"`plugins/(\S+\.proto)`", PAGE)
    path = folder / "plugins" / name
    path.parent.mkdir(parents=True)
    path.write_text(block("proto"))
    return folder / "plugins"


@pytest.fixture
def request_bytes(plugins: Path) -> bytes:
    registry = Registry.bundled()
    registry.add_proto_dir(str(plugins))
    made: Any = registry.message_class("v1beta1.RegisterRequest")(**FIELDS)
    made.options.pre_start_required = True
    return bytes(made.SerializeToString())


@pytest.fixture
def kubelet(folder: Path) -> Iterator[Path]:
    """The path of a server that takes registrations."""
    path = folder / "kubelet.sock"
    server = grpc.server(ThreadPoolExecutor(2))
    handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    yield path
    server.stop(0).wait()


def expected_line() -> list[str]:
    """The words of the page's line."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith("other  ")]
    return line.split()


def test_the_page_s_command_traces_the_page_s_service(
    folder: Path, plugins: Path, kubelet: Path, request_bytes: bytes
) -> None:
    words = block("sh").split()
    assert words[:2] == ["podwire", "trace"]
    real = {
        "plugins": str(plugins),
        "other=/var/lib/kubelet/device-plugins/kubelet.sock": f"other={kubelet}",
        "plugins.pcapng": str(folder / "plugins.pcapng"),
    }
    options = [real.get(word, word) for word in words[2:]]
    assert set(real.values()) <= set(options)
    (folder / "s").mkdir()
    trace = Trace(folder, *options, "--socket", f"task={folder}/s", ready="")
    try:
        trace.wait_for(lambda: any(line.startswith("other ") and "tracing" in line for line in trace.said()))
        with grpc.insecure_channel(f"unix:{kubelet}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            channel.unary_unary(f"/{SERVICE}/{METHOD}")(request_bytes, timeout=20)
            trace.wait_for(lambda: bool(trace.printed()))
        assert trace.interrupt() == 0
    finally:
        trace.close()
    (line,) = trace.printed()
    shown = line.split()
    assert shown[1:4] + shown[5:] == expected_line()
    decoded = run("decode", "--json", "--proto", str(plugins), str(folder / "plugins.pcapng"))
    call = json.loads(decoded.stdout)
    assert (call["hop"], call["protocol"]) == ("other", "grpc")
    assert call["messages"][0]["body"] == FIELDS | {"options": {"pre_start_required": True}}
    without = json.loads(run("decode", "--json", "--show-secrets", str(folder / "plugins.pcapng")).stdout)
    assert [field["text"] for field in without["messages"][0]["guess"][:3]] == list(FIELDS.values())


def test_doctor_says_that_such_a_socket_can_be_traced(kubelet: Path) -> None:
    done = run("doctor", "--json", "--socket", f"other={kubelet}")
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    (socket,) = (each for each in findings if each["about"] == f"other {kubelet}")
    assert socket["state"] == "ok"
    left = any(each["about"] == "left behind" and each["state"] == "no" for each in findings)
    assert done.returncode == (1 if left else 0)


def test_the_same_folder_serves_ttrpc(folder: Path, plugins: Path, request_bytes: bytes) -> None:
    written = Written()
    written.open(1, "other", "/run/acme.sock")
    written.send(1, 0, build_frame(1, 1, 0, build_request(SERVICE, METHOD, request_bytes, 0)), 0)
    written.send(1, 1, build_frame(1, 2, 0, build_response(0, "", b"")), 1_000_000)
    capture = written.save(folder / "ttrpc.pcapng", 2_000_000)
    shown = run("decode", "--proto", str(plugins), str(capture)).stdout.split()
    assert shown[1:4] + shown[5:] == expected_line()
