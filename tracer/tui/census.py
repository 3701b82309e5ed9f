"""Pods and containers by numbers, for rows to refer to: what is known of each, told again when it has changed.

In: the records that the correlator fills in. Out: `Whom`s for a batch.
"""

from __future__ import annotations

import time

from tracer.output.escape import escape
from tracer.output.pods import failure_lines, phases
from tracer.story.place import Container, Failure, Place, Pod
from tracer.tui.rows import NOBODY, Whom

LOOK_APART = 20
"""All records are looked at again after so many times as long as that takes: a twentieth of the time."""
LEAST_S = 0.5
"""And not before this."""


class Census:
    """Numbers those whom calls are about, and looks what became of them."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        """By the identity of the record, which is kept."""
        self._kept: list[Pod | Container | None] = [None]
        self._told: list[Whom] = [NOBODY]
        self._look_at = 0.0
        self.stirred = False
        """Something has come since all of them were looked at."""

    def number(self, place: Place | None) -> int:
        """The number of the container or pod that a call is about; 0: not known."""
        if place is None:
            return 0
        container = place.container
        if container is not None and (container.id or not place.open):
            return self._number(container)
        pod = place.pod  # CreateContainer is about its pod until it has answered
        return 0 if pod is None else self._number(pod)

    def _number(self, whom: Pod | Container) -> int:
        number = self._numbers.get(id(whom))
        if number is None:
            number = self._numbers[id(whom)] = len(self._kept)
            self._kept.append(whom)
        return number

    @property
    def due(self) -> bool:
        """Whether it is time to look at all of them, and worth it."""
        return self.stirred and time.monotonic() >= self._look_at

    def news(self, *, all: bool = False) -> list[Whom]:
        """Those that are new, and from time to time those that have changed; `all`: look at all of them now."""
        begun = time.monotonic()
        all = all or self.due
        at = 1 if all else len(self._told)
        found = []
        while at < len(self._kept):  # a container's pod may get its number only here
            whom = self._kept[at]
            assert whom is not None
            now = self._pod(at, whom) if isinstance(whom, Pod) else self._container(at, whom)
            if at == len(self._told):
                self._told.append(now)
                found.append(now)
            elif now != self._told[at]:
                self._told[at] = now
                found.append(now)
            at += 1
        if all:
            now_s = time.monotonic()
            self.stirred = False
            self._look_at = now_s + max(LEAST_S, (now_s - begun) * LOOK_APART)
        return found

    def _pod(self, number: int, pod: Pod) -> Whom:
        start_up = phases(pod).get("start_up_ns", -1)
        known = pod.confirmed or bool(pod.state)
        failures = _failures(pod.failures)
        return Whom(
            number, number, escape(pod.id), escape(pod.label()), pod.state, start_up, pod.failed, failures, known
        )

    def _container(self, number: int, container: Container) -> Whom:
        pod = container.pod
        state = container.state
        if container.exit_code is not None:
            state = f"{state} {container.exit_code}"
        return Whom(
            number,
            0 if pod is None else self._number(pod),
            escape(container.id),
            escape(container.name),
            state,
            phases(container).get("start_up_ns", -1),
            container.failed,
            _failures(container.failures),
            container.confirmed or bool(container.failed),
            container.is_sandbox(),
        )


def _failures(failures: list[Failure]) -> tuple[tuple[int, str], ...]:
    return tuple((each.call - 1, "\n".join(failure_lines(each, ""))) for each in failures)
