"""An export by pod has all hops of that pod; each call's packet says whose it is, what caused it, what is masked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dissectors.ttrpc import build_frame, build_request
from tests.tracer.capture.test_tools import BAD, tshark
from tests.tracer.export.test_export import CAPTURES, NRI, POD, ROOT, decoded, podwire, same, told
from tests.tracer.made import MS, SECOND, TASK
from tests.tracer.made import POD as SANDBOX
from tests.tracer.written import Written
from tracer.capture.bundle import Bundle, BundleFile, build_block
from tracer.capture.conversation import CaptureWriter
from tracer.capture.packets import Packet
from tracer.capture.reader import open_capture
from tracer.cli import main
from tracer.export.select import Selection, Window

SAID = re.compile(r"call (?P<call>\d+)(?:: (?P<whom>.*))?")
PARENT = re.compile(r"parent: call (?P<parent>\d+), (?P<hop>\w+) (?P<method>\S+) \(found by (?P<how>\w+)\)")


def comments(path: Path) -> dict[int, tuple[Packet, list[str]]]:
    """Return, by the number of its call, each packet with a comment, and the lines about that call."""
    found: dict[int, tuple[Packet, list[str]]] = {}
    with open_capture(str(path)) as capture:
        for item in capture:
            assert isinstance(item, Packet) or item.bundle is not None
            lines: list[str] = []
            for line in item.comment.split("\n") if isinstance(item, Packet) else ():
                said = SAID.fullmatch(line)
                if said is not None:
                    lines = []
                    assert isinstance(item, Packet)
                    found[int(said["call"])] = item, lines
                lines.append(line)
    return found


def parents(calls: list[dict[str, Any]]) -> dict[int, tuple[int, str]]:
    """Return what caused each call, by the account of a capture's JSON: of the call itself, or later of its parent."""
    found = {call["call"]: (call["parent"]["call"], call["parent"]["how"]) for call in calls if "parent" in call}
    for call in calls:
        found |= {child["call"]: (call["call"], child["how"]) for child in call.get("children", ())}
    return found


@pytest.mark.parametrize("path", [POD, NRI, CAPTURES / "ctrd16-pod.pcapng.gz"])
def test_each_calls_packet_names_its_pod_and_its_parent(path: Path, tmp_path: Path) -> None:
    whole = tmp_path / "x.pcapng"
    podwire("export", path, "-o", whole)
    calls = {call["call"]: call for call in decoded(path) if call["kind"] == "call"}
    said = comments(whole)
    caused = parents(list(calls.values()))
    assert caused
    for number, call in calls.items():
        if number in caused or "pod" in call:
            assert number in said
            packet, lines = said[number]
            begun = f"{packet.time_ns // 1_000_000_000 % 60:02}.{packet.time_ns % 1_000_000_000:09}"
            assert call["time"].removesuffix("Z").endswith(begun)
            if "name" in call.get("pod", {}):
                assert f"pod {call['pod']['namespace']}/{call['pod']['name']}" in lines[0]
            if "name" in call.get("container", {}):
                identity = f" ({call['container']['id'][:13]})" if "id" in call["container"] else ""
                assert f"container {call['container']['name']}{identity}" in lines[0]
            named = PARENT.fullmatch(lines[1]) if len(lines) > 1 else None
            assert (named is None) == (number not in caused)
            if named is not None:
                parent = calls[int(named["parent"])]
                assert (parent["call"], named["how"]) == caused[number]
                assert named["hop"] == parent["hop"]
                assert named["method"] == parent["method"] or "/" in named["method"]
    assert [same(call) for call in decoded(whole)] == [same(call) for call in decoded(path)]


@pytest.mark.tshark
def test_wireshark_shows_the_comment_at_the_call(tmp_path: Path) -> None:
    whole = tmp_path / "x.pcapng"
    podwire("export", POD, "-o", whole, "--hop", "cri")
    (row,) = tshark(
        whole, "-Y", 'frame.comment contains "pod default/pod1" and http2.headers.path contains "RunPodSandbox"',
        "-T", "fields", "-e", "frame.comment",
    )  # fmt: skip
    assert re.fullmatch(r"call \d+: pod default/pod1 \(9f57c2b6405e1\)", row)


