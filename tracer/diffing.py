"""How two captures, or two pods, differ: calls added and gone, fields of requests, durations.

In: the calls of two sides. Out: differences. Calls of two runs cannot be laid beside each other one by one, so each
field of a method's requests stands for the values that it had; ids, times and pids are all the same value. Entries of
lists are known by their name, where they have one. The values are compared as they are and shown masked. Bounded: so
many fields of a method, so many values of a field.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from dissectors.masking import Masker
from dissectors.render import Renderer
from protos.hops import hop_order
from protos.registry import Registry
from tracer.calls import Call
from tracer.output.bundles import SPECIFICATION, document, masked, role
from tracer.stats import Figures, Statistics

MAX_FIELDS: Final = 4_000
MAX_VALUES: Final = 32
"""Of a field. One with more on either side is not compared: it is a counter, a time, a name made up for each call."""
SHIFT: Final = 1.5
"""How many times as long half of the calls take, for it to be told."""
SHIFT_NS: Final = 1_000_000
"""… and how much longer at least."""
ENOUGH: Final = 3
"""Calls on each side, of which durations are compared."""

_SAME: Final = {
    "containerd.task.v2.Task": "containerd.task.v3.Task",
    "runtime.v1alpha2.RuntimeService": "runtime.v1.RuntimeService",
    "runtime.v1alpha2.ImageService": "runtime.v1.ImageService",
}
"""Services that are compared as a newer version of theirs."""
_TIME = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_ID = re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_MADE_UP = re.compile(r"(?<=/)\d+(?=/|$)")
"""Folders that are numbers: made up for each call."""
_NEVER: Final = frozenset({"pid"})
"""Fields that are others in each run."""
_NAMES: Final = ("key", "name", "Name", "destination", "container_path", "type", "Type", "path")
"""What an entry of a list is known by: the first of these that it has."""
_Method = tuple[str, str, str]
"""Hop, service, method."""


@dataclass(slots=True)
class _Fields:
    """The fields of a method's requests: for each path its values, each with how it is shown."""

    values: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, path: str, value: str, shown: str) -> None:
        known = self.values.get(path)
        if known is None:
            if len(self.values) >= MAX_FIELDS:
                return
            known = self.values[path] = {}
        if len(known) <= MAX_VALUES:
            known[value] = shown


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same."""

    what: str
    """`calls`, `errors`, `field` or `duration`."""
    hop: str
    service: str
    method: str
    path: str
    """Of a field."""
    before: tuple[str, ...]
    """Numbers as text; values of a field; empty: there is none."""
    after: tuple[str, ...]


class Side:
    """One of the two: takes its calls."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._render = Renderer(registry, show_secrets=True).to_json
        self._mask = Masker(registry).mask
        self._statistics = Statistics(registry)
        self.fields: dict[_Method, _Fields] = {}

    def add(self, call: Call) -> None:
        """Take a call that has ended, or will not."""
        self._statistics.count(call)
        for bundle in call.bundles:
            for file in bundle.files:
                plain = document(file)
                if file.name == SPECIFICATION and plain is not None:
                    of = ("", "OCI specification", role(plain)[0] or "of neither")
                    self.add_document(of, plain, document(masked(file)))
        request = call.request()
        method = self._registry.method(call.service, call.method)
        if request is None or request.payload is None or method is None:
            return
        plain = shown = self._render(method.input_type, request.payload)
        hidden = self._mask(method.input_type, request.payload)
        if hidden != request.payload:
            shown = self._render(method.input_type, hidden)
        self.add_document((call.hop, _SAME.get(call.service, call.service), call.method), plain, shown)

    def add_document(self, of: _Method, plain: Any, masked: Any) -> None:  # noqa: ANN401 # JSON
        """Take a rendered message, or another JSON document, as it is and as it is shown."""
        fields = self.fields.setdefault(of, _Fields())
        if masked is plain:
            for path, value in _flat(plain, ""):
                fields.add(path, value, value)
            return
        shown: dict[str, deque[str]] = {}
        for path, value in _flat(masked, ""):
            shown.setdefault(path, deque()).append(value)
        for path, value in _flat(plain, ""):
            left = shown.get(path)
            fields.add(path, value, left.popleft() if left else "*" * len(value))

    def figures(self) -> dict[_Method, Figures]:
        """The figures of each method."""
        figures: dict[_Method, Figures] = {}
        for row in self._statistics.rows():
            method = row.hop, _SAME.get(row.service, row.service), row.method
            figures.setdefault(method, Figures()).merge(row.figures)
        return figures


def differences(before: Side, after: Side) -> Iterator[Difference]:
    """Tell what is not the same, calls first."""
    old, new = before.figures(), after.figures()
    methods = sorted(old.keys() | new.keys(), key=lambda method: (hop_order(method[0]), method))
    for method in methods:
        one, other = old.get(method, Figures()), new.get(method, Figures())
        if one.calls != other.calls:
            yield Difference("calls", *method, "", _count(one.calls), _count(other.calls))
    for method in methods:
        one, other = old.get(method, Figures()), new.get(method, Figures())
        if one.errors != other.errors:
            yield Difference("errors", *method, "", _errors(one.errors), _errors(other.errors))
    for method in sorted(before.fields.keys() & after.fields.keys()):
        yield from _fields(method, before.fields[method].values, after.fields[method].values)
    for method in methods:
        if method in old and method in new:
            yield from _durations(method, old[method], new[method])


def _fields(
    method: _Method, before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]
) -> Iterator[Difference]:
    for path in sorted(before.keys() | after.keys()):
        one, other = before.get(path, {}), after.get(path, {})
        if len(one) <= MAX_VALUES >= len(other) and one.keys() != other.keys():
            gone = tuple(one[value] for value in one if value not in other)
            added = tuple(other[value] for value in other if value not in one)
            yield Difference("field", *method, path, gone, added)


def _durations(method: _Method, before: Figures, after: Figures) -> Iterator[Difference]:
    one, other = before.percentile(0.5), after.percentile(0.5)
    if one is None or other is None or min(before.buckets.total(), after.buckets.total()) < ENOUGH:
        return
    short, long = sorted((one, other))
    if long - short >= SHIFT_NS and long >= SHIFT * short:
        yield Difference("duration", *method, "", (str(one),), (str(other),))


def _count(calls: int) -> tuple[str, ...]:
    return (str(calls),) if calls else ()


def _errors(errors: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{count} {what}" for what, count in sorted(errors.items()))


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401 # JSON
    """Each leaf of a document with its path; ids are one and the same, so are entries of a list without a name."""
    if isinstance(value, dict):
        for key, inside in value.items():
            if key in _NEVER:
                continue
            name = _ID.sub("ID", key)
            yield from _flat(inside, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inside in value:
            named = _name(inside) if isinstance(inside, dict) else _variable(str(inside))
            yield from _flat(inside, f"{path}[{_ID.sub('ID', named)}]")
    else:
        yield path, _MADE_UP.sub("N", _ID.sub("ID", _TIME.sub("TIME", str(value))))


def _name(entry: dict[str, Any]) -> str:
    """What an entry of a list is known by, if anything."""
    return next((entry[key] for key in _NAMES if isinstance(entry.get(key), str)), "")


def _variable(value: str) -> str:
    """The name of an environment's variable."""
    name, equals, _ = value.partition("=")
    return name if equals and name.isidentifier() else ""
