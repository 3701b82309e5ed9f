"""The state of a reader put away, so that a call can be read again without reading all that came before it.

HTTP/2 compresses headers against all that its connection said before, so no place in a capture can be read alone. What
is put away is the decoder itself. States are made and read by one run of podwire, in a file without a name.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct

from tracer.capture.reader import CaptureFile
from tracer.pipeline import Decoder
from tracer.story.place import Place

_REDUCERS = {
    **copyreg.dispatch_table,
    struct.Struct: lambda layout: (struct.Struct, (layout.format,)),
    Place: lambda _: (type(None), ()),
}
"""Layouts cannot be pickled by themselves. A call's place holds all that is known of its pod and the calls around it:
the rows have that."""


def put_away(decoder: Decoder, capture: CaptureFile) -> bytes:
    """Return decoder and reader as bytes."""
    data = io.BytesIO()
    pickler = pickle.Pickler(data, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = _REDUCERS
    pickler.dump((decoder, capture.state()))
    return data.getvalue()


def take_up(data: bytes, capture: CaptureFile) -> Decoder:
    """Return the decoder, and let a freshly opened `capture` go on where that stood."""
    decoder: Decoder
    decoder, state = pickle.loads(data)
    capture.go_on(*state)
    return decoder
