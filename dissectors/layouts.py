"""The layouts of the frames, one declaration each: the written source from which the `struct` forms are taken.

Comes in: nothing. Goes out: construct structs that parse and build. They are what people read, what the scapy layer
and the tests use; the readers on the hot path use a `struct` form that stands beside each parser (construct takes 5 µs
for a ttrpc header where `struct` takes 0.2, and 80 ms to import), and a property test holds both forms equal.
What the fields mean is not known here.
"""

from __future__ import annotations

import construct as c

TTRPC_HEADER = c.Struct(
    "length" / c.Int32ub,  # bytes of payload after the header; the first byte is always 0
    "stream_id" / c.Int32ub,
    "type" / c.Int8ub,
    "flags" / c.Int8ub,
)
"""ttrpc PROTOCOL.md, Message Frame."""

NRI_MUX_HEADER = c.Struct(
    "channel" / c.Int32ub,  # 1: the runtime calls the plugin; 2: the plugin calls the runtime
    "length" / c.Int32ub,  # bytes of payload after the header
)
"""containerd/nri, pkg/net/multiplex: `conn_id` and `payload_length`."""

HTTP2_HEADER = c.Struct(
    "length" / c.Int24ub,  # bytes of payload after the header
    "type" / c.Int8ub,
    "flags" / c.Int8ub,
    "stream" / c.BitStruct("reserved" / c.Bit, "id" / c.BitsInteger(31)),
)
"""RFC 9113 §4.1."""

HTTP2_PRIORITY = c.Struct(
    "dependency" / c.BitStruct("exclusive" / c.Bit, "stream_id" / c.BitsInteger(31)),
    "weight" / c.Int8ub,
)
"""RFC 9113 §6.3; the same five bytes stand in HEADERS with the PRIORITY flag (§6.2)."""

HTTP2_SETTINGS = c.GreedyRange(c.Struct("id" / c.Int16ub, "value" / c.Int32ub))
"""RFC 9113 §6.5.1."""

HTTP2_RST_STREAM = c.Struct("error" / c.Int32ub)
"""RFC 9113 §6.4."""

HTTP2_PING = c.Struct("data" / c.Bytes(8))
"""RFC 9113 §6.7."""

HTTP2_GOAWAY = c.Struct(
    "last" / c.BitStruct("reserved" / c.Bit, "stream_id" / c.BitsInteger(31)),
    "error" / c.Int32ub,
    "debug" / c.GreedyBytes,
)
"""RFC 9113 §6.8."""

HTTP2_WINDOW_UPDATE = c.Struct("window" / c.BitStruct("reserved" / c.Bit, "increment" / c.BitsInteger(31)))
"""RFC 9113 §6.9."""

HTTP2_PUSH_PROMISE = c.Struct(
    "promised" / c.BitStruct("reserved" / c.Bit, "stream_id" / c.BitsInteger(31)),
    "fragment" / c.GreedyBytes,
)
"""RFC 9113 §6.6, padding removed."""

GRPC_PREFIX = c.Struct(
    "compressed" / c.Int8ub,  # 0 or 1
    "length" / c.Int32ub,  # bytes of message after the prefix, as they are on the wire
)
"""gRPC over HTTP/2, Length-Prefixed-Message."""
