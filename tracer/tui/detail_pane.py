"""The pane of one call: tabs, a tree or lines, and bytes beside them. It reads the call itself, in a thread."""

from __future__ import annotations

from collections.abc import Callable

from textual.containers import Horizontal, Vertical
from textual.worker import Worker, WorkerState

from tracer.output.escape import escape
from tracer.tui.detail import TABS, Branch, Detail, hex_lines
from tracer.tui.lines import Bar, Line, Lines
from tracer.tui.loader import Loaded, load
from tracer.tui.paint import DIM, HEAD, WRONG, Paint
from tracer.tui.rows import Rows
from tracer.tui.source import Source, read_state

WIDE_HEX = 150
"""From this width on, sixteen bytes stand on a line."""


class DetailPane(Vertical):
    """The pane; `detail` is what it shows."""

    def __init__(self, detail: Detail, rows: Rows, source: Source, paint: Paint, *, id: str) -> None:
        super().__init__(id=id)
        self.detail = detail
        self._rows = rows
        self._source = source
        # Kept here, not looked for on the screen: a look when that is taken down would not find them.
        self._tabs, self.fields, self.hexes = Bar(paint, id="tabs"), Lines(paint, id="tree"), Lines(paint, id="hex")
        self._reading: Worker[Loaded] | None = None
        self._shown_call: tuple[int, int] | None = None
        """Row and size of what it has: an open call is read again when it has grown."""
        self.compose_add_child(self._tabs)
        self.compose_add_child(Horizontal(self.fields, self.hexes, id="body"))

    def forget(self) -> None:
        """Read its call anew when it is shown next."""
        self._shown_call = None

    def refresh_call(self, row: int | None) -> None:
        """Read the call of a row, if this has another one or it has grown."""
        if not self.display or row is None:
            return
        wanted = row, self._rows.size[row] + self._rows.code[row]
        if wanted == self._shown_call:
            return
        self._shown_call = wanted
        self._reading = self.run_worker(
            lambda: self._load(row, lambda: self._shown_call != wanted),
            thread=True,
            exclusive=True,
            exit_on_error=False,
        )

    def _load(self, row: int, stop: Callable[[], bool] = lambda: False) -> Loaded:
        source = self._source
        return load(self._rows, row, lambda place: read_state(source, place.offset, place.length), stop)

    def whole(self, row: int) -> Loaded:
        """Return a row's call, its secrets masked. Raises PodwireError."""
        loaded = self.detail.loaded
        return loaded if loaded is not None and loaded.call.number == row + 1 else self.detail.masked(self._load(row))

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.worker is not self._reading:
            return
        if event.state is WorkerState.SUCCESS:
            loaded = event.worker.result
            assert loaded is not None
            other = self.detail.loaded is None or self.detail.loaded.call.number != loaded.call.number
            self.detail.show(loaded)
            self.draw(cursor=0 if other else None)
        elif event.state is WorkerState.ERROR:
            self.detail.loaded = None
            reason = str(event.worker.error).split(": ")  # a path can be longer than the pane is wide
            self.fields.show([Line(((escape(part), WRONG),)) for part in ["not to be had", *reason]], cursor=0)

    def draw(self, *, cursor: int | None = None) -> None:
        """Show the lines of the tab."""
        tabs = [(f" {name} ", HEAD if name == self.detail.tab else DIM) for name in TABS]
        self._tabs.show(*tabs, ("  v: the next", DIM))
        self.fields.show(self.detail.lines(), cursor=cursor)
        self.draw_hex()

    def draw_hex(self) -> None:
        """Show the bytes of the line under the cursor."""
        line = self.fields.current
        if not self.hexes.display:
            return
        if line is not None and isinstance(line.target, Branch):
            each = 16 if self.size.width >= WIDE_HEX else 8
            self.hexes.styles.width = 10 + 4 * each + 1
            lines, at = hex_lines(line.target, each)
            self.hexes.show(lines, cursor=at)
        else:
            self.hexes.show([Line((("no bytes: put the cursor on a field", DIM),))], cursor=0)

    def next_tab(self) -> None:
        """Show the next tab."""
        self.detail.tab = TABS[(TABS.index(self.detail.tab) + 1) % len(TABS)]
        self.draw(cursor=0)

    def show_hex(self, shown: bool) -> None:
        """Show bytes, or not."""
        self.hexes.display = shown
        self.detail.tab = "messages"
        self.draw()

    def fold(self, unfolded: bool | None) -> None:
        """Open or close the node under the cursor; None: the other of the two."""
        line = self.fields.current
        if line is not None and isinstance(line.target, Branch):
            self.detail.fold(line.target, unfolded)
            self.fields.show(self.detail.lines())

    def value(self) -> str:
        """What there is to copy of the line under the cursor."""
        line = self.fields.current
        if line is None:
            return ""
        if isinstance(line.target, Branch) and line.target.node is not None:
            value = line.target.node.value
            return value[1:-1] if value.startswith('"') and value.endswith('"') and len(value) > 1 else value
        if isinstance(line.target, str):
            return line.target
        return "".join(text for text, _ in line.spans).strip()
