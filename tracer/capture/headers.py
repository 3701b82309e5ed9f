"""The layouts of the headers before the payload (Ethernet II, IPv4 of RFC 791, TCP of RFC 9293 §3.1), as construct.

This is where they are written down. Packets are built (`conversation`) and read (`link`) by `struct`, a hundred times
faster; tests hold those forms, and scapy, to these layouts.
"""

from __future__ import annotations

import construct as c

ETHERNET = c.Struct("destination" / c.Bytes(6), "source" / c.Bytes(6), "type" / c.Int16ub)

IPV4 = c.Struct(
    "version_and_header_words" / c.Int8ub,  # 0x45: version 4, five words
    "tos" / c.Int8ub,
    "total_length" / c.Int16ub,  # header included
    "ident" / c.Int16ub,
    "flags_and_fragment" / c.Int16ub,  # 0x4000: don't fragment; the low 13 bits are the fragment's place
    "ttl" / c.Int8ub,
    "protocol" / c.Int8ub,
    "checksum" / c.Int16ub,
    "source" / c.Bytes(4),
    "destination" / c.Bytes(4),
)

TCP = c.Struct(
    "source_port" / c.Int16ub,
    "destination_port" / c.Int16ub,
    "sequence" / c.Int32ub,
    "acknowledgement" / c.Int32ub,
    "header_words_and_flags" / c.Int16ub,  # the high 4 bits are the header's length in 32-bit words
    "window" / c.Int16ub,
    "checksum" / c.Int16ub,
    "urgent" / c.Int16ub,
)
"""Without options."""

HEADERS = c.Struct("ethernet" / ETHERNET, "ipv4" / IPV4, "tcp" / TCP)
"""What a packet of ours begins with; TCP options follow in the first two of a conversation alone."""
