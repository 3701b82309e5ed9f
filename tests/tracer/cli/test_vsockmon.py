"""AF_VSOCK live: `podwire trace -i` on an interface of vsockmon's type. A tun interface stands in for it: what is sent
on either is seen by a packet socket in the same way."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dissectors.ttrpc import build_frame, build_request, build_response
from tests.e2e.killing import processes_of
from tests.tracer.capture.vsock_writer import Talk
from tests.tracer.cli.live import Start, Trace, client, run
from tests.tracer.cli.sessions import of_folder
from tracer.capture.monitor import HOW_TO_MAKE, interfaces
from tracer.capture.vsock import ARPHRD_VSOCKMON

TUNSETIFF, TUNSETLINK, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x400454CD, 0x1, 0x1000
AGENT = "grpc.AgentService"

Send = Callable[[bytes], None]


@pytest.fixture
def interface() -> Iterator[str]:
    """Its name; it is down."""
    name = f"pwmon{os.getpid() % 10**9}"
    try:
        tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EPERM, errno.EACCES, errno.ENODEV):
            pytest.skip(f"needs root and tun: {error}")
        raise
    fcntl.ioctl(tun, TUNSETLINK, ARPHRD_VSOCKMON)
    yield name
    os.close(tun)


@pytest.fixture
def send(interface: str) -> Iterator[Send]:
    """Shows a packet on the interface, which is up."""
    subprocess.run(["ip", "link", "set", interface, "up"], check=True)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as packets:
        yield lambda packet: packets.sendto(packet, (interface, 3)) and None


def ask(talk: Talk, number: int, method: str = "CreateSandbox") -> list[bytes]:
    """A call and its answer, with the credit between."""
    request = build_frame(number, 1, 0, build_request(AGENT, method, b"\x2a\x05pod-3"))
    answer = build_frame(number, 2, 0, build_response(0, "", b""))
    return [talk.say(0, request), talk.credit(1), talk.say(1, answer)]


def decoded(capture: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in run("decode", "--json", str(capture)).stdout.splitlines()]


def test_calls_to_a_guest_are_printed_as_they_pass_and_are_in_the_file(
    folder: Path, interface: str, send: Send, trace: Start
) -> None:
    traced = trace("-i", interface, "-w", str(folder / "x.pcapng"))
    assert f"agent {interface}: tracing AF_VSOCK" in traced.said()
    talk = Talk((2, 5000), (3, 1024))
    for packet in (talk.request(), talk.reset(1), talk.request(), talk.reset(1)):
        send(packet)
    for packet in (talk.request(), talk.response(), *ask(talk, 1)):
        send(packet)
        send(packet)
    traced.wait_for(lambda: any("CreateSandbox" in line for line in traced.printed()))
    middle = Talk((2, 6000), (4, 1024))
    for packet in (*ask(middle, 7), talk.shutdown(0), talk.reset(1)):
        send(packet)
    traced.wait_for(lambda: sum("CreateSandbox" in line for line in traced.printed()) == 2)
    assert traced.interrupt() == 0
    shown = decoded(folder / "x.pcapng")
    calls = [each for each in shown if each["kind"] == "call"]
    assert [(each["hop"], each["socket"], each["id"], each["state"]) for each in calls] == [
        ("agent", "vsock://3:1024", "pod-3", "ended"),
        ("agent", "vsock://4:1024", "pod-3", "ended"),
    ]
    assert [(each["client"]["name"], each["server"]["name"]) for each in calls] == [  # type: ignore[index] # objects
        ("host", "guest-3"), ("host", "guest-4"),
    ]  # fmt: skip
    others = [(each["kind"], each["reason"]) for each in shown if each["kind"] != "call"]
    assert others[0][1].startswith("agent (port 1024) refused 2 times in ")  # type: ignore[attr-defined] # a text
    assert others[1:] == [("gap", "lost")] * 2  # the second one had begun before


def test_a_recorder_that_is_killed_cuts_the_connection_and_the_next_goes_on_with_it(
    folder: Path, server: Path, interface: str, send: Send, trace: Start
) -> None:
    traced = trace("-i", interface, "-w", str(folder / "x.pcapng"))
    talk = Talk((2, 5000), (3, 1024))
    wait = build_frame(99, 1, 0, build_request(AGENT, "WaitProcess", b"\x0a\x05pod-3"))
    for packet in (talk.request(), talk.response(), talk.say(0, wait), *ask(talk, 1)):
        send(packet)
    traced.wait_for(lambda: len(calls_in(traced)) == 1)
    kill_recorder(folder)
    traced.wait_for(lambda: any("another goes on" in line for line in traced.said()))
    with client(server) as call:
        call("Version")  # the relay's connections are none of these numbers
    for packet in ask(talk, 3):
        send(packet)
    traced.wait_for(lambda: len(calls_in(traced)) == 2 and any("Version" in line for line in traced.printed()))
    assert traced.interrupt() == 0
    calls = [each for each in decoded(folder / "x.pcapng") if each["kind"] == "call"]
    assert Counter((each["method"], each["state"]) for each in calls) == {
        ("CreateSandbox", "ended"): 2, ("WaitProcess", "cut"): 1, ("Version", "ended"): 1,
    }  # fmt: skip
    assert len({each["connection"] for each in calls}) == 3


def kill_recorder(folder: Path) -> None:
    (session,) = of_folder(folder)
    (recorder,) = (pid for pid, name in processes_of(session.pid).items() if name == "podwire-record")
    os.kill(recorder, signal.SIGKILL)


def test_each_file_of_a_ring_has_the_call_that_is_open(folder: Path, interface: str, send: Send, trace: Start) -> None:
    traced = trace("-i", interface, "-w", str(folder / "x.pcapng"), "-b", "filesize:20")
    talk = Talk((2, 5000), (3, 1024))
    wait = build_frame(1, 1, 0, build_request(AGENT, "WaitProcess", b"\x0a\x05pod-3"))
    for packet in (talk.request(), talk.response(), talk.say(0, wait)):
        send(packet)
    number = 3
    while len(list(folder.glob("x_*.pcapng"))) < 3:
        for packet in ask(talk, number):
            send(packet)
        number += 2
        assert number < 2000
        traced.wait_for(lambda wanted=(number - 3) // 2: len(calls_in(traced)) >= wanted)
    for packet in (talk.say(1, build_frame(1, 2, 0, build_response(0, "", b""))), talk.shutdown(0), talk.reset(1)):
        send(packet)
    traced.wait_for(lambda: any("WaitProcess" in line and "OK" in line for line in traced.printed()))
    assert traced.interrupt() == 0
    files = sorted(folder.glob("x_*.pcapng"))
    for path in files:
        waits = [each for each in decoded(path) if each.get("method") == "WaitProcess"]
        assert [each["seen_start"] for each in waits] == [path == files[0]]


def calls_in(traced: Trace) -> list[str]:
    return [line for line in traced.printed() if "CreateSandbox" in line]


def test_doctor_says_how_to_make_the_interface_and_trace_refuses_others(
    folder: Path, server: Path, interface: str
) -> None:
    assert interface in interfaces()
    assert f"· agent {interface}: is down: ip link set {interface} up, then trace -i {interface}" in doctor(server)
    named = ("trace", "--socket", f"cri={server}", "-w", str(folder / "x.pcapng"), "-i")
    down, wrong = run(*named, interface), run(*named, "lo")
    assert (down.returncode, wrong.returncode) == (2, 2)
    assert f"-i {interface}: is down" in down.stderr
    assert f"-i lo: there is no such vsockmon interface ({HOW_TO_MAKE} makes one)" in wrong.stderr
    assert not (folder / "x.pcapng").exists()
    subprocess.run(["ip", "link", "set", interface, "up"], check=True)
    assert f"✓ agent {interface}: AF_VSOCK can be traced: trace -i {interface}" in doctor(server)


def test_doctor_says_how_to_make_the_interface_where_there_is_none(server: Path) -> None:
    if interfaces():
        pytest.skip("there is one")
    assert any(HOW_TO_MAKE in line for line in doctor(server))


def doctor(server: Path) -> list[str]:
    return run("doctor", "--socket", f"cri={server}").stdout.splitlines()
