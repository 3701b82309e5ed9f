"""What a command says beside its data: on stderr, with nothing in it that a terminal would act on."""

from __future__ import annotations

import sys

from protos.errors import PodwireError
from tracer.output.escape import escape


def say(text: str) -> None:
    """Say one line, at once."""
    print(escape(text), file=sys.stderr, flush=True)


def confirmed(question: str, option: str) -> bool:
    """Ask at the terminal. Raises PodwireError where there is none."""
    if not sys.stdin.isatty():
        raise PodwireError(f"{option} asks first, on a terminal; without one it needs --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
