"""`make screens`: the pictures of the documents, taken of the screen itself over captures of real runtimes.

Each is an SVG as Textual draws it, without its font from elsewhere, in docs/screens; and to look at all of them a PNG
of that in build/screens (rsvg-convert: librsvg2-bin, fonts-dejavu).
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.tracer.tui.screen import CAPTURES, EDGE, Screen, run

ROOT = Path(__file__).parents[3]
PODS = CAPTURES / "ctrd2-pod.pcapng.gz"
TYPED = {":": "colon", "/": "slash", "#": "ctrl+g"}
"""What is behind these is typed, and entered: a command, a filter, a number."""


class Picture(NamedTuple):
    """One of them."""

    title: str
    capture: Path
    keys: tuple[str, ...]
    size: tuple[int, int] = (120, 30)
    replay: float | None = None


PICTURES = {
    "calls": Picture("podwire open FILE", PODS, ("#37", "m")),
    "detail": Picture("enter, x: one call, its messages and bytes", PODS, ("#81", "enter", "x", *"jjjjjjjj")),
    "numbers": Picture("u: rates, failures, times", PODS, ("u",)),
    "flight": Picture("i: in flight, and who waits for whom", EDGE, ("space", ":at 15:09:56.25", "i"), (120, 20), 1.0),
    "pods": Picture("p: pods and containers", PODS, ("p", "j", "j", "enter"), (176, 28)),
    "story": Picture("y: the story of a pod, zoomed into its start", PODS, ("#27", "y", "right")),
}


def draw(name: str, picture: Picture) -> None:
    """Write NAME.svg and NAME.png."""

    async def play(screen: Screen) -> None:
        for key in picture.keys:
            if key[0] in TYPED:
                await screen.press(TYPED[key[0]])
                await screen.type(key[1:])
            else:
                await screen.press(key)
        drawn = screen.app.export_screenshot(title=picture.title)
        drawn = re.sub(r",\s*url\(\"[^)]*\) format\(\"\w+\"\)", "", drawn)
        svg.write_text(drawn.replace("<text ", '<text xml:space="preserve" '))

    svg, png = ROOT / "docs" / "screens" / f"{name}.svg", ROOT / "build" / "screens" / f"{name}.png"
    run(play, picture.capture, size=picture.size, replay=picture.replay)
    png.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["rsvg-convert", "--width=1200", "--output", png, svg], check=True)


def main() -> None:
    """Draw all of them."""
    for name, picture in PICTURES.items():
        draw(name, picture)


if __name__ == "__main__":
    main()
