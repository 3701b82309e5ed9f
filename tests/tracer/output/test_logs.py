"""Lines of logs: what text, JSON and a story show of them, masked, and nothing in them acts on the terminal."""

from __future__ import annotations

import json

import pytest

from dissectors.render import Renderer
from protos.registry import Registry
from tests.tracer.made import MS, POD, START, Told, ended, opened
from tracer.calls import Update
from tracer.capture.journal import CUT, Entry
from tracer.logs import Logged, logged
from tracer.output.jsonlines import JsonPrinter
from tracer.output.logs import line_text
from tracer.output.look import Look
from tracer.output.story import Line, Step, Story, text
from tracer.output.story_forms import to_html, to_perfetto
from tracer.output.summary import Summarizer
from tracer.output.text import TextPrinter
from tracer.output.units import Clock
from tracer.story.place import Container, Place, Pod

SECRET = "hunter2-it-is"
REAL_TIME = str(START // 1000).encode()


def entry(message: bytes, **fields: bytes) -> Entry:
    return Entry({"MESSAGE": message, "__REALTIME_TIMESTAMP": REAL_TIME, "SYSLOG_IDENTIFIER": b"containerd", **fields})


def of(message: str, **fields: bytes) -> Logged:
    return logged(entry(message.encode(), **fields))


@pytest.mark.parametrize(
    ("message", "fields", "level"),
    [
        ('time="x" level=warning msg="level=debug"', {"PRIORITY": b"6"}, "warning"),
        ("E1129 17:13:24.123456     812 kubelet.go:2345] x", {"PRIORITY": b"6"}, "error"),
        ('{"level":"error","msg":"x"}', {"PRIORITY": b"6"}, "error"),
        ("Started containerd.service", {"PRIORITY": b"6"}, "info"),
        ("x", {"PRIORITY": b"9"}, ""),
        ("x", {}, ""),
    ],
)
def test_the_level_is_the_lines_own_else_the_journals(message: str, fields: dict[str, bytes], level: str) -> None:
    assert of(message, **fields).level == level


def test_the_time_is_the_captures_else_the_writers_else_the_journals() -> None:
    one = entry(b"x")
    two = Entry({**one.fields, "_SOURCE_REALTIME_TIMESTAMP": b"17"})
    assert [logged(each).time_ns for each in (one, two, two.at(5))] == [START, 17_000, 5]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            'time="x" level=info msg="say \\"a\\\\b\\"\\n" id=1 error="no \\"x\\""',
            'say "a\\\\b"\\n id=1 error="no "x""',
        ),
        ("time=x level=info msg=Status", "Status"),
        ('I1129 17:13:24.123456     812 a.go:1] "SyncLoop" pod="a/b"', 'a.go:1] "SyncLoop" pod="a/b"'),
        ("level=info and more", "level=info and more"),
        (r'{"id":"a","level":"info","msg":"say \u0026 \"b\"","n":1,"time":"x"}', 'say & "b" id=a n=1'),
        ('{"id":"a","level":"info"}', "id=a"),
        (r'{"msg":"\ud800"}', "\N{REPLACEMENT CHARACTER}"),
        ('{"msg":"cut', '{"msg":"cut'),
        ('{"password":123,"msg":"x"}', '{"password":***,"msg":"x"}'),
        ("a\x1b[31mb\nc", "a\\x1b[31mb\\nc"),
        ("key=value only", "key=value only"),
    ],
)
def test_a_line_is_shown_without_what_stands_elsewhere_and_escaped(message: str, shown: str) -> None:
    assert line_text(of(message), 1000, show_secrets=False) == shown


def test_a_long_line_is_cut_and_says_so() -> None:
    assert line_text(of("x" * 30), 10, show_secrets=True) == "x" * 10 + " … (30 bytes)"
    assert line_text(of("x" * 5, **{CUT: b"1"}), 10, show_secrets=True) == "xxxxx … (5 bytes and more)"


class Page(list[str]):
    def write(self, text: str) -> None:
        self.append(text[16:-1])


