"""The line that is typed into: a filter, a search, a command, a number, a file's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.events import Key
from textual.suggester import Suggester
from textual.widgets import Input

from tracer.tui.keys import COMMANDS

PURPOSES = {
    "filter": 'CEL, as call.failed && call.hop == "task" (Tab completes; empty: all)',
    "search": "words to look for",
    "command": ", ".join(COMMANDS),
    "number": "number of a call",
    "save": "FILE.json, FILE.txt or FILE.pcapng",
}
"""What can be asked for, and the words that stand there as long as nothing is typed."""


class Prompt(Input):
    """The line."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.close_prompt", show=False),
        Binding("tab", "complete", show=False),
        Binding("ctrl+c", "app.leave", show=False),
    ]

    def __init__(
        self, completions: Callable[[str, str], list[str]], take: Callable[[str, str], None], *, id: str
    ) -> None:
        suggester = Suggestions(lambda text: completions(self.purpose, text))
        super().__init__(id=id, suggester=suggester, compact=True, select_on_focus=False)
        self._take = take
        self.purpose = ""
        """What is asked for: one of PURPOSES."""

        self._given = False
        """Enter was pressed, and the app has not heard of it yet: what is typed by now is not ours."""

    def ask(self, purpose: str, value: str) -> None:
        """Ask for something, beginning with `value`."""
        self.go_on()
        self.purpose, self.value, self.placeholder = purpose, value, PURPOSES[purpose]
        self.display = True
        self.cursor_position = len(value)

    def go_on(self) -> None:
        """Take what is typed, also after enter."""
        self._given = False

    async def _on_key(self, event: Key) -> None:
        if not self._given and event.key != "enter":
            await super()._on_key(event)
            return
        event.stop()
        event.prevent_default()
        if self._given:
            self.app.post_message(Key(event.key, event.character))
        else:  # not by a binding: the app would look at that after keys that came behind
            self._given = True
            self.app.call_later(self._take, self.purpose, self.value.strip())

    def action_complete(self) -> None:
        """Take what is suggested."""
        if self._suggestion:
            self.value = self._suggestion
            self.cursor_position = len(self.value)


class Suggestions(Suggester):
    """Completes the last word."""

    def __init__(self, complete: Callable[[str], list[str]]) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._complete = complete

    async def get_suggestion(self, value: str) -> str | None:
        before, space, word = value.rpartition(" ")
        found = self._complete(value) if word else []
        return f"{before}{space}{'!' if word.startswith('!') else ''}{found[0]}" if found else None
