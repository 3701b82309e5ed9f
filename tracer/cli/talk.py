"""What a command says beside its data: on stderr, with nothing in it that a terminal would act on."""

from __future__ import annotations

import sys

from tracer.output.escape import escape


def say(text: str) -> None:
    """Say one line, at once."""
    print(escape(text), file=sys.stderr, flush=True)