@pytest.mark.parametrize("show_secrets", [False, True])
def test_text_prints_it_between_the_calls(registry: Registry, *, show_secrets: bool) -> None:
    page = Page()
    printer = TextPrinter(
        page.write, Summarizer(registry), look=Look(False, True), clock=Clock(), names=True, show_secrets=show_secrets
    )
    told = Told(printer)
    told.at(0, opened(1, "runtime.v1.RuntimeService", "Version"))
    line = of(f'level=info msg="password={SECRET}"', _PID=b"812")
    printer.update(line)
    pod = Pod(POD, "web-0", "default")
    line.pod, line.container = pod, Container("3c" * 32, START, "main", own_pod=pod)
    printer.update(line)
    told.at(5, ended(1))
    word = SECRET if show_secrets else "*" * len(SECRET)
    assert page[:2] == [
        f"* log                                   containerd[812]      info       password={word}",
        f"* log    3c3c3c3c3c3c3 web-0/main       containerd[812]      info       password={word}",
    ]
    assert "Version" in page[2]


def test_a_filter_shows_none(registry: Registry) -> None:
    lines: list[str] = []
    no_call = lambda _call, _now_ns: False  # noqa: E731 # of one line in two places
    printer = TextPrinter(
        lines.append, Summarizer(registry), look=Look(False, True), clock=Clock(), wanted=no_call
    )  # fmt: skip
    printer.update(of("x"))
    JsonPrinter(lines.append, registry, Renderer(registry), no_call).update(of("x"))
    assert lines == []


def test_json_has_an_object_of_it(registry: Registry) -> None:
    lines: list[str] = []
    line = of(f"token={SECRET} \x1b", _PID=b"812", _SYSTEMD_UNIT=b"containerd.service", PRIORITY=b"4", **{CUT: b"1"})
    line.pod = Pod(POD, "web-0", "default", "uid", 1)
    for show_secrets in (False, True):
        printer = JsonPrinter(lines.append, registry, Renderer(registry, show_secrets=show_secrets))
        printer.update(line)
    masked, shown = map(json.loads, lines)
    assert masked == {
        "v": 1, "kind": "log", "time": "2026-11-23T14:58:01.000000000Z", "source": "containerd", "pid": 812,
        "unit": "containerd.service", "level": "warning", "text": f"token={'*' * len(SECRET)} \x1b", "cut": True,
        "pod": {"id": POD, "namespace": "default", "name": "web-0", "uid": "uid", "attempt": 1},
    }  # fmt: skip
    assert shown["text"] == f"token={SECRET} \x1b"


def test_a_story_has_lines_at_their_times() -> None:
    calls: list[Update] = []

    class Keep:
        def update(self, update: Update) -> None:
            calls.append(update)

    told = Told(Keep())
    for after_ms in (0, 10):
        told.at(after_ms, opened(2 * after_ms + 1), ended(2 * after_ms + 1))
    steps = []
    for update in calls:
        if update.kind == "ended":
            place = Place(update.call, waits=False)
            place.end_ns, place.code = update.call.end_ns, 0
            steps.append(Step(place, update.call.method, "", seen_start=True))
    assert len(steps) == 2
    lines = [Line(START + at * MS, "kubelet", "info", "main", f"<at {at}>") for at in (-5, 5, 15)]
    story = Story(Pod(POD), steps, START, START + 20 * MS, lines)
    rows = [line.text.split() for line in text(story)[1:]]
    assert [row[0] for row in rows] == ["-5.000ms", "+0µs", "+5.000ms", "+10.000ms", "+15.000ms"]
    assert rows[2][1:] == ["*", "log", "kubelet", "info", "main", "<at", "5>"]
    page = to_html(story)
    assert page.index("&lt;at 5&gt;") < page.index("+10.000ms") < page.index("&lt;at 15&gt;")
    assert "<at" not in page
    instants = [each for each in json.loads(to_perfetto(story))["traceEvents"] if each["ph"] == "i"]
    assert [(each["ts"], each["name"]) for each in instants] == [
        (-5000, "<at -5>"),
        (5000, "<at 5>"),
        (15000, "<at 15>"),
    ]