@pytest.mark.tshark
@pytest.mark.parametrize(("path", "pod"), [(POD, "default/pod1"), (POD, "kube-test/pod2"), (NRI, "5361460a5a7a")])
def test_a_pod_has_its_calls_of_all_hops_and_stands_alone(path: Path, pod: str, tmp_path: Path) -> None:
    part, again = tmp_path / "x.pcapng", tmp_path / "y.pcapng"
    podwire("export", path, "-o", part, "--pod", pod)
    calls = told(podwire("export", path, "--to", "json", "--pod", pod))
    assert len(calls) == len(podwire("story", pod, path).splitlines()) - 1 > 40
    kept = told(podwire("export", part, "--to", "json", "--pod", pod))
    assert [same(call) for call in kept] == [same(call) for call in calls]
    assert {call["hop"] for call in calls} >= {"cri", "task", "events"}
    assert tshark(part, "-Y", BAD) == []
    done = subprocess.run(
        [sys.executable, "-m", "tracer.cli", "verify", str(part)], capture_output=True, cwd=ROOT, check=False
    )
    assert b"no difference" in done.stderr
    podwire("export", part, "-o", again, "--pod", pod)
    assert [same(call) for call in decoded(again)] == [same(call) for call in decoded(part)]


def test_a_call_that_is_carried_over_has_its_comment_too(tmp_path: Path) -> None:
    cut = tmp_path / "x.pcapng"
    podwire("export", POD, "-o", cut, "--since", 1.0, "--until", 3.0)
    carried = [call for call in decoded(cut) if not call["seen_start"] and "pod" in call]
    starts = {packet.comment.partition('"began_ns":')[2].partition("}")[0] for packet, _ in comments(cut).values()}
    assert carried
    assert len(starts - {""}) >= len(carried)


def test_a_redacted_export_says_what_is_masked_and_has_it_nowhere(tmp_path: Path) -> None:
    part = tmp_path / "x.pcapng"
    podwire("export", POD, "-o", part, "--pod", "pod1", "--redact")
    assert [each.name for each in tmp_path.iterdir()] == ["x.pcapng"]
    said = {line for _, lines in comments(part).values() for line in lines if line.startswith("masked: ")}
    assert {"masked: request config.envs[].value (2)", "masked: response url"} <= said
    shown = told(podwire("decode", "--json", "--show-secrets", part))
    assert [same(call) for call in shown] == [same(call) for call in decoded(part)]
    plain = told(podwire("export", POD, "--pod", "pod1", "--to", "json", "--show-secrets"))
    assert {env["value"] for call in plain for each in call["messages"] for env in envs(each)} != {
        env["value"] for call in shown for each in call["messages"] for env in envs(each)
    }


