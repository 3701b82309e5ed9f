"""The screen: one list, one detail, one line that tells the truth. It decodes nothing, and no traffic waits for it.

In: a source of batches, and who makes the capture. Keys come from one table (`tracer.tui.keys`): each act there is a
method `do_ID` here. What changes by itself is looked at ten times a second, and drawn no oftener.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical
from textual.events import Resize
from textual.screen import Screen
from textual.strip import Strip
from textual.suggester import Suggester
from textual.widget import Widget
from textual.widgets import Input
from textual.worker import Worker, WorkerState

from dissectors.render import Renderer
from protos.errors import PodwireError
from protos.registry import Registry
from tracer.output import look
from tracer.output.escape import escape
from tracer.output.units import Clock, duration
from tracer.tui import keys
from tracer.tui.call_command import call_command
from tracer.tui.call_list import COLUMNS, TIMES, CallList
from tracer.tui.detail import TABS, Branch, Detail, hex_lines
from tracer.tui.lines import Line, Lines
from tracer.tui.loader import Loaded, load
from tracer.tui.narrow import FilterError, Question, Words, complete, error_of
from tracer.tui.numbers import NEWEST, SORTS, number_lines, sum_up
from tracer.tui.paint import BOLD, DIM, HEAD, NAME, PLAIN, SIGNS, WRONG, Paint, Span
from tracer.tui.rows import Place, Rows, code_name
from tracer.tui.save import save
from tracer.tui.session import Behind, LiveSession
from tracer.tui.source import IndexerError, Matches, Source, read_state
from tracer.tui.view import SORTS as ORDERS
from tracer.tui.view import View

TICK_S = 0.1
"""How often what changed by itself is drawn."""
LOOK_S = 1.0
"""How often the session is looked at, and the number page made anew."""
WIDE = 170
"""From this width on the detail stands beside the list, not below it."""
LAG_NS = 200_000_000
"""What has passed may take so long to be in the file: ages are up to then."""
BATCHES = 8
"""Batches taken between two keys."""
BEHIND_BYTES = 1 << 20
"""What is still to be read of a capture is said from here on."""
MANY = 2000
"""From so many found at once, the list is made anew."""
BELL_WORDS = "nothing found"


@dataclass(frozen=True, slots=True)
class Setup:
    """What a screen is made of."""

    source: Source
    behind: Behind
    registry: Registry
    capture: str
    """Path of the capture, as decoding would be told it."""
    utc: bool = False
    unicode: bool = True
    replay: float | None = None
    """Its speed, where the capture is played."""
    now_ns: Callable[[], int] = time.time_ns
    match: Callable[[str], Matches] | None = None
    """Begins to find out what a filter wants."""
    filter: str = ""
    """What to begin with."""
    show_secrets: bool = False


class Bar(Widget):
    """One line that is drawn from spans."""

    def __init__(self, paint: Paint, *, id: str) -> None:
        super().__init__(id=id)
        self._paint = paint
        self.spans: tuple[Span, ...] = ()

    def show(self, *spans: Span) -> None:
        """Show other words."""
        if spans != self.spans:
            self.spans = spans
            self.refresh()

    def render_line(self, y: int) -> Strip:
        return self._paint.strip(self.spans, self.size.width)


class Prompt(Input):
    """The line that is typed into: a filter, a search, a command."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.close_prompt", show=False),
        Binding("tab", "complete", show=False),
        Binding("ctrl+c", "app.leave", show=False),
    ]

    def action_complete(self) -> None:
        """Take what is suggested."""
        if self._suggestion:
            self.value = self._suggestion
            self.cursor_position = len(self.value)


class Suggestions(Suggester):
    """Completes the last word of a filter."""

    def __init__(self, complete: Callable[[str], list[str]]) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._complete = complete

    async def get_suggestion(self, value: str) -> str | None:
        before, space, word = value.rpartition(" ")
        found = self._complete(value) if word else []
        return f"{before}{space}{'!' if word.startswith('!') else ''}{found[0]}" if found else None


class Main(Screen[None], inherit_bindings=False):
    """The one screen; all keys are the app's."""

    AUTO_FOCUS = ""  # it would take the keys from what the first of them has opened


