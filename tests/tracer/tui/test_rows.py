"""The screen's signs are those of text."""

from __future__ import annotations

import pytest

from dissectors.events import Event
from protos.registry import Registry
from tests.tracer.made import FLOW, REQUEST, RESPONSE, RUNTIME, TASK, Told, ended, opened, reset
from tracer.calls import CallUpdate, Update
from tracer.output.look import Look
from tracer.output.summary import Summarizer
from tracer.output.text import TextPrinter
from tracer.output.units import Clock
from tracer.tui.rows import code_of, flags_of, sign

AGENT = "grpc.AgentService"
UNKNOWN, NOT_FOUND = 2, 5


class Both:
    """The sign of each call that ended: of its line, and of its row."""

    def __init__(self, registry: Registry) -> None:
        self.lines: list[str] = []
        self.rows: list[str] = []
        self._text = TextPrinter(
            self.lines.append, Summarizer(registry), look=Look(False, True), clock=Clock(utc=True), names=False
        )

    def update(self, update: Update) -> None:
        self._text.update(update)
        if isinstance(update, CallUpdate) and update.kind == "ended":
            self.rows.append(sign(code_of(update.call), flags_of(update.call)))


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize(
    ("service", "method", "end", "shown"),
    [
        (RUNTIME, "Version", ended(1), " "),
        (RUNTIME, "Version", ended(1, NOT_FOUND), "E"),
        (TASK, "Kill", ended(1, NOT_FOUND), " "),
        (TASK, "Kill", ended(1, UNKNOWN), "E"),
        (AGENT, "ReadStdout", ended(1, UNKNOWN, "eof"), " "),
        (AGENT, "ReadStderr", ended(1, NOT_FOUND, "eof"), " "),
        (AGENT, "ReadStdout", ended(1, UNKNOWN, "no such process"), "E"),
        (RUNTIME, "Version", reset(1, 8), "-"),
        (RUNTIME, "Version", reset(1, 2), "E"),
        (RUNTIME, "Version", None, "E"),
        (RUNTIME, "GetContainerEvents", None, "-"),
    ],
)
def test_a_row_has_the_sign_of_the_line(
    registry: Registry, service: str, method: str, end: Event | None, shown: str, gap: bool
) -> None:
    both = Both(registry)
    told = Told(both)
    told.at(0, opened(1, method, service))
    if gap:
        told.tracker.gap(FLOW)
    if end is None:
        told.closed(5, REQUEST)
        told.closed(5, RESPONSE)
    else:
        told.at(5, end)
    of_line = both.lines[-1].split(" ", 1)[1][0]
    assert both.rows == [of_line]
    assert of_line == ("≠" if gap and (shown == " " or end is None) else shown)
