"""Every key: one table that bindings, help, footer and the manual are made from.

Habits are those of less, Wireshark, termshark and mitmproxy. Keys that terminals, tmux, screen or flow control take
for themselves are not used, and no key has two meanings in one place.
"""

from __future__ import annotations

from typing import NamedTuple


class Key(NamedTuple):
    """One act."""

    id: str
    """What it does is in the app's table of acts, by this."""
    keys: tuple[str, ...]
    """As Textual names them."""
    text: str
    """What it does."""
    short: str = ""
    """For the footer; empty: it is not there."""
    only: str = ""
    """Where it does something: `replay`, `live`, or everywhere."""


KEYS = (
    Key("help", ("question_mark", "f1"), "all keys", "keys"),
    Key("quit", ("q",), "back, and from the list: leave", "leave"),
    Key("down", ("j", "down"), "one down"),
    Key("up", ("k", "up"), "one up"),
    Key("page_down", ("pagedown", "ctrl+d"), "a page down"),
    Key("page_up", ("pageup", "ctrl+u"), "a page up"),
    Key("first", ("g", "home"), "to the first"),
    Key("last", ("G", "end"), "to the last"),
    Key("number", ("ctrl+g",), "to the call of a number"),
    Key("next_pane", ("tab",), "to the next pane"),
    Key("previous_pane", ("shift+tab",), "to the pane before"),
    Key("open", ("enter",), "open: the detail of a call, a node, what a line leads to", "open"),
    Key("unfold", ("right",), "open a node; in a story: zoom into the time of a call"),
    Key("fold", ("left",), "close a node; in a story: all of its time"),
    Key("filter", ("slash",), "narrow to what a filter says", "filter"),
    Key("search", ("ctrl+f",), "search in what is shown"),
    Key("again", ("n",), "the next found"),
    Key("back_again", ("N",), "the found before"),
    Key("next_error", ("e",), "the next failure or gap", "error"),
    Key("previous_error", ("E",), "the failure or gap before"),
    Key("stream", ("s",), "narrow to the connection of this call; again: all"),
    Key("next_of_stream", ("right_square_bracket",), "the next call of this connection"),
    Key("previous_of_stream", ("left_square_bracket",), "the call of this connection before"),
    Key("next_of_method", ("right_curly_bracket",), "the next call of this method"),
    Key("previous_of_method", ("left_curly_bracket",), "the call of this method before"),
    Key("next_of_pod", ("right_parenthesis",), "the next call of this pod"),
    Key("previous_of_pod", ("left_parenthesis",), "the call of this pod before"),
    Key("parent", ("P",), "to the call that caused this one"),
    Key(
        "in_flight",
        ("i",),
        "calls without an answer, oldest first, each below the one that waits for it; again: all",
        "in flight",
    ),
    Key("pods", ("p",), "pods and containers beside the calls; enter narrows to one, again: all", "pods"),
    Key("story", ("y",), "the story of this pod: its calls over all hops, drawn to time", "story"),
    Key("numbers", ("u",), "rates, failures and times by method", "numbers"),
    Key("findings", ("exclamation_mark",), "gaps, malformed bytes and notices"),
    Key("session", ("S",), "what is traced and what is not, the file, the relay"),
    Key("follow", ("F",), "follow the newest, or hold still", "follow"),
    Key("mark", ("m",), "mark, or take the mark away"),
    Key("only_marked", ("M",), "the marked ones alone; again: all"),
    Key("next_mark", ("apostrophe",), "the next marked one"),
    Key("detail", ("d",), "detail on or off", "detail"),
    Key("zoom", ("backslash",), "the whole screen for this pane, or not"),
    Key("view", ("v",), "messages, metadata, frames, JSON in turn"),
    Key("hex", ("x",), "bytes of the message, the field under the cursor marked; on or off", "hex"),
    Key("time", ("t",), "times of day, since the first call, since the call before, in turn"),
    Key("reference", ("T",), "times since this call"),
    Key("sort", ("o",), "order by the next column"),
    Key("reverse", ("O",), "the other way round"),
    Key("copy", ("c",), "copy the value under the cursor, or the call as JSON"),
    Key("copy_command", ("C",), "copy the call as a crictl or grpcurl command"),
    Key("save", ("w",), "save what is shown: FILE.json, FILE.txt or FILE.pcapng"),
    Key("pause", ("space",), "hold the screen still while it goes on; replay: play or pause"),
    Key("step", ("full_stop",), "to when the next call begins or ends", only="replay"),
    Key("step_back", ("comma",), "to when the call before began or ended", only="replay"),
    Key("faster", ("plus",), "twice as fast", only="replay"),
    Key("slower", ("minus",), "half as fast", only="replay"),
    Key("command", ("colon",), "a command by its name"),
    Key("back", ("escape",), "back: out of a page, the detail, a filter"),
    Key("leave", ("ctrl+c",), "leave, which ends a trace as Ctrl-C does without a screen"),
)

COMMANDS = {
    "columns": "NAME[:WIDTH] ...: which columns, in this order; without names: all as they were",
    "sort": "NAME: order by this column; `sort time` is the order of the capture",
    "save": "FILE: save what is shown",
    "copy": "value, json or command: to the clipboard",
    "at": "HH:MM:SS[.FRACTION] or +SECONDS: replay jumps there, else the list goes there",
    "speed": "FACTOR: of a replay",
    "detach": "leave the screen, go on tracing in the background",
    "keys": "all keys",
    "quit": "leave",
}
"""What `:` takes."""

_SIGNS = {
    "question_mark": "?",
    "slash": "/",
    "right_square_bracket": "]",
    "left_square_bracket": "[",
    "right_curly_bracket": "}",
    "left_curly_bracket": "{",
    "right_parenthesis": ")",
    "left_parenthesis": "(",
    "exclamation_mark": "!",
    "apostrophe": "'",
    "backslash": "\\",
    "full_stop": ".",
    "comma": ",",
    "plus": "+",
    "minus": "-",
    "colon": ":",
    "escape": "esc",
    "pagedown": "PgDn",
    "pageup": "PgUp",
    "down": "Down",
    "up": "Up",
    "left": "Left",
    "right": "Right",
    "home": "Home",
    "end": "End",
    "f1": "F1",
}


def sign_of(key: str) -> str:
    """How a person reads a key."""
    return _SIGNS.get(key, key)


def signs(key: Key) -> str:
    """`j, Down`."""
    return ", ".join(sign_of(each) for each in key.keys)


def footer() -> list[tuple[str, str]]:
    """Key and word, in the order of the table."""
    return [(sign_of(key.keys[0]), key.short) for key in KEYS if key.short]


def help_lines() -> list[tuple[str, str]]:
    """Keys and what each does, then commands."""
    lines = [(signs(key), key.text + (f" ({key.only})" if key.only else "")) for key in KEYS]
    lines.append(("", ""))
    return lines + [(f":{name}", text) for name, text in COMMANDS.items()]


def manual() -> str:
    """The table of keys as docs/commands.md has it."""
    rows = "".join(f"| {' '.join(_code(each) for each in key.keys)} | {_cell(key)} |\n" for key in KEYS)
    commands = "".join(f"| `:{name}` | {text.replace('|', chr(92) + '|')} |\n" for name, text in COMMANDS.items())
    return f"| key | does |\n| --- | --- |\n{rows}{commands}"


def _code(key: str) -> str:
    sign = sign_of(key)
    return f"`{sign}`"


def _cell(key: Key) -> str:
    return key.text + (f" ({key.only})" if key.only else "")
