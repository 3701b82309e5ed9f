"""Masking a capture as it grows gives what masking it afterwards gives, whatever the pieces are that it comes in."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dissectors.ttrpc_frames import build_frame
from dissectors.ttrpc_messages import build_request
from protos.registry import Registry
from tests.tracer.capture.files import packets
from tests.tracer.made import START, TASK
from tests.tracer.written import Written
from tracer.capture.packets import CARRIED_OVER
from tracer.redact import redact
from tracer.redact_live import HOLD_S, LiveRedactor

CAPTURES = Path(__file__).parents[2] / "captures"
REGISTRY = Registry.bundled()
SECRET = b"hunter2-is-the-word"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@cache
def before_and_after(name: str) -> tuple[bytes, bytes]:
    """A capture, and what `redact` makes of it."""
    source, target = CAPTURES / f"{name}.pcapng.gz", io.BytesIO()
    redact(str(source), target, REGISTRY)
    return gzip.decompress(source.read_bytes()), target.getvalue()


def live(data: bytes, cuts: Iterable[int]) -> tuple[bytes, bytes]:
    """What goes out as the pieces come, and what the end adds."""
    redactor, clock = LiveRedactor(REGISTRY, clock=Clock()), 0
    out = b""
    for cut in sorted(cuts):
        out += redactor.feed(data[clock:cut])
        clock = cut
    return out + redactor.feed(data[clock:]), redactor.finish()


@settings(max_examples=12)
@given(st.lists(st.integers(0, 91_232), max_size=40))
def test_whatever_the_pieces_it_is_what_redact_gives(cuts: list[int]) -> None:
    data, masked = before_and_after("own16-pod")
    assert live(data, cuts) == (masked, b"")


@pytest.mark.parametrize("name", ["ctrd2-pod", "ctrd2-nri", "ctrd2-edge"])
def test_recordings_are_masked_as_by_redact(name: str) -> None:
    data, masked = before_and_after(name)
    out, rest = live(data, range(0, len(data), 65_536))
    assert out + rest == masked


def begun() -> tuple[Written, bytes]:
    """A connection, and a frame with a secret that it is to carry."""
    request = REGISTRY.message_class("containerd.task.v3.ExecProcessRequest")(id="x")
    request.spec.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process"
    request.spec.value = b'{"args":["x"],"env":["WORD=%s"]}' % SECRET
    written = Written()
    written.open(1)
    return written, build_frame(1, 1, 0, build_request(TASK, "Exec", request.SerializeToString()))


def test_a_packet_waits_for_the_rest_of_its_message() -> None:
    written, frame = begun()
    redactor = LiveRedactor(REGISTRY, clock=Clock())
    written.send(1, 0, frame[:80], 0)
    first = redactor.feed(bytes(written.parts))
    assert len(packets(first)) == 3  # the handshake
    written.parts.clear()
    written.send(1, 0, frame[80:], 1)
    second = redactor.feed(bytes(written.parts))
    assert SECRET not in second
    payload = b"".join(each.data[54:] for each in packets(first + second)[3:])
    assert len(payload) == len(frame)
    assert payload.startswith(frame[:60])
    assert b"WORD=" + b"*" * len(SECRET) in payload
    assert redactor.account.masked == 1


def test_what_is_not_whole_in_time_is_zeros_and_counted() -> None:
    written, frame = begun()
    clock = Clock()
    redactor = LiveRedactor(REGISTRY, clock=clock)
    written.send(1, 0, frame[:80], 0)
    first = redactor.feed(bytes(written.parts))
    clock.now = HOLD_S - 0.01
    assert redactor.feed(b"") == b""
    clock.now = HOLD_S
    (late,) = packets(first + redactor.feed(b""))[3:]
    assert late.data[54:] == bytes(80)
    assert redactor.account.blanked == {"connection 1, from the client": 80}
    written.parts.clear()
    written.send(1, 0, frame[80:], 1)
    rest = redactor.feed(bytes(written.parts))
    assert SECRET not in rest
    assert b"*" * len(SECRET) in rest


def test_at_the_end_nothing_is_kept_back() -> None:
    written, frame = begun()
    redactor = LiveRedactor(REGISTRY, clock=Clock())
    written.send(1, 0, frame[:80], 0)
    out = redactor.feed(bytes(written.parts))
    assert len(packets(out + redactor.finish())) == 4


def test_a_block_of_a_kind_that_is_not_known_is_left_out() -> None:
    written, _ = begun()
    redactor = LiveRedactor(REGISTRY, clock=Clock())
    block = (0x0BAD).to_bytes(4, "little") + (16).to_bytes(4, "little") + SECRET[:4] + (16).to_bytes(4, "little")
    assert redactor.feed(bytes(written.parts) + block) == bytes(written.parts)
    assert redactor.account.dropped == {"blocks of type 0xbad": 1}


def test_what_a_further_file_of_a_ring_says_again_is_left_out() -> None:
    written, frame = begun()
    written.send(1, 0, frame, 0)
    second = Written()
    interface = second.writer.interface("/run/containerd/s/abc", "task /run/containerd/s/abc")
    ends = [second.writer.endpoint((end, 1), end) for end in ("client", "server")]
    second.writer.join(1, interface, "task", ends[0], ends[1], {}, [len(frame), 0], [False, False])
    second.writer.carry(1, START + 1, [(0, frame, START)])
    second.offsets[1, 0] = len(frame)
    second.send(1, 0, frame, 2)
    assert any(each.comment.startswith(CARRIED_OVER) for each in packets(bytes(second.parts)))
    redactor = LiveRedactor(REGISTRY, clock=Clock())
    out = redactor.feed(bytes(written.parts)) + redactor.feed(bytes(second.parts))
    shown = [each.data[54:] for each in packets(out)]
    assert [len(each) for each in shown[3:]] == [len(frame), len(frame)]
    assert SECRET not in out
