"""Pods and containers as a table and as JSON: state, start-up by phase, failures with the innermost error.

In: the records of a correlator. Out: lines and objects. Nothing of the wire leaves here unescaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tracer.output import JSON_VERSION
from tracer.output.codes import exit_reason, status_name
from tracer.output.escape import escape
from tracer.output.units import duration, short_id
from tracer.story.place import Container, Failure, Pod, Steps

HEADER = ("POD, CONTAINER", "STATE", "START-UP", "BEFORE", "CREATE", "START", "PULL", "ID")
PHASES = ("start_up_ns", "before_ns", "create_ns", "start_ns")
MAX_MESSAGE = 300
"""Characters of an error on a line; JSON has more of it."""
UNKNOWN = "(pod not known)"

JSONObject = dict[str, Any]


def seen(pods: Iterable[Pod]) -> list[Pod]:
    """The pods that there is something to say of: not those that only a failed request names."""
    return [pod for pod in pods if pod.confirmed or pod.state or any(shown(pod))]


def shown(pod: Pod) -> list[Container]:
    """Its containers but the sandbox's own, in the order in which they were first named."""
    return [each for each in pod.containers.values() if each.id != pod.id and (each.confirmed or each.failed)]


def strays(containers: Iterable[Container]) -> list[Container]:
    """Containers whose pod is not known."""
    return [each for each in containers if each.pod is None and each.confirmed]


def phases(whose: Pod | Container) -> dict[str, int]:
    """How long its start took, all in all and by phase, as far as the calls were seen: nanoseconds by `PHASES`.

    `before` is the sandbox, its network and its image until the shim is told to create; of a container CreateContainer
    and what StartContainer does until then. Time between these two calls is nobody's.
    """
    own = whose.steps
    if isinstance(whose, Pod):
        sandbox = whose.containers.get(whose.id)
        task = Steps() if sandbox is None else sandbox.steps
        whole, before = _between(own.asked_ns, own.up_ns), _between(own.asked_ns, task.create_ns)
    else:
        task, made = own, _between(own.asked_ns, own.made_ns)
        started, before = _between(own.start_asked_ns, own.up_ns), _between(own.start_asked_ns, own.create_ns)
        whole = None if made is None or started is None else made + started
        before = None if made is None or before is None else made + before
    found = (whole, before, _between(task.create_ns, task.created_ns), _between(task.start_ns, task.started_ns))
    return {name: length for name, length in zip(PHASES, found, strict=True) if length is not None}


def _between(begin: int | None, end: int | None) -> int | None:
    return None if begin is None or end is None or end < begin else end - begin


def text(pods: list[Pod], others: list[Container]) -> list[str]:
    """Return the lines of the table, a header first; none if nothing was seen."""
    rows: list[tuple[tuple[str, ...], list[Failure], int]] = []
    for pod in pods:
        name = escape(pod.label()) or UNKNOWN
        pull = duration(pod.pulled_ns) if pod.pulled_ns else ""
        state = pod.state or "unknown"
        rows.append(((name, state, *_lengths(pod), pull, short_id(escape(pod.id))), pod.failures, pod.failed))
        rows += [_row(each) for each in shown(pod)]
    if others:
        rows.append(((UNKNOWN, *[""] * (len(HEADER) - 1)), [], 0))
        rows += [_row(each) for each in others]
    if not rows:
        return []
    cells = [HEADER, *(row for row, _, _ in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADER))]
    lines = [_aligned(HEADER, widths)]
    for row, failures, count in rows:
        lines.append(_aligned(row, widths))
        for failure in failures:
            lines += failure_lines(failure, "    ")
        if count > len(failures):
            lines.append(f"    … {count - len(failures)} more failures")
    return lines


def failure_lines(failure: Failure, indent: str) -> list[str]:
    """A failure, and below it the innermost one that it passes on."""
    lines = [f"{indent}E {_failure(failure)}"]
    inner = innermost(failure)
    if inner is not failure:
        lines.append(f"{indent}  └ {_failure(inner)}")
    return lines


def innermost(failure: Failure) -> Failure:
    """The failure that this one passes on, as far down as it was seen."""
    while failure.innermost is not None:
        failure = failure.innermost
    return failure


def _failure(failure: Failure) -> str:
    status = failure.state if failure.code is None else status_name(failure.code)
    message = f" — {escape(failure.message[:MAX_MESSAGE])}" if failure.message else ""
    return f"{failure.hop} {escape(failure.method)} {status} (call {failure.call}){message}"


def _row(container: Container) -> tuple[tuple[str, ...], list[Failure], int]:
    name = f"  {escape(container.name) or '(name not known)'}"
    state = container.state or "unknown"
    if container.exit_code is not None:
        reason = exit_reason(container.exit_code)
        state += f" ({container.exit_code})" if reason is None else f" ({container.exit_code}, {reason})"
    row = (name, state, *_lengths(container), "", short_id(escape(container.id)))
    return row, container.failures, container.failed


def _lengths(whose: Pod | Container) -> list[str]:
    found = phases(whose)
    return [duration(found[name]) if name in found else "-" for name in PHASES]


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [
        cell.rjust(width) if 2 <= column <= 6 else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def to_json(pod: Pod) -> str:
    """The object of a pod, as docs/json.md has it; no line end."""
    made: JSONObject = {"v": JSON_VERSION, "kind": "pod", "state": pod.state or "unknown"}
    made.update(_known(id=pod.id, namespace=pod.namespace, name=pod.name, uid=pod.uid, attempt=pod.attempt))
    made.update(_known(runtime=pod.runtime, pull_ns=pod.pulled_ns or None))
    made.update(phases(pod))
    made["containers"] = [_container(each) for each in shown(pod)]
    made.update(failed=pod.failed, failures=[_failure_json(each) for each in pod.failures])
    return json.dumps(made, separators=(",", ":"))


def strays_json(containers: list[Container]) -> str:
    """The object of the containers whose pod is not known; no line end."""
    made = {
        "v": JSON_VERSION,
        "kind": "pod",
        "state": "unknown",
        "containers": [_container(each) for each in containers],
    }
    return json.dumps({**made, "failed": 0, "failures": []}, separators=(",", ":"))


def _container(container: Container) -> JSONObject:
    made: JSONObject = {"id": container.id, "state": container.state or "unknown"}
    made.update(_known(name=container.name, attempt=container.attempt, image=container.image))
    made.update(_known(exit_code=container.exit_code))
    made.update(phases(container))
    made.update(failed=container.failed, failures=[_failure_json(each) for each in container.failures])
    return made


def _failure_json(failure: Failure) -> JSONObject:
    made: JSONObject = {"call": failure.call, "hop": failure.hop, "method": failure.method, "state": failure.state}
    if failure.code is not None:
        made["status"] = {"code": failure.code, "name": status_name(failure.code)}
        if failure.message:
            made["status"]["message"] = failure.message
    if failure.innermost is not None:
        made["innermost"] = _failure_json(innermost(failure))
    return made


def _known(**values: object) -> JSONObject:
    return {key: value for key, value in values.items() if value not in ("", None)}
