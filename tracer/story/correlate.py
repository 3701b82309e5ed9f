"""Correlation: each call gets its place as its messages come, live and afterwards by the same way.

In: updates, in the order of the capture. Out: `call.place`, filled in further as more is learnt. What is kept
is bounded by what is open, and by some facts of each pod and container.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dissectors.events import Direction
from protos.registry import Registry
from tracer.calls import Call, CallUpdate, Message, Update
from tracer.logs import Logged
from tracer.relay.targets import vm_of
from tracer.story import lives
from tracer.story.causes import AFTER_EXIT, CAUSING, ENDS, EVENT_OF, PARENTS
from tracer.story.identity import Reader, Said
from tracer.story.mentions import Finder
from tracer.story.place import Container, Place, Pod, Shim
from tracer.waiting import meant_to_wait

MAX_MESSAGE = 1000
"""Characters of a status message kept."""
_CRI = "runtime.v1"
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class _Method(NamedTuple):
    """What is the same in all calls of a method."""

    waits: bool
    causing: bool
    parents: dict[str, str] | None
    parents_exec: dict[str, str] | None
    """The same of a call about an exec."""
    steps: bool
    """Its calls may be steps in a life."""


class Correlator:
    """Place calls."""

    def __init__(self, registry: Registry) -> None:
        self._reader = Reader(registry)
        self.pods: list[Pod] = []
        """In the order in which they were first named."""
        self.containers: dict[str, Container] = {}
        self._pods: dict[str, Pod] = {}
        self._named: dict[tuple[object, ...], Pod] = {}
        """Pods by namespace, name, uid and attempt: what PullImage knows."""
        self.lines = Finder(self._pods, self.containers, self._named)
        """Says whose a line of a log is."""
        self._shims: dict[str, Shim] = {}
        self._methods: dict[tuple[str, str], _Method] = {}
        self._loose: list[Place] = []
        """Open calls that may cause others, and whose pod is not known or that ask for all."""
        self._traces: dict[str, list[Place]] = {}
        """Open calls that may cause others, by trace."""

    def update(self, update: Update) -> None:
        """Take what changed."""
        if type(update) is Logged:
            self.lines.place(update)
        if type(update) is not CallUpdate:
            return
        kind, _, call, message = update
        if message is not None:
            if message.direction:
                if call.response_count == 1:
                    self._answered(call, message)
            elif call.message_count - call.response_count == 1:
                self._asked(call, message)
        elif kind == "opened":
            if call.place is None:  # else somebody is shown again what is open
                call.place = place = Place(call, self._method(call.service, call.method).waits)
                if call.metadata:
                    place.trace = _trace(call)
        else:
            self._ended(call)

    def _method(self, service: str, method: str) -> _Method:
        found = self._methods.get((service, method))
        if found is None:
            key = f"{service}/{method}"
            steps = service.startswith((_CRI, "containerd.task."))
            found = self._methods[service, method] = _Method(
                meant_to_wait(service, method), key in CAUSING, PARENTS.get(key), PARENTS.get(f"{key}/exec"), steps
            )
        return found

    # What a request tells

    def _asked(self, call: Call, message: Message) -> None:
        place = call.place
        if place is None:
            return  # it was open before this correlator came
        method = self._method(call.service, call.method)
        place.hop = call.hop
        said = self._reader.read(call.service, call.method, Direction.REQUEST, message.payload)
        if said:
            self._learn(place, said)
            if "exec" in said:
                place.exec_id = said["exec"]
            if "image" in said:
                place.image = said["image"]
            if "topic" in said:
                place.topic = said["topic"]
        container = place.container
        if call.hop == "task" and container is not None and call.flow.socket:
            self._on_shim(container, call.flow.socket)
        elif call.hop == "agent" and place.pod is None:
            vm = vm_of(call.flow.socket)
            if vm:
                place.own_pod = self._pod(vm)
        if place.topic:
            self._event(place, said)
        else:
            fits = method.parents_exec if place.exec_id else method.parents
            if fits is not None:
                self._link(place, fits)
        if method.causing:
            self._may_cause(place)
        if method.steps:
            lives.step(place, began=True)

    def _learn(self, place: Place, said: Said) -> None:
        """Fill in records from what a message says, and say of the call whom it is about."""
        pod = place.own_pod
        if "sandbox" in said:
            pod = self._pod(said["sandbox"], pod)
        elif "name" in said and "container" not in said:
            pod = pod or self._by_name(said, place)
        if "container" in said:
            container = place.container = self._container(said["container"], place.start_ns)
            if pod is not None and container.own_pod is None:
                _join(container, pod)
            pod = pod or container.own_pod
        elif "container_name" in said and pod is not None and place.container is None and place.hop == "cri":
            # CreateContainer: a record without an id, until the answer has it
            place.container = Container("", place.start_ns, own_pod=pod)
        if pod is not None:
            place.own_pod = pod
            self._name(pod, said)
        if place.container is not None:
            lives.name_container(place.container, said)

    def _pod(self, sandbox: str, unnamed: Pod | None = None) -> Pod:
        """The pod of an id. `unnamed` is the record of one whose id was not known so far."""
        pod = self._pods.get(sandbox)
        if pod is None:
            pod = unnamed if unnamed is not None and not unnamed.id else None
            if pod is None:
                pod = Pod()
                self.pods.append(pod)
            pod.id = sandbox
            self._pods[sandbox] = pod
            container = self.containers.get(sandbox)
            if container is not None:
                _join(container, pod)
        elif unnamed is not None and not unnamed.id:
            # two records of one pod: the agent or an event has named it before RunPodSandbox answered
            self.pods.remove(unnamed)
            lives.merge(pod, unnamed)
            self._named[unnamed.namespace, unnamed.name, unnamed.uid, unnamed.attempt] = pod
        return pod

    def _by_name(self, said: Said, place: Place) -> Pod | None:
        key = (said.get("namespace"), said["name"], said.get("uid"), said.get("attempt"))
        pod = self._named.get(key)
        if place.method == "RunPodSandbox":
            # A second attempt under the same name is another pod, as its id will be.
            pod = Pod()
            self.pods.append(pod)
        return pod

    def _name(self, pod: Pod, said: Said) -> None:
        if "name" not in said or pod.name:
            return
        pod.name, pod.namespace = said["name"], said.get("namespace", "")
        pod.uid, pod.attempt = said.get("uid", ""), said.get("attempt")
        pod.runtime = said.get("runtime", pod.runtime)
        self._named[said.get("namespace"), pod.name, said.get("uid"), pod.attempt] = pod

    def _container(self, identity: str, time_ns: int) -> Container:
        container = self.containers.get(identity)
        if container is None:
            container = self.containers[identity] = Container(identity, time_ns)
            pod = self._pods.get(identity)
            if pod is not None:
                _join(container, pod)
        return container

    def _on_shim(self, container: Container, socket: str) -> None:
        if container.shim is None:
            shim = self._shims.get(socket)
            if shim is None:
                shim = self._shims[socket] = Shim()
            container.shim = shim
            if container.own_pod is not None:
                shim.pod = shim.pod or container.own_pod

    # Parents

    def _may_cause(self, place: Place) -> None:
        """List a call where its children will look for it."""
        if place.trace:
            self._traces.setdefault(place.trace, []).append(place)
        place.home = _home(place, self._loose)
        place.home.append(place)

    def _link(self, place: Place, fits: dict[str, str]) -> None:
        """Find the parent of a call that has just begun, or the calls that it may be."""
        if place.trace:
            same = [each for each in self._traces.get(place.trace, ()) if f"{each.service}/{each.method}" in fits]
            if len(same) == 1:
                _adopt(same[0], place, "trace")
                return
        container, pod = place.container, place.pod
        near: list[Place] = []
        if container is not None:
            near += container.causing
        if pod is not None:
            near += pod.causing
            for other in () if container is not None else pod.containers.values():
                near += other.causing
        exact: list[Place] = []
        every: list[Place] = []
        unknown: list[Place] = []
        for each in near:
            fit = fits.get(f"{each.service}/{each.method}")
            if fit is not None and _same_trace(each, place) and _fits(fit, each, place):
                exact.append(each)
        for each in self._loose:
            fit = fits.get(f"{each.service}/{each.method}")
            if fit == "all":
                every.append(each)
            elif fit == "new" and _may_be_new(each, place) and _same_trace(each, place):
                unknown.append(each)
        made_by = container.execs.get(place.exec_id) if container is not None and place.exec_id else None
        if made_by is not None and made_by in exact:
            exact, every = [made_by], []
        exited = None if container is None or place.exec_id or place.hop != "task" else container.exited
        if exited is not None and place.method in AFTER_EXIT:
            enders = [each for each in exact if each.method in ENDS]
            if not exact and not every:
                _adopt(exited, place, "identity")
                return
            if len(enders) != len(exact):
                return  # what containerd does once a container has ended, or the other call's: both fit
        if len(exact) == 1 and not every:
            _adopt(exact[0], place, "identity")
        elif not exact:
            self._wait_for(place, every + unknown)

    def _wait_for(self, place: Place, candidates: list[Place]) -> None:
        """Take the only call that fits by time, until more is known; of several, none."""
        for each in candidates:
            if each.undecided is None:
                each.undecided = []
            each.undecided.append(place)
        if candidates:
            place.candidates = candidates
        if len(candidates) == 1:
            _adopt(candidates[0], place, "time")

    def _event(self, place: Place, said: Said) -> None:
        """Place an event behind the Task call whose effect it tells."""
        container = place.container
        if container is None:
            return
        container.confirmed = True
        own = container.told
        if place.topic == "/tasks/exit":
            killed = own.get(("Kill", place.exec_id))
            made_by = container.execs.get(place.exec_id)
            if made_by is not None and made_by.open:
                _adopt(made_by, place, "identity")  # it waits for that
            elif killed is not None and not (killed.code or 0):
                _adopt(killed, place, "time")
            if not place.exec_id:
                container.exited = place
                container.state, container.exit_code = "exited", said.get("exit")
        else:
            cause = own.get((EVENT_OF.get(place.topic, ""), place.exec_id))
            if cause is not None:
                _adopt(cause, place, "identity")
            if place.topic == "/tasks/delete" and not place.exec_id:
                own.clear()
                container.execs.clear()
            if place.topic == "/tasks/start" and container.state in ("", "created"):
                container.state = "running"

    # What an answer tells

    def _answered(self, call: Call, message: Message) -> None:
        place = call.place
        if place is None:
            return
        said = self._reader.read(call.service, call.method, Direction.RESPONSE, message.payload)
        if not said:
            return
        for each in said.get("each", ()):
            self._listed(each, place)
        container = place.container
        if "container" in said and container is not None and not container.id:
            self._made(place, container, said["container"])
        elif "sandbox" in said or "container" in said:
            self._learn(place, said)
        if place.own_pod is not None and place.own_pod.id and place in self._loose:
            self._identified(place, place.own_pod.id)
        if "pod_state" in said and place.own_pod is not None:
            lives.told_state(place.own_pod, said)
        if "container_state" in said and place.container is not None:
            lives.told_container(place.container, said)
        if "exit" in said and place.hop == "task" and place.container is not None and not place.exec_id:
            place.container.exit_code = said["exit"]
            place.container.state = "exited"

    def _listed(self, said: Said, place: Place) -> None:
        if "container" in said:
            container = self._container(said["container"], place.start_ns)
            container.confirmed = True
            if "sandbox" in said and container.own_pod is None:
                _join(container, self._pod(said["sandbox"]))
            lives.name_container(container, said)
            lives.told_container(container, said)
            if container.own_pod is not None:
                container.own_pod.confirmed = True
        elif "sandbox" in said:
            pod = self._pod(said["sandbox"])
            pod.confirmed = True
            self._name(pod, said)
            lives.told_state(pod, said)

    def _made(self, place: Place, unnamed: Container, identity: str) -> None:
        """CreateContainer has answered: its container has an id."""
        container = self._container(identity, place.start_ns)
        if unnamed.own_pod is not None and container.own_pod is None:
            _join(container, unnamed.own_pod)
        container.name, container.attempt = container.name or unnamed.name, unnamed.attempt
        container.image = container.image or unnamed.image
        container.steps.asked_ns = unnamed.steps.asked_ns
        container.state = container.state or unnamed.state
        place.container = container

    def _identified(self, place: Place, sandbox: str) -> None:
        """RunPodSandbox has told its id, or its error has: what it caused is known now, and what not."""
        if place.home is not None:
            place.home.remove(place)
        for child in place.undecided or ():
            if child.parent is not None and child.how != "time":
                continue
            container = child.container
            mine = (container is not None and container.id == sandbox) or (
                child.pod is not None and child.pod.id == sandbox
            )
            if mine:
                _leave(child)
                _adopt(place, child, "identity")
                child.candidates = None
            else:
                _exclude(child, place)
        place.undecided = None
        if place.own_pod is not None:
            place.home = place.own_pod.causing
            place.home.append(place)

    # Ends

    def _ended(self, call: Call) -> None:
        place = call.place
        if place is None:
            return
        place.end_ns, place.state = call.end_ns, call.state
        if call.status is not None:
            place.code, place.message = call.status.code, call.status.message[:MAX_MESSAGE]
        failed = place.failed()
        method = self._method(call.service, call.method)
        if method.causing:
            self._causes_no_more(place, failed)
        if method.steps:
            lives.step(place, began=False)
            lives.advance(place, failed)
        if failed:
            lives.report(place)
            return
        if place.own_pod is not None:
            place.own_pod.confirmed = True
        if place.container is not None:
            place.container.confirmed = True

    def _causes_no_more(self, place: Place, failed: bool) -> None:
        if failed and place.undecided and place.method == "RunPodSandbox":
            named = {child.container.id for child in place.undecided if child.container is not None}
            told = [each for each in named if each in place.message]
            if len(told) == 1:  # containerd's error names the sandbox that failed
                place.own_pod = self._pod(told[0], place.own_pod)
                self._identified(place, told[0])
        if place.home is not None:
            place.home.remove(place)
            place.home = None
        for child in place.undecided or ():
            if child.candidates is not None and all(not each.open for each in child.candidates):
                child.candidates = None
                if child.parent is None and child.failed():
                    lives.report(child)
        place.undecided = None
        if place.trace:
            same = self._traces.get(place.trace, [])
            if place in same:
                same.remove(place)
            if not same:
                self._traces.pop(place.trace, None)


def _home(place: Place, loose: list[Place]) -> list[Place]:
    """Where a call's children will look for it."""
    if place.container is not None and place.container.id:
        return place.container.causing
    if place.own_pod is not None and place.own_pod.id:
        return place.own_pod.causing
    return loose


