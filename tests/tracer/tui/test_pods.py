"""Pods, stories and who waits for whom on the screen, on captures of a real containerd."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest

from protos.registry import Registry
from tests.tracer.cut import cut
from tests.tracer.tui.screen import CAPTURES, EDGE, POD, Screen, run
from tests.tracer.tui.test_captures import HOSTILE, one_call, rows_of
from tracer.calls import Call, CallUpdate
from tracer.capture.growing import open_recorded
from tracer.pipeline import Decoder
from tracer.story.correlate import Correlator
from tracer.tui.indexer import Indexer
from tracer.tui.lines import Lines
from tracer.tui.player import Player
from tracer.tui.pods import pod_lines
from tracer.tui.rows import NOBODY, WAITS, Batch, Rows
from tracer.tui.source import WholeSource
from tracer.tui.waterfall import axis, bar

CAPTURED = [POD, EDGE, CAPTURES / "ctrd2-nri.pcapng.gz"]


def placed(path: Path) -> list[Call]:
    """Its calls, each with its place."""
    decoder, correlator, calls = Decoder(), Correlator(Registry.bundled()), []
    with open_recorded(str(path)) as capture:
        for updates in [*(decoder.feed(item) for item in capture), decoder.finish()]:
            for update in updates:
                correlator.update(update)
                if isinstance(update, CallUpdate) and update.kind == "opened":
                    calls.append(update.call)
    return calls


def methods(screen: Screen) -> list[str]:
    """The names that the list shows, as they stand there."""
    app = screen.app
    return [app.calls._cell("method", app.view.row(at), at, 40)[0] for at in range(len(app.view))]


@pytest.mark.parametrize("capture", CAPTURED, ids=lambda path: path.stem)
def test_rows_know_the_pod_container_and_parent_that_the_correlator_found(capture: Path) -> None:
    rows, source = rows_of(capture)
    source.close()
    calls = placed(capture)
    assert len(rows) == len(calls)
    known = 0
    for row, call in enumerate(calls):
        place = call.place
        assert place is not None
        assert rows.labels[rows.whom[row]] == place.label()
        assert rows.parent[row] == (0 if place.parent is None else place.parent.number)
        pod = rows.whoms[rows.pod_of(row)]
        assert pod.id == ("" if place.pod is None else place.pod.id)
        known += bool(place.label()) and bool(place.parent)
    assert known > 50


@pytest.mark.parametrize("capture_of", [POD, CAPTURES / "ctrd2-busy.pcapng.gz"], ids=lambda path: path.stem)
def test_what_is_learnt_later_changes_rows_that_were_told_before(capture_of: Path, tmp_path: Path) -> None:
    """Batches of one packet each: names, parents and pods come in after the rows that they are of."""
    rows, decoder, told = Rows(), Decoder(), []
    with (tmp_path / "states").open("wb") as states, open_recorded(str(capture_of)) as capture:
        indexer = Indexer(Registry.bundled(), states)
        indexer.at(decoder, capture)
        for item in capture:
            indexer.take(decoder.feed(item))
            indexer._census._look_at = 0  # as if time had passed
            batch = indexer.batch(0, 0, decoder.now_ns)
            told.append((len(batch.parents), len(batch.whoms)))
            rows.add(batch)
        indexer.take(decoder.finish())
        rows.add(indexer.batch(0, 0, decoder.now_ns, complete=True))
    whole, source = rows_of(capture_of)
    source.close()
    assert rows.labels == whole.labels
    assert rows.whoms == whole.whoms
    assert rows.parent == whole.parent
    assert rows.whom == whole.whom
    assert sum(parents for parents, _ in told) > 10  # so it was seen to come later
    assert rows.joined


def test_a_pod_is_chosen_and_narrows_everything() -> None:
    async def play(screen: Screen) -> None:
        await screen.press("p")
        pods = screen.app.query_one("#pods", Lines)
        assert screen.app.focused is pods
        assert "default/pod" in screen.text
        assert "91.184ms" in screen.text
        await screen.press("enter")
        assert "[pod default/pod]" in screen.status
        shown = {screen.app.rows.pod_of(screen.app.view.row(at)) for at in range(len(screen.app.view))}
        assert len(shown) == 1
        whole = [screen.app.rows.pod_of(row) for row in range(104)]
        assert len(screen.app.view) == sum(map(bool, whole))
        assert 0 < len(screen.app.view) < 104
        await screen.press("u")
        total = int(screen.app.query_one("#page", Lines).lines[0].spans[0][0].split()[0])
        assert total == len(screen.app.view)
        await screen.press("u", "tab", "j", "enter")  # its container alone
        assert "[container pod/main]" in screen.status
        container = len(screen.app.view)
        assert {screen.app.rows.labels[screen.app.rows.whom[screen.app.view.row(at)]] for at in range(container)} == {
            "pod/main"
        }
        await screen.press("enter")
        assert len(screen.app.view) == 104
        await screen.press("j", "j", "j", "enter")  # a failed call leads to itself
        assert screen.app.rows.kinds[screen.app.rows.kind[screen.row or 0]].method == "ContainerStatus"
        assert screen.app.query_one("#side").display
        await screen.press("p")
        assert not pods.display

    run(play, size=(160, 40))


def test_a_story_is_drawn_to_time_and_leads_to_calls() -> None:
    async def play(screen: Screen) -> None:
        rows = screen.app.rows
        await screen.press("y")
        assert "about no pod that is known" in screen.footer
        first = next(row for row in range(len(rows)) if rows.kinds[rows.kind[row]].method == "RunPodSandbox")
        await screen.press("ctrl+g", *str(first + 1), "enter", "y")
        page = screen.app.query_one("#page", Lines)
        assert "pod default/pod sandbox 1e34f4b2eac0a: removed" in screen.lines[0]
        stories = [line.target.row for line in page.lines if hasattr(line.target, "row")]
        assert sorted(stories) == [row for row in range(len(rows)) if rows.pod_of(row)]
        assert screen.app.pages.row == first
        lane = screen.lines[2].rstrip()
        assert lane.endswith("███")
        assert screen.lines[3].index("█") > lane.index("█")  # Create began later
        await screen.press("right")
        assert screen.lines[2].rstrip().count("█") > 40  # all of it is this call
        assert "+91.184ms" in screen.lines[1]
        await screen.press("left")
        assert "+532.292ms" in screen.lines[1]
        await screen.press("e")
        assert "nothing found" in screen.footer
        await screen.press("j", "j", "enter")
        row = screen.app.pages.row
        assert screen.app.focused is screen.app.query_one("#tree")
        assert f"call {1 + (row or 0)} " in screen.text
        await screen.press("escape", "escape")
        assert screen.app.focused is screen.app.calls
        assert screen.row == row

    run(play, size=(120, 40))


def test_failures_are_found_within_a_story() -> None:
    async def play(screen: Screen) -> None:
        rows = screen.app.rows
        first = next(row for row in range(len(rows)) if rows.kinds[rows.kind[row]].method == "RunPodSandbox")
        await screen.press("ctrl+g", *str(first + 1), "enter", "y", "e")
        found = screen.app.pages.row
        assert found in rows.troubles
        assert found is not None
        assert rows.pod_of(found) == rows.pod_of(first)
        await screen.press("E")
        before = screen.app.pages.row
        assert "round the end" in screen.footer
        assert before in rows.troubles
        assert before != found

    run(play, EDGE, size=(120, 40))


def test_a_parent_is_gone_to_also_when_it_is_not_among_what_is_shown() -> None:
    async def play(screen: Screen) -> None:
        rows = screen.app.rows
        child = next(row for row in range(len(rows)) if rows.kinds[rows.kind[row]].method == "Create")
        await screen.press("slash")
        await screen.type('call.hop == "task"')
        await screen.press("ctrl+g", *str(child + 1), "enter", "enter", "v")
        caused = f"call {rows.parent[child]}: cri RunPodSandbox"
        assert caused in screen.text
        assert "default/pod 1e34f4b2eac0" in screen.text
        await screen.press("P")
        assert screen.row == rows.parent[child] - 1
        assert rows.kinds[rows.kind[screen.row or 0]].method == "RunPodSandbox"
        assert len(screen.app.view) == 104
        await screen.press("P")
        assert "no call is known to have caused this one" in screen.footer

    run(play)


def test_calls_in_flight_stand_below_those_that_wait_for_them(tmp_path: Path) -> None:
    async def play(screen: Screen) -> None:
        await screen.press("i")
        shown = methods(screen)
        assert shown[:2] == ["RunPodSandbox", "└ Create"]
        assert shown[-1] == "Events/Subscribe"  # it is meant to wait
        assert "└ Create" in screen.text
        await screen.press("i")
        assert screen.app.view.sort == "time"
        await screen.press("y")  # the open call is drawn up to the last packet
        story = [line for line in screen.lines if "RunPodSandbox" in line or "Create" in line]
        assert [line.rstrip()[-1] for line in story] == ["░", "░"]
        assert story[0].count("░") > story[1].count("░")

    run(play, cut(POD, tmp_path, "Create"))


def test_a_pod_that_only_a_failed_request_names_is_not_listed() -> None:
    rows = Rows()
    rows._hear_of([NOBODY._replace(number=1, pod=1, id="p", name="default/none")])
    assert "no pod yet" in pod_lines(rows, 0, 60)[0].spans[0][0]
    rows._hear_of([NOBODY._replace(number=2, pod=1, id="c", name="main", known=True)])
    assert [line.target for line in pod_lines(rows, 0, 60)[2:]] == rows.whoms[1:]


def test_calls_in_flight_keep_their_chains_in_a_replay() -> None:
    async def play(screen: Screen) -> None:
        rows = screen.app.rows
        create = next(row for row in range(len(rows)) if rows.kinds[rows.kind[row]].method == "Create")
        await screen.press("i", "colon")
        await screen.type(f"at +{(rows.start[create] - rows.start[0] + 1000) / 1e9:.9f}")
        assert methods(screen)[:2] == ["RunPodSandbox", "└ Create"]

    run(play, replay=1e-9)


def test_a_pod_that_begins_after_the_clock_of_a_replay_has_no_story_yet() -> None:
    async def play(screen: Screen) -> None:
        await screen.press("p")
        assert "as they are at the end of the capture" in screen.text
        await screen.press("y")
        assert "no call of it yet" in screen.text
        title = next(line for line in screen.lines if "sandbox" in line)
        assert "removed" not in title

    run(play, replay=1e-9)


def test_names_from_the_wire_do_not_reach_the_pane_raw(tmp_path: Path) -> None:
    async def play(screen: Screen) -> None:
        await screen.press("p")
        assert "evil" in screen.text
        assert "\x1b" not in screen.text
        assert "\u202e" not in screen.text

    run(play, one_call(tmp_path, id=HOSTILE))


def test_a_bar_lies_where_its_time_does() -> None:
    def drawn(start: int, stop: int) -> str:
        return "".join(text for text, _ in bar(start, stop, (100, 200, 10), None, "#"))  # type: ignore[arg-type] # its style does not matter

    assert drawn(100, 200) == "##########"
    assert drawn(150, 200) == "     #####"
    assert drawn(100, 101) == "#"
    assert drawn(199, 200) == "         #"
    assert drawn(150, 150) == "     #"
    assert drawn(0, 99) == "‹"
    assert drawn(201, 300) == "         ›"
    assert drawn(0, 300) == "##########"
    assert axis(0, 1000, 40).split() == ["+0µs", "+0µs", "+1µs"]
    assert len(axis(0, 10**9, 40)) == 40
    assert axis(0, 10**9, 12) == "+0µs +1.000s"


def test_what_is_learnt_last_is_told_though_nothing_comes_any_more(tmp_path: Path) -> None:
    """The sandbox's own calls are told of before RunPodSandbox answers, which names them; then all is quiet."""

    def create() -> str:
        return next(
            rows.labels[rows.whom[row]] for row in range(len(rows)) if rows.kinds[rows.kind[row]].method == "Create"
        )

    rows, decoder = Rows(), Decoder()
    with (tmp_path / "states").open("wb") as states, open_recorded(str(POD)) as capture:
        indexer = Indexer(Registry.bundled(), states)
        indexer.at(decoder, capture)
        for item in capture:
            updates = decoder.feed(item)
            if any(isinstance(each, CallUpdate) and each.call.method == "RunPodSandbox" for each in updates):
                rows.add(indexer.batch(0, 0, decoder.now_ns))
            indexer.take(updates)
            if any(each.kind == "ended" and each.call.method == "RunPodSandbox" for each in updates if each.call):
                break
        rows.add(indexer.batch(0, 0, decoder.now_ns))
        assert create() == ""
        assert not indexer.waiting  # it was looked at a moment ago
        indexer._census._look_at = 0  # as if time had passed
        assert indexer.waiting
        rows.add(indexer.batch(0, 0, decoder.now_ns))
        assert create() == "pod"
        assert not indexer.waiting


