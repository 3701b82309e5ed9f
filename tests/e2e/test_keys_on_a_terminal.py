"""Each key of the help page on a real terminal (tmux): live on a real containerd, in its replay, and on the demo."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from protos.registry import Registry
from tests.e2e.containerd import Containerd
from tests.e2e.cri import CriClient, Pod
from tests.tmux import Tmux
from tests.tracer.cli.live import COMMAND
from tracer.tui.keys import COMMANDS, KEYS

Seen = str | Callable[[str], object]
REPLAY_ONLY = {key.id for key in KEYS if key.only == "replay"}
IDS = {each: key.id for key in KEYS for each in key.keys}


class Walk:
    """Presses keys, and notes which acts were seen to be done."""

    def __init__(self, screen: Tmux) -> None:
        self.screen = screen
        self.done: set[str] = set()

    def press(self, key: str, seen: Seen) -> str:
        """Press one, and wait until the screen is so: words on it, or what a function says of its text."""
        self.screen.press(key)
        self.done.add(IDS[key])
        return self.screen.wait(seen if callable(seen) else lambda text: seen in text, f"{key}: {seen}")

    def type(self, text: str, seen: Seen) -> str:
        """Type words into the prompt."""
        self.screen.type(text)
        return self.screen.wait(seen if callable(seen) else lambda text: seen in text, f"{text}: {seen}")


def position(text: str) -> tuple[int, int]:
    """The cursor's line, and how many there are: `17/104`."""
    found = re.search(r"(?m)^ (\d+)/(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def at(line: int) -> Callable[[str], bool]:
    return lambda text: position(text)[0] == line


def calls(count: int) -> Callable[[str], bool]:
    return lambda text: position(text)[1] == count


def first_line(words: str) -> Callable[[str], bool]:
    return lambda text: words in text.split("\n")[0]


def line_of(text: str, words: str) -> int:
    """The number of a call in the list of which the first line that has these words tells; -1: none has."""
    lines = [number for number, line in enumerate(text.split("\n")) if words in line]
    return lines[0] if lines else -1


def walk_through_the_list(walk: Walk, total: int) -> None:
    """Keys that need a list of calls with a pod's life in it, held still at its beginning."""
    walk.press("G", at(total))
    walk.press("g", at(1))
    walk.press("j", at(2))
    walk.press("down", at(3))
    walk.press("up", at(2))
    walk.press("k", at(1))
    page = position(walk.press("pagedown", lambda text: position(text)[0] > 10))[0]
    walk.press("pageup", at(1))
    walk.press("ctrl+d", at(page))
    walk.press("ctrl+u", at(1))
    walk.press("end", at(total))
    walk.press("home", at(1))
    walk.press("ctrl+g", lambda text: "number of a call" in text)
    walk.type("4", at(4))
    walk.press("m", "●")
    walk.press("g", at(1))
    walk.press("apostrophe", at(4))
    walk.press("M", calls(1))
    walk.press("M", calls(total))
    walk.press("t", "times: since the start")
    walk.press("T", "+0.000000")
    walk.press("o", "ordered by hop")
    walk.press("O", "hop-")
    walk.press("colon", "columns, sort")
    walk.type("sort time", "ordered by time")
    walk.press("slash", "Tab completes")
    filtered = walk.type("call.method == 'RunPodSandbox'", "[filter ")
    assert position(walk.screen.text)[1] < total, filtered
    walk.press("escape", calls(total))
    walk.press("ctrl+f", "words to look for")
    found = position(walk.type("method:Create hop:task", lambda text: position(text)[0] not in (0, 1)))[0]
    again = position(walk.press("n", lambda text: position(text)[0] != found))[0]
    walk.press("N", at(found))
    assert again != found
    walk.press("right_curly_bracket", at(again))
    walk.press("left_curly_bracket", at(found))
    walk.press("right_square_bracket", lambda text: position(text)[0] != found)
    walk.press("left_square_bracket", at(found))
    walk.press("P", lambda text: position(text)[0] < found)
    walk.press("right_parenthesis", lambda text: position(text)[0] > 1)
    walk.press("left_parenthesis", lambda text: position(text)[0] < found)
    walk.press("s", "[connection ")
    walk.press("s", calls(total))
    walk.press("e", lambda text: "nothing found" in text or position(text)[0] > 1)
    walk.press("E", lambda text: "nothing found" in text or position(text)[0] > 1)


def walk_through_the_pages(walk: Walk, pod: str) -> None:
    """Keys that open something, and close it."""
    walk.press("u", "over time")
    walk.press("u", first_line("time"))
    walk.press("exclamation_mark", "nothing malformed")
    walk.press("escape", first_line("time"))
    walk.press("S", "q: leave")
    walk.press("escape", first_line("time"))
    walk.press("question_mark", first_line("keys (esc: back)"))
    walk.press("f1", first_line("time"))
    walk.press("p", "pod, container")
    walk.press("enter", f"[pod default/{pod}]")
    walk.press("y", f"pod default/{pod} sandbox")
    walk.press("right", "›")
    walk.press("left", lambda text: "›" not in text)
    walk.press("y", "pod, container")
    walk.press("p", lambda text: "pod, container" not in text)
    walk.press("escape", lambda text: "[pod " not in text)


def walk_through_the_detail(walk: Walk) -> None:
    """Keys of one call; the cursor is on RunPodSandbox."""
    walk.press("d", "▾ request")
    walk.press("d", lambda text: "▾ request" not in text)
    walk.press("enter", "▾ request")
    walk.press("j", "▾ request")
    walk.press("left", lambda text: "▾ config" not in text or "▸" in text)
    walk.press("right", "▾ ")
    walk.press("x", "0000")
    walk.press("x", lambda text: " 000010 " not in text)
    walk.press("v", "connection")
    walk.press("v", "reads of connection")
    walk.press("v", '"kind": "call"')
    walk.press("v", "▾ request")
    walk.press("tab", "▾ request")
    walk.press("shift+tab", "▾ request")
    walk.press("backslash", lambda text: "messages" in text.split("\n")[0])
    walk.press("backslash", first_line("time"))
    walk.press("escape", lambda text: "▾ request" not in text)
    walk.press("c", 'copied: {"v"')
    walk.press("C", "copied: grpcurl")


def walk_through_a_replay(walk: Walk) -> None:
    """Keys that only a replay has, and what is different there."""
    walk.press("space", "paused")
    walk.press("colon", "columns, sort")
    walk.type("at +0", calls(1))
    walk.press("full_stop", calls(2))
    walk.press("comma", calls(1))
    walk.press("plus", "paused")
    walk.press("minus", "paused")
    walk.press("minus", "paused")
    walk.press("space", "x0.25 ")
    walk.press("colon", "columns, sort")
    walk.type("speed 1000", lambda text: "paused" in text)  # it is at its end
    walk.press("q", "ended with 0")


@pytest.mark.root
@pytest.mark.containerd
def test_all_keys_live_on_a_real_containerd(
    make_containerd: Callable[..., Containerd], registry: Registry, tmp_path: Path
) -> None:
    containerd = make_containerd()
    inode = os.stat(containerd.address).st_ino
    capture = tmp_path / "keys.pcapng"
    sockets = (f"--socket=cri={containerd.address}", f"--socket=events={containerd.events_address}")
    screen = Tmux(tmp_path, "trace", "-w", str(capture), *sockets, "--socket=task=/run/containerd/s")
    try:
        screen.wait_for("in flight", "following")
        with CriClient(containerd.address, registry) as client:
            pod = Pod(client, f"keys-{containerd.token}", containerd.cgroup_parent)
            sandbox = pod.run()
            pod.start_container()
            screen.wait_for("StartContainer", "2 in flight")
            walk = Walk(screen)
            walk.press("space", "held: 0 new")
            walk.press("space", "following")
            walk.press("F", lambda text: "following" not in text)
            total = position(screen.text)[1]
            walk_through_the_list(walk, total)
            walk.press("G", at(total))
            walk.press("ctrl+f", "words to look for")
            walk.type("method:RunPodSandbox", "round the end of what is shown")
            walk_through_the_detail(walk)
            walk_through_the_pages(walk, pod.name)
            walk.press("w", "FILE.json, FILE.txt or FILE.pcapng")
            walk.type(str(tmp_path / "saved.json"), f"{total} calls saved")
            assert json.loads((tmp_path / "saved.json").read_text().splitlines()[0])["kind"] == "call"
            shim = containerd.shims()[sandbox]
            os.kill(shim, signal.SIGSTOP)  # so that something hangs
            hung = threading.Thread(target=pod.exec, args=("true",))
            try:
                hung.start()
                text = walk.press("i", lambda text: "ExecSync" in text and "└ State" in text)
                assert line_of(text, "ExecSync") + 1 == line_of(text, "└ State")
                assert line_of(text, "Wait") > line_of(text, "└ State")  # it is meant to wait
            finally:
                os.kill(shim, signal.SIGCONT)
            hung.join()
            walk.press("i", lambda text: "[in flight]" not in text)
            walk.press("p", f"default/{pod.name}")
            screen.wait(lambda text: re.search(r"main +running", text), "its state")
            walk.press("p", lambda text: "pod, container" not in text)
            pod.remove_container()
            pod.remove()
            walk.press("p", lambda text: re.search(rf"default/{pod.name} +removed", text))
        walk.press("q", lambda text: "pod, container" not in text)
        walk.press("ctrl+c", "ended with 0")
        assert os.stat(containerd.address).st_ino == inode
        screen.close()
        screen = Tmux(tmp_path, "replay", "--speed", "0.5", str(capture))
        replayed = Walk(screen)
        screen.wait_for("x0.5")
        walk_through_a_replay(replayed)
        assert walk.done | replayed.done == {key.id for key in KEYS}
        assert replayed.done >= REPLAY_ONLY
    finally:
        screen.close()


def test_all_keys_on_the_demo(tmp_path: Path) -> None:
    capture = tmp_path / "demo.pcapng"
    subprocess.run([*COMMAND, "demo", "-w", str(capture)], check=True, capture_output=True)
    screen = Tmux(tmp_path, "open", str(capture), size=(80, 24))
    try:
        screen.wait(lambda text: position(text)[1] > 20, "its calls")
        total = position(screen.wait(lambda text: "reading" not in text, "all of it"))[1]
        walk = Walk(screen)
        walk_through_the_list(walk, total)
        walk.press("i", "[in flight]")
        walk.press("i", calls(total))
        walk.press("F", "following")
        walk.press("colon", "columns, sort")
        walk.type("nonsense", f"no command 'nonsense' (there are: {', '.join(COMMANDS)[:20]}")
        walk.press("q", "ended with 0")
    finally:
        screen.close()
