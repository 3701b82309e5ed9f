"""Calls and findings as lines of text: one line a call when it ends, one more while it stays unanswered.

In: updates, in the order of the capture. Out: lines, written through the function it is given. Times are capture
times, so that a file prints the same whenever it is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from dissectors.events import Direction
from dissectors.masking import EVIDENCE
from tracer.calls import Call, CallUpdate, Finding, Message, State, Update
from tracer.logs import Logged
from tracer.output import look
from tracer.output.codes import reset_name, status_name
from tracer.output.escape import escape
from tracer.output.fields import is_expected
from tracer.output.limits import near_limit
from tracer.output.logs import line_text, source_text
from tracer.output.look import Look
from tracer.output.summary import Summarizer
from tracer.output.units import Clock, duration, short_id
from tracer.story.place import label
from tracer.waiting import meant_to_wait

UNANSWERED_NS = 1_000_000_000
"""After so long in capture time a call without an answer gets a line of its own."""
MAX_REASON = 1000
"""Characters of a status message on a line. The cause tends to stand at its end, so it is seldom cut."""


MAX_NAME = 16
"""Characters of `pod/container` on a line: the last ones, which tell pods of one deployment apart."""


class Details(Protocol):
    """Writes what `-v` adds below a call's line."""

    def lines(self, call: Call) -> list[str]:
        """The whole call, escaped, each line indented."""
        ...


