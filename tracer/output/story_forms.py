"""A story as a page with a waterfall, as a Mermaid sequence diagram, as a trace for ui.perfetto.dev and chrome://tracing.

In: a story. Out: text. Nothing refers to another file or host.
"""

from __future__ import annotations

import html
import json
from typing import Any

from protos.hops import HOPS
from tracer.output.escape import escape
from tracer.output.story import Line, Step, Story, title
from tracer.output.units import duration

SIDES = {
    "cri": ("client", "runtime"),
    "task": ("runtime", "shim"),
    "events": ("shim", "runtime"),
    "agent": ("shim", "agent"),
    "nri": ("runtime", "plugin"),
}
"""Who calls whom on a hop."""
ORDER = ("client", "runtime", "plugin", "shim", "agent")
MIN_WIDTH = 0.15
"""Per cent of the width that the shortest bar has."""
MAX_MERMAID = 60
"""Characters of a call's text in a diagram."""

_STYLE = """
:root { color-scheme: light dark; font: 13px system-ui, sans-serif }
body { margin: 1rem }
h1 { font-size: 1.1rem }
table { border-collapse: collapse; width: 100%; table-layout: fixed }
th { text-align: left; font-weight: 600 }
td, th { padding: 1px 6px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
tr:hover { background: color-mix(in srgb, currentColor 8%, transparent) }
.name { width: 26rem } .hop { width: 4rem } .time { width: 6rem; text-align: right } .how { width: 5rem }
.status { width: 7rem }
.lane { position: relative; height: 1.1em }
.bar { position: absolute; top: 15%; height: 70%; border-radius: 2px }
.cri { background: #3b7dd8 } .task { background: #2f9e69 } .events { background: #9b8a2f }
.agent { background: #b0589e } .nri, .other { background: #7a7f87 } .failed { background: #d0342c }
.log { font-style: italic; opacity: 0.8 }
.mark { background: currentColor; width: 2px }
.open { background: repeating-linear-gradient(45deg, #c77a12 0 6px, #e0a75a 6px 12px) }
"""


def to_html(story: Story) -> str:
    """A page of its own: a row a call, with a bar from its start to its end."""
    whole = max(1, max((_end(story, step) for step in story.steps()), default=0) - story.start_ns)
    rows = [_line(story, row, whole) if isinstance(row, Line) else _row(story, row, whole) for row in story.rows()]
    name = html.escape(title(story.pod))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>pod {name}</h1>\n<table><thead><tr>"
        '<th class="name">call</th><th class="hop">hop</th><th class="status">status</th><th class="time">after</th>'
        '<th class="time">took</th><th class="how">parent by</th>'
        f"<th>{duration(whole)} in all</th></tr></thead>\n<tbody>\n{''.join(rows)}</tbody></table></body></html>\n"
    )


def _end(story: Story, step: Step) -> int:
    return step.place.start_ns + step.length_ns(story.end_ns)


def _row(story: Story, step: Step, whole: int) -> str:
    place = step.place
    left = 100 * (place.start_ns - story.start_ns) / whole
    width = max(MIN_WIDTH, 100 * step.length_ns(story.end_ns) / whole)
    look = "open" if place.open else "failed" if step.failed else _hop(step)
    label = html.escape(_full(step))
    return (
        f'<tr title="{label}"><td style="padding-left:{step.depth * 1.2 + 0.4:.1f}rem">{label}</td>'
        f"<td>{html.escape(place.hop)}</td><td>{'E ' if step.failed else ''}{html.escape(step.status)}</td>"
        f'<td class="time">{story.after(place.start_ns)}</td>'
        f'<td class="time">{duration(step.length_ns(story.end_ns))}</td><td>{place.how}</td>'
        f'<td><div class="lane"><div class="bar {look}" style="left:{left:.3f}%;width:{width:.3f}%"></div></div></td>'
        "</tr>\n"
    )


def _line(story: Story, line: Line, whole: int) -> str:
    """A line of a log, with a mark at its time."""
    left = min(max(100 * (line.time_ns - story.start_ns) / whole, 0), 100)
    about = f"[{line.container}] " if line.container else ""
    label = html.escape(f"{line.source} {about}{line.text}")
    return (
        f'<tr class="log" title="{label}"><td>{label}</td><td>log</td><td>{html.escape(line.level)}</td>'
        f'<td class="time">{story.after(line.time_ns)}</td><td></td><td></td>'
        f'<td><div class="lane"><div class="bar mark" style="left:{left:.3f}%"></div></div></td></tr>\n'
    )


