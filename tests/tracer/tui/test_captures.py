"""Captures of every kind on the screen: empty, of one call, cut, compressed; and each call as decoding has it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from dissectors.ttrpc_frames import build_frame
from dissectors.ttrpc_messages import build_request
from tests.tracer.made import START
from tests.tracer.tui.screen import CAPTURES, EDGE, POD, Screen, run
from tests.tracer.written import REQUEST_TYPE, Written
from tracer.calls import Call
from tracer.capture.growing import open_recorded
from tracer.pipeline import Decoder
from tracer.tui import indexer
from tracer.tui.loader import load
from tracer.tui.rows import GAP, OPEN, Rows
from tracer.tui.source import WholeSource, read_state
from tracer.tui.states import take_up

HOSTILE = "evil\x1b]0;title\x07\x1b[31m[red]x[/red][@click=app.quit]y[/]\u202egnp\x9b\n"
MS = 1_000_000


def one_call(folder: Path, **fields: object) -> Path:
    written = Written()
    written.open(1)
    written.ask(1, 1, "State", MS, **fields)
    written.answer(1, 1, 3 * MS)
    return written.save(folder / "one.pcapng", 4 * MS)


def rows_of(path: Path) -> tuple[Rows, WholeSource]:
    source, rows = WholeSource(str(path)), Rows()
    for batch in source.batches():
        rows.add(batch)
    return rows, source


def calls_of(path: Path) -> list[Call]:
    decoder, calls = Decoder(), []
    with open_recorded(str(path)) as capture:
        for item in capture:
            calls += [update.call for update in decoder.feed(item) if update.kind == "opened" and update.call]
    decoder.finish()
    return calls


def test_empty_capture(tmp_path: Path) -> None:
    path = Written().save(tmp_path / "empty.pcapng", 0)

    async def look(screen: Screen) -> None:
        assert screen.status.startswith(" 0/0  0 in flight")
        for keys in ("j", "G", "e", "enter", "x", "v", "u", "u", "m", "c", "C", "s", "i", "i", "o", "T", "F"):
            await screen.press(keys)
        assert screen.row is None

    run(look, path)


def test_capture_of_one_call(tmp_path: Path) -> None:
    async def look(screen: Screen) -> None:
        assert screen.status.startswith(" 1/1  0 in flight")
        await screen.press("enter", "j", "j")
        assert 'id: "abc"' in screen.text
        await screen.press("e")
        assert "nothing found" in screen.footer

    run(look, one_call(tmp_path, id="abc"))


def test_capture_cut_in_the_middle_of_a_record(tmp_path: Path) -> None:
    whole = one_call(tmp_path, id="abc").read_bytes()
    path = tmp_path / "cut.pcapng"
    path.write_bytes(whole[:-120])

    async def look(screen: Screen) -> None:
        assert "broken off: the file is cut in the middle of a block" in screen.status
        await screen.press("exclamation_mark")
        assert "broken off" in screen.text
        assert len(screen.app.rows) == 1

    run(look, path, size=(160, 24))


def test_call_without_an_answer_stays_open(tmp_path: Path) -> None:
    written = Written()
    written.open(1)
    written.ask(1, 1, "Kill", MS, timeout_ns=4_000_000_000, id="abc")
    path = written.save(tmp_path / "open.pcapng", 1001 * MS)

    async def narrow(screen: Screen) -> None:
        await screen.press("i")
        assert "deadline" in screen.lines[0]
        assert "██████ 4.000s" in screen.lines[1]

    run(narrow, path, size=(80, 24))

    async def look(screen: Screen) -> None:
        assert " 1 in flight" in screen.status
        await screen.press("i")
        assert "open" in screen.lines[1]
        assert screen.app.rows.code[0] == OPEN
        assert screen.app.rows.open == {0: START + MS + 4_000_000_000}
        assert "deadline" in screen.lines[0]
        await screen.press("enter")
        assert "Kill  open" in screen.text

    run(look, path, size=(160, 24))


@pytest.mark.parametrize("capture", [POD, EDGE, CAPTURES / "ctrd2-nri.pcapng.gz"], ids=lambda path: path.stem)
@pytest.mark.parametrize("packed", [True, False])
def test_each_call_is_read_again_as_it_was_decoded(
    capture: Path, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer, "APART_SIZES", 0)  # a state each megabyte
    path = capture
    if not packed:
        path = tmp_path / capture.stem
        path.write_bytes(gzip.decompress(capture.read_bytes()))
    calls = calls_of(path)
    rows, source = rows_of(path)
    assert len(rows) == len(calls)
    for row in range(0, len(rows), max(1, len(rows) // 40)):
        there = calls[row]
        read = load(rows, row, lambda place: read_state(source, place.offset, place.length)).call
        assert (read.number, read.service, read.method, read.metadata, read.trailers, read.messages) == (
            (there.number, there.service, there.method, there.metadata, there.trailers, there.messages)
        )
        assert (read.state, read.status, read.end_ns, read.note) == (
            there.state,
            there.status,
            there.end_ns,
            there.note,
        )
        assert rows.start[row] == there.start_ns
        assert rows.length[row] == (-1 if there.end_ns is None else there.end_ns - there.start_ns)
        assert bool(rows.flags[row] & GAP) == there.gap
    assert rows.open.keys() == {call.number - 1 for call in calls if call.end_ns is None}
    source.close()


def test_a_state_is_taken_up_where_it_was_put_away(tmp_path: Path) -> None:
    path = tmp_path / "plain.pcapng"
    path.write_bytes(gzip.decompress(EDGE.read_bytes()))
    rows, source = rows_of(path)
    assert len(rows.places) > 1
    place = rows.places[-1]
    assert b"tracer.story" not in read_state(source, place.offset, place.length)  # all that is known of all pods
    with open_recorded(str(path)) as capture:
        decoder = take_up(read_state(source, place.offset, place.length), capture)
        rest = [update for item in capture for update in decoder.feed(item)]
    numbers = [update.call.number for update in rest if update.kind == "opened" and update.call]
    assert numbers == [row + 1 for row in range(len(rows)) if rows.place[row] == len(rows.places) - 1]
    source.close()


def test_a_capture_that_is_gone_is_said(tmp_path: Path) -> None:
    path = one_call(tmp_path, id="abc")

    async def look(screen: Screen) -> None:
        path.unlink()
        await screen.press("enter")
        assert "no such file or directory" in screen.text

    run(look, path)


def test_nothing_of_the_wire_reaches_the_terminal_raw(tmp_path: Path) -> None:
    written = Written()
    written.open(1, socket="/run/containerd/s/\x1b[2J")
    written.ask(1, 1, "State", MS, id=HOSTILE)
    written.answer(1, 1, 3 * MS, 5, HOSTILE)
    written.send(1, 0, build_frame(3, REQUEST_TYPE, 0, build_request(HOSTILE, HOSTILE, b"\x0a\x05\x1b[31m", 0)), 5 * MS)
    written.send(1, 1, b"\x1b[31m\x1b]0;x\x07 no frame", 6 * MS)
    path = written.save(tmp_path / "hostile.pcapng", 9 * MS)

    async def look(screen: Screen) -> None:
        for keys in (
            "enter",
            "x",
            "v",
            "v",
            "v",
            "c",
            "escape",
            "G",
            "enter",
            "x",
            "c",
            "escape",
            "exclamation_mark",
            "u",
        ):
            await screen.press(keys)
            for strip in screen.app.screen._compositor.render_strips():
                for segment in strip:
                    assert segment.text.isprintable(), repr(segment.text)
                    assert segment.style is None or not segment.style.meta.get("@click")
        await screen.press("u", "escape", "escape", "slash")
        await screen.type('request.id.contains("evil")')
        assert len(screen.app.view) == 1
        await screen.press("g", "enter")
        assert "[red]x[/red][@click=app.quit]y[/]" in screen.text  # markup is text
        assert "\\x1b" in screen.text

    run(look, path, size=(250, 60))


def test_events_are_named_by_their_topics() -> None:
    rows, source = rows_of(POD)
    topics = {kind.name for kind in rows.kinds if kind.hop == "events"}
    assert {"/tasks/create", "/tasks/start", "/tasks/exit"} <= topics
    source.close()
