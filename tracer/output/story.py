"""The story of one pod: its calls over all hops as a tree with times.

In: calls that have their places, lines of logs, and what the pod is called. Out: the tree, and lines of text. What
cannot be of that pod is dropped as soon as that is known.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from protos.errors import PodwireError
from tracer.calls import Call, State
from tracer.logs import Logged
from tracer.output.codes import status_name
from tracer.output.escape import escape
from tracer.output.logs import line_text, source_text
from tracer.output.look import NOTICE, below
from tracer.output.summary import Summarizer
from tracer.output.units import duration
from tracer.story.correlate import Correlator
from tracer.story.mentions import mentions
from tracer.story.place import Place, Pod

PRUNE = 10_000
"""Calls kept before those of other pods are looked for among them."""
MIN_PREFIX = 4
"""Characters of an id that name a pod."""
MAX_ERROR = 300
"""Characters of an error on a line."""
MAX_LINE = 1000
"""Characters of a log's line."""
UNPLACED = 50_000
"""Lines of logs kept whose pod is not known yet; the oldest go."""


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


class Line(NamedTuple):
    """A line of a log that names the pod. Texts are escaped."""

    time_ns: int
    source: str
    level: str
    container: str
    text: str


@dataclass(slots=True)
class Story:
    """The tree of a pod's calls; times are of the capture."""

    pod: Pod
    tops: list[Step]
    start_ns: int
    end_ns: int
    lines: list[Line] = field(default_factory=list)
    """In the order of time."""

    def steps(self) -> list[Step]:
        """All of it in the order of the tree: parents before their children, by time."""
        ordered: list[Step] = []
        left = list(reversed(self.tops))
        while left:
            step = left.pop()
            ordered.append(step)
            left += reversed(step.children)
        return ordered

    def rows(self) -> list[Step | Line]:
        """The same, with each line of a log before the first call that began later."""
        rows: list[Step | Line] = []
        left = deque(self.lines)
        for step in self.steps():
            while left and left[0].time_ns <= step.place.start_ns:
                rows.append(left.popleft())
            rows.append(step)
        return [*rows, *left]

    def after(self, time_ns: int) -> str:
        """How long after the pod's first call a time is; a log may tell of it before."""
        since = time_ns - self.start_ns
        return f"{'+' if since >= 0 else '-'}{duration(abs(since))}"


class Collector:
    """Keep what may be of one pod."""

    def __init__(self, wanted: str, summarizer: Summarizer, *, show_secrets: bool = False) -> None:
        self._wanted = wanted
        self._show_secrets = show_secrets
        self._summarizer = summarizer
        self._steps: list[Step] = []
        self._lines: list[Logged] = []
        self._unplaced: deque[Logged] = deque(maxlen=UNPLACED)
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

    def add_line(self, line: Logged) -> None:
        """Take a line of a log: one whose pod is not known yet may name it all the same."""
        if line.pod is None:
            if mentions(line.message).any():
                self._unplaced.append(line)
        elif self._may_be_pod(line.pod):
            self._lines.append(line)

    def story(self, correlator: Correlator, end_ns: int) -> Story:
        """Return the story of the pod that was asked for. Raises PodwireError unless just one is called so."""
        pod = choose(correlator.pods, self._wanted)
        steps, tops = [], []
        here: dict[int, Step] = {}
        for step in sorted(self._steps, key=lambda step: (step.place.start_ns, step.place.number)):
            parent = None if step.place.parent is None else here.get(step.place.parent.number)
            # What a call of the pod has caused is the pod's, also when its identity would have come with an answer.
            if step.place.pod is not pod and (step.place.pod is not None or parent is None):
                continue
            here[step.place.number] = step
            steps.append(step)
            if parent is None:
                tops.append(step)
            else:
                parent.children.append(step)
        for line in self._unplaced:
            correlator.lines.place(line)
        lines = sorted(
            (self._line(line) for line in (*self._lines, *self._unplaced) if line.pod is pod),
            key=lambda line: line.time_ns,
        )
        story = Story(pod, tops, steps[0].place.start_ns if steps else end_ns, end_ns, lines)
        for step in story.steps():
            for child in step.children:
                child.depth = step.depth + 1
        return story

    def _may_be(self, place: Place) -> bool:
        pod = place.pod
        if pod is None:
            return place.container is not None or place.candidates is not None
        return self._may_be_pod(pod)

    def _may_be_pod(self, pod: Pod) -> bool:
        return not pod.name or not pod.id or called(pod, self._wanted)

    def _line(self, line: Logged) -> Line:
        text = line_text(line, MAX_LINE, show_secrets=self._show_secrets)
        container = line.container
        whom = "" if container is None or container.is_sandbox() else escape(container.name or container.id[:13])
        return Line(line.time_ns, source_text(line), escape(line.level), whom, text)


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


class Shown(NamedTuple):
    """A line of text."""

    text: str
    failed: bool = False
    """It is of a call that failed."""


def text(story: Story) -> list[Shown]:
    """Return the tree as lines: when after the pod's first call, how long, hop, method, how its parent was found."""
    lines = [Shown(f"pod {title(story.pod)}")]
    for step in story.rows():
        if isinstance(step, Line):
            shown = (
                f"{story.after(step.time_ns):>10} {'':>9} {NOTICE} log    {step.source:<26} {step.level:<9} {'':<8} "
                f"{step.container:<10} {step.text}"
            )
            lines.append(Shown(shown.rstrip()))
            continue
        place = step.place
        after = story.after(place.start_ns)
        took = duration(step.length_ns(story.end_ns))
        sign = "…" if place.open else "E" if step.failed else " "
        name = below(step.method, step.depth)
        container = place.container
        whom = "" if container is None or container.is_sandbox() else escape(container.name or container.id[:13])
        notes = "".join(f" ({note})" for note in step.notes())
        shown = (
            f"{after:>10} {took:>9} {sign} {place.hop:<6} {name:<26} {step.status:<9} {place.how:<8} "
            f"{whom:<10} {step.text}{notes}"
        )
        lines.append(Shown(shown.rstrip(), step.failed))
    return lines
