"""The story of one pod: its calls over all hops as a tree with times.

In: calls that have their places, and what the pod is called. Out: the tree, and lines of text. What cannot be
of that pod is dropped as soon as that is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protos.errors import PodwireError
from tracer.calls import Call, State
from tracer.output.codes import status_name
from tracer.output.escape import escape
from tracer.output.summary import Summarizer
from tracer.output.units import duration
from tracer.story.place import Place, Pod

PRUNE = 10_000
"""Calls kept before those of other pods are looked for among them."""
MIN_PREFIX = 4
"""Characters of an id that name a pod."""
MAX_ERROR = 300
"""Characters of an error on a line."""


@dataclass(slots=True)
class Step:
    """One call of a story. Texts are escaped."""

    place: Place
    method: str
    text: str
    seen_start: bool
    children: list[Step] = field(default_factory=list)
    depth: int = 0

    @property
    def failed(self) -> bool:
        """Whether it ended in an error, and not in one that is part of a good life."""
        return self.place.failed()

    @property
    def status(self) -> str:
        """OK, the name of its status, `open`, `waiting`, or how it ended without one."""
        place = self.place
        if place.open:
            return "waiting" if place.waits else "open"
        return str(place.state) if place.code is None else status_name(place.code)

    def length_ns(self, end_ns: int) -> int:
        """How long it took; of an open call up to `end_ns`."""
        place = self.place
        return max(0, (end_ns if place.end_ns is None else place.end_ns) - place.start_ns)

    def notes(self) -> list[str]:
        """What is to be said beside its text."""
        notes = []
        if not self.seen_start:
            notes.append("begun before the capture")
        if self.place.outlives():
            notes.append("may wait longer than its caller")
        return notes


@dataclass(slots=True)
class Story:
    """The tree of a pod's calls; times are of the capture."""

    pod: Pod
    tops: list[Step]
    start_ns: int
    end_ns: int

    def steps(self) -> list[Step]:
        """All of it in the order of the tree: parents before their children, by time."""
        ordered: list[Step] = []
        left = list(reversed(self.tops))
        while left:
            step = left.pop()
            ordered.append(step)
            left += reversed(step.children)
        return ordered


class Collector:
    """Keep what may be of one pod."""

    def __init__(self, wanted: str, summarizer: Summarizer) -> None:
        self._wanted = wanted
        self._summarizer = summarizer
        self._steps: list[Step] = []
        self._prune_at = PRUNE

    def add(self, call: Call) -> None:
        """Take a call as it is now."""
        place = call.place
        if place is None or not self._may_be(place):
            return
        summary = self._summarizer.summarize(call)
        text = summary.request
        if summary.response:
            text = f"{text} → {summary.response}" if text else f"→ {summary.response}"
        if place.message and place.state is not State.OPEN:
            error = escape(place.message[:MAX_ERROR])
            text = f"{text} — {error}" if text else f"— {error}"
        self._steps.append(Step(place, summary.method, text, call.seen_start))
        if len(self._steps) >= self._prune_at:
            self._steps = [step for step in self._steps if self._may_be(step.place)]
            self._prune_at = len(self._steps) + PRUNE

    def story(self, pods: list[Pod], end_ns: int) -> Story:
        """Return the story of the pod that was asked for. Raises PodwireError unless just one is called so."""
        pod = choose(pods, self._wanted)
        steps = sorted(
            (step for step in self._steps if step.place.pod is pod),
            key=lambda step: (step.place.start_ns, step.place.number),
        )
        here = {step.place.number: step for step in steps}
        tops = []
        for step in steps:
            parent = None if step.place.parent is None else here.get(step.place.parent.number)
            if parent is None:
                tops.append(step)
            else:
                parent.children.append(step)
        story = Story(pod, tops, steps[0].place.start_ns if steps else end_ns, end_ns)
        for step in story.steps():
            for child in step.children:
                child.depth = step.depth + 1
        return story

    def _may_be(self, place: Place) -> bool:
        pod = place.pod
        if pod is None:
            return place.container is not None or place.candidates is not None
        return not pod.name or not pod.id or called(pod, self._wanted)


def called(pod: Pod, wanted: str) -> bool:
    """Whether a pod is called so: by its name, namespace and name, uid, or the first characters of its id."""
    if wanted in (pod.label(), pod.name, pod.uid) and wanted:
        return True
    return len(wanted) >= MIN_PREFIX and pod.id.startswith(wanted)


def choose(pods: list[Pod], wanted: str) -> Pod:
    """Return the one pod that is called so. Raises PodwireError."""
    found = [pod for pod in pods if called(pod, wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{escape(pod.label())} {escape(pod.id) or '(id not known)'}" for pod in found)
        raise PodwireError(f"several pods are called {wanted}; name one by its id: {names}")
    names = ", ".join(escape(pod.label() or pod.id) for pod in pods[:10])
    more = f" and {len(pods) - 10} more" if len(pods) > 10 else ""
    raise PodwireError(f"no pod is called {wanted}; there {'are: ' + names + more if names else 'is none'}")


def title(pod: Pod) -> str:
    """What a pod is called, in full and escaped."""
    parts = [escape(pod.label()) or "(name not known)", f"sandbox {escape(pod.id) or 'not known'}"]
    if pod.uid:
        parts.append(f"uid {escape(pod.uid)}")
    if pod.attempt is not None:
        parts.append(f"attempt {pod.attempt}")
    return f"{', '.join(parts)}: {pod.state or 'state not known'}"


def text(story: Story) -> list[str]:
    """Return the tree as lines: when after the pod's first call, how long, hop, method, how its parent was found."""
    lines = [f"pod {title(story.pod)}"]
    for step in story.steps():
        place = step.place
        after = f"+{duration(place.start_ns - story.start_ns)}"
        took = duration(step.length_ns(story.end_ns))
        sign = "…" if place.open else "E" if step.failed else " "
        name = f"{'  ' * (step.depth - 1)}└ {step.method}" if step.depth else step.method
        container = place.container
        whom = "" if container is None or container.is_sandbox() else escape(container.name or container.id[:13])
        notes = "".join(f" ({note})" for note in step.notes())
        lines.append(
            f"{after:>10} {took:>9} {sign} {place.hop:<6} {name:<26} {step.status:<9} {place.how:<8} "
            f"{whom:<10} {step.text}{notes}".rstrip()
        )
    return lines