class TextPrinter:
    """Print updates as lines."""

    def __init__(
        self,
        write: Callable[[str], object],
        summarizer: Summarizer,
        *,
        look: Look,
        clock: Clock,
        details: Details | None = None,
        names: bool = False,
        show_secrets: bool = False,
        wanted: Callable[[Call, int], bool] | None = None,
    ) -> None:
        self.shown = 0
        """Calls printed that had ended."""
        self._wanted = wanted
        self._write = write
        self._summarizer = summarizer
        self._unary = summarizer.unary
        self._look = look
        self._plain = look.unicode and not look.colour  # nothing to do to a line
        self._clock = clock
        self._details = details
        self._names = names
        self._evidence = None if show_secrets else EVIDENCE
        self._now_ns = 0
        self._young: deque[Call] = deque()  # opened less than UNANSWERED_NS ago, by age; the ended among them too
        self._open: dict[int, Call] = {}

    def update(self, update: Update) -> None:
        """Take what changed."""
        if type(update) is Logged:
            self._logged(update)
            return
        if type(update) is not CallUpdate:
            self._advance(update.time_ns)
            self._finding(update)  # type: ignore[arg-type] # told by its type
            return
        kind, time_ns, call, message = update
        if time_ns > self._now_ns:
            self._advance(time_ns)
        if kind == "ended":
            self._open.pop(call.number, None)
            self._ended(call)
        elif kind == "opened":
            self._young.append(call)
            self._open[call.number] = call
        elif message is not None and (call.service, call.method) not in self._unary:
            self._streamed(call, message)

    def _advance(self, time_ns: int) -> None:
        if time_ns > self._now_ns:
            self._now_ns = time_ns
            if self._young:
                oldest = self._young[0]
                if oldest.end_ns is not None or oldest.start_ns + UNANSWERED_NS <= time_ns:  # else it does nothing
                    self.tick(time_ns)

    def tick(self, now_ns: int) -> None:
        """Tell the time: a call that is due for its line as unanswered gets it."""
        self._now_ns = now_ns
        young = self._young
        while young:
            call = young[0]
            due_ns = call.start_ns + UNANSWERED_NS
            if call.end_ns is not None and call.end_ns < due_ns:
                young.popleft()
            elif due_ns <= now_ns:  # it may have ended by now: a file tells no time between its packets
                young.popleft()
                self._unanswered(call, due_ns)
            else:
                break

    def finish(self, end_ns: int | None = None) -> None:
        """Print what is still open at the end of the capture, whose time is `end_ns`."""
        end = self._now_ns if end_ns is None else end_ns
        for call in self._open.values():
            self._unanswered(call, end, at_end=True)
        self._open.clear()
        self._young.clear()

    def _unanswered(self, call: Call, now_ns: int, *, at_end: bool = False) -> None:
        if self._wanted is not None and not self._wanted(call, now_ns):
            return
        status = "waiting" if meant_to_wait(call.service, call.method) else "open"
        extra = [f"(open at the end of the capture{_dropped(call)})"] if at_end else []
        if at_end and call.note:
            extra.append(f"— {escape(call.note)}")
        left = call.deadline_ns
        if left is not None:
            left -= now_ns
            extra.append(f"deadline in {duration(left)}" if left > 0 else f"deadline passed {duration(-left)} ago")
        self._line(call, look.OPEN, status, now_ns - call.start_ns, extra, answered=at_end)
        if at_end:
            self._detail(call)

    def _ended(self, call: Call) -> None:
        if self._wanted is not None and not self._wanted(call, self._now_ns):
            return
        self.shown += 1
        sign, status = look.OK, "OK"
        extra = []
        if call.status is not None:
            code = call.status.code
            if code:
                status = status_name(code)
                expected = is_expected(call.service, call.method, code, call.status.message)
                sign = look.OK if expected else look.FAILED
                if call.status.message:
                    extra.append(f"— {escape(call.status.message[:MAX_REASON])}")
            if call.note:
                extra.append(f"({escape(call.note)})")
        elif call.state is State.CANCELLED:
            sign, status = look.CANCELLED, "cancelled"
            if call.deadline_passed(0):
                extra.append("(deadline passed)")
        elif call.state is State.RESET:
            sign, status = look.FAILED, "reset"
            who = "client" if call.ended_by is Direction.REQUEST else "server"
            extra.append(f"— {reset_name(call.reset or 0)} by the {who}")
        else:
            sign = look.CANCELLED if meant_to_wait(call.service, call.method) else look.FAILED
            status = call.state.value
            extra.append(f"— {escape(call.note)}")
        if call.dropped_messages:
            extra.append(f"({_dropped(call).lstrip(', ')})")
        if large := near_limit(call):
            extra.append(large)
        if call.gap:
            unanswered = call.status is None and call.state is State.CUT  # its answer may be among what is missing
            sign = look.GAP if sign == look.OK or unanswered else sign
            extra.append("(bytes missing)")
        self._line(call, sign, status, (call.end_ns or call.start_ns) - call.start_ns, extra)
        self._detail(call)

    def _streamed(self, call: Call, message: Message) -> None:
        """Print a message of a stream as it comes: its place in the stream, and how long after its start."""
        summary = self._summarizer.streamed(call, message)
        if summary is None or (self._wanted is not None and not self._wanted(call, message.time_ns)):
            return
        place = f"#{message.number}"
        arrow, text = ("←", summary.response) if message.direction else ("→", summary.request)
        line = (
            f"{self._clock.text(message.time_ns)} {look.MESSAGE} {call.hop:<6} {self._identity(call, summary.id):<13} "
            f"{summary.method:<20} {place:<9} {duration(message.time_ns - call.start_ns):>9}  {arrow} {text}"
        )
        self._write(self._look.line(look.MESSAGE, line))

    def _identity(self, call: Call, identity: str) -> str:
        """The column of the pod or container: its id, and its name if names are asked for."""
        if not self._names:
            return short_id(identity)
        identity, name = _whom(call, short_id(identity))
        return f"{identity:<13} {name:<16}"

    def _line(
        self, call: Call, sign: str, status: str, length_ns: int, extra: list[str], *, answered: bool = True
    ) -> None:
        summary = self._summarizer.summarize(call)
        time = self._clock.text(call.start_ns)
        text = summary.request
        if summary.response and answered:
            text = f"{text} → {summary.response}" if text else f"→ {summary.response}"
        if not call.seen_start:
            extra = ["(begun before the capture)", *extra]
        if extra:
            text = " ".join([text, *extra]) if text else " ".join(extra)
        identity = self._identity(call, summary.id)
        line = (
            f"{time} {sign} {call.hop:<6} {identity:<13} {summary.method:<20} "
            f"{status:<9} {duration(length_ns):>9}  {text}"
        )
        self._write(line.rstrip() + "\n" if self._plain else self._look.line(sign, line.rstrip()))

    def _detail(self, call: Call) -> None:
        if self._details is not None:
            for line in self._details.lines(call):
                self._write(self._look.line(look.OK, line))

    def _logged(self, line: Logged) -> None:
        """Print a line of a log: who wrote it where a call has its method, its level where that has its status."""
        if self._wanted is not None:
            return  # a filter asks for calls
        identity = ""
        whom = line.container or line.pod
        if whom is not None:
            identity = short_id(escape(whom.id))
        identity = f"{identity:<13}"
        if self._names:
            identity += f" {_short_name(label(line.pod, line.container)):<16}"
        source, level = source_text(line), escape(line.level)
        text = line_text(line, MAX_REASON, show_secrets=self._evidence is None)
        shown = f"{self._clock.text(line.time_ns)} {look.NOTICE} log    {identity} {source:<20} {level:<9}  {text}"
        self._write(self._look.line(look.NOTICE, shown))

    def _finding(self, finding: Finding) -> None:
        if finding.fatal or (self._wanted is not None and finding.flow is not None):
            return  # of a fatal one the command says it, on stderr and by its status
        sign = {"gap": look.GAP, "malformed": look.MALFORMED, "notice": look.NOTICE}[finding.kind]
        if finding.flow is None:
            where = "capture" if finding.offset is None else f"capture at byte {finding.offset}"
        else:
            where = f"connection {finding.flow.id}"
            if finding.flow.channel:
                where += f", channel {finding.flow.channel}"
            if finding.offset is not None:
                side = "client" if finding.direction is Direction.REQUEST else "server"
                where += f", from the {side}, at byte {finding.offset}"
        lost = f" {finding.length} bytes" if finding.kind == "gap" else ""
        of = f" (call {finding.call.number})" if finding.call is not None else ""
        evidence = f": {escape(finding.evidence[: self._evidence])}" if finding.evidence else ""
        if finding.text:
            evidence = f": {escape(finding.text[:MAX_REASON])}"
            if len(finding.text) > MAX_REASON:
                evidence += f" … ({finding.length} bytes)"
        hop = finding.flow.hop if finding.flow is not None else ""
        text = f"{finding.kind}{lost}, {where}{of}: {escape(finding.reason)}{evidence}"
        self._write(self._look.line(sign, f"{self._clock.text(finding.time_ns)} {sign} {hop:<6} {text}"))


def _whom(call: Call, identity: str) -> tuple[str, str]:
    """The id and the name of the pod or container that a call is about, as far as they are known by now; escaped."""
    place = call.place
    if place is None:
        return identity, ""
    if not identity:
        whom = place.container or place.pod
        identity = "" if whom is None else short_id(escape(whom.id))
    return identity, _short_name(place.label())


def _short_name(name: str) -> str:
    name = escape(name)
    return name if len(name) <= MAX_NAME else "…" + name[1 - MAX_NAME :]


def _dropped(call: Call) -> str:
    return f", {call.dropped_messages} messages of the middle not kept" if call.dropped_messages else ""
