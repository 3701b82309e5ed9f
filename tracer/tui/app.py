"""The screen: one list, one detail, one line that tells the truth. It decodes nothing, and no traffic waits for it.

In: a source of batches, and who makes the capture. Keys come from one table (`tracer.tui.keys`); what each does is
another, `_make_acts`. What changes by itself is looked at ten times a second, and drawn no oftener.
"""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver
from textual.events import Resize
from textual.screen import Screen
from textual.widgets import Input
from textual.worker import Worker

from dissectors.render import Renderer
from protos.errors import PodwireError
from tracer.output.escape import escape
from tracer.output.units import Clock
from tracer.tui import keys
from tracer.tui.call_command import call_command
from tracer.tui.call_list import TIMES, CallList, parse_columns
from tracer.tui.detail import Detail
from tracer.tui.detail_pane import DetailPane
from tracer.tui.finder import Finder
from tracer.tui.lines import Bar
from tracer.tui.narrow import FilterError, Question, Words, complete, error_of
from tracer.tui.narrowing import IN_FLIGHT, POD, Narrowing
from tracer.tui.pages import CHANGING, Pages
from tracer.tui.paint import BOLD, DIM, PLAIN, WRONG, Paint, Span
from tracer.tui.panes import Panes
from tracer.tui.player import Player, parse_moment, parse_speed
from tracer.tui.pods import OfCall, PodList, about
from tracer.tui.prompt import Prompt
from tracer.tui.rows import Rows, Whom
from tracer.tui.save import Saving
from tracer.tui.session import LiveSession
from tracer.tui.setup import Setup
from tracer.tui.source import IndexerError
from tracer.tui.status import status_spans
from tracer.tui.terminal import TerminalDriver
from tracer.tui.view import CHAINS, View
from tracer.tui.view import SORTS as ORDERS
from tracer.tui.waterfall import Waterfall

