"""The screen on a terminal: what opens it, how it is left, and that it is in nobody's way."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tracer.cli.live import client, run
from tests.tracer.cli.sessions import eventually, gone, of_folder
from tests.tracer.cli.terminal import Terminal, sockets
from tests.tracer.tui.screen import POD

Open = Callable[..., Terminal]


@pytest.fixture
def terminal() -> Iterator[Open]:
    running: list[Terminal] = []

    def start(*words: str, **more: Any) -> Terminal:
        running.append(Terminal(*words, **more))
        return running[-1]

    yield start
    for each in running:
        each.close()


def test_a_trace_on_a_terminal_is_shown_and_left_as_by_ctrl_c(folder: Path, server: Path, terminal: Open) -> None:
    inode = server.stat().st_ino
    shown = terminal("trace", "-w", f"{folder}/shown.pcapng", *sockets(folder, server))
    shown.wait_for("in flight")
    assert server.stat().st_ino != inode
    with client(server) as call:
        call("Version", version="seen")
        shown.wait_for("Version")
        pending = call("Status", wait=False)
        shown.wait_for("1 in flight")
        pending.cancel()
    shown.type("q")
    assert shown.wait() == 0
    assert server.stat().st_ino == inode
    assert shown.restored
    assert "seen" in run("decode", f"{folder}/shown.pcapng").stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_gives_the_terminal_back(
    folder: Path, server: Path, terminal: Open, number: signal.Signals
) -> None:
    inode = server.stat().st_ino
    shown = terminal("trace", *sockets(folder, server))
    shown.wait_for("in flight")
    shown.process.send_signal(number)
    assert shown.wait() == 0
    assert shown.restored
    assert server.stat().st_ino == inode


def test_a_terminal_that_is_closed_ends_the_trace(folder: Path, server: Path, terminal: Open) -> None:
    inode = server.stat().st_ino
    shown = terminal("trace", "-w", f"{folder}/shown.pcapng", *sockets(folder, server), own=True)
    shown.wait_for("in flight")
    with client(server) as call:
        call("Version", version="seen")
        shown.wait_for("Version")
        shown.hang_up()
        for number in range(20):  # there is something to draw
            call("Version", version=f"later {number}")
        shown.process.wait(10)
    assert server.stat().st_ino == inode
    assert "seen" in run("decode", f"{folder}/shown.pcapng").stdout


def test_a_terminal_that_takes_nothing_holds_up_no_end(folder: Path, server: Path, terminal: Open) -> None:
    """Ctrl-S was pressed, or its connection hangs: what is drawn goes nowhere. SIGTERM gives the paths back even so."""
    inode = server.stat().st_ino
    shown = terminal("trace", "-w", f"{folder}/shown.pcapng", *sockets(folder, server))
    shown.wait_for("in flight")
    with client(server) as call:
        for number in range(300):  # nobody reads what the screen draws, ten times a second
            call("Version", version=f"{number}")
            time.sleep(0.02)
        shown.process.terminate()
        eventually(lambda: server.stat().st_ino == inode, "the path to be given back")


@pytest.mark.usefixtures("detach")
def test_killed_it_leaves_traffic_and_capture_going_and_attach_finds_them(
    folder: Path, server: Path, terminal: Open
) -> None:
    shown = terminal("trace", "-w", f"{folder}/shown.pcapng", *sockets(folder, server))
    shown.wait_for("in flight")
    with client(server) as call:
        call("Version", version="before")
        shown.wait_for("Version")
        shown.process.kill()
        shown.process.wait()
        call("Version", version="after")
        (session,) = of_folder(folder)
        eventually(lambda: "after" in run("decode", f"{folder}/shown.pcapng").stdout, "the capture to go on")
        again = terminal("attach")
        again.wait_for(" 2/2 ")
        call("Version", version="later")
        again.wait_for(" 3/3 ")
        again.type("q")
        assert again.wait() == 0
        assert f"podwire {session.pid} goes on" in again.text
    assert run("stop").returncode == 0
    gone(session.pid)


@pytest.mark.usefixtures("detach")
def test_detached_it_goes_on_in_the_background(folder: Path, server: Path, terminal: Open) -> None:
    shown = terminal("trace", *sockets(folder, server))
    shown.wait_for("in flight")
    shown.type(":detach\r")
    assert shown.wait() == 0
    (session,) = of_folder(folder)
    assert f"podwire attach {session.pid} follows it" in shown.text
    with client(server) as call:
        call("Version", version="unwatched")
    eventually(lambda: session.counters is not None and of_folder(folder)[0].recording, "it to record")
    assert run("stop").returncode == 0
    gone(session.pid)


def test_a_capture_that_would_grow_without_end_is_not_detached(folder: Path, server: Path, terminal: Open) -> None:
    shown = terminal("trace", "-w", f"{folder}/shown.pcapng", *sockets(folder, server))
    shown.wait_for("in flight")
    shown.type(":detach\r")
    shown.wait_for("-w FILE needs -b")
    shown.type("q")
    assert shown.wait() == 0


def test_at_its_limit_a_trace_stays_on_the_screen(folder: Path, server: Path, terminal: Open) -> None:
    shown = terminal("trace", "-c", "1", *sockets(folder, server))
    shown.wait_for("in flight")
    with client(server) as call:
        call("Version", version="one")
    shown.wait_for("the trace has ended")
    shown.type("q")
    assert shown.wait() == 0


@pytest.mark.parametrize("option", ["--text", "--json", "-v"])
def test_lines_are_printed_where_they_are_asked_for(folder: Path, server: Path, terminal: Open, option: str) -> None:
    printed = terminal("trace", option, *sockets(folder, server))
    printed.wait_for("cri.sock: tracing")
    with client(server) as call:
        call("Version", version="asked")
    printed.wait_for("asked")
    assert "\x1b[?1049h" not in printed.raw.decode()
    printed.process.send_signal(signal.SIGINT)
    assert printed.wait() == 0


@pytest.mark.parametrize("command", [("open",), ("replay", "--speed", "1000")])
def test_a_capture_is_opened_and_played(terminal: Open, command: tuple[str, ...]) -> None:
    shown = terminal(*command, str(POD))
    shown.wait_for("/104 ")
    shown.type("q")
    assert shown.wait() == 0
    assert shown.restored


def test_without_colour_none_is_sent(terminal: Open) -> None:
    shown = terminal("open", str(POD), NO_COLOR="1")
    shown.wait_for("1/104 ")
    shown.type("q")
    assert shown.wait() == 0
    assert not any(f"\x1b[{code}m".encode() in shown.raw for code in (31, 32, 33, 34, 35, 36, 91, 92, 93))


@pytest.mark.parametrize("kind", ["xterm-16color", "xterm-256color", "linux"])
def test_colours_are_the_terminals_own_sixteen_and_no_ground_is_painted(terminal: Open, kind: str) -> None:
    shown = terminal("open", str(POD), size=(100, 110), TERM=kind, COLORTERM="truecolor")
    shown.wait_for("1/104 ")
    shown.type("u")
    shown.wait_for("ordered by calls")
    shown.type("qq")
    assert shown.wait() == 0
    sent = {code for codes in re.findall(rb"\x1b\[([0-9;]*)m", shown.raw) for code in codes.split(b";")}
    assert b"31" in sent  # the failure
    assert not {code for code in sent if code[:1] in (b"4", b"5") and len(code) > 1 and code != b"49"}
    assert b"38" not in sent


def test_an_ascii_terminal_gets_ascii(terminal: Open) -> None:
    shown = terminal("open", str(POD), LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    shown.wait_for("1/104 ")
    shown.type("u")
    shown.wait_for("ordered by calls")
    shown.type("qq")
    assert shown.wait() == 0
    assert shown.raw.isascii()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("open", "-"), "a screen needs a file that can be read again"),
        (("open", "/nowhere.pcapng"), "stdin and stdout have to be a terminal"),
        (("replay", "--speed", "0", "x"), "0 is no speed"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_no_capture_is_said_before_there_is_a_screen(terminal: Open, tmp_path: Path) -> None:
    path = tmp_path / "none.pcapng"
    path.write_text("no capture")
    shown = terminal("open", str(path))
    assert shown.wait() == 2
    assert "is no pcapng or pcap file" in shown.text
    assert "\x1b[?1049h" not in shown.raw.decode()
