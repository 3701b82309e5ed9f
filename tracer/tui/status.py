"""The line that tells the truth: where the cursor is, what is open, missing, left out, and who traces."""

from __future__ import annotations

from tracer.output import look
from tracer.output.units import Clock
from tracer.tui.narrowing import Narrowing
from tracer.tui.paint import BOLD, DIM, NAME, PLAIN, SIGNS, WRONG, Span
from tracer.tui.player import Player
from tracer.tui.view import View

BEHIND_BYTES = 1 << 20
"""What is still to be read of a capture is said from here on."""


def status_spans(
    view: View, narrowing: Narrowing, player: Player | None, clock: Clock, *, held_at: int | None, follow: bool
) -> list[Span]:
    """All but who traces. `held_at`: so many rows there were when the screen was held."""
    rows, shown, total = view.rows, len(view), len(view.rows)
    spans: list[Span] = [(f" {min(view.cursor + 1, shown)}/{shown}", BOLD)]
    if shown != total and player is None:
        spans.append((f" of {total}", PLAIN))
    open_count = len(rows.open if player is None else player.open_rows())
    spans.append((f"  {open_count} in flight", SIGNS[look.OPEN] if open_count else DIM))
    if rows.lost:
        spans.append((f"  {rows.lost} gaps", SIGNS[look.GAP]))
    if rows.broken:
        spans.append((f"  broken off: {rows.broken}", WRONG))
    if not rows.complete and rows.total - rows.read > BEHIND_BYTES:
        spans.append((f"  reading {100 * rows.read // rows.total} %", BOLD))
    if player is not None:
        state = f"x{player.speed:g}" if player.playing else "paused"
        spans.append((f"  {state} {clock.text(player.clock_ns)}", BOLD))
    elif held_at is not None:
        spans.append((f"  held: {total - held_at} new", BOLD))
    elif follow:
        spans.append(("  following", PLAIN))
    if narrowing.words:
        spans.append((f"  [{', '.join(narrowing.words.values())}]", NAME))
    if narrowing.untold:
        spans.append((f"  of {narrowing.untold} it cannot be told", WRONG))
    return spans