class PodwireApp(App[str], inherit_bindings=False):
    """The session. Its result is `leave` or `detach`."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        # Of priority: a key is done before the next one is given to a pane, however fast they come.
        Binding(",".join(key.keys), f"do('{key.id}')", key.text, show=False, priority=True, id=key.id)
        for key in keys.KEYS
    ]
    CSS = """
    Screen { background: ansi_default; color: ansi_default; }
    #panes { height: 1fr; }
    #list, #page { height: 1fr; width: 1fr; }
    #side { height: 1fr; width: 1fr; display: none; }
    #body { height: 1fr; }
    #tree, #hex { height: 1fr; width: 1fr; }
    #hex, #page { display: none; }
    #tabs, #status, #footer { height: 1; }
    #prompt { height: 1; border: none; padding: 0; display: none; background: ansi_default; }
    CallList, Lines { scrollbar-size: 1 1; background: ansi_default; overflow-x: hidden; overflow-y: scroll;
        scrollbar-size-vertical: 0; scrollbar-size-horizontal: 0; }
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(ansi_color=True)
        self.setup = setup
        self.rows = Rows()
        self.view = View(self.rows)
        self.detail = Detail(
            setup.registry, Renderer(setup.registry, show_secrets=setup.show_secrets), Clock(utc=setup.utc)
        )
        self._paint = Paint(unicode=setup.unicode)
        paint = self._paint
        # Kept here, not looked for on the screen: a look when that is taken down would not find them.
        self.calls = CallList(self.view, paint, utc=setup.utc, id="list")
        self._page_lines = Lines(paint, id="page")
        self._tabs, self._tree, self._hex = Bar(paint, id="tabs"), Lines(paint, id="tree"), Lines(paint, id="hex")
        self._panes, self._side = Container(id="panes"), Vertical(id="side")
        self._status, self._footer = Bar(paint, id="status"), Bar(paint, id="footer")
        suggester = Suggestions(self._completions)
        self._prompt = Prompt(id="prompt", suggester=suggester, compact=True, select_on_focus=False)
        self._follow = setup.behind.growing
        self._held_at: int | None = None
        """So many rows there were when the screen was held."""
        self._narrowed: dict[str, str] = {}
        """By what the list is narrowed, in words: `filter`, `stream`, `in flight`, `marks`, `method`."""
        self._questions: dict[str, Question] = {}
        self._prompt_for = ""
        self._filter = ""
        self._matches: Matches | None = None
        self._matched: set[int] = set()
        self._untold = 0
        """Calls of which the filter could not tell."""
        self._search: Question | None = None
        self._page = ""
        self._number_sort = SORTS[0]
        self._said: Span | None = None
        self._loading: Worker[Loaded] | None = None
        self._shown_row: tuple[int, int] | None = None
        """Row and size of what the detail has: an open call is read again when it has grown."""
        self._zoomed = False
        self._looked = 0.0
        self._playing = setup.replay is not None
        self._speed = setup.replay or 1.0
        self._clock_ns = 0
        self._ticked = time.monotonic()

    # -- what it is made of ----------------------------------------------------------------------------------------

    def get_default_screen(self) -> Screen[None]:
        return Main()

    def compose(self) -> ComposeResult:
        body = Horizontal(self._tree, self._hex, id="body")
        self._side.compose_add_child(self._tabs)
        self._side.compose_add_child(body)
        self._panes.compose_add_child(self.calls)
        self._panes.compose_add_child(self._page_lines)
        self._panes.compose_add_child(self._side)
        yield self._panes
        yield self._prompt
        yield self._status
        yield self._footer

    def on_mount(self) -> None:
        if isinstance(self.setup.behind, LiveSession):
            self.setup.behind.listen()
        self._lay_out()
        self._focus(self.calls)
        self.tick()
        self.set_interval(TICK_S, self.tick)
        if self.setup.filter:
            self._filter_given(self.setup.filter)

    def on_unmount(self) -> None:
        self._end_matching()

    def on_resize(self, event: Resize) -> None:
        self._lay_out(event.size.width)

    def _lay_out(self, width: int | None = None) -> None:
        wide = (width or self.size.width) >= WIDE
        self._panes.styles.layout = "horizontal" if wide else "vertical"
        self._side.styles.padding = (0, 0, 0, 1 if wide else 0)

    # -- time ------------------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """The time that ages are up to."""
        if self.setup.replay is not None:
            return self._clock_ns
        if self.setup.behind.growing:
            return max(self.rows.now_ns, self.setup.now_ns() - LAG_NS)
        return self.rows.now_ns

    def tick(self) -> None:
        """Take what came, and draw it."""
        now = time.monotonic()
        passed, self._ticked = now - self._ticked, now
        self._take()
        if self.setup.replay is not None:
            self._play(passed)
        elif self._held_at is not None:
            self.view.most = self._held_at
        self.view.step()
        if now - self._looked >= LOOK_S:
            self._looked = now
            self.setup.behind.look()
            if not self.setup.behind.growing:
                self.setup.source.end()
                if self._matches is not None:
                    self._matches.end()
            if self._page in ("numbers", "session"):
                self._show_page(self._page)
        if self.setup.behind.left:
            self._leave("leave")
            return
        self._draw()

    def _take(self) -> None:
        changed: list[int] = []
        try:
            for batch in self.setup.source.batches():
                changed += self.rows.add(batch)
        except IndexerError as error:
            self.rows.complete, self.rows.broken = True, self.rows.broken or str(error)
        matched = self._take_matches()
        if len(matched) > MANY:
            self._narrow_again()
        else:
            changed += matched
        self.view.changed(changed)

    def _draw(self) -> None:
        pane = self.calls
        pane.now_ns = self.now_ns()
        if self._follow and len(self.view):
            self.view.cursor = len(self.view) - 1
        pane.fit_scroll()
        self._refresh_detail()
        self._draw_status()

    def _play(self, passed_s: float) -> None:
        if not len(self.rows):
            return
        if not self._clock_ns:
            self._clock_ns = self.rows.start[0]
        if self._playing:
            self._clock_ns = min(self._clock_ns + int(passed_s * self._speed * 1e9), self.rows.now_ns)
            if self.rows.complete and self._clock_ns >= self.rows.now_ns:
                self._playing = False
        self._go_to_clock()

    def _go_to_clock(self) -> None:
        self.view.limit(self._clock_ns)
        if "in flight" in self._narrowed:
            self._narrow_again()

    # -- the lines that tell ---------------------------------------------------------------------------------------

    def say(self, text: str, *, wrong: bool = False) -> None:
        """Say something in place of the footer, until the next key."""
        self._said = (escape(text) if not text.isprintable() else text, WRONG if wrong else BOLD)
        self._draw_status()

    def _draw_status(self) -> None:
        rows = self.rows
        shown, total = len(self.view), len(rows)
        position = f"{min(self.view.cursor + 1, shown)}/{shown}"
        open_count = self._count_open()
        spans: list[Span] = [(f" {position}", BOLD)]
        if shown != total and self.setup.replay is None:
            spans.append((f" of {total}", PLAIN))
        spans.append((f"  {open_count} in flight", SIGNS[look.OPEN] if open_count else DIM))
        if rows.lost:
            spans.append((f"  {rows.lost} gaps", SIGNS[look.GAP]))
        if rows.broken:
            spans.append((f"  broken off: {rows.broken}", WRONG))
        if not rows.complete and rows.total - rows.read > BEHIND_BYTES:
            spans.append((f"  reading {100 * rows.read // rows.total} %", BOLD))
        if self.setup.replay is not None:
            state = f"x{self._speed:g}" if self._playing else "paused"
            spans.append((f"  {state} {self.detail.clock.text(self._clock_ns)}", BOLD))
        elif self._held_at is not None:
            spans.append((f"  held: {total - self._held_at} new", BOLD))
        elif self._follow:
            spans.append(("  following", PLAIN))
        if self._narrowed:
            spans.append((f"  [{', '.join(self._narrowed.values())}]", NAME))
        if self._matches is not None and self._untold:
            spans.append((f"  of {self._untold} it cannot be told", WRONG))
        spans.append((f"  {self.setup.behind.brief()}", DIM))
        self._status.show(*spans)
        footer = self._footer
        if self._said is not None:
            footer.show((" ", PLAIN), self._said)
        else:
            words = [span for key, word in keys.footer() for span in ((f" {key}", BOLD), (f" {word} ", DIM))]
            footer.show(*words)

    def _count_open(self) -> int:
        if self.setup.replay is None:
            return len(self.rows.open)
        return sum(self.rows.open_at(row, self._clock_ns) for row in range(self.view.most or 0))

    # -- keys ------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether an act is to be had: none of them while words are typed."""
        return action != "do" or self.focused is not self._prompt

    def action_leave(self) -> None:
        """Leave, out of the prompt too."""
        self.do_leave()

    def action_do(self, name: str) -> None:
        """Do what a key stands for."""
        self._said = None
        getattr(self, f"do_{name}")()
        self._draw()

    def _move(self, by: int) -> None:
        pane = self.focused
        if isinstance(pane, Lines):
            pane.move_to(pane.cursor + by)
            self._draw_hex()
        else:
            self._go(self.view.cursor + by)

    def _go(self, position: int) -> None:
        """Put the list's cursor on a line; whoever moves away from the newest holds still."""
        self.calls.move_to(position)
        if self._follow and self.view.cursor < len(self.view) - 1:
            self._follow = False

    def _page_height(self) -> int:
        pane = self.focused
        return max(1, pane.size.height - 1) if isinstance(pane, Lines) else self.calls.page

    def do_down(self) -> None:
        self._move(1)

    def do_up(self) -> None:
        self._move(-1)

    def do_page_down(self) -> None:
        self._move(self._page_height())

    def do_page_up(self) -> None:
        self._move(-self._page_height())

    def do_first(self) -> None:
        self._move(-(1 << 40))

    def do_last(self) -> None:
        self._move(1 << 40)

    def do_number(self) -> None:
        self._ask("number", "")

    def do_next_pane(self) -> None:
        self._next_pane(1)

    def do_previous_pane(self) -> None:
        self._next_pane(-1)

    def _next_pane(self, step: int) -> None:
        panes: list[Widget] = [self._page_lines if self._page else self.calls]
        if self._detail_shown():
            panes.append(self._tree)
            if self._hex.display:
                panes.append(self._hex)
        at = panes.index(self.focused) if self.focused in panes else 0
        self._focus(panes[(at + step) % len(panes)])

    def do_open(self) -> None:
        pane = self.focused
        if pane is self._page_lines:
            self._follow_line()
        elif isinstance(pane, Lines):
            self._fold(None)
        else:
            self._show_detail(True)
            self._focus(self._tree)

    def do_unfold(self) -> None:
        self._fold(True)

    def do_fold(self) -> None:
        self._fold(False)

    def _fold(self, unfolded: bool | None) -> None:
        tree = self._tree
        line = tree.current
        if self.focused is tree and line is not None and isinstance(line.target, Branch):
            self.detail.fold(line.target, unfolded)
            tree.show(self.detail.lines())

    # -- narrowing -------------------------------------------------------------------------------------------------

    def do_filter(self) -> None:
        self._ask("filter", self._filter)

    def do_search(self) -> None:
        self._ask("search", "")

    def do_command(self) -> None:
        self._ask("command", "")

    def _focus(self, pane: Widget) -> None:
        """Give a pane the keys at once: those that come next are its own, however fast they are typed."""
        self.screen.set_focus(pane)

    def _ask(self, what: str, value: str) -> None:
        self._prompt_for = what
        prompt = self._prompt
        prompt.value = value
        prompt.placeholder = {
            "filter": 'CEL, as call.failed && call.hop == "task" (Tab completes; empty: all)',
            "search": "words to look for",
            "command": ", ".join(keys.COMMANDS),
            "number": "number of a call",
            "save": "FILE.json, FILE.txt or FILE.pcapng",
        }[what]
        prompt.display = True
        prompt.cursor_position = len(value)
        self._focus(prompt)

    def _completions(self, text: str) -> list[str]:
        if self._prompt_for == "command":
            return [name for name in keys.COMMANDS if name.startswith(text)]
        if self._prompt_for == "search":
            return Words().complete(text, self.rows)
        return complete(text, self.setup.registry) if self._prompt_for == "filter" else []

    def action_close_prompt(self) -> None:
        """Nothing is asked any more."""
        self._prompt.display = False
        self._focus(self._page_lines if self._page else self.calls)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Say what is wrong with a filter while it is typed."""
        if self._prompt_for == "filter" and event.input.display:
            error = self._error_of(event.value)
            self._said = None if error is None else (f"{' ' * error.at}^ {escape(str(error))}", WRONG)
            self._draw_status()

    def _error_of(self, text: str) -> FilterError | None:
        return error_of(text, self.setup.registry) if text else None

    def on_input_submitted(self, event: Input.Submitted) -> None:
        text, what = event.value.strip(), self._prompt_for
        if what == "filter" and (error := self._error_of(text)) is not None:
            self._said = (f"{' ' * error.at}^ {escape(str(error))}", WRONG)
            self._draw_status()
            return  # it stays open, to be put right
        self._said = None
        self.action_close_prompt()
        try:
            getattr(self, f"_{what}_given")(text)
        except FilterError as error:
            self.say(str(error), wrong=True)
        except PodwireError as error:
            self.say(str(error), wrong=True)
        self._draw()

    def _filter_given(self, text: str) -> None:
        self._filter = text
        self._end_matching()
        if text and self.setup.match is not None:
            self._matches, self._matched, self._untold = self.setup.match(text), set(), 0
            self._questions["filter"] = self._matched.__contains__
            self._take_matches()
        self._narrow("filter", f"filter {escape(text)}" if text else "")

    def _end_matching(self) -> None:
        if self._matches is not None:
            self._matches.close()
            self._matches = None

    def _take_matches(self) -> list[int]:
        """Take what the filter has found; return the rows in question."""
        changed: list[int] = []
        if self._matches is not None:
            try:
                for found in self._matches.take():
                    self._matched.update(found.wanted)
                    self._matched.difference_update(found.unwanted)
                    self._untold = found.errors
                    changed += found.wanted + found.unwanted
            except IndexerError as error:
                self.say(str(error), wrong=True)
        return changed

    def _search_given(self, text: str) -> None:
        if text:
            self._search = Words().compile(text, self.rows)
            self.do_again()

    def _number_given(self, text: str) -> None:
        if not text.isdecimal() or not 1 <= int(text) <= len(self.rows):
            raise PodwireError(f"there is no call {text}: they go from 1 to {len(self.rows)}")
        self._go(self.view.position_of(int(text) - 1))
        if self.view.current != int(text) - 1:
            self.say(f"call {text} is not among what is shown; this is the nearest")

    def _save_given(self, text: str) -> None:
        if not text:
            return
        shown = [self.view.row(at) for at in range(len(self.view))]
        self.say(
            save(
                text,
                self.setup.capture,
                shown,
                len(self.rows),
                self.setup.registry,
                self.detail.renderer,
                self._text_line,
            )
        )

    def _text_line(self, row: int) -> str:
        rows, kind = self.rows, self.rows.kinds[self.rows.kind[row]]
        time_text = self.detail.clock.text(rows.start[row])
        sign, status = rows.sign(row, self.now_ns()), code_name(rows.code[row])
        ident = rows.idents[rows.ident[row]]
        age = duration(self.calls.age(row))
        return f"{time_text} {sign} {kind.hop:<6} {ident[:13]:<13} {kind.name:<20} {status:<9} {age:>9}"

    def _narrow(self, by: str, words: str) -> None:
        """Narrow by one thing more, or (without words) by one less."""
        if words:
            self._narrowed[by] = words
        else:
            self._narrowed.pop(by, None)
            self._questions.pop(by, None)
        self._narrow_again()

    def _narrow_again(self) -> None:
        questions = list(self._questions.values())
        wanted = both(questions)
        self.calls.deadlines = "in flight" in self._narrowed
        if wanted is not None and self.calls.deadlines and self.setup.replay is None:
            self.view.only([row for row in sorted(self.rows.open) if wanted(row)], wanted)
        else:
            self.view.narrow(wanted)

    def _toggle(self, by: str, words: str, question: Question) -> None:
        if by in self._narrowed:
            self._narrow(by, "")
        else:
            self._questions[by] = question
            self._narrow(by, words)

    def do_in_flight(self) -> None:
        self._toggle("in flight", "in flight", lambda row: self.rows.open_at(row, self.now_ns()))
        if "in flight" in self._narrowed:
            self._follow = False
            self._go(0)

    def do_stream(self) -> None:
        row = self.view.current
        if row is not None:
            flow = self.rows.flow[row]
            self._toggle("stream", f"connection {flow}", lambda each: self.rows.flow[each] == flow)

    def do_only_marked(self) -> None:
        if not self.view.marks and "marks" not in self._narrowed:
            self.say("nothing is marked (m marks)")
            return
        self._toggle("marks", "marked", lambda row: row in self.view.marks)

    # -- finding ---------------------------------------------------------------------------------------------------

    def _find(self, wanted: Question, *, forward: bool = True) -> None:
        before = self.view.cursor
        self._found(before, self.view.find(wanted, forward=forward), forward=forward)

    def _found(self, before: int, found: bool, *, forward: bool) -> None:
        if not found:
            self.say(BELL_WORDS)
        elif (self.view.cursor < before) == forward and self.view.cursor != before:
            self.say("round the end of what is shown")
        self._go(self.view.cursor)

    def do_again(self) -> None:
        if self._search is None:
            self.say("nothing is looked for yet (ctrl+f)")
        else:
            self._find(self._search)

    def do_back_again(self) -> None:
        if self._search is None:
            self.say("nothing is looked for yet (ctrl+f)")
        else:
            self._find(self._search, forward=False)

    def do_next_error(self) -> None:
        self._found(self.view.cursor, self.view.find_trouble(self.now_ns()), forward=True)

    def do_previous_error(self) -> None:
        self._found(self.view.cursor, self.view.find_trouble(self.now_ns(), forward=False), forward=False)

    def _find_same(self, of: str, *, forward: bool) -> None:
        row = self.view.current
        if row is not None:
            column = self.rows.flow if of == "flow" else self.rows.kind
            same = column[row]
            self._find(lambda each: column[each] == same, forward=forward)

    def do_next_of_stream(self) -> None:
        self._find_same("flow", forward=True)

    def do_previous_of_stream(self) -> None:
        self._find_same("flow", forward=False)

    def do_next_of_method(self) -> None:
        self._find_same("kind", forward=True)

    def do_previous_of_method(self) -> None:
        self._find_same("kind", forward=False)

    def do_mark(self) -> None:
        row = self.view.current
        if row is not None:
            self.view.marks ^= {row}

    def do_next_mark(self) -> None:
        self._find(lambda row: row in self.view.marks)

    def do_follow(self) -> None:
        self._follow = not self._follow

    # -- pages -----------------------------------------------------------------------------------------------------

    def do_help(self) -> None:
        self._toggle_page("help")

    def do_numbers(self) -> None:
        self._toggle_page("numbers")

    def do_findings(self) -> None:
        self._toggle_page("findings")

    def do_session(self) -> None:
        self.setup.behind.look()
        self._toggle_page("session")

    def _toggle_page(self, name: str) -> None:
        if self._page == name:
            self._close_page()
            return
        self._page = name
        self._prompt.display = False
        self.calls.display = False
        page = self._page_lines
        page.display = True
        self._focus(page)
        self._show_page(name, cursor=0)

    def _close_page(self) -> None:
        self._page = ""
        self._page_lines.display = False
        self.calls.display = True
        self._focus(self.calls)

    def _show_page(self, name: str, *, cursor: int | None = None) -> None:
        makers = {
            "help": self._help_lines,
            "numbers": self._number_lines,
            "findings": self._finding_lines,
            "session": self._session_lines,
        }
        self._page_lines.show(makers[name](), cursor=cursor)

    def _session_lines(self) -> list[Line]:
        behind = self.setup.behind
        return [*[Line(((escape(line), PLAIN),)) for line in behind.lines()], Line(((f"q: {behind.leaving()}", DIM),))]

    def _help_lines(self) -> list[Line]:
        head = Line((("keys (esc: back)", HEAD),))
        return [head, *[Line(((f"{sign:<16}", NAME), (text, PLAIN))) for sign, text in keys.help_lines()]]

    def _number_lines(self) -> list[Line]:
        count = len(self.view)
        shown = [self.view.row(at) for at in range(max(0, count - NEWEST), count)]
        if not shown:
            return [Line((("no call yet", DIM),))]
        sums = sum_up(self.rows, shown, self.now_ns())
        starts = self.rows.start
        span = min(starts[shown[0]], starts[shown[-1]]), max(starts[shown[0]], starts[shown[-1]])
        return number_lines(self.rows, sums, self._number_sort, span, unicode=self.setup.unicode)

    def _finding_lines(self) -> list[Line]:
        found = [Line(((text, PLAIN),), time_ns) for time_ns, text in self.rows.findings]
        if self.rows.broken:
            found.append(Line(((f"broken off: {self.rows.broken}", WRONG),)))
        return found or [Line((("no gaps, nothing malformed", DIM),))]

    def _follow_line(self) -> None:
        line = self._page_lines.current
        target = None if line is None else line.target
        if not isinstance(target, int):
            return
        page = self._page
        self._close_page()
        if page == "numbers":
            self._questions["method"] = lambda row: self.rows.kind[row] == target
            self._narrow("method", self.rows.kinds[target].name)
        else:
            self._go_to_time(target)

    def _go_to_time(self, time_ns: int) -> None:
        starts, count = self.rows.start, len(self.view)
        at = next((at for at in range(count) if starts[self.view.row(at)] >= time_ns), count - 1)
        self._follow = False
        self._go(at)

    # -- the detail ------------------------------------------------------------------------------------------------

    def _detail_shown(self) -> bool:
        return bool(self._side.display)

    def _show_detail(self, shown: bool) -> None:
        self._side.display = shown
        if not shown:
            self._zoomed = False
            self.calls.display = not self._page
            self._focus(self.calls)
        self._shown_row = None
        self._refresh_detail()

    def do_detail(self) -> None:
        self._show_detail(not self._detail_shown())

    def do_zoom(self) -> None:
        if not self._detail_shown():
            self.do_open()
        self._zoomed = not self._zoomed
        self.calls.display = not self._zoomed
        self._focus(self._tree if self._zoomed else self.calls)

    def do_view(self) -> None:
        self.detail.tab = TABS[(TABS.index(self.detail.tab) + 1) % len(TABS)]
        self._draw_detail(cursor=0)

    def do_hex(self) -> None:
        hexes = self._hex
        if not self._detail_shown():
            self.do_open()
            hexes.display = True
        else:
            hexes.display = not hexes.display
        self.detail.tab = "messages"
        self._draw_detail()

    def _refresh_detail(self) -> None:
        """Read the call under the cursor, if the detail has another one or it has grown."""
        row = self.view.current
        if not self._detail_shown() or row is None:
            return
        wanted = row, self.rows.size[row] + self.rows.code[row]
        if wanted == self._shown_row:
            return
        self._shown_row = wanted
        rows, source = self.rows, self.setup.source

        def state_of(place: Place) -> bytes:
            return read_state(source, place.offset, place.length)

        def read() -> Loaded:
            return load(rows, row, state_of, lambda: self._shown_row != wanted)

        self._loading = self.run_worker(read, thread=True, exclusive=True, exit_on_error=False)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.worker is not self._loading:
            return
        if event.state is WorkerState.SUCCESS:
            loaded = event.worker.result
            assert loaded is not None
            other = self.detail.loaded is None or self.detail.loaded.call.number != loaded.call.number
            self.detail.show(loaded)
            self._draw_detail(cursor=0 if other else None)
        elif event.state is WorkerState.ERROR:
            self.detail.loaded = None
            reason = str(event.worker.error).split(": ")  # a path can be longer than the pane is wide
            self._tree.show([Line(((escape(part), WRONG),)) for part in ["not to be had", *reason]], cursor=0)

    def _draw_detail(self, *, cursor: int | None = None) -> None:
        tabs = [(f" {name} ", HEAD if name == self.detail.tab else DIM) for name in TABS]
        self._tabs.show(*tabs, ("  v: the next", DIM))
        self._tree.show(self.detail.lines(), cursor=cursor)
        self._draw_hex()

    def _draw_hex(self) -> None:
        hexes = self._hex
        line = self._tree.current
        if not hexes.display:
            return
        if line is not None and isinstance(line.target, Branch):
            each = 16 if self._side.size.width >= 150 else 8
            hexes.styles.width = 10 + 4 * each + 1
            lines, at = hex_lines(line.target, each)
            hexes.show(lines, cursor=at)
        else:
            hexes.show([Line((("no bytes: put the cursor on a field", DIM),))], cursor=0)

    # -- times and order -------------------------------------------------------------------------------------------

    def do_time(self) -> None:
        shape = self.calls.shape
        shape.times = TIMES[(TIMES.index(shape.times) + 1) % len(TIMES)]
        self.say(f"times: {'of day' if shape.times == 'day' else f'since the {shape.times}'}")

    def do_reference(self) -> None:
        row = self.view.current
        if row is not None:
            self.calls.shape.reference_ns = self.rows.start[row]
            self.calls.shape.times = "start"

    def do_sort(self) -> None:
        if self._page == "numbers":
            self._number_sort = SORTS[(SORTS.index(self._number_sort) + 1) % len(SORTS)]
            self._show_page("numbers")
            return
        names = list(ORDERS)
        self._sort(names[(names.index(self.view.sort) + 1) % len(names)])

    def _sort(self, name: str) -> None:
        self.view.sort_by(name, reverse=name in ("duration", "size", "status"))
        self.say(f"ordered by {name}")

    def do_reverse(self) -> None:
        self.view.sort_by(self.view.sort, reverse=not self.view.reverse)

    def on_call_list_headed(self, event: CallList.Headed) -> None:
        if event.column == self.view.sort:
            self.do_reverse()
        elif event.column in ORDERS:
            self._sort(event.column)
        self._draw()

    def on_call_list_picked(self) -> None:
        self._follow = False
        self._draw()

    # -- taking away -----------------------------------------------------------------------------------------------

    def do_copy(self) -> None:
        tree = self._tree
        self._copy("value" if self.focused is tree else "json")

    def do_copy_command(self) -> None:
        self._copy("command")

    def _copy(self, what: str) -> None:
        import json

        try:
            if what == "value":
                line = self._tree.current
                text = "" if line is None else _value(line)
            else:
                call = self._whole_call().call
                if what == "json":
                    text = json.dumps(self.detail.json(call))
                else:
                    text = call_command(call, self.setup.registry, self.detail.renderer)
        except PodwireError as error:
            self.say(str(error), wrong=True)
            return
        self.copy_to_clipboard(text)
        self.say(f"copied: {text[:200]}")

    def _whole_call(self) -> Loaded:
        row = self.view.current
        if row is None:
            raise PodwireError("there is no call")
        if self.detail.loaded is not None and self.detail.loaded.call.number == row + 1:
            return self.detail.loaded
        loaded = load(self.rows, row, lambda place: read_state(self.setup.source, place.offset, place.length))
        return self.detail.masked(loaded)

    def do_save(self) -> None:
        self._ask("save", "")

    # -- playing ---------------------------------------------------------------------------------------------------

    def do_pause(self) -> None:
        if self.setup.replay is not None:
            self._playing = not self._playing
        elif self._held_at is None:
            self._held_at = len(self.rows)
        else:
            self._held_at = self.view.most = None

    def _moments(self) -> list[int]:
        rows = self.rows
        ends = (rows.start[row] + rows.length[row] for row in range(len(rows)) if rows.length[row] >= 0)
        return sorted({*rows.start, *ends})

    def do_step(self) -> None:
        self._step(lambda moments: next((each for each in moments if each > self._clock_ns), None))

    def do_step_back(self) -> None:
        self._step(lambda moments: next((each for each in reversed(moments) if each < self._clock_ns), None))

    def _step(self, choose: Callable[[list[int]], int | None]) -> None:
        if self.setup.replay is None:
            self.say("only in a replay (podwire replay FILE)")
            return
        self._playing = False
        moment = choose(self._moments())
        if moment is not None:
            self._clock_ns = moment
            self._go_to_clock()

    def do_faster(self) -> None:
        self._set_speed(self._speed * 2)

    def do_slower(self) -> None:
        self._set_speed(self._speed / 2)

    def _set_speed(self, speed: float) -> None:
        if self.setup.replay is None:
            self.say("only in a replay (podwire replay FILE)")
        else:
            self._speed = min(max(speed, 1e-9), 1e6)

    # -- commands --------------------------------------------------------------------------------------------------

    def _command_given(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        if not name:
            return
        if name not in keys.COMMANDS:
            raise PodwireError(f"no command {name!r} (there are: {', '.join(keys.COMMANDS)})")
        getattr(self, f"_command_{name}")(rest.strip())

    def _command_columns(self, rest: str) -> None:
        chosen = []
        for word in rest.split():
            name, colon, width = word.partition(":")
            if name not in COLUMNS or (colon and not (width.isdecimal() and 1 <= int(width) <= 200)):
                raise PodwireError(f"{word}: NAME or NAME:WIDTH, of {', '.join(COLUMNS)}")
            chosen.append((name, int(width) if colon else COLUMNS[name].width))
        self.calls.shape.columns = chosen or None

    def _command_sort(self, rest: str) -> None:
        if rest not in ORDERS:
            raise PodwireError(f"sort by one of {', '.join(ORDERS)}")
        self._sort(rest)

    def _command_save(self, rest: str) -> None:
        self._save_given(rest)

    def _command_copy(self, rest: str) -> None:
        if rest not in ("value", "json", "command"):
            raise PodwireError("copy value, copy json or copy command")
        self._copy(rest)

    def _command_at(self, rest: str) -> None:
        moment = parse_moment(rest, self.rows, self.setup.utc)
        if self.setup.replay is None:
            self._go_to_time(moment)
        else:
            self._clock_ns = moment
            self._go_to_clock()

    def _command_speed(self, rest: str) -> None:
        try:
            speed = float(rest)
        except ValueError:
            speed = 0.0
        if not 0 < speed < 1e6:
            raise PodwireError("a speed is a number above zero: 4 is four times as fast")
        self._set_speed(speed)

    def _command_detach(self, _: str) -> None:
        reason = self.setup.behind.detaching()
        if reason:
            raise PodwireError(reason)
        self._leave("detach")

    def _command_keys(self, _: str) -> None:
        self._toggle_page("help")

    def _command_quit(self, _: str) -> None:
        self._leave("leave")

    # -- going back ------------------------------------------------------------------------------------------------

    def do_back(self) -> None:
        self._go_back()

    def _go_back(self) -> bool:
        """Undo the last thing that was opened; whether there was one."""
        if self._page:
            self._close_page()
        elif self._detail_shown():
            self._show_detail(False)
        elif self._narrowed:
            last = next(reversed(self._narrowed))
            if last == "filter":
                self._filter = ""
                self._end_matching()
            self._narrow(last, "")
        else:
            return False
        return True

    def do_quit(self) -> None:
        if not self._go_back():
            self._leave("leave")

    def do_leave(self) -> None:
        self._leave("leave")

    def _leave(self, how: str) -> None:
        self._end_matching()
        if isinstance(self.setup.behind, LiveSession):
            self.setup.behind.deafen()
        self.exit(how)


def both(questions: list[Question]) -> Question | None:
    """What is wanted by all of them; None: everything is."""
    if len(questions) < 2:
        return questions[0] if questions else None
    return lambda row: all(question(row) for question in questions)


def parse_moment(text: str, rows: Rows, utc: bool) -> int:
    """Return the time that `HH:MM:SS.fff` (on the day of the first call) or `+SECONDS` (since it) names."""
    first = rows.start[0] if len(rows) else 0
    try:
        if text.startswith("+"):
            return first + int(float(text[1:]) * 1e9)
        hours, minutes, seconds = text.split(":")
        day = (time.gmtime if utc else time.localtime)(first / 1e9)
        passed = day.tm_hour * 3600 + day.tm_min * 60 + day.tm_sec
        wanted = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        return first - first % 1_000_000_000 + int((wanted - passed) * 1e9)
    except (ValueError, OverflowError):
        raise PodwireError(f"{text!r} is no time: HH:MM:SS.fraction or +SECONDS") from None


def _value(line: Line) -> str:
    """What there is to copy of a line of the detail."""
    if isinstance(line.target, Branch) and line.target.node is not None:
        value = line.target.node.value
        return value[1:-1] if value.startswith('"') and value.endswith('"') and len(value) > 1 else value
    if isinstance(line.target, str):
        return line.target
    return "".join(text for text, _ in line.spans).strip()