def envs(message: dict[str, Any]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = message.get("body", {}).get("config", {}).get("envs", [])
    return found


def test_metadata_and_what_no_schema_has_is_said_to_be_masked(tmp_path: Path) -> None:
    written = Written()
    written.open(1)
    request = build_request(TASK, "Unknown", b"\x0a\x06secret", 0, [("authorization", "Bearer x")])
    written.send(1, 0, build_frame(1, 1, 0, request), MS)
    written.answer(1, 1, 2 * MS)
    path, part = written.save(tmp_path / "x.pcapng", SECOND), tmp_path / "y.pcapng"
    podwire("export", path, "-o", part, "--redact")
    assert comments(part)[1][1] == ["call 1", "masked: request, all text and bytes, metadata authorization"]
    assert b"secret" not in part.read_bytes()
    assert b"Bearer" not in part.read_bytes()


def bundled(written: Written, stream: int, connection: int = 7) -> None:
    file = BundleFile("config.json", "file", 2, b'{"process":{"env":["A=hunter2"]}}')
    written.writer.keep(build_block(Bundle(connection, stream, "x", f"/run/b/{stream}", (file,))))


@pytest.mark.parametrize(("since", "bundles"), [(0, ["/run/b/1", "/run/b/5", "/run/b/3"]), (1, ["/run/b/3"])])
def test_the_bundles_of_its_calls_go_with_them(since: int, bundles: list[str], tmp_path: Path) -> None:
    written = Written()
    written.open(6)
    written.open(7)
    written.ask(7, 1, "Create", 0, id=SANDBOX, bundle="/run/b/1")
    bundled(written, 1)
    written.answer(7, 1, MS)
    written.ask(7, 3, "Create", 2 * MS, id="other", bundle="/run/b/3")
    bundled(written, 3)
    written.ask(7, 5, "Create", 3 * MS, id="third", bundle="/run/b/5")
    bundled(written, 5)
    written.answer(7, 5, 4 * MS)
    written.answer(7, 3, 2 * SECOND)
    path, part = written.save(tmp_path / "x.pcapng", 3 * SECOND), tmp_path / "y.pcapng"
    podwire("export", path, "-o", part, "--since", since)
    calls = decoded(part)
    assert {call["kind"] for call in calls} == {"call"}
    assert [each["path"] for call in calls for each in call.get("bundles", ())] == bundles
    podwire("export", path, "-o", part, "--redact", "--until", 0.5)
    calls = told(podwire("decode", "--json", "--show-secrets", part))
    assert [each["path"] for call in calls for each in call["bundles"]] == ["/run/b/1", "/run/b/5", "/run/b/3"]
    assert b"hunter2" not in part.read_bytes()


def test_of_connections_before_their_time_the_bundles_of_open_calls_alone_are_kept(tmp_path: Path) -> None:
    written = Written()
    written.open(7)
    for stream in range(1, 21, 2):
        written.ask(7, stream, "Create", stream * MS, id=SANDBOX, bundle=f"/run/b/{stream}")
        bundled(written, stream)
        written.answer(7, stream, stream * MS + 1)
    selection = Selection(CaptureWriter(bytearray().extend), "", lambda _flow: Window(1 << 62, 1 << 63))
    with open_capture(str(written.save(tmp_path / "x.pcapng", SECOND))) as capture:
        for item in capture:
            if isinstance(item, Packet):
                selection.feed(item)
            elif item.bundle is not None:
                selection.bundle(item.bundle)
    (connection,) = selection._connections.values()
    assert [each.stream for each in connection.bundles] == [19]


def test_many_calls_of_one_packet_have_no_longer_comment_than_the_file_can_hold(tmp_path: Path) -> None:
    written = Written()
    written.open(1)
    request = build_request(TASK, "State", b"\x0a\x0a" + b"c" * 10)
    written.send(1, 0, b"".join(build_frame(stream, 1, 0, request) for stream in range(1, 2001, 2)), MS)
    path, part = written.save(tmp_path / "x.pcapng", SECOND), tmp_path / "y.pcapng"
    podwire("export", path, "-o", part)
    (packet,) = {packet.number: packet for packet, _ in comments(part).values()}.values()
    named, last = packet.comment.count("call "), packet.comment.rpartition("\n")[2]
    assert last == f"… and {1000 - named} more calls"
    assert len(decoded(part)) == 1000


def test_without_comments_there_are_none(tmp_path: Path) -> None:
    plain = tmp_path / "x.pcapng"
    podwire("export", POD, "-o", plain, "--no-comments")
    assert comments(plain) == {}
    assert [same(call) for call in decoded(plain)] == [same(call) for call in decoded(POD)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--pod", "nobody"), "no pod is called nobody"),
        (("--to", "json", "--redact"), "--redact is for captures"),
    ],
)
def test_a_mistake_is_one_line(
    words: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x"
    out.write_text("an older one")
    assert main(["export", str(POD), "-o", str(out), *(words if "--to" in words else (*words, "--to", "pcap"))]) == 2
    assert out.read_text() == "an older one"
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_pod_cannot_be_cut_out_of_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("pcapng", "json"):
        assert main(["export", "-", "-o", "/dev/null", "--to", form, "--pod", "x"]) == 2
        assert "pipe" in capsys.readouterr().err


def test_what_the_capture_notes_is_said(tmp_path: Path) -> None:
    written = Written()
    written.open(1)
    written.writer.note(0, {"podwire": "clock set", "by_ns": 5 * SECOND})
    path = written.save(tmp_path / "x.pcapng", SECOND)
    command = [sys.executable, "-m", "tracer.cli", "export", str(path), "-o", str(tmp_path / "y.pcapng")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert "the clock was set forward by 5.000s" in done.stderr


def test_comments_are_no_part_of_a_documents_calls() -> None:
    assert json.loads(podwire("export", NRI, "--to", "har", "--pod", "5361460a5a7a"))["log"]["entries"]
