"""`python -m tests.bench [answers|decode|large|relay|tui]`: each prints ratios to a peer measured in the same run."""

from __future__ import annotations

import sys

from tests.bench import answers, decode, large, relay, tui

BENCHES = {"answers": answers.main, "decode": decode.main, "large": large.main, "relay": relay.main, "tui": tui.main}


def main() -> None:
    arguments = sys.argv[1:]
    name = arguments.pop(0) if arguments and arguments[0] in BENCHES else "decode"
    BENCHES[name](arguments)


if __name__ == "__main__":
    main()