def test_a_name_that_a_pod_gets_later_is_its_containers_too() -> None:
    rows = Rows()
    rows._hear_of([NOBODY._replace(number=1, pod=1, id="p"), NOBODY._replace(number=2, pod=1, id="c", name="main")])
    assert rows.labels == ["", "", "main"]
    rows._hear_of([NOBODY._replace(number=1, pod=1, id="p", name="default/web")])
    assert rows.labels == ["", "web", "web/main"]


def test_a_players_open_rows_are_those_that_are_open_then() -> None:
    rows, source = rows_of(POD)
    source.close()
    player = Player(rows)
    ends = (start + length for start, length in zip(rows.start, rows.length, strict=True))
    moments = sorted({*rows.start, *ends})
    for moment in [*moments, *moments[::-7], *moments[::5]]:
        player.clock_ns = moment
        begun = [row for row in range(len(rows)) if rows.start[row] <= moment]
        assert player.open_rows() == {row for row in begun if rows.open_at(row, moment)}


def test_a_player_steps_through_all_moments_both_ways() -> None:
    rows, source = rows_of(POD)
    source.close()
    ends = (start + length for start, length in zip(rows.start, rows.length, strict=True))
    moments = sorted({*rows.start, *ends})
    player = Player(rows, clock_ns=moments[0])
    seen = [moments[0]]
    for _ in moments:
        player.step(forward=True)
        seen.append(player.clock_ns)
    assert seen == [*moments, moments[-1]]
    back = []
    for _ in moments:
        player.step(forward=False)
        back.append(player.clock_ns)
    assert back == [*moments[-2::-1], moments[0]]


