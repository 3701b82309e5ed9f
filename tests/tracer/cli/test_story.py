"""`podwire story` over a recording of a real containerd 1.6: one tree, four forms of it."""

from __future__ import annotations

import json
import re
import stat
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.tracer.cut import cut
from tests.tracer.made import MS, POD, SECOND
from tests.tracer.written import Written
from tracer.cli import main

CAPTURE = str(Path(__file__).parents[3] / "captures" / "own16-pod.pcapng.gz")
SANDBOX = "1e34f4b2eac0a"


def story(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["story", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", ["pod", "default/pod", "uid-pod", SANDBOX])
def test_a_pod_is_found_by_its_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = story(capsys, name, CAPTURE)
    assert lines[0].startswith(f"pod default/pod, sandbox {SANDBOX}")
    assert lines[0].endswith(", uid uid-pod, attempt 0: removed")


def test_each_call_stands_below_the_one_that_caused_it(capsys: pytest.CaptureFixture[str]) -> None:
    lines = story(capsys, "pod", CAPTURE)
    shown = [re.sub(r"^ *\+\S+ +\S+ . ", "", line)[:43].rstrip() for line in lines[1:]]
    at = shown.index("cri    RunPodSandbox              OK")
    assert shown[at + 1 : at + 4] == [
        "task   └ Create                   OK",
        "events   └ /tasks/create          OK",
        "task   └ Connect                  OK",
    ]
    assert {line.split("OK")[1].split()[0] for line in lines[at + 2 : at + 5]} == {"identity"}
    # All calls of the pod and no other: those of its shim and its events, and of CRI those that name it.
    assert main(["decode", "--json", CAPTURE]) == 0
    calls = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    own = [call for call in calls if call["hop"] in ("task", "events") or call.get("pod")]
    assert len(shown) == len(own)


def test_with_an_expression_only_the_calls_that_match_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    _, *lines = story(capsys, "pod", CAPTURE, "-Y", 'call.hop == "task"')
    assert len(lines) > 10
    assert {line.split()[2] for line in lines} == {"task"}


def test_what_is_open_is_as_old_as_the_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = Written()
    written.open(1)
    controller = "containerd.runtime.sandbox.v1.Sandbox"
    written.ask(1, 1, "StartSandbox", 0, service=controller, sandbox_id=POD)
    written.ask(1, 3, "Create", 100 * MS, id=POD)
    written.ask(1, 5, "State", 200 * MS, id=POD)
    written.answer(1, 5, 3 * SECOND, 13, "no\x1b[31m")
    lines = story(capsys, POD[:13], str(written.save(tmp_path / "open.pcapng", 3 * SECOND)))
    assert [line.split() for line in lines[1:]] == [
        ["+0µs", "3.000s", "…", "task", "Sandbox/StartSandbox", "open"],
        ["+100.000ms", "2.900s", "…", "task", "Create", "open"],
        ["+200.000ms", "2.800s", "E", "task", "State", "INTERNAL", "—", r"no\x1b[31m"],
    ]


def test_a_sandbox_that_hangs_is_told_down_to_where_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """RunPodSandbox has not told the sandbox's id yet, so the shim's call names a pod that nobody knows."""
    lines = story(capsys, "pod", str(cut(Path(CAPTURE), tmp_path, "Create")))
    assert [line.split()[3:7] for line in lines[1:]] == [
        ["cri", "RunPodSandbox", "open", "default/pod"],
        ["task", "└", "Create", "open"],
    ]


def test_a_pod_that_is_not_there_and_a_name_of_several_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["story", "nobody", CAPTURE]) == 2
    assert capsys.readouterr().err == "podwire: no pod is called nobody; there are: default/pod\n"
    written = Written()
    written.open(1)
    controller = "containerd.runtime.sandbox.v1.Sandbox"
    for stream, last in ((1, "a"), (3, "b")):
        written.ask(1, stream, "StartSandbox", 0, service=controller, sandbox_id=POD[:-1] + last)
    assert main(["story", POD[:8], str(written.save(tmp_path / "two.pcapng", SECOND))]) == 2
    assert capsys.readouterr().err.startswith(f"podwire: several pods are called {POD[:8]}; name one by its id: ")


class Page(HTMLParser):
    """Counts rows and bars, and what refers to elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.bars: list[tuple[float, float]] = []
        self.rows = 0
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.rows += tag == "tr"
        self.links += [key for key in known if key in ("src", "href")]
        self.links += [tag] if tag in ("script", "link", "img", "iframe") else []
        if (known.get("class") or "").startswith("bar"):
            found = re.fullmatch(r"left:([\d.]+)%;width:([\d.]+)%", known["style"] or "")
            assert found is not None
            self.bars.append((float(found[1]), float(found[2])))


def test_a_page_stands_alone_and_has_a_bar_for_every_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = story(capsys, "pod", CAPTURE)
    out = tmp_path / "story.html"
    assert story(capsys, "--html", str(out), "pod", CAPTURE) == []
    page = Page()
    page.feed(out.read_text())
    assert len(page.bars) == len(lines) - 1 == page.rows - 1
    assert page.links == []
    assert page.bars[0][0] == 0
    assert all(left + width <= 100.2 for left, width in page.bars)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_text_of_the_wire_cannot_be_markup(tmp_path: Path) -> None:
    written = Written()
    written.open(1)
    evil = "<script>alert(1)</script>"
    written.ask(1, 1, "Create", 0, id=POD, bundle=evil)
    controller = "containerd.runtime.sandbox.v1.Sandbox"
    written.ask(1, 3, "StartSandbox", 0, service=controller, sandbox_id=POD)
    written.answer(1, 1, MS, 2, evil + ";\nend")
    path = str(written.save(tmp_path / "evil.pcapng", SECOND))
    out = tmp_path / "evil.html"
    assert main(["story", "--html", str(out), POD[:13], path]) == 0
    assert "<script" not in out.read_text()
    assert "&lt;script&gt;" in out.read_text()


def test_a_diagram_has_a_request_and_an_answer_for_every_call(capsys: pytest.CaptureFixture[str]) -> None:
    lines = story(capsys, "pod", CAPTURE)
    diagram = story(capsys, "--mermaid", "pod", CAPTURE)
    assert diagram[0] == "sequenceDiagram"
    assert [line.split()[-1] for line in diagram if " participant " in line] == ["client", "runtime", "shim"]
    asked = [line for line in diagram if "->>" in line and "-->>" not in line]
    answered = [line for line in diagram if "-->>" in line or "--x" in line]
    assert len(asked) == len(answered) == len(lines) - 1
    assert "    client->>runtime: RunPodSandbox default/pod → 1e34f4b2eac0a" in diagram
    for line in asked + answered:
        assert re.fullmatch(r"    \w+(->>|-->>|--x)\w+: ([^;#]|#\d+;)*", line)


def test_a_perfetto_trace_nests_nothing_wrong_and_points_from_parents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = story(capsys, "pod", CAPTURE)
    out = tmp_path / "story.json"
    story(capsys, "--perfetto", str(out), "pod", CAPTURE)
    events: list[dict[str, Any]] = json.loads(out.read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert len(slices) == len(lines) - 1
    lanes: dict[tuple[int, int], float] = {}
    for each in slices:  # in the order of their starts: on one lane, each ends before the next begins
        lane = each["pid"], each["tid"]
        assert each["ts"] >= lanes.get(lane, 0)
        lanes[lane] = each["ts"] + each["dur"]
    by_call = {each["args"]["call"]: each for each in slices}
    arrows = {event["id"]: event for event in events if event["ph"] == "s"}
    assert arrows
    for child, arrow in arrows.items():
        above = by_call[by_call[child]["args"]["parent"]]
        assert (arrow["pid"], arrow["tid"], arrow["ts"]) == (above["pid"], above["tid"], by_call[child]["ts"])
    assert {event["args"]["name"] for event in events if event["name"] == "process_name"} == {"cri", "task", "events"}


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["story", "--html", str(tmp_path / "no" / "x.html"), "pod", CAPTURE]) == 2
    assert capsys.readouterr().err == f"podwire: {tmp_path}/no/x.html: No such file or directory\n"
