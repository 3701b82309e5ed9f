"""The lives of pods and containers, as calls tell them: when they got where, their states, what failed.

In: the place of a call that begins or ends, and what its messages say. Out: the records of its pod and its container,
filled in.
"""

from __future__ import annotations

from typing import Any

from tracer.story.causes import EVENT_OF
from tracer.story.identity import Said
from tracer.story.place import MAX_FAILURES, Container, Failure, Place, Pod

MAX_TOLD = 64
"""Task calls of a container kept for the events that may follow, and execs."""
_POD_STATES = ("ready", "stopped")
_CONTAINER_STATES = ("created", "running", "exited", "")
_TOLD = frozenset(EVENT_OF.values()) | {"Kill"}
_POD_ENDS = {"RunPodSandbox": "ready", "StopPodSandbox": "stopped", "RemovePodSandbox": "removed"}
_TASK_STEPS = {"Create": ("create_ns", "created_ns"), "Start": ("start_ns", "started_ns")}
_STEPS = {
    "RunPodSandbox": ("asked_ns", "up_ns"),
    "CreateContainer": ("asked_ns", "made_ns"),
    "StartContainer": ("start_asked_ns", "up_ns"),
}
"""By method, what of `Steps` is noted as its call begins and as it ends."""


def keep(kept: dict[Any, Place], key: object, place: Place) -> None:
    """Remember a call by a key; the oldest goes."""
    if len(kept) >= MAX_TOLD:
        del kept[next(iter(kept))]
    kept[key] = place


def merge(pod: Pod, other: Pod) -> None:
    """Fill in what the other record of the same pod has."""
    if not pod.name:
        pod.name, pod.namespace, pod.uid, pod.attempt = other.name, other.namespace, other.uid, other.attempt
    pod.runtime = pod.runtime or other.runtime
    pod.state = pod.state or other.state
    pod.steps.asked_ns = pod.steps.asked_ns if other.steps.asked_ns is None else other.steps.asked_ns
    pod.failures += other.failures
    pod.failed += other.failed


def name_container(container: Container, said: Said) -> None:
    """Fill in what a container is called, as far as that is not known yet."""
    if not container.name:
        container.name = said.get("container_name", "")
    if container.attempt is None:
        container.attempt = said.get("container_attempt")
    if not container.image:
        container.image = said.get("image", "")


def told_state(pod: Pod, said: Said) -> None:
    """Take the state that an answer has; what calls have told already is newer."""
    number = said.get("pod_state", -1)
    if not pod.state and 0 <= number < len(_POD_STATES):
        pod.state = _POD_STATES[number]


def told_container(container: Container, said: Said) -> None:
    """The same of a container."""
    number = said.get("container_state", -1)
    if not container.state and 0 <= number < len(_CONTAINER_STATES):
        container.state = _CONTAINER_STATES[number]
        if container.state == "exited":
            container.exit_code = said.get("exit")


def step(place: Place, *, began: bool) -> None:
    """Note when a pod or container got somewhere."""
    method, container, pod = place.method, place.container, place.own_pod
    steps = _STEPS
    if place.hop == "task":
        steps = _TASK_STEPS
        if container is not None and began and method in _TOLD:
            keep(container.told, (method, place.exec_id), place)
    elif method == "PullImage" and pod is not None and place.end_ns is not None:
        pod.pulled_ns += place.end_ns - place.start_ns
    whose = pod if method == "RunPodSandbox" else container
    if began and method == "RunPodSandbox" and pod is not None:
        pod.state = pod.state or "starting"
    if method in steps and whose is not None and not place.exec_id:
        setattr(whose.steps, steps[method][not began], place.start_ns if began else place.end_ns)


def advance(place: Place, failed: bool) -> None:
    """Follow the state of a pod or container by the end of a call."""
    method, container, pod = place.method, place.container, place.own_pod
    if place.hop == "task":
        if method == "Start" and not place.exec_id and not failed and container is not None:
            container.state = "running" if container.state in ("", "created") else container.state
        return
    if container is None:
        if pod is not None and method in _POD_ENDS:
            pod.state = "failed" if failed and method == "RunPodSandbox" else pod.state
            pod.state = pod.state if failed else _POD_ENDS[method]
            if pod.state == "removed":  # and with it, as CRI has it, all that was in it
                for each in pod.containers.values():
                    each.state = "removed"
        return
    if method == "StartContainer":
        if failed:
            container.state = "failed"
        elif container.state in ("", "created"):
            container.state = "running"
    elif method == "CreateContainer":
        container.state = container.state or ("failed" if failed else "created")
    elif method == "RemoveContainer" and not failed:
        container.state = "removed"


def failure(place: Place) -> Failure:
    """What there is to say of a failed call, with the child's failure that its message repeats, else the first."""
    below = place.failures or []
    inner = next(
        (each for each in below if each.message and each.message in place.message), below[0] if below else None
    )
    return Failure(
        place.number, place.hop, place.title, str(place.state), place.code, place.message, place.end_ns or 0, inner
    )


def report(place: Place) -> None:
    """Pass a failure on to the call that waits for this one, or else note it with the container or pod."""
    if not place.failed():
        return
    if place.parent is not None and place.parent.open:
        pass_up(place.parent, failure(place))
    elif place.candidates is None and not place.waits:  # the end of an output is an error to its reader
        container = place.container
        whom = container if container is not None and container.id else place.pod
        if whom is not None:
            whom.failed += 1
            if len(whom.failures) < MAX_FAILURES:
                whom.failures.append(failure(place))


def pass_up(parent: Place, below: Failure) -> None:
    """Note a failure with the call that waited for it."""
    if parent.failures is None:
        parent.failures = []
    if len(parent.failures) < MAX_FAILURES:
        parent.failures.append(below)