def _fits(fit: str, parent: Place, child: Place) -> bool:
    """Whether a call about the same pod or container may be a call's parent."""
    container = child.container
    if parent.hop == child.hop:
        return False
    if container is None:
        return child.pod is not None and parent.pod is child.pod
    if fit == "container" or parent.container is container:
        return parent.container is container
    pod = parent.own_pod
    if fit == "sandbox":
        return pod is not None and container.id == pod.id
    return pod is not None and (container.pod is pod or container.id == pod.id)


def _may_be_new(parent: Place, child: Place) -> bool:
    """Whether a call may be about the sandbox that `parent` is making: one that nobody had named before."""
    container = child.container
    if container is None:
        return child.pod is None or child.pod.name == ""
    if container.seen_ns < parent.start_ns:
        return False
    return container.pod is None or (container.is_sandbox() and not container.pod.name)


def _same_trace(parent: Place, child: Place) -> bool:
    return not parent.trace or not child.trace or parent.trace == child.trace


def _adopt(parent: Place, child: Place, how: str) -> None:
    child.parent, child.how = parent, how
    parent.children += ((child.number, how),)
    container = child.container
    if container is not None and child.method == "Exec" and child.hop == "task" and child.exec_id:
        lives.keep(container.execs, child.exec_id, parent)
    if child.failed():
        lives.pass_up(parent, lives.failure(child))


def _leave(child: Place) -> None:
    parent = child.parent
    if parent is not None:
        parent.children = tuple(each for each in parent.children if each[0] != child.number)
        parent.failures = [each for each in parent.failures or () if each.call != child.number]
        child.parent, child.how = None, ""


def _exclude(child: Place, parent: Place) -> None:
    """`parent` turned out not to be the child's; if one other is left, it is."""
    if child.parent is parent:
        _leave(child)
    if child.candidates is None:
        return
    child.candidates = [each for each in child.candidates if each is not parent]
    if len(child.candidates) == 1 and child.parent is None:
        _adopt(child.candidates[0], child, "time")


def _join(container: Container, pod: Pod) -> None:
    container.own_pod = pod
    if container.id:
        pod.containers[container.id] = container
    if container.shim is not None and container.shim.pod is None:
        container.shim.pod = pod


def _trace(call: Call) -> str:
    for key, value in call.metadata:
        if key == "traceparent" and isinstance(value, str):
            found = _TRACE.fullmatch(value)
            return "" if found is None else found[1]
    return ""