def test_nobody_hangs_for_a_call_that_is_meant_to_wait() -> None:
    rows = Rows()
    for parent, flags in ((0, 0), (1, WAITS), (2, 0), (1, 0)):
        rows.start.append(0)
        rows.length.append(-1)
        rows.parent.append(parent)
        rows.flags.append(flags)
    assert [rows.waits_below(row, 1) for row in range(4)] == [(0,), (1,), (2,), (0, 3)]


def test_what_turns_out_to_be_a_pods_comes_to_its_calls() -> None:
    """The shim's calls are told of before RunPodSandbox answers, which says that they are of the pod's sandbox."""
    whole = WholeSource(str(POD))
    batches = one_by_one(POD, whole.states)

    async def play(screen: Screen) -> None:
        await screen.press("p", "enter")
        assert "starting" in screen.text
        assert len(screen.app.view) == 1
        whole._batches = batches[1:2]
        screen.app.tick()
        assert len(screen.app.view) == 1  # nothing told it whose they are
        whole._batches = batches[2:]
        screen.app.tick()
        screen.app._looked = 0  # as if a second had passed
        screen.app.tick()
        assert len(screen.app.view) == sum(bool(screen.app.rows.pod_of(row)) for row in range(104))

    whole._batches = batches[:1]
    run(play, source=whole)


