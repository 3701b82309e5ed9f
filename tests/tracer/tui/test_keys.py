"""Each key does what the help says of it. The table of tests has the same entries as the table of keys."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from textual.events import Key

from tests.tracer.tui.screen import EDGE, POD, Screen, run
from tracer.output import look
from tracer.tui.keys import COMMANDS, KEYS, footer, help_lines, manual
from tracer.tui.lines import Lines
from tracer.tui.rows import WAITS

Play = Callable[[Screen], Awaitable[None]]
PLAYS: dict[str, list[tuple[Play, dict[str, object]]]] = {}


def plays(*ids: str, **setup: object) -> Callable[[Play], Play]:
    """Say which keys a test presses."""

    def note(play: Play) -> Play:
        for each in ids:
            PLAYS.setdefault(each, []).append((play, setup))
        return play

    return note


@plays("down", "up", "page_down", "page_up", "first", "last")
async def moves(screen: Screen) -> None:
    await screen.press("j")
    assert screen.row == 1
    await screen.press("down", "k")
    assert screen.row == 1
    await screen.press("up", "up")
    assert screen.row == 0
    page = screen.app.calls.page
    await screen.press("ctrl+d")
    assert screen.row == page
    await screen.press("pagedown", "pageup", "ctrl+u")
    assert screen.row == 0
    await screen.press("G")
    assert screen.row == 103
    await screen.press("home")
    assert screen.row == 0
    await screen.press("end", "g")
    assert screen.row == 0


@plays("number")
async def goes_to_a_number(screen: Screen) -> None:
    await screen.press("ctrl+g")
    await screen.type("17")
    assert screen.row == 16
    await screen.press("ctrl+g")
    await screen.type("5000")
    assert "there is no call 5000: they go from 1 to 104" in screen.footer
    assert screen.row == 16


@plays("next_pane", "previous_pane", "open")
async def goes_through_panes(screen: Screen) -> None:
    await screen.press("enter")
    assert screen.app.focused is screen.app.query_one("#tree")
    await screen.press("tab")
    assert screen.app.focused is screen.app.calls
    await screen.press("x", "tab", "tab")
    assert screen.app.focused is screen.app.query_one("#hex")
    await screen.press("shift+tab")
    assert screen.app.focused is screen.app.query_one("#tree")


@plays("unfold", "fold", "open")
async def opens_and_closes_nodes(screen: Screen) -> None:
    await screen.press("ctrl+g")
    await screen.type(str(1 + first_row(screen, "RunPodSandbox")))
    await screen.press("enter", "j")
    tree = screen.app.query_one("#tree", Lines)
    whole = len(tree.lines)
    await screen.press("left")
    assert len(tree.lines) < whole
    await screen.press("left")
    assert len(tree.lines) < whole
    await screen.press("right")
    assert len(tree.lines) == whole
    await screen.press("enter")
    assert len(tree.lines) < whole


@plays("filter")
async def narrows_by_a_filter(screen: Screen) -> None:
    await screen.press("slash")
    await screen.type('call.hop == "task" && call.method == "Create"')
    assert 0 < len(screen.app.view) < 10
    assert {kinds(screen, at)[0] for at in range(len(screen.app.view))} == {"task"}
    assert "[filter call.hop ==" in screen.status
    await screen.press("escape")
    assert len(screen.app.view) == 104


@plays("filter")
async def says_what_is_wrong_with_a_filter(screen: Screen) -> None:
    await screen.press("slash", *"call.failed && nope", "enter")
    assert screen.footer.index("^") == 1 + len("call.failed && ")
    assert "undeclared reference to 'nope'" in screen.footer
    assert screen.app.prompt.display  # it stays open, to be put right
    await screen.press("escape")
    assert len(screen.app.view) == 104
    await screen.press("slash", *'call.hop == "', "enter")
    assert "column 13" in screen.footer


@plays("filter")
async def completes_a_filter(screen: Screen) -> None:
    await screen.press("slash", *"call.fa", "tab", "enter")
    assert 0 not in {screen.app.rows.code[row] for row in screen.app.view.order}
    assert len(screen.app.view.order) == 104 - list(screen.app.rows.code).count(0)
    assert "[filter call.failed]" in screen.status


@plays("filter")
async def asks_what_the_index_does_not_hold(screen: Screen) -> None:
    await screen.press("slash")
    await screen.type('request.config.metadata.name != "" && call.method == "RunPodSandbox"')
    assert [kinds(screen, at)[1] for at in range(len(screen.app.view))] == ["RunPodSandbox"]


@plays("search", "again", "back_again")
async def searches(screen: Screen) -> None:
    await screen.press("n")
    assert "nothing is looked for yet" in screen.footer
    await screen.press("ctrl+f")
    await screen.type("ContainerStatus")
    found = screen.row
    assert found is not None
    assert kinds(screen, found)[1] == "ContainerStatus"
    await screen.press("n")
    assert screen.row is not None
    assert screen.row > found
    await screen.press("N")
    assert screen.row == found
    await screen.press("ctrl+f")
    await screen.type("nope:x")
    assert "no column 'nope'" in screen.footer
    await screen.press("ctrl+f", *"status:cance", "tab", "enter")
    assert screen.row is not None
    assert sign(screen, screen.row) == look.CANCELLED
    await screen.press("n", "ctrl+g")
    await screen.type(str(found + 1))
    await screen.press("ctrl+f")
    await screen.type("nowhere-to-be-found")
    assert "nothing found" in screen.footer
    assert screen.row == found


@plays("next_error", "previous_error", capture=EDGE)
async def finds_errors(screen: Screen) -> None:
    await screen.press("e")
    first = screen.row
    assert first is not None
    assert sign(screen, first) in (look.FAILED, look.GAP)
    await screen.press("e")
    assert screen.row is not None
    assert screen.row > first
    assert all(sign(screen, row) not in (look.FAILED, look.GAP) for row in range(first + 1, screen.row))
    await screen.press("E")
    assert screen.row == first
    await screen.press("E")
    assert "round the end" in screen.footer


@plays("stream", "next_of_stream", "previous_of_stream")
async def stays_on_a_connection(screen: Screen) -> None:
    rows = screen.app.rows
    await screen.press("ctrl+g")
    await screen.type("40")
    flow = rows.flow[39]
    same = [row for row in range(len(rows)) if rows.flow[row] == flow]
    await screen.press("right_square_bracket")
    assert screen.row == same[same.index(39) + 1]
    await screen.press("left_square_bracket")
    assert screen.row == 39
    await screen.press("s")
    assert list(screen.app.view.order) == same
    assert screen.row == 39
    await screen.press("s")
    assert len(screen.app.view) == 104
    assert screen.row == 39


@plays("next_of_method", "previous_of_method")
async def stays_on_a_method(screen: Screen) -> None:
    rows = screen.app.rows
    first = first_row(screen, "ContainerStatus")
    same = [row for row in range(len(rows)) if rows.kind[row] == rows.kind[first]]
    await screen.press("ctrl+g")
    await screen.type(str(first + 1))
    await screen.press("right_curly_bracket")
    assert screen.row == same[1]
    await screen.press("left_curly_bracket")
    assert screen.row == first


@plays("next_of_pod", "previous_of_pod", "parent")
async def stays_with_a_pod(screen: Screen) -> None:
    rows = screen.app.rows
    first = first_row(screen, "RunPodSandbox")
    await screen.press("ctrl+g")
    await screen.type(str(first + 1))
    await screen.press("right_parenthesis")
    assert screen.row is not None
    assert screen.row > first
    assert rows.pod_of(screen.row) == rows.pod_of(first)
    await screen.press("left_parenthesis")
    assert screen.row == first
    await screen.press("right_parenthesis", "P")
    assert screen.row == first


@plays("pods", "story", "open", "unfold", "fold")
async def shows_pods_and_their_story(screen: Screen) -> None:
    await screen.press("p", "y")
    assert "pod default/pod sandbox" in screen.text
    await screen.press("right")
    assert "+91.184ms" in screen.text
    await screen.press("left", "y", "p")
    assert not screen.app.query_one("#pods").display
    assert screen.lines[0].split()[0] == "time"


@plays("in_flight", capture=POD, replay=1e-9)
async def shows_what_is_in_flight(screen: Screen) -> None:
    rows = screen.app.rows
    at = first_row(screen, "StartContainer")
    moment = rows.start[at] + rows.length[at] // 2
    await screen.press("colon")
    await screen.type(f"at +{(moment - rows.start[0]) / 1e9:.9f}")
    await screen.press("i")
    shown = list(screen.app.view.order)
    assert at in shown
    assert all(rows.open_at(row, screen.app.now_ns()) for row in shown)
    waiting = [bool(rows.flags[row] & WAITS) for row in shown]
    assert waiting == sorted(waiting)  # those that are meant to wait come last
    assert shown == sorted(shown, key=lambda row: (rows.flags[row] & WAITS, row))
    assert f" {len(shown)} in flight" in screen.status
    await screen.press("i")
    assert len(screen.app.view) > len(shown)


@plays("numbers", "open", "sort")
async def sums_up_by_method(screen: Screen) -> None:
    await screen.press("u")
    assert screen.lines[1].split()[:3] == ["hop", "method", "calls"]
    assert "ordered by calls" in screen.text
    await screen.press("o", "o")
    assert "ordered by p50" in screen.text
    await screen.press("j", "j", "enter")
    narrowed = {screen.app.rows.kind[row] for row in screen.app.view.order}
    assert len(narrowed) == 1
    await screen.press("escape")
    assert len(screen.app.view) == 104


@plays("findings", "open", capture=EDGE)
async def lists_findings(screen: Screen) -> None:
    await screen.press("exclamation_mark")
    assert "malformed, connection 71" in screen.text
    await screen.press("enter")
    assert screen.row is not None
    assert screen.row > 0


@plays("session")
async def tells_of_the_session(screen: Screen) -> None:
    await screen.press("S")
    assert "is read; nothing is traced" in screen.text
    assert "q: leave" in screen.text


@plays("follow")
async def follows(screen: Screen) -> None:
    await screen.press("F")
    assert screen.row == 103
    assert "following" in screen.status
    await screen.press("k")
    assert screen.row == 102
    assert "following" not in screen.status


@plays("mark", "only_marked", "next_mark")
async def marks(screen: Screen) -> None:
    await screen.press("M")
    assert "nothing is marked" in screen.footer
    await screen.press("m", "j", "j", "m", "j")
    assert screen.lines[1].startswith("●")
    await screen.press("apostrophe")
    assert screen.row == 0
    await screen.press("M")
    assert list(screen.app.view.order) == [0, 2]
    await screen.press("M", "m")
    assert screen.app.view.marks == {2}


@plays("detail", "zoom", "view", "hex")
async def shows_detail(screen: Screen) -> None:
    await screen.press("d")
    assert " messages  metadata  frames  json " in screen.text
    await screen.press("v")
    assert "content-type: application/grpc" in screen.text
    await screen.press("v")
    assert "reads of connection" in screen.text
    await screen.press("v")
    assert '"kind": "call"' in screen.text
    await screen.press("backslash")
    assert screen.lines[0].startswith(" messages")
    await screen.press("backslash")
    await screen.press("escape", "ctrl+g")
    await screen.type(str(1 + first_row(screen, "RunPodSandbox")))
    await screen.press("x", "j", "j")
    hexes = screen.app.query_one("#hex", Lines)
    assert any(style.reverse for line in hexes.lines for _, style in line.spans)
    await screen.press("x", "d")
    assert " messages  metadata " not in screen.text


@plays("time", "reference")
async def changes_times(screen: Screen) -> None:
    await screen.press("j", "j", "t")
    assert "+0.000000" in screen.lines[1]
    await screen.press("t")
    rows = screen.app.rows
    assert f"+{(rows.start[2] - rows.start[1]) / 1e9:.6f}" in screen.lines[3]
    await screen.press("T")
    assert "+0.000000" in screen.lines[3]
    assert screen.lines[1].split()[0].startswith("-0.")
    await screen.press("t", "t")
    assert ":" in screen.lines[1]


@plays("sort", "reverse", ":sort")
async def orders(screen: Screen) -> None:
    for _ in range(6):
        await screen.press("o")
    assert screen.app.view.sort == "duration"
    lengths = [screen.app.rows.length[row] for row in screen.app.view.order]
    assert lengths == sorted(lengths, reverse=True)
    await screen.press("O")
    assert [screen.app.rows.length[row] for row in screen.app.view.order] == sorted(lengths)
    await screen.press("colon")
    await screen.type("sort time")
    assert list(screen.app.view.rows.start[:3]) == sorted(screen.app.view.rows.start[:3])
    assert screen.app.view.all


@plays("copy", "copy_command")
async def copies(screen: Screen) -> None:
    await screen.press("ctrl+g")
    await screen.type(str(1 + first_row(screen, "RunPodSandbox")))
    await screen.press("c")
    call = json.loads(screen.app.clipboard)
    assert call["method"] == "RunPodSandbox"
    await screen.press("C")
    assert screen.app.clipboard.startswith("grpcurl -plaintext -unix -d ")
    assert screen.app.clipboard.endswith("runtime.v1.RuntimeService/RunPodSandbox")
    await screen.press("ctrl+g")
    await screen.type(str(1 + first_row(screen, "ContainerStatus")))
    await screen.press("C")
    assert re.fullmatch(r"crictl -r unix://\S+ inspect [0-9a-f]{64}", screen.app.clipboard)
    await screen.press("enter", "j", "j", "c")
    assert re.fullmatch(r"[0-9a-f]{64}", screen.app.clipboard)
    await screen.press("escape", "ctrl+g")
    await screen.type(str(1 + first_row(screen, "Create")))
    await screen.press("C")
    assert "no client speaks ttrpc" in screen.footer


@plays("save")
async def saves(screen: Screen) -> None:
    folder = os.environ["PODWIRE_TEST_FOLDER"]
    await screen.press("slash")
    await screen.type('call.hop == "task"')
    count = len(screen.app.view)
    await screen.press("w")
    await screen.type(f"{folder}/part.json")
    assert f"{count} calls saved" in screen.footer
    lines = Path(f"{folder}/part.json").read_text().splitlines()
    assert len(lines) == count
    assert {json.loads(line)["hop"] for line in lines} == {"task"}
    await screen.press("w")
    await screen.type(f"{folder}/part.json")
    assert "File exists" in screen.footer
    await screen.press("w")
    await screen.type(f"{folder}/part.pcapng")
    assert f"part.pcapng: {count} calls saved, with " in screen.footer
    await screen.press("w")
    await screen.type(f"{folder}/part.txt")
    assert len(Path(f"{folder}/part.txt").read_text().splitlines()) == count


@plays("pause", "step", "step_back", "faster", "slower", ":at", ":speed", capture=POD, replay=1e-9)
async def replays(screen: Screen) -> None:
    assert len(screen.app.view) == 2  # they began in one instant
    await screen.press("space")
    assert "paused" in screen.status
    await screen.press("colon")
    await screen.type("at +0")
    rows = screen.app.rows
    ends = [start + length for start, length in zip(rows.start, rows.length, strict=True) if length >= 0]
    moments = sorted({*rows.start, *ends})
    await screen.press("full_stop")
    assert screen.app.now_ns() == moments[1]
    await screen.press("full_stop", "full_stop", "comma")
    assert screen.app.now_ns() == moments[2]
    await screen.press("plus", "plus", "minus", "space")
    assert "x2e-09" in screen.status
    await screen.press("colon")
    await screen.type("speed 4")
    await screen.press("space")
    assert screen.app.player.speed == 4


@plays("pause")
async def holds_still(screen: Screen) -> None:
    await screen.press("space")
    assert "held: 0 new" in screen.status
    await screen.press("space", "full_stop")
    assert "held" not in screen.status
    assert "only in a replay" in screen.footer


@plays("command", ":columns", ":detach")
async def takes_commands(screen: Screen) -> None:
    await screen.press("colon")
    await screen.type("columns number method:12 hop")
    assert screen.lines[0].split() == ["number", "method", "hop"]
    await screen.press("colon")
    await screen.type("columns")
    assert screen.lines[0].split()[0] == "time"
    await screen.press("colon")
    await screen.type("columns nothing")
    assert "NAME or NAME:WIDTH" in screen.footer
    await screen.press("colon")
    await screen.type("frobnicate")
    assert "no command 'frobnicate'" in screen.footer
    await screen.press("colon", *"det", "tab", "enter")
    assert "nothing is traced" in screen.footer


@plays(":copy", ":save")
async def copies_and_saves_by_a_command(screen: Screen) -> None:
    await screen.press("colon")
    await screen.type("copy json")
    assert 'copied: {"v' in screen.footer
    await screen.press("colon")
    await screen.type("copy all")
    assert "copy value, copy json or copy command" in screen.footer
    os.chdir(os.environ["PODWIRE_TEST_FOLDER"])
    await screen.press("colon")
    await screen.type("save all.txt")
    assert "all.txt: 104 calls saved" in screen.footer
    assert len(Path("all.txt").read_text().splitlines()) == 104


@plays(":keys", ":quit")
async def shows_the_keys_and_leaves_by_a_command(screen: Screen) -> None:
    await screen.press("colon")
    await screen.type("keys")
    assert screen.lines[0].startswith("keys (esc: back)")
    await screen.press("colon")
    await screen.type("quit")
    assert screen.app.return_value == "leave"


@plays("help")
async def shows_help(screen: Screen) -> None:
    await screen.press("question_mark")
    page = screen.app.query_one("#page", Lines)
    shown = "\n".join("".join(text for text, _ in line.spans) for line in page.lines)
    assert all(key.text in shown for key in KEYS)
    assert all(f":{name}" in shown for name in COMMANDS)
    await screen.press("f1")
    assert screen.lines[0].split()[0] == "time"


@plays("back", "quit")
async def goes_back(screen: Screen) -> None:
    await screen.press("slash")
    await screen.type('call.hop == "task"')
    await screen.press("enter", "question_mark")
    await screen.press("escape")
    assert not screen.app.query_one("#page").display
    await screen.press("tab", "q")
    assert not screen.app.query_one("#side").display
    await screen.press("q")
    assert len(screen.app.view) == 104
    assert screen.app.return_value is None
    await screen.press("q")
    assert screen.app.return_value == "leave"


@plays("leave")
async def leaves(screen: Screen) -> None:
    await screen.press("ctrl+c")
    assert screen.app.return_value == "leave"


def first_row(screen: Screen, method: str) -> int:
    rows = screen.app.rows
    return next(row for row in range(len(rows)) if rows.kinds[rows.kind[row]].method == method)


def kinds(screen: Screen, at: int) -> tuple[str, str]:
    rows = screen.app.rows
    kind = rows.kinds[rows.kind[screen.app.view.row(at)]]
    return kind.hop, kind.method


def sign(screen: Screen, row: int) -> str:
    return screen.app.rows.sign(row, screen.app.now_ns())


CASES = {play.__name__: (play, setup) for each in PLAYS.values() for play, setup in each}


@pytest.mark.parametrize("name", CASES)
def test_key(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODWIRE_TEST_FOLDER", str(tmp_path))
    monkeypatch.chdir(Path.cwd())  # and back
    play, setup = CASES[name]
    run(play, **setup)  # type: ignore[arg-type] # by name


def test_every_key_and_command_has_a_test() -> None:
    assert set(PLAYS) == {key.id for key in KEYS} | {f":{name}" for name in COMMANDS}


def test_the_tables_of_keys_and_commands_are_those_of_what_they_do() -> None:
    async def look(screen: Screen) -> None:
        assert set(screen.app._acts) == {key.id for key in KEYS}
        assert set(screen.app._commands) == set(COMMANDS)

    run(look)


def test_no_two_acts_have_one_key() -> None:
    taken = [each for key in KEYS for each in key.keys]
    assert len(taken) == len(set(taken))


def test_footer_help_and_manual_come_from_the_table() -> None:
    assert ("?", "keys") in footer()
    assert len(help_lines()) == len(KEYS) + 1 + len(COMMANDS)
    documented = Path(__file__).parents[3] / "docs" / "commands.md"
    assert manual() in documented.read_text()


def test_a_copy_goes_out_as_osc_52() -> None:
    async def copies_json(screen: Screen) -> None:
        written: list[str] = []
        driver = screen.app._driver
        assert driver is not None
        driver.write = written.append  # type: ignore[method-assign] # what the terminal would get
        await screen.press("c")
        sent = re.search("\x1b]52;c;([A-Za-z0-9+/=]*)\x07", "".join(written))
        assert sent is not None
        assert json.loads(base64.b64decode(sent[1]))["kind"] == "call"

    run(copies_json)


def test_what_is_typed_behind_enter_is_not_the_prompts_however_fast_it_comes() -> None:
    async def play(screen: Screen) -> None:
        keys = ["slash", *"call.failed", "enter", "j", "j", "k"]
        for key in keys:
            screen.app.post_message(Key(key, key if len(key) == 1 else None))
        for _ in range(4):
            await screen.press()
            await screen.pilot.pause()
        assert "[filter call.failed]" in screen.status
        assert screen.app.view.cursor == 1
        assert not screen.app.prompt.display
        for key in ["slash", *" nope", "enter", "x"]:  # a wrong filter stays open, and takes more
            screen.app.post_message(Key(key, {"slash": None, "enter": None}.get(key, key)))
        for _ in range(4):
            await screen.pilot.pause()
        await screen.pilot.press("y")
        assert screen.app.prompt.display
        assert screen.app.prompt.value.endswith("y")

    run(play)