def _hop(step: Step) -> str:
    """The hop that a call is drawn in: one of which none is known is drawn with the others."""
    return step.place.hop if step.place.hop in HOPS else "other"


def _full(step: Step) -> str:
    name = escape(step.place.label())
    notes = "".join(f" ({note})" for note in step.notes())
    return " ".join(part for part in (step.method, f"[{name}]" if name else "", step.text) if part) + notes


def to_mermaid(story: Story) -> str:
    """A sequence diagram: requests and answers in the order of their times."""
    steps = [step for step in story.steps() if step.place.hop in SIDES]
    used = {side for step in steps for side in SIDES[step.place.hop]}
    moments: list[tuple[int, int, str]] = []
    for step in steps:
        place = step.place
        caller, server = SIDES[place.hop]
        asked = _plain(f"{step.method} {step.text}")
        moments.append((place.start_ns, place.number, f"{caller}->>{server}: {asked}"))
        if place.end_ns is None:
            moments.append((story.end_ns, place.number, f"note over {server}: {_plain(step.method)} {step.status}"))
        else:
            took = duration(step.length_ns(story.end_ns))
            arrow = "--x" if step.failed else "-->>"
            answer = f"{server}{arrow}{caller}: {_plain(step.method)} {_plain(step.status)} {took}"
            moments.append((place.end_ns, place.number, answer))
    lines = ["sequenceDiagram", *(f"participant {side}" for side in ORDER if side in used)]
    return "\n    ".join([*lines, *(text for _, _, text in sorted(moments, key=lambda each: each[:2]))]) + "\n"


def _plain(text: str) -> str:
    """Text that Mermaid takes for text."""
    short = text if len(text) <= MAX_MERMAID else text[: MAX_MERMAID - 1] + "…"
    return "".join(f"#{ord(char)};" if char in '#;<>&"%{}' else char for char in short)


def to_perfetto(story: Story) -> str:
    """Trace events (JSON): a process a hop, lanes for calls that overlap, arrows from parents to children."""
    events: list[dict[str, Any]] = []
    lanes: dict[str, list[int]] = {}
    where: dict[int, tuple[int, int]] = {}
    for step in sorted(story.steps(), key=lambda step: (step.place.start_ns, step.place.number)):
        place = step.place
        hop = _hop(step)
        until = lanes.setdefault(hop, [])
        lane = next((number for number, end_ns in enumerate(until) if end_ns <= place.start_ns), len(until))
        until[lane : lane + 1] = [_end(story, step)]
        pid = 1 + HOPS.index(hop)
        where[place.number] = pid, lane
        args: dict[str, Any] = {
            "call": place.number,
            "status": step.status,
            "text": step.text,
            "about": escape(place.label()),
        }
        if place.parent is not None:
            args.update(parent=place.parent.number, how=place.how)
        at = {"pid": pid, "tid": lane, "cat": place.hop}
        begin = (place.start_ns - story.start_ns) / 1000
        events.append(
            {
                "ph": "X",
                "name": step.method,
                "ts": begin,
                "dur": step.length_ns(story.end_ns) / 1000,
                **at,
                "args": args,
            }
        )
        if place.parent is not None and place.parent.number in where:
            above, beside = where[place.parent.number]
            arrow = {"name": "causes", "cat": "causes", "id": place.number, "ts": begin}
            events.append({"ph": "s", **arrow, "pid": above, "tid": beside})
            events.append({"ph": "f", "bp": "e", **arrow, "pid": pid, "tid": lane})
    for line in story.lines:
        about = {"log": line.source, "level": line.level, "text": line.text}
        begin = (line.time_ns - story.start_ns) / 1000
        events.append({"ph": "i", "s": "g", "name": line.text, "ts": begin, "pid": 0, "tid": 0, "args": about})
    for number, name in enumerate(HOPS, 1):
        if any(event["pid"] == number for event in events):
            events.append({"ph": "M", "name": "process_name", "pid": number, "args": {"name": name}})
            events.append({"ph": "M", "name": "process_sort_index", "pid": number, "args": {"sort_index": number}})
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"pod": title(story.pod)}})