def one_by_one(path: Path, states: BinaryIO) -> list[Batch]:
    """Three batches: up to RunPodSandbox, up to just before its answer, and the rest."""
    decoder, found = Decoder(), []
    with open_recorded(str(path)) as capture:
        indexer = Indexer(Registry.bundled(), states)
        indexer.at(decoder, capture)
        for item in capture:
            updates = decoder.feed(item)
            kinds = [each.kind for each in updates if each.call is not None and each.call.method == "RunPodSandbox"]
            if "ended" in kinds:
                found.append(indexer.batch(0, 0, decoder.now_ns))
            indexer.take(updates)
            if "opened" in kinds:
                found.append(indexer.batch(0, 0, decoder.now_ns))
        indexer.take(decoder.finish())
        found.append(indexer.batch(0, 0, decoder.now_ns, complete=True))
    return found


def test_a_pod_that_is_not_narrowed_to_any_more_is_not_the_chosen_one() -> None:
    async def play(screen: Screen) -> None:
        await screen.press("p", "enter")
        assert screen.app.pods.chosen
        await screen.press("j", "j", "j", "j", "enter")  # a failed call of no pod: nothing is narrowed any more
        assert "[pod" not in screen.status
        await screen.press("y")
        assert "about no pod that is known" in screen.footer

    run(play, size=(160, 40))
