"""ttrpc as layers of scapy, for those who craft packets: build frames by hand, take apart what was captured.

Comes in: scapy's values, or bytes. Goes out: bytes, or layers. `length` is filled in unless it is given, so that frames
which lie can be built too; a Request or Response that does not parse stays `Raw`. Needs scapy (extra `craft`);
nothing else here imports it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from scapy.fields import ByteEnumField, Field, FlagsField, IntField, SignedIntField, SignedLongField, StrField
from scapy.layers.inet import TCP
from scapy.packet import Packet, Raw, bind_layers

from dissectors.ttrpc_frames import HEADER_SIZE
from dissectors.ttrpc_messages import BadMessage, build_request, build_response, parse_request, parse_response

REQUEST, RESPONSE, DATA = 1, 2, 3
PORTS = (8088, 3132, 11371)
"""Server ports of the hops task, events and agent in podwire's captures."""

_Value: TypeAlias = Any
"""What scapy's fields take."""


class _Pairs(Field[_Value, _Value]):
    """Keys and values of metadata: a list of pairs of text. It is built with the rest of the Request."""

    __slots__: list[str] = []
    islist = 1

    def __init__(self, name: str) -> None:
        super().__init__(name, [])

    def addfield(self, pkt: Packet, s: bytes, val: _Value) -> bytes:
        return s


class TTRPC(Packet):
    """A frame's header; its payload is a `TTRPCRequest`, a `TTRPCResponse` or, of a stream's data, `Raw`."""

    name = "ttrpc"
    fields_desc = [  # noqa: RUF012 # scapy wants a list
        IntField("length", None),
        IntField("stream_id", 1),
        ByteEnumField("type", REQUEST, {REQUEST: "request", RESPONSE: "response", DATA: "data"}),
        FlagsField("flags", 0, 8, ["remote_closed", "remote_open", "no_data"]),
    ]

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        if self.length is None:
            pkt = len(pay).to_bytes(4, "big") + pkt[4:]
        return pkt + pay

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        return s[: self.length], s[self.length :]

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        parse = {REQUEST: parse_request, RESPONSE: parse_response}.get(self.type)
        try:
            if parse is None:
                return Raw
            parse(payload)
        except BadMessage:
            return Raw
        return TTRPCRequest if self.type == REQUEST else TTRPCResponse


class TTRPCRequest(Packet):
    """ttrpc.Request; `body` is the method's own message, as bytes."""

    name = "ttrpc request"
    fields_desc = [  # noqa: RUF012 # scapy wants a list
        StrField("service", b""),
        StrField("method", b""),
        StrField("body", b""),
        SignedLongField("timeout_nano", 0),
        _Pairs("metadata"),
    ]

    def self_build(self) -> bytes:
        return build_request(
            self.service.decode(), self.method.decode(), self.body, self.timeout_nano, self.metadata or ()
        )

    def do_dissect(self, s: bytes) -> bytes:
        parsed = parse_request(s)
        self.service, self.method = parsed.service.encode(), parsed.method.encode()
        self.body, self.timeout_nano = parsed.payload, parsed.timeout_nano
        self.metadata = [(key, value) for key, value in parsed.metadata if isinstance(value, str)]
        return b""


class TTRPCResponse(Packet):
    """ttrpc.Response with its status taken apart."""

    name = "ttrpc response"
    fields_desc = [SignedIntField("code", 0), StrField("message", b""), StrField("body", b"")]  # noqa: RUF012 # as above

    def self_build(self) -> bytes:
        return build_response(self.code, self.message.decode(), self.body)

    def do_dissect(self, s: bytes) -> bytes:
        parsed = parse_response(s)
        self.code, self.message, self.body = parsed.code, parsed.message.encode(), parsed.payload
        return b""


def frames(data: bytes) -> list[TTRPC]:
    """Take apart the frames in one direction's bytes; what is left at the end, less than a frame, is passed over."""
    found = []
    while len(data) >= HEADER_SIZE:
        end = HEADER_SIZE + int.from_bytes(data[:4], "big")
        if end > len(data):
            break
        found.append(TTRPC(data[:end]))
        data = data[end:]
    return found


def bind_ports() -> None:
    """Have scapy take TCP on the ports of podwire's captures for ttrpc."""
    for port in PORTS:
        bind_layers(TCP, TTRPC, sport=port)
        bind_layers(TCP, TTRPC, dport=port)
