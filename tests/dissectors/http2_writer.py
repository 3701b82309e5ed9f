"""HTTP/2 as other people's packages write it: frames by hyperframe, header blocks by hpack."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
)

from dissectors.events import Direction
from dissectors.http2 import PREFACE
from tests.dissectors.support import REQUEST

Chunk = tuple[Direction, bytes]


class Writer:
    """One side of a connection."""

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.encoder = hpack.Encoder()

    def frame(self, frame: Frame) -> Chunk:
        return self.direction, frame.serialize()

    def raw(self, kind: int, flags: int, stream_id: int, payload: bytes) -> Chunk:
        return self.direction, len(payload).to_bytes(3) + bytes((kind, flags)) + stream_id.to_bytes(4) + payload

    def start(self, **settings: int) -> Chunk:
        """What this side sends first."""
        numbers = {getattr(SettingsFrame, name.upper()): value for name, value in settings.items()}
        preface = PREFACE if self.direction == REQUEST else b""
        return self.direction, preface + SettingsFrame(settings=numbers).serialize()

    def block(self, headers: Iterable[tuple[str, str]]) -> bytes:
        return self.encoder.encode([(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers])

    def headers(
        self, stream_id: int, headers: Sequence[tuple[str, str]], *, end: bool = False, pieces: int = 1, **fields: int
    ) -> Chunk:
        """HEADERS, in `pieces` with CONTINUATION; fields: pad_length, stream_weight, depends_on."""
        block = self.block(headers)
        size = -(-len(block) // pieces) or 1
        parts = [block[start : start + size] for start in range(0, len(block), size)] or [b""]
        flags = ["END_STREAM"] if end else []
        flags += ["PADDED"] if "pad_length" in fields else []
        flags += ["PRIORITY"] if "depends_on" in fields else []
        frames: list[Frame] = [HeadersFrame(stream_id, data=parts[0], flags=flags, **fields)]
        frames += [ContinuationFrame(stream_id, data=part) for part in parts[1:]]
        frames[-1].flags.add("END_HEADERS")
        return self.direction, b"".join(frame.serialize() for frame in frames)

    def data(self, stream_id: int, data: bytes, *, end: bool = False, padding: int | None = None) -> Chunk:
        flags = ["END_STREAM"] if end else []
        flags += [] if padding is None else ["PADDED"]
        return self.frame(DataFrame(stream_id, data=data, flags=flags, pad_length=padding or 0))

    def reset(self, stream_id: int, code: int) -> Chunk:
        return self.frame(RstStreamFrame(stream_id, error_code=code))

    def goaway(self, last: int, code: int = 0, debug: bytes = b"") -> Chunk:
        return self.frame(GoAwayFrame(0, last_stream_id=last, error_code=code, additional_data=debug))

    def promise(self, stream_id: int, promised: int, headers: Sequence[tuple[str, str]]) -> Chunk:
        block = self.block(headers)
        return self.frame(PushPromiseFrame(stream_id, promised, data=block, flags=["END_HEADERS"]))
