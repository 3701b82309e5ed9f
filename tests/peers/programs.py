"""The Go and the Rust peer: built once into a folder that is kept, and run on a plan."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "peers"
PATIENCE_S = 60.0


@cache
def go_peer() -> str:
    """The path of the program; skips the test where there is no Go."""
    _need("go")
    program = BUILD / "go" / "peer"
    _build(
        ["go", "build", "-trimpath", "-buildvcs=false", "-o", str(program), "."], HERE / "go", GOFLAGS="-mod=readonly"
    )
    return str(program)


@cache
def rust_peer() -> str:
    """The path of the program; skips the test where there is no Rust."""
    _need("cargo")
    folder = BUILD / "rust"
    _build(["cargo", "build", "--quiet", "--locked", "--target-dir", str(folder)], HERE / "rust")
    return str(folder / "debug" / "peer")


def _need(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed: its ttrpc peer cannot be built")


def _build(command: list[str], folder: Path, **environment: str) -> None:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


@contextmanager
def serving(program: str, *words: str) -> Iterator[None]:
    """A peer that serves: from when it is ready until it is ended."""
    process = subprocess.Popen([program, "serve", *words], stdout=subprocess.PIPE, text=True)
    try:
        _await_ready(process)
        yield
    finally:
        _end(process)


@contextmanager
def calling(program: str, *words: str) -> Iterator[Callable[[], None]]:
    """A peer that listens and then makes the calls, of whoever connects and serves; gives what waits for its end."""

    def finished() -> None:
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, said

    process = subprocess.Popen([program, "call", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        _await_ready(process)
        yield finished
    finally:
        _end(process)


def call(program: str, *words: str) -> None:
    """A peer that makes all calls of a plan; an error if one went otherwise than planned."""
    done = subprocess.run([program, "call", *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr


def _await_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", f"{process.args} ended with {process.wait(PATIENCE_S)}"


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
