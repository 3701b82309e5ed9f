"""What stands where: the list or a page in its place, the detail beside or below it, pods at the side or above.

One of them has the keys. Here it is known which call the cursor is on, whichever of them shows it.
"""

from __future__ import annotations

from textual.containers import Container
from textual.widget import Widget

from tracer.tui.call_list import CallList
from tracer.tui.detail_pane import DetailPane
from tracer.tui.lines import Lines
from tracer.tui.pages import Pages
from tracer.tui.pods import PodList
from tracer.tui.view import View

WIDE = 170
"""From this width on the detail stands beside the list, not below it."""
PODS_BESIDE = 140
"""From this width on pods stand beside the list, not above it."""


class Panes(Container):
    """All of them."""

    def __init__(self, view: View, calls: CallList, pages: Pages, side: DetailPane, pods: PodList, *, id: str) -> None:
        super().__init__(id=id)
        # Kept here, not looked for on the screen: a look when that is taken down would not find them.
        self.calls, self.pages, self.side, self.pods = calls, pages, side, pods
        self.follow = False
        """The list's cursor stays on the newest call."""
        self.pods_note = ""
        self._view = view
        self._beside = Container(id="panes")
        self._zoomed = False
        for each in (calls, pages, side):
            self._beside.compose_add_child(each)
        self.compose_add_child(pods)
        self.compose_add_child(self._beside)

    def lay_out(self, width: int) -> None:
        """Put them where there is room."""
        beside, wide = width >= PODS_BESIDE, width >= WIDE
        self.styles.layout = "horizontal" if beside else "vertical"
        pods = self.pods.styles
        pods.width, pods.height = ("34%" if beside else "100%"), ("1fr" if beside else "35%")
        pods.padding = (0, 1 if beside else 0, 0, 0)
        self._beside.styles.layout = "horizontal" if wide else "vertical"
        self.side.styles.padding = (0, 0, 0, 1 if wide else 0)

    def on_lines_resized(self, event: Lines.Resized) -> None:
        """Fit what is drawn to a width."""
        if event.pane is self.pods:
            self.draw_pods()
        elif event.pane is self.pages and self.pages.page == "story":
            self.pages.draw()

    # -- where the cursor is ---------------------------------------------------------------------------------------

    @property
    def main(self) -> Widget:
        """The list, or what has its place."""
        return self.pages if self.pages.page else self.calls

    @property
    def row(self) -> int | None:
        """The row of the call under the cursor, in the list or in a story."""
        return self.pages.row if self.pages.page == "story" else self._view.current

    def draw(self, now_ns: int) -> None:
        """Draw what has changed by itself."""
        self.calls.now_ns = now_ns
        if self.follow and len(self._view):
            self._view.cursor = len(self._view) - 1
        self.calls.fit_scroll()
        self.side.refresh_call(self.row)

    def go(self, position: int) -> None:
        """Put the list's cursor on a line; whoever moves away from the newest holds still."""
        self.calls.move_to(position)
        if self.follow and self._view.cursor < len(self._view) - 1:
            self.follow = False

    def go_to_time(self, time_ns: int) -> None:
        """Put it on the first call that begins no sooner."""
        self.follow = False
        self.go(self._view.line_at(time_ns))

    def move(self, by: int) -> None:
        """Move the cursor of the pane that has the keys."""
        pane = self.screen.focused
        if isinstance(pane, Lines):
            pane.move_to(pane.cursor + by)
            self.side.draw_hex()
        else:
            self.go(self._view.cursor + by)

    def move_pages(self, by: int) -> None:
        """The same by so many screens."""
        pane = self.screen.focused
        self.move(by * (max(1, pane.size.height - 1) if isinstance(pane, Lines) else self.calls.page))

    # -- who has the keys ------------------------------------------------------------------------------------------

    def give_keys(self, pane: Widget) -> None:
        """Give a pane the keys at once: those that come next are its own, however fast they are typed."""
        self.screen.set_focus(pane)

    def next_pane(self, step: int) -> None:
        """Give the next pane the keys."""
        panes = [self.main]
        if self.side.display:
            panes.append(self.side.fields)
            if self.side.hexes.display:
                panes.append(self.side.hexes)
        if self.pods.display:
            panes.append(self.pods)
        focused = self.screen.focused
        at = panes.index(focused) if focused in panes else 0
        self.give_keys(panes[(at + step) % len(panes)])

    def fold(self, unfolded: bool) -> None:
        """Open or close the node under the cursor; in a story its call's time."""
        if self.screen.focused is self.side.fields:
            self.side.fold(unfolded)
        elif self.screen.focused is self.pages:
            self.pages.zoom(unfolded)

    # -- what is shown ---------------------------------------------------------------------------------------------

    def toggle_page(self, name: str) -> None:
        """Show a page in place of the list, or the list again."""
        if self.pages.page == name:
            self.close_page()
            return
        self.calls.display = False
        self.pages.open(name)
        self.give_keys(self.pages)

    def close_page(self) -> None:
        """Show the list again, its cursor on the call that the page's was on."""
        row = self.pages.row
        self.pages.close()
        self.calls.display = not self._zoomed
        self.give_keys(self.calls)
        if row is not None and self._view.row(at := self._view.position_of(row)) == row:
            self.go(at)

    def show_detail(self, shown: bool) -> None:
        """Show the call under the cursor beside the list, or not."""
        self.side.display = shown
        if not shown:
            self._zoomed = False
            self.main.display = True
            self.give_keys(self.main)
        self.side.forget()
        self.side.refresh_call(self.row)

    def open_detail(self) -> None:
        """Show it, and give it the keys."""
        self.show_detail(True)
        self.give_keys(self.side.fields)

    def zoom(self) -> None:
        """Give the detail the whole screen, or not."""
        if not self.side.display:
            self.open_detail()
        self._zoomed = not self._zoomed
        self.main.display = not self._zoomed
        self.give_keys(self.side.fields if self._zoomed else self.main)

    def toggle_hex(self) -> None:
        """Show bytes beside the detail's fields, or not."""
        if not self.side.display:
            self.open_detail()
            self.side.show_hex(True)
        else:
            self.side.show_hex(not self.side.hexes.display)

    def toggle_pods(self) -> None:
        """Show pods, or not."""
        self.pods.display = not self.pods.display
        self.draw_pods()
        self.give_keys(self.pods if self.pods.display else self.main)

    def draw_pods(self) -> None:
        """Show what is known of pods by now."""
        self.pods.draw(self.pods_note)

    def go_back(self) -> bool:
        """Close what was opened last; whether there was anything but pods, which one may keep."""
        if self.side.display and self.pages.page == "story":
            self.show_detail(False)
        elif self.pages.page:
            self.close_page()
        elif self.side.display:
            self.show_detail(False)
        elif self.pods.display and self.screen.focused is self.pods:
            self.toggle_pods()
        else:
            return False
        return True
