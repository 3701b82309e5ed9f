"""One call as lines: its messages as a tree that opens and closes, metadata, frames, JSON; and its bytes.

In: a loaded call. Out: lines for a pane. All text of the wire in them is escaped.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dissectors.events import Metadata
from dissectors.masking import Masker, mask_metadata, mask_unknown
from dissectors.render import Renderer
from protos.registry import Registry
from tracer.calls import Call, Message
from tracer.output.codes import reset_name, status_name
from tracer.output.escape import escape
from tracer.output.jsonlines import JsonPrinter
from tracer.output.peers import peer_text
from tracer.output.units import Clock, duration, size
from tracer.tui.lines import Line
from tracer.tui.loader import Loaded
from tracer.tui.paint import BOLD, DIM, MARK, NAME, PLAIN, RAW, WRONG, Span
from tracer.tui.tree import Node, TreeMaker

TABS = ("messages", "metadata", "frames", "json")
SMALL = 60
"""Nodes of a message that is shown open; of larger ones the first level alone."""
HEX_LINES = 4096
"""Lines of bytes shown of one message."""


@dataclass(slots=True, eq=False)
class Branch:
    """A line of the tree: a message, or a node of one."""

    message: Message
    node: Node | None
    depth: int
    children: Sequence[Node]


@dataclass(slots=True)
class Detail:
    """What the detail shows of a call, and what of it is open."""

    registry: Registry
    renderer: Renderer
    clock: Clock
    loaded: Loaded | None = None
    tab: str = "messages"
    _trees: dict[int, list[Node]] = field(default_factory=dict)
    _toggled: set[int] = field(default_factory=set)
    """Ids of nodes that are not as they are at first."""

    def show(self, loaded: Loaded) -> None:
        """Take another call, or the same one with more in it."""
        if self.loaded is None or self.loaded.call.number != loaded.call.number:
            self._toggled.clear()
        self.loaded = self.masked(loaded)
        self._trees.clear()

    def masked(self, loaded: Loaded) -> Loaded:
        """The same call with its secrets masked, of the same length; unless they are to be shown."""
        if self.renderer.show_secrets:
            return loaded
        call = copy.copy(loaded.call)
        masker, types = Masker(self.registry), self.types(call)
        masked = []
        for message in call.messages:
            payload, name = message.payload, types[message.direction]
            if payload is not None:
                payload = masker.mask(name, payload) if name else mask_unknown(payload)
            masked.append(message._replace(payload=payload))
        call.messages = masked
        call.metadata, call.response_metadata = mask_metadata(call.metadata), mask_metadata(call.response_metadata)
        call.trailers = mask_metadata(call.trailers)
        return replace(loaded, call=call)

    def lines(self) -> list[Line]:
        """The lines of the tab."""
        if self.loaded is None:
            return []
        makers = {"messages": self._messages, "metadata": self._metadata, "frames": self._frames, "json": self._json}
        return makers[self.tab](self.loaded)

    def types(self, call: Call) -> tuple[str, str]:
        """Full names of what the call's method takes and gives."""
        found = self.registry.method(call.service, call.method)
        return (found.input_type, found.output_type) if found is not None else ("", "")

    # -- messages ----------------------------------------------------------------------------------------------------

    def _messages(self, loaded: Loaded) -> list[Line]:
        call = loaded.call
        lines = [Line(tuple(_headline(call)))]
        types = self.types(call)
        before = 0
        for message in call.messages:
            if message.number != before + 1:
                lines.append(Line(((f"… {message.number - before - 1} messages not kept", DIM),)))
            before = message.number
            tree = self._tree(message, types[message.direction])
            branch = Branch(message, None, 0, tree)
            unfolded = self.is_open(branch)
            arrow = "▾" if unfolded else "▸"
            side = "response" if message.direction else "request"
            after = duration(max(0, message.time_ns - call.start_ns))
            head = f"{arrow} {side} +{after} {size(message.length)} "
            note = f" ({escape(message.note)})" if message.note else ""
            lines.append(Line(((head, BOLD), (types[message.direction], DIM), (note, WRONG)), branch))
            if unfolded:
                self._nodes(message, tree, 1, lines)
        if call.status is not None and call.status.code:
            lines.append(
                Line(((f"status {status_name(call.status.code)} ", BOLD), (escape(call.status.message), PLAIN)))
            )
        return lines

    def _tree(self, message: Message, type_name: str) -> list[Node]:
        tree = self._trees.get(message.number)
        if tree is None:
            payload = message.payload
            tree = self._trees[message.number] = [] if payload is None else self._maker().tree(type_name, payload)
        return tree

    def _maker(self) -> TreeMaker:
        return TreeMaker(self.registry)

    def _nodes(self, message: Message, nodes: Sequence[Node], depth: int, lines: list[Line]) -> None:
        for node in nodes:
            branch = Branch(message, node, depth, node.children)
            unfolded = bool(node.children) and self.is_open(branch)
            arrow = "  " if not node.children else "▾ " if unfolded else "▸ "
            spans: list[Span] = [("  " * depth + arrow, PLAIN), (node.name, WRONG if node.wrong else NAME)]
            if node.value:
                spans += [(": ", PLAIN), (node.value, PLAIN)]
            if node.raw:
                spans.append((f"  [{node.raw}]", RAW))
            lines.append(Line(tuple(spans), branch))
            if unfolded:
                self._nodes(message, node.children, depth + 1, lines)

    def is_open(self, branch: Branch) -> bool:
        """Whether what lies under a branch is shown."""
        if branch.node is None:
            first = True
        elif branch.node.value and not branch.node.value.startswith("("):
            first = False  # its value says it already: a duration, an entry of a map, JSON
        else:
            first = branch.depth < 2 or _count(branch.children) <= SMALL
        return first != (_key(branch) in self._toggled)

    def fold(self, branch: Branch, unfolded: bool | None = None) -> None:
        """Open or close; None: the other of the two."""
        if unfolded is None or self.is_open(branch) != unfolded:
            self._toggled ^= {_key(branch)}

    # -- the other tabs ----------------------------------------------------------------------------------------------

    def _metadata(self, loaded: Loaded) -> list[Line]:
        call, flow = loaded.call, loaded.call.flow
        channel = f", channel {flow.channel}" if flow.channel else ""
        facts = [
            ("call", f"{call.number}: {escape(f'{call.service}/{call.method}')}"),
            ("connection", f"{flow.id}{channel}, stream {call.stream_id}, {call.protocol}"),
            *loaded.about,
            ("socket", escape(flow.socket)),
            ("client", peer_text(flow.client)),
            ("server", peer_text(flow.server)),
            ("started", f"{self.clock.text(call.start_ns)}{'' if call.seen_start else ' (before the capture)'}"),
            ("deadline", "none" if call.timeout_ns is None else duration(call.timeout_ns)),
            ("state", _state(call)),
            ("note", escape(call.note)),
        ]
        lines = [Line(((f"{name:<12}", NAME), (text, PLAIN))) for name, text in facts if text]
        for title, metadata in (
            ("metadata", call.metadata),
            ("response metadata", call.response_metadata),
            ("trailers", call.trailers),
        ):
            lines += _pairs(title, metadata)
        return lines

    def _frames(self, loaded: Loaded) -> list[Line]:
        call = loaded.call
        lines = [
            Line(((f"reads of connection {call.flow.id} from the call's start to its end, in {loaded.path}", DIM),))
        ]
        places = {(bool(message.direction), message.time_ns): message for message in call.messages}
        for time_ns, offset, from_server, length in loaded.packets:
            arrow = "←" if from_server else "→"
            message = places.get((from_server, time_ns))
            of = "" if message is None else f"completes message {message.number}, at byte {message.offset} of its side"
            text = f"+{duration(max(0, time_ns - call.start_ns)):<10} {arrow} {length:>8} bytes  at {offset:<10} "
            lines.append(Line(((text, PLAIN), (of, NAME))))
        if loaded.more_packets:
            lines.append(Line(((f"… and {loaded.more_packets} more", DIM),)))
        return lines

    def _json(self, loaded: Loaded) -> list[Line]:
        return [Line(((line, PLAIN),)) for line in json.dumps(self.json(loaded.call), indent=2).splitlines()]

    def json(self, call: Call) -> object:
        """The call as docs/json.md has it."""
        return json.loads(JsonPrinter(_nowhere, self.registry, self.renderer).call(call))


