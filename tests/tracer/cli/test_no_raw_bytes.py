"""Nothing that came over the wire makes a terminal act, whatever shows it: one capture made to hurt, all outputs."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from dissectors.ttrpc_frames import build_frame
from dissectors.ttrpc_messages import build_request, build_response
from protos.registry import Registry
from tests.tracer.cli.live import run
from tests.tracer.written import REQUEST_TYPE, RESPONSE_TYPE, Written

CRI = "runtime.v1.RuntimeService"
EVIL = "evil\x1b]0;title\x07\x1b[31m\x9b2J\u202egnp\u200b\r\n<script>alert(1)</script>"
HEX = "ab" * 32
MS = 1_000_000
OUTPUTS = (
    ("decode",),
    ("decode", "-v", "--show-secrets"),
    ("decode", "--json", "--messages"),
    ("grep", 'call.hop != ""'),
    ("stats",),
    ("stats", "--by", "pod"),
    ("stats", "--by", "container"),
    ("stats", "--by", "peer"),
    ("stats", "--json", "--by", "peer"),
    ("stuck",),
    ("stuck", "--json"),
    ("pods",),
    ("pods", "--json"),
    ("story", HEX[:12]),
    ("story", HEX[:12], "--mermaid"),
    ("export", "--to", "text"),
    ("export", "--to", "json"),
    ("export", "--to", "har"),
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("evil") / "\x1b[31mhostile.pcapng", EVIL)


def write(path: Path, evil: str) -> Path:
    """A pod that is called so, with all that is its: and frames, sockets and processes that are."""
    written = Written()
    written.open(1, "cri", f"/run/{evil}.sock")
    written.open(2, "task", f"/run/containerd/s/{evil}")
    ask(written, 1, 1, "RunPodSandbox", 1, {"config": {"metadata": metadata(evil), "labels": {evil: evil}}})
    written.ask(2, 1, "Create", 2 * MS, id=HEX, bundle=f"/run/{evil}")
    written.answer(2, 1, 3 * MS, 5, evil)
    answer(written, 1, 1, "RunPodSandbox", 4, {"pod_sandbox_id": HEX})
    container = {"metadata": {"name": evil}, "image": {"image": evil}, "command": [evil], "envs": [{"key": evil}]}
    ask(written, 1, 3, "CreateContainer", 5, {"pod_sandbox_id": HEX, "config": container})
    answer(written, 1, 3, "CreateContainer", 6, {"container_id": evil})
    ask(written, 1, 5, "ExecSync", 7, {"container_id": evil, "cmd": [evil, "x"], "timeout": 1})
    written.answer(1, 5, 8 * MS, 2, evil)
    ask(written, 1, 7, "ExecSync", 9, {"container_id": evil, "cmd": [evil]})  # has no answer
    request = build_request(evil, evil, b"\x0a\x05\x1b[31m\x12" + bytes([len(evil.encode())]) + evil.encode(), 0)
    written.send(2, 0, build_frame(3, REQUEST_TYPE, 0, request), 10 * MS)
    written.send(2, 1, evil.encode() * 3, 11 * MS)
    written.lose(1, 0, 7)
    written.send(1, 0, evil.encode(), 2000 * MS)
    return written.save(path, 2001 * MS)


def metadata(evil: str) -> dict[str, object]:
    return {"name": evil, "namespace": evil, "uid": evil}


def ask(written: Written, connection: int, stream: int, method: str, at: int, fields: dict[str, object]) -> None:
    written.ask(connection, stream, method, at * MS, 0, CRI, **fields)


def answer(written: Written, connection: int, stream: int, method: str, at: int, fields: dict[str, object]) -> None:
    payload = Registry.bundled().message_class(f"runtime.v1.{method}Response")(**fields).SerializeToString()
    written.send(connection, 1, build_frame(stream, RESPONSE_TYPE, 0, build_response(0, "", payload)), at * MS)


def check(text: str) -> None:
    """Nothing but text and ends of lines."""
    bad = {c for c in text if c != "\n" and (not c.isprintable() or unicodedata.category(c) in ("Cf", "Cc"))}
    assert not bad, f"{bad} in {text[:2000]!r}"


@pytest.mark.parametrize("words", OUTPUTS, ids=" ".join)
def test_an_output_has_nothing_that_a_terminal_acts_on(words: tuple[str, ...], hostile: Path) -> None:
    done = run(*words, str(hostile))
    assert done.returncode in (0, 2)  # the capture has what is malformed
    assert "evil" in done.stdout
    check(done.stdout)
    check(done.stderr)


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_a_comparison_has_not_either(form: tuple[str, ...], hostile: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "\x1b[32mother.pcapng", EVIL.replace("title", "other"))
    done = run("diff", *form, str(hostile), str(other))
    assert "evil" in done.stdout
    check(done.stdout)
    check(done.stderr)


def test_a_page_has_not_either_and_no_markup_of_the_wire(hostile: Path, tmp_path: Path) -> None:
    done = run("story", HEX[:12], "--html", str(tmp_path / "page.html"), str(hostile))
    page = (tmp_path / "page.html").read_text()
    assert "evil" in page
    assert "<script>alert" not in page
    check(page)
    check(done.stdout + done.stderr)


@pytest.mark.parametrize("words", [("redact",), ("export", "-o"), ("story", "none"), ("decode",), ("verify",)])
def test_mistakes_with_such_names_have_not_either(words: tuple[str, ...], tmp_path: Path) -> None:
    names = [f"{tmp_path}/\x1b[31m{each}\u202e.pcapng" for each in ("a", "b")]
    done = run(*words, *names[: 2 if words[0] in ("redact", "export") else 1])
    assert done.returncode == 2
    check(done.stderr)
