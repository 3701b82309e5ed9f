"""Forms of a story, of what recordings do not have."""

from __future__ import annotations

import json

from tests.tracer.made import START, Told, ended, made_flow, opened
from tracer.calls import Call, CallUpdate, Update
from tracer.output.story import Step, Story
from tracer.output.story_forms import to_html, to_perfetto
from tracer.story.place import Place, Pod


class Calls:
    """Keeps the calls that ended."""

    def __init__(self) -> None:
        self.found: list[Call] = []

    def update(self, update: Update) -> None:
        if isinstance(update, CallUpdate) and update.kind == "ended":
            self.found.append(update.call)


def made_story(*hops: str) -> Story:
    """A call on each hop, all at the same time."""
    calls = Calls()
    told = Told(calls)
    flows = [made_flow(number, hop) for number, hop in enumerate(hops, 1)]
    for after_ms, event in ((0, opened(1)), (5, ended(1))):
        for flow in flows:
            told.at(after_ms, event, flow=flow)
    steps = []
    for call in calls.found:
        place = Place(call, waits=False)
        place.end_ns, place.state, place.code = call.end_ns, call.state, 0
        steps.append(Step(place, call.method, "", seen_start=True))
    return Story(Pod("a" * 64), steps, START, START)


def test_what_has_no_known_hop_is_drawn_beside_the_others() -> None:
    story = made_story("nri", "other", "")
    assert [to_html(story).count(f'class="bar {name}"') for name in ("nri", "other", "")] == [1, 2, 0]
    events = json.loads(to_perfetto(story))["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert [(names[event["pid"]], event["tid"]) for event in events if event["ph"] == "X"] == [
        ("nri", 0),
        ("other", 0),
        ("other", 1),
    ]