TICK_S = 0.1
"""How often what changed by itself is drawn."""
LOOK_S = 1.0
"""How often the session is looked at, and the number page made anew."""
FAR = 1 << 40
"""Lines: more than there are."""
LAG_NS = 200_000_000
"""What has passed may take so long to be in the file: ages are up to then."""
MANY = 2000
"""From so many found at once, the list is made anew."""


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
    CSS_PATH = Path(__file__).with_name("app.tcss")  # also of a subclass elsewhere

    def __init__(self, setup: Setup) -> None:
        super().__init__(ansi_color=True)
        self.setup = setup
        self.rows = Rows()
        self.view = View(self.rows)
        self._paint = Paint(unicode=setup.unicode)
        paint = self._paint
        self.calls = CallList(self.view, paint, utc=setup.utc, id="list")
        self.pages = Pages(self.view, setup.behind, self.now_ns, paint, id="page")
        self.pods = PodList(self.rows, paint, id="pods")
        detail = Detail(setup.registry, Renderer(setup.registry, show_secrets=setup.show_secrets), Clock(utc=setup.utc))
        self.side = DetailPane(detail, self.rows, setup.source, paint, id="side")
        self.panes = Panes(self.view, self.calls, self.pages, self.side, self.pods, id="all")
        self._status, self._footer = Bar(paint, id="status"), Bar(paint, id="footer")
        self.prompt = Prompt(self._completions, self._given, id="prompt")
        self.narrowing = Narrowing(self.rows, setup.match)
        self.player = None if setup.replay is None else Player(self.rows, setup.replay)
        self.panes.follow = setup.behind.growing or self.player is not None
        self.panes.pods_note = "" if self.player is None else "as they are at the end of the capture"
        self._held_at: int | None = None
        """So many rows there were when the screen was held."""
        self.finder = Finder(self.view, self.pages, self.panes.go, self.say)
        self._heard = self._joined = 0
        """Of so many changes of pods and containers, and of which pod a container is, the screen knows."""
        self._said: Span | None = None
        self._saving: Worker[None] | None = None
        self._gives_up = False
        """Whoever left was told what is still being saved."""
        self._looked = 0.0
        self._ticked = time.monotonic()
        self._acts = self._make_acts()
        self._commands: dict[str, Callable[[str], None]] = {
            "columns": lambda rest: setattr(self.calls.shape, "columns", parse_columns(rest)),
            "sort": self._command_sort,
            "save": self._save_given,
            "copy": self._command_copy,
            "at": self._command_at,
            "speed": lambda rest: self._played().set_speed(parse_speed(rest)),
            "detach": self._command_detach,
            "keys": lambda _: self._show_page("help"),
            "quit": lambda _: self._leave("leave"),
        }
        """What `:` takes."""

    # -- what it is made of ----------------------------------------------------------------------------------------

    def get_driver_class(self) -> type[Driver]:
        """Textual's own, but for a terminal's: `--web` has another, tests have one without any."""
        driver = super().get_driver_class()
        return TerminalDriver if driver is LinuxDriver else driver

    def get_default_screen(self) -> Screen[None]:
        return Main()

    def compose(self) -> ComposeResult:
        yield self.panes
        yield self.prompt
        yield self._status
        yield self._footer

    def on_mount(self) -> None:
        if isinstance(self.setup.behind, LiveSession):
            self.setup.behind.listen()
        self.panes.lay_out(self.size.width)
        self.panes.give_keys(self.calls)
        self.tick()
        self.set_interval(TICK_S, self.tick)
        if self.setup.filter:
            self._filter_given(self.setup.filter)

    def on_unmount(self) -> None:
        self.narrowing.end_matching()

    def on_resize(self, event: Resize) -> None:
        self.panes.lay_out(event.size.width)

    # -- time ------------------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """The time that ages are up to."""
        if self.player is not None:
            return self.player.clock_ns
        if self.setup.behind.growing:
            return max(self.rows.now_ns, self.setup.now_ns() - LAG_NS)
        return self.rows.now_ns

    def tick(self) -> None:
        """Take what came, and draw it."""
        now = time.monotonic()
        passed, self._ticked = now - self._ticked, now
        self._take()
        if self.player is not None:
            self.player.play(passed)
            self._go_to_clock(self.player)
        elif self._held_at is not None:
            self.view.most = self._held_at
        self.view.step()
        self.finder.look_on()
        if now - self._looked >= LOOK_S:
            self._looked = now
            self.setup.behind.look()
            if not self.setup.behind.growing:
                self.setup.source.end()
                if self.narrowing.matches is not None:
                    self.narrowing.matches.end()
            self._look_again()
        if self.setup.behind.left:
            self._leave("leave", at_once=True)
            return
        self._draw()

    def _look_again(self) -> None:
        """Make anew what is not cheap to draw, once a second."""
        changes = not self.rows.complete or self.player is not None
        if self.pages.page == "session" or (self.pages.page in CHANGING and changes):
            self.pages.draw()
        if self.rows.heard != self._heard:
            self._heard = self.rows.heard
            self.panes.draw_pods()
        if self.rows.joined != self._joined:
            self._joined = self.rows.joined
            if POD in self.narrowing:
                self._narrow_again()

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
        self.view.now_ns = self.now_ns()
        self.view.changed(changed)

    def _draw(self) -> None:
        self.view.now_ns = self.now_ns()
        self.panes.draw(self.view.now_ns)
        self._draw_status()

    def _go_to_clock(self, player: Player) -> None:
        self.view.limit(player.clock_ns)
        if IN_FLIGHT in self.narrowing:
            self._narrow_again()

    # -- the lines that tell ---------------------------------------------------------------------------------------

    def say(self, text: str, *, wrong: bool = False) -> None:
        """Say something in place of the footer, until the next key; nothing: let the footer be seen."""
        self._said = (escape(text) if not text.isprintable() else text, WRONG if wrong else BOLD) if text else None
        self._draw_status()

    def _draw_status(self) -> None:
        spans = status_spans(
            self.view,
            self.narrowing,
            self.player,
            self.side.detail.clock,
            held_at=self._held_at,
            follow=self.panes.follow,
        )
        spans.append((f"  {self.setup.behind.brief()}", DIM))
        self._status.show(*spans)
        footer = self._footer
        if self._said is not None:
            footer.show((" ", PLAIN), self._said)
        else:
            words = [span for key, word in keys.footer() for span in ((f" {key}", BOLD), (f" {word} ", DIM))]
            footer.show(*words)

    # -- keys ------------------------------------------------------------------------------------------------------

    def _make_acts(self) -> dict[str, Callable[[], object]]:
        """What each key does, by its id."""
        flow, kind, pod = self.rows.flow.__getitem__, self.rows.kind.__getitem__, self.rows.pod_of
        return {
            "help": lambda: self._show_page("help"),
            "quit": lambda: None if self._go_back() else self._leave("leave"),
            "down": lambda: self.panes.move(1),
            "up": lambda: self.panes.move(-1),
            "page_down": lambda: self.panes.move_pages(1),
            "page_up": lambda: self.panes.move_pages(-1),
            "first": lambda: self.panes.move(-FAR),
            "last": lambda: self.panes.move(FAR),
            "number": lambda: self._ask("number"),
            "next_pane": lambda: self.panes.next_pane(1),
            "previous_pane": lambda: self.panes.next_pane(-1),
            "open": self._open,
            "unfold": lambda: self.panes.fold(True),
            "fold": lambda: self.panes.fold(False),
            "filter": lambda: self._ask("filter", self.narrowing.filter),
            "search": lambda: self._ask("search"),
            "again": lambda: self.finder.find_again(forward=True),
            "back_again": lambda: self.finder.find_again(forward=False),
            "next_error": lambda: self.finder.find_error(self.now_ns(), forward=True),
            "previous_error": lambda: self.finder.find_error(self.now_ns(), forward=False),
            "stream": self._only_stream,
            "next_of_stream": lambda: self.finder.find_same(flow, self.panes.row, forward=True),
            "previous_of_stream": lambda: self.finder.find_same(flow, self.panes.row, forward=False),
            "next_of_method": lambda: self.finder.find_same(kind, self.panes.row, forward=True),
            "previous_of_method": lambda: self.finder.find_same(kind, self.panes.row, forward=False),
            "next_of_pod": lambda: self.finder.find_same(pod, self.panes.row, forward=True),
            "previous_of_pod": lambda: self.finder.find_same(pod, self.panes.row, forward=False),
            "parent": self._go_to_parent,
            "in_flight": self._only_in_flight,
            "pods": self.panes.toggle_pods,
            "story": self._toggle_story,
            "numbers": lambda: self._show_page("numbers"),
            "findings": lambda: self._show_page("findings"),
            "session": self._toggle_session,
            "follow": lambda: setattr(self.panes, "follow", not self.panes.follow),
            "mark": self._mark,
            "only_marked": self._only_marked,
            "next_mark": lambda: self.finder.find(self.view.marks.__contains__),
            "detail": lambda: self.panes.show_detail(not self.side.display),
            "zoom": self.panes.zoom,
            "view": self.side.next_tab,
            "hex": self.panes.toggle_hex,
            "time": self._change_times,
            "reference": self._take_as_reference,
            "sort": self._sort_by_next,
            "reverse": self._reverse,
            "copy": lambda: self._copy("value" if self.focused is self.side.fields else "json"),
            "copy_command": lambda: self._copy("command"),
            "save": lambda: self._ask("save"),
            "pause": self._pause,
            "step": lambda: self._step(forward=True),
            "step_back": lambda: self._step(forward=False),
            "faster": lambda: self._played().set_speed(self._played().speed * 2),
            "slower": lambda: self._played().set_speed(self._played().speed / 2),
            "command": lambda: self._ask("command"),
            "back": self._go_back,
            "leave": lambda: self._leave("leave"),
        }

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether an act is to be had: none of them while words are typed."""
        return action != "do" or self.focused is not self.prompt

    def action_leave(self) -> None:
        """Leave, out of the prompt too."""
        self._leave("leave")

    def action_do(self, name: str) -> None:
        """Do what a key stands for."""
        self._said = None
        self.finder.end()
        try:
            self._acts[name]()
        except PodwireError as error:
            self.say(str(error), wrong=True)
        self._draw()

    def _open(self) -> None:
        pane = self.focused
        if pane is self.pods:
            self._choose(None if self.pods.current is None else self.pods.current.target)
        elif pane is self.pages and self.pages.page != "story":
            self._follow_line()
        elif pane is self.side.fields:
            self.side.fold(None)
        else:
            self.panes.open_detail()

    # -- narrowing -------------------------------------------------------------------------------------------------

    def _ask(self, purpose: str, value: str = "") -> None:
        self.prompt.ask(purpose, value)
        self.panes.give_keys(self.prompt)

    def _completions(self, purpose: str, text: str) -> list[str]:
        if purpose == "command":
            return [name for name in keys.COMMANDS if name.startswith(text)]
        if purpose == "search":
            return Words().complete(text, self.rows)
        return complete(text, self.setup.registry) if purpose == "filter" else []

    def action_close_prompt(self) -> None:
        """Nothing is asked any more."""
        self.prompt.display = False
        self.panes.give_keys(self.panes.main)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Say what is wrong with a filter while it is typed."""
        if self.prompt.purpose == "filter" and event.input.display:
            self._show_error(self._error_of(event.value))

    def _error_of(self, text: str) -> FilterError | None:
        return error_of(text, self.setup.registry) if text else None

    def _show_error(self, error: FilterError | None) -> None:
        self._said = None if error is None else (f"{' ' * error.at}^ {escape(str(error))}", WRONG)
        self._draw_status()

    def _given(self, purpose: str, text: str) -> None:
        """Take what was asked for."""
        if purpose == "filter" and (error := self._error_of(text)) is not None:
            self._show_error(error)
            self.prompt.go_on()
            return  # it stays open, to be put right
        self._said = None
        self.action_close_prompt()
        try:
            getattr(self, f"_{purpose}_given")(text)
        except (FilterError, PodwireError) as error:
            self.say(str(error), wrong=True)
        self._draw()

    def _filter_given(self, text: str) -> None:
        self.narrowing.by_filter(text)
        self._take_matches()
        self._narrow_again()

    def _take_matches(self) -> list[int]:
        try:
            return self.narrowing.take_matches()
        except IndexerError as error:
            self.say(str(error), wrong=True)
            return []

    def _search_given(self, text: str) -> None:
        if text:
            self.finder.search = Words().compile(text, self.rows)
            self.finder.find_again(forward=True)

    def _number_given(self, text: str) -> None:
        if not text.isdecimal() or not 1 <= int(text) <= len(self.rows):
            raise PodwireError(f"there is no call {text}: they go from 1 to {len(self.rows)}")
        self.panes.go(self.view.position_of(int(text) - 1))
        if self.view.current != int(text) - 1:
            self.say(f"call {text} is not among what is shown; this is the nearest")

    def _save_given(self, text: str) -> None:
        if not text:
            return
        if self._is_saving:
            raise PodwireError("another file is still being saved")
        shown = array("I", map(self.view.row, range(len(self.view))))
        saving = Saving.of(text, shown, len(self.rows))
        self._saving = self.run_worker(self._save(saving), exit_on_error=False)

    async def _save(self, saving: Saving) -> None:
        setup = self.setup
        words = [*setup.words, *(["--follow"] if setup.behind.growing else [])]
        try:
            if saving.form == "text":
                self.say(await saving.text(self.calls.text_line))
            else:
                self.say(await saving.calls(setup.capture, self.rows, words, self.say))
        except PodwireError as error:
            self.say(str(error), wrong=True)

    @property
    def _is_saving(self) -> bool:
        return self._saving is not None and not self._saving.is_finished

    def _narrow_again(self) -> None:
        wanted, in_flight = self.narrowing.question(), IN_FLIGHT in self.narrowing
        self.pods.chosen = self.pods.chosen if POD in self.narrowing else 0
        self.calls.deadlines, self.view.now_ns = in_flight, self.now_ns()
        if in_flight is not (self.view.sort == CHAINS):
            self.view.sort, self.view.reverse = CHAINS if in_flight else "time", False
        if wanted is not None and in_flight:
            open_rows = self.rows.open if self.player is None else self.player.open_rows()
            self.view.only([row for row in sorted(open_rows) if wanted(row)], wanted)
        else:
            self.view.narrow(wanted)

    def _toggle(self, by: str, words: str, question: Question) -> None:
        if by in self.narrowing:
            self.narrowing.drop(by)
        else:
            self.narrowing.by(by, words, question)
        self._narrow_again()

    def _only_in_flight(self) -> None:
        self._toggle(IN_FLIGHT, IN_FLIGHT, lambda row: self.rows.open_at(row, self.now_ns()))
        if IN_FLIGHT in self.narrowing:
            self.panes.follow = False
            self.panes.go(0)

    def _only_stream(self) -> None:
        row = self.panes.row
        if row is not None:
            flow = self.rows.flow[row]
            self._toggle("stream", f"connection {flow}", lambda each: self.rows.flow[each] == flow)

    def _only_marked(self) -> None:
        if not self.view.marks and "marks" not in self.narrowing:
            self.say("nothing is marked (m marks)")
            return
        self._toggle("marks", "marked", lambda row: row in self.view.marks)

    # -- finding ---------------------------------------------------------------------------------------------------

    def _go_to_parent(self) -> None:
        row = self.panes.row
        parent = 0 if row is None else self.rows.parent[row]
        if not parent:
            raise PodwireError("no call is known to have caused this one")
        self._go_to_row(parent - 1)

    def _go_to_row(self, row: int) -> None:
        """Put the cursor on a call, wherever that is shown; narrow by nothing if it is not among what is."""
        self.panes.follow = False
        if self.pages.page == "story" and self.pages.go_to(row):
            return
        self.panes.close_page()
        self.panes.go(self.view.position_of(row))
        if self.view.current != row:
            while self.narrowing.drop_last():
                pass
            self._narrow_again()
            self.panes.go(self.view.position_of(row))

    def _mark(self) -> None:
        row = self.panes.row
        if row is not None:
            self.view.marks ^= {row}

    # -- pages -----------------------------------------------------------------------------------------------------

    def _show_page(self, name: str) -> None:
        self.prompt.display = False
        self.panes.toggle_page(name)

    def _toggle_session(self) -> None:
        self.setup.behind.look()
        self._show_page("session")

    def _choose(self, target: object) -> None:
        """Narrow to a pod or container, or not any more; go to a call."""
        if isinstance(target, OfCall):
            self._go_to_row(target.row)
            self.panes.show_detail(True)
        elif isinstance(target, Whom):
            self.pods.chosen, before = target.number, self.pods.chosen
            if before == target.number:
                self.narrowing.drop(POD)
            else:
                self.narrowing.by(POD, *about(self.rows, target))
            self._narrow_again()
            self.panes.draw_pods()

    def _toggle_story(self) -> None:
        if self.pages.page == "story":
            self.panes.close_page()
            return
        target = self.pods.current.target if self.focused is self.pods and self.pods.current is not None else None
        number = self.pods.chosen
        if isinstance(target, Whom):
            number = target.number
        elif not number and self.panes.row is not None:
            number = self.rows.whom[self.panes.row]
        pod = self.rows.whoms[self.rows.whoms[number].pod]
        if not pod.number:
            raise PodwireError("this call is about no pod that is known (p: the pods)")
        row = self.panes.row
        self.pages.story = Waterfall(self.rows, pod, self.view.marks)
        self._show_page("story")
        if row is not None:
            self.pages.go_to(row)

    def _follow_line(self) -> None:
        page, line = self.pages.page, self.pages.current
        target = None if line is None else line.target
        if not isinstance(target, int):
            return
        self.panes.close_page()
        if page == "numbers":
            self.narrowing.by("method", self.rows.kinds[target].name, lambda row: self.rows.kind[row] == target)
            self._narrow_again()
        else:
            self.panes.go_to_time(target)

    # -- the detail ------------------------------------------------------------------------------------------------

    # -- times and order -------------------------------------------------------------------------------------------

    def _change_times(self) -> None:
        shape = self.calls.shape
        shape.times = TIMES[(TIMES.index(shape.times) + 1) % len(TIMES)]
        self.say(f"times: {'of day' if shape.times == 'day' else f'since the {shape.times}'}")

    def _take_as_reference(self) -> None:
        row = self.panes.row
        if row is not None:
            self.calls.shape.reference_ns = self.rows.start[row]
            self.calls.shape.times = "start"

    def _sort_by_next(self) -> None:
        if self.pages.page == "numbers":
            self.pages.next_sort()
            return
        names = [*ORDERS]
        self._sort(names[(names.index(self.view.sort) + 1) % len(names) if self.view.sort in names else 0])

    def _sort(self, name: str) -> None:
        self.view.sort_by(name, reverse=name in ("duration", "size", "status"))
        self.say(f"ordered by {name}")

    def _reverse(self) -> None:
        self.view.sort_by(self.view.sort, reverse=not self.view.reverse)

    def on_call_list_headed(self, event: CallList.Headed) -> None:
        if event.column == self.view.sort:
            self._reverse()
        elif event.column in ORDERS:
            self._sort(event.column)
        self._draw()

    def on_call_list_picked(self) -> None:
        self.panes.follow = False
        self._draw()

    # -- taking away -----------------------------------------------------------------------------------------------

    def _copy(self, what: str) -> None:
        try:
            if what == "value":
                text = self.side.value()
            else:
                row, detail = self.panes.row, self.side.detail
                if row is None:
                    raise PodwireError("there is no call")
                call = self.side.whole(row).call
                if what == "json":
                    text = json.dumps(detail.json(call))
                else:
                    text = call_command(call, self.setup.registry, detail.renderer)
        except PodwireError as error:
            self.say(str(error), wrong=True)
            return
        self.copy_to_clipboard(text)
        self.say(f"copied: {text[:200]}")

    # -- playing ---------------------------------------------------------------------------------------------------

    def _pause(self) -> None:
        if self.player is not None:
            self.player.playing = not self.player.playing
        elif self._held_at is None:
            self._held_at = len(self.rows)
        else:
            self._held_at = self.view.most = None

    def _played(self) -> Player:
        if self.player is None:
            raise PodwireError("only in a replay (podwire replay FILE)")
        return self.player

    def _step(self, *, forward: bool) -> None:
        player = self._played()
        player.step(forward=forward)
        self._go_to_clock(player)

    # -- commands --------------------------------------------------------------------------------------------------

    def _command_given(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        if not name:
            return
        if name not in keys.COMMANDS:
            raise PodwireError(f"no command {name!r} (there are: {', '.join(keys.COMMANDS)})")
        self._commands[name](rest.strip())

    def _command_sort(self, rest: str) -> None:
        if rest not in ORDERS:
            raise PodwireError(f"sort by one of {', '.join(ORDERS)}")
        self._sort(rest)

    def _command_copy(self, rest: str) -> None:
        if rest not in ("value", "json", "command"):
            raise PodwireError("copy value, copy json or copy command")
        self._copy(rest)

    def _command_at(self, rest: str) -> None:
        moment = parse_moment(rest, self.rows, self.setup.utc)
        if self.player is None:
            self.panes.go_to_time(moment)
        else:
            self.player.clock_ns = moment
            self._go_to_clock(self.player)

    def _command_detach(self, _: str) -> None:
        reason = self.setup.behind.detaching()
        if reason:
            raise PodwireError(reason)
        self._leave("detach")

    # -- going back ------------------------------------------------------------------------------------------------

    def _go_back(self) -> bool:
        """Undo the last thing that was opened; whether there was one."""
        if self.panes.go_back():
            return True
        if self.narrowing.drop_last():
            self._narrow_again()
            self.panes.draw_pods()
        elif self.pods.display:
            self.panes.toggle_pods()
        else:
            return False
        return True

    def _leave(self, how: str, *, at_once: bool = False) -> None:
        if self._is_saving and not (at_once or self._gives_up):
            self._gives_up = True
            self.say("a file is still being saved: leave once more to give it up")
            return
        self.narrowing.end_matching()
        if isinstance(self.setup.behind, LiveSession):
            self.setup.behind.deafen()
        self.exit(how)
