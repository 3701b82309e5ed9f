"""What is shown, into a file whose name says its form: text here, as the list has it, else by a process (`saver`)."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from array import array
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from protos.errors import PodwireError
from tracer.files import create_output
from tracer.output.units import counted
from tracer.tui.rows import Rows

FORMS = {".json": "json", ".jsonl": "json", ".txt": "text", ".pcapng": "pcapng"}
_AT_ONCE = 1000
"""Lines written between two looks at the keys."""


class Asked(NamedTuple):
    """Which calls: by their numbers in a file. In a ring, whose first files may be gone by now, by when they began and
    on which stream."""

    rows: array[int]
    starts: array[int]
    streams: array[int]


@dataclass(frozen=True, slots=True)
class Saving:
    """One file to be."""

    path: str
    form: str
    rows: array[int] | None
    """None: all of them."""

    @classmethod
    def of(cls, path: str, shown: array[int], total: int) -> Saving:
        """Raises PodwireError where the name says no form."""
        form = FORMS.get(os.path.splitext(path)[1])
        if form is None:
            raise PodwireError(f"{path}: its name has to end in .json, .txt or .pcapng, which says what it shall be")
        return cls(path, form, None if len(shown) == total and form != "text" else shown)

    async def text(self, line: Callable[[int], str]) -> str:
        """Write lines; return what was done. Raises PodwireError: nothing is overwritten."""
        rows = self.rows or ()
        with _Target(self.path) as target, open(target.descriptor, "w", encoding="utf-8", closefd=False) as out:
            for first in range(0, len(rows), _AT_ONCE):
                out.writelines(f"{line(row).rstrip()}\n" for row in rows[first : first + _AT_ONCE])
                await asyncio.sleep(0)
        return f"{self.path}: {counted(len(rows), 'call')} saved"

    async def calls(self, capture: str, rows: Rows, words: Sequence[str], tell: Callable[[str], None]) -> str:
        """Have a process write them, and tell how far it is; return what was done. Raises PodwireError."""
        asked = None
        if self.rows is not None:
            starts, streams = (
                array(each.typecode, map(each.__getitem__, self.rows)) for each in (rows.start, rows.stream)
            )
            asked = Asked(self.rows, starts, streams)
        with _Target(self.path) as target:
            command = [sys.executable, "-P", "-m", "tracer.tui.saver", capture, f"--form={self.form}"]
            process = await asyncio.create_subprocess_exec(
                *command,
                f"--out={target.descriptor}",
                *words,
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,  # the screen is not its to write on
                pass_fds=[target.descriptor],
                start_new_session=True,
            )
            assert process.stdin is not None
            assert process.stdout is not None
            said = "!the process that saves was killed"
            try:
                with suppress(ConnectionError):  # it has ended, as its output tells
                    process.stdin.write(pickle.dumps(asked))
                    await process.stdin.drain()
                process.stdin.close()
                async for line in process.stdout:
                    said = line.decode().rstrip("\n")
                    if said.isdecimal():
                        tell(f"{self.path}: {said} % saved")
                        said = "!the process that saves was killed"
                await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            if said.startswith("!"):
                raise PodwireError(f"{self.path}: {said[1:]}")
        return f"{self.path}: {said}"


class _Target:
    """A new file of mode 0600, which is removed unless it comes to its end."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.descriptor = create_output(path, replace=False)

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        os.close(self.descriptor)
        if kind is not None:
            with suppress(OSError):
                os.unlink(self._path)
