"""What is known of pods, containers and calls: records that are filled in as more is learnt, for all who hold them.

A `Place` is a call without its messages: who it is about, which call caused it, how it ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from tracer.calls import Call, State
from tracer.output.fields import is_expected

SLACK_NS = 100_000_000
"""A deadline passed on is counted anew at each hop, and rounded: so much later is the same."""
MAX_FAILURES = 16
"""Failures kept of a pod or a container; `failed` counts them all."""


class Failure(NamedTuple):
    """A call that failed."""

    call: int
    hop: str
    method: str
    state: str
    code: int | None
    message: str
    time_ns: int
    innermost: Failure | None
    """The failure below that this one passes on: as far down as it was seen."""


@dataclass(slots=True, eq=False)
class Steps:
    """When a sandbox or a container got where: capture times of first frames and of ends; None: not seen."""

    asked_ns: int | None = None
    """RunPodSandbox, CreateContainer."""
    made_ns: int | None = None
    """CreateContainer's end."""
    start_asked_ns: int | None = None
    """StartContainer."""
    create_ns: int | None = None
    """Task Create."""
    created_ns: int | None = None
    start_ns: int | None = None
    """Task Start."""
    started_ns: int | None = None
    up_ns: int | None = None
    """The end of RunPodSandbox or StartContainer."""


@dataclass(slots=True, eq=False)
class Shim:
    """One shim's socket: all containers on it are of one pod."""

    pod: Pod | None = None


@dataclass(slots=True, eq=False)
class Pod:
    """A sandbox, as far as it is known."""

    id: str = ""
    """Empty until RunPodSandbox answers."""
    name: str = ""
    namespace: str = ""
    uid: str = ""
    attempt: int | None = None
    runtime: str = ""
    state: str = ""
    """As the calls tell it: starting, ready, failed, stopped, removed; empty: nothing told."""
    confirmed: bool = False
    """Something other than a request that failed has named it."""
    containers: dict[str, Container] = field(default_factory=dict)
    steps: Steps = field(default_factory=Steps)
    failures: list[Failure] = field(default_factory=list)
    failed: int = 0
    pulled_ns: int = 0
    """How long the pulls that named it took."""
    causing: list[Place] = field(default_factory=list)
    """Open calls about it that may cause others."""

    def label(self) -> str:
        """`namespace/name`, as far as known."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(slots=True, eq=False)
class Container:
    """A container, the sandbox's own among them: its id is the pod's."""

    id: str
    seen_ns: int
    name: str = ""
    attempt: int | None = None
    image: str = ""
    own_pod: Pod | None = None
    shim: Shim | None = None
    state: str = ""
    """created, running, exited, failed, removed; empty: nothing told."""
    exit_code: int | None = None
    confirmed: bool = False
    steps: Steps = field(default_factory=Steps)
    failures: list[Failure] = field(default_factory=list)
    failed: int = 0
    causing: list[Place] = field(default_factory=list)
    exited: Place | None = None
    """The event that told its end."""
    told: dict[tuple[str, str], Place] = field(default_factory=dict)
    """Task calls that an event may tell of, by method and exec."""
    execs: dict[str, Place] = field(default_factory=dict)
    """The call that an exec was made by."""

    @property
    def pod(self) -> Pod | None:
        """Its pod: as a call named it, or that of its shim."""
        if self.own_pod is not None:
            return self.own_pod
        return None if self.shim is None else self.shim.pod

    def is_sandbox(self) -> bool:
        """Whether it is the pod's own."""
        pod = self.pod
        return pod is not None and pod.id == self.id


class Place:
    """One call's place: about whom it is, and between which others.

    No dataclass, as Call is none: what most calls never set stays an attribute of the class.
    """

    number: int
    hop: str
    service: str
    method: str
    start_ns: int
    deadline_ns: int | None = None
    waits: bool
    """It is meant to wait."""
    trace: str = ""
    end_ns: int | None = None
    state: State = State.OPEN
    code: int | None = None
    message: str = ""
    own_pod: Pod | None = None
    container: Container | None = None
    exec_id: str = ""
    image: str = ""
    topic: str = ""
    home: list[Place] | None = None
    """The list of open calls in which its children look for it."""
    parent: Place | None = None
    how: str = ""
    """How the parent was found: `trace`, `identity` or `time`."""
    children: tuple[tuple[int, str], ...] = ()
    """Number and how, of each."""
    candidates: list[Place] | None = None
    """Parents that it may have, while more may be learnt."""
    undecided: list[Place] | None = None
    """Calls that it may be the parent of, until its identity is known."""
    failures: list[Failure] | None = None
    """Of its children, in the order of their ends."""

    def __init__(self, call: Call, waits: bool) -> None:
        self.number = call.number
        self.hop = call.hop
        self.service = call.service
        self.method = call.method
        self.start_ns = call.start_ns
        if call.timeout_ns is not None:
            self.deadline_ns = call.deadline_ns
        self.waits = waits

    @property
    def pod(self) -> Pod | None:
        """The pod it is about."""
        if self.own_pod is not None:
            return self.own_pod
        return None if self.container is None else self.container.pod

    @property
    def open(self) -> bool:
        """Whether it has no end yet."""
        return self.end_ns is None

    def failed(self) -> bool:
        """Whether it ended in an error that is no part of a good life."""
        if self.open or (self.waits and self.state is not State.ENDED):
            return False
        if self.code is None:
            return True
        return self.code != 0 and not is_expected(self.service, self.method, self.code, self.message)

    @property
    def title(self) -> str:
        """Its method, or the event that it forwards. Not escaped."""
        return self.topic or self.method

    def outlives(self) -> bool:
        """Whether it may wait for longer than its parent does."""
        parent = self.parent
        if parent is None or parent.deadline_ns is None or self.waits or self.topic:
            return False
        return self.deadline_ns is None or self.deadline_ns > parent.deadline_ns + SLACK_NS

    def label(self) -> str:
        """`pod/container`, as far as names are known. Not escaped."""
        return label(self.pod, self.container)


def label(pod: Pod | None, container: Container | None) -> str:
    """`pod/container`, as far as names are known. Not escaped."""
    names = [pod.name if pod is not None else ""]
    if container is not None and not container.is_sandbox():
        names.append(container.name)
    return "/".join(name for name in names if name)