def hex_lines(branch: Branch, each: int) -> tuple[list[Line], int]:
    """The bytes of a branch's message, so many a line, with those of its node marked; the line where they begin."""
    payload = branch.message.payload
    if payload is None:
        return [Line(((f"no bytes: {escape(branch.message.note)}", DIM),))], 0
    node = branch.node
    start, end = (node.start, node.end) if node is not None else (0, 0)
    lines = []
    for at in range(0, min(len(payload), HEX_LINES * each), each):
        piece = payload[at : at + each]
        spans: list[Span] = [(f" {at:06x}  ", DIM)]
        spans += [(f"{byte:02x}", MARK if start <= at + i < end else PLAIN) for i, byte in enumerate(piece)]
        spans[1:] = [part for span in spans[1:] for part in (span, (" ", PLAIN))]
        spans.append(("   " * (each - len(piece)) + " ", PLAIN))
        for i, byte in enumerate(piece):
            character = chr(byte) if 32 <= byte < 127 else "."
            spans.append((character, MARK if start <= at + i < end else PLAIN))
        lines.append(Line(tuple(spans)))
    return lines, start // each


def _headline(call: Call) -> list[Span]:
    name = escape(f"{call.service}/{call.method}") if call.service else "start not seen"
    return [(f"call {call.number} ", BOLD), (name, PLAIN), (f"  {_state(call)}", DIM)]


def _state(call: Call) -> str:
    if call.status is not None:
        return status_name(call.status.code)
    return f"reset: {reset_name(call.reset)}" if call.reset is not None else call.state.value


def _pairs(title: str, metadata: Metadata) -> list[Line]:
    if not metadata:
        return []
    lines = [Line(((title, BOLD),))]
    for key, value in metadata:
        text = value.hex() if isinstance(value, bytes) else escape(value)
        lines.append(Line(((f"  {escape(key)}: ", NAME), (text, PLAIN)), text))
    return lines


def _count(nodes: Sequence[Node]) -> int:
    """How many nodes there are, up to one more than SMALL."""
    count = 0
    left = list(nodes)
    while left and count <= SMALL:
        count += 1
        left += left.pop().children
    return count


def _key(branch: Branch) -> int:
    node = branch.node
    return hash((branch.message.number, None if node is None else (node.start, node.end, node.name, branch.depth)))


def _nowhere(_: str) -> None:
    """Printed nowhere."""
