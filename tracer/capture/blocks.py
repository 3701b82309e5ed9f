"""The layouts of pcapng's blocks (draft-ietf-opsawg-pcapng §3 and §4), each written down once, as a construct layout.

In go values, out come whole blocks; the rarely written blocks are built from the layouts themselves, the packets by
`struct` (`conversation`) and read by it (`pcapng`), since construct takes tens of microseconds a packet; tests hold
the two equal. Nothing is known here of what a packet contains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

import construct as c

ByteOrder = Literal["little", "big"]

SECTION_HEADER: Final = 0x0A0D0D0A
INTERFACE_DESCRIPTION: Final = 1
OLD_PACKET: Final = 2
SIMPLE_PACKET: Final = 3
NAME_RESOLUTION: Final = 4
INTERFACE_STATISTICS: Final = 5
ENHANCED_PACKET: Final = 6

BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D

# Option codes (§3.5 and under each block).
COMMENT: Final = 1
SHB_HARDWARE, SHB_OS, SHB_USERAPPL = 2, 3, 4
IF_NAME, IF_DESCRIPTION, IF_TSRESOL, IF_TSOFFSET = 2, 3, 9, 14
EPB_FLAGS, EPB_DROPCOUNT = 2, 4
ISB_STARTTIME, ISB_ENDTIME, ISB_IFRECV, ISB_IFDROP = 2, 3, 4, 5

# Record types of a Name Resolution Block (§4.4).
NRB_IPV4, NRB_IPV6 = 1, 2

Item = tuple[int, bytes]
"""The code and value of an option, or of a name resolution record."""


def body_layouts(order: ByteOrder) -> dict[int, Any]:
    """Return the layout of each block's body, by block type, in this byte order."""
    u16, u32 = (c.Int16ul, c.Int32ul) if order == "little" else (c.Int16ub, c.Int32ub)
    i64 = c.Int64sl if order == "little" else c.Int64sb
    # An option or record: its value is padded to 32 bits, its length is not. A zero code ends the list.
    length = c.Rebuild(u16, c.len_(c.this.value))
    item = c.Struct("code" / u16, "length" / length, "value" / c.Aligned(4, c.Bytes(c.this.length)))
    records = c.RepeatUntil(lambda last, _list, _context: last["code"] == 0, item)
    options = c.GreedyRange(item)  # a block may have none, not even the one that ends them
    data = c.Aligned(4, c.Bytes(c.this.captured))
    return {
        SECTION_HEADER: c.Struct(
            "magic" / c.Const(BYTE_ORDER_MAGIC, u32),
            "major" / u16,
            "minor" / u16,
            "section_length" / i64,  # -1: not given
            "options" / options,
        ),
        INTERFACE_DESCRIPTION: c.Struct(
            "link_type" / u16,
            "reserved" / c.Const(0, u16),
            "snap_length" / u32,  # 0: no limit
            "options" / options,
        ),
        OLD_PACKET: c.Struct(
            "interface" / u16,
            "drops" / u16,  # 0xFFFF: not known
            "time_high" / u32,
            "time_low" / u32,
            "captured" / u32,
            "original" / u32,
            "data" / data,
            "options" / options,
        ),
        SIMPLE_PACKET: c.Struct("original" / u32, "data" / c.GreedyBytes),
        NAME_RESOLUTION: c.Struct("records" / records, "options" / options),
        INTERFACE_STATISTICS: c.Struct("interface" / u32, "time_high" / u32, "time_low" / u32, "options" / options),
        ENHANCED_PACKET: c.Struct(
            "interface" / u32,
            "time_high" / u32,
            "time_low" / u32,
            "captured" / u32,
            "original" / u32,
            "data" / data,
            "options" / options,
        ),
    }


def block_layout(order: ByteOrder) -> Any:  # noqa: ANN401  (construct is untyped)
    """Return the layout of a whole block: type, total length, body, total length again."""
    u32 = c.Int32ul if order == "little" else c.Int32ub
    return c.Struct(
        "type" / u32,
        "length" / u32,
        "body" / c.FixedSized(c.this.length - 12, c.Switch(c.this.type, body_layouts(order), default=c.GreedyBytes)),
        "length_again" / c.Rebuild(u32, c.this.length),
    )


_BODIES = {order: body_layouts(order) for order in get_args(ByteOrder)}


def build_block(block_type: int, body: Mapping[str, object], order: ByteOrder = "little") -> bytes:
    """Return one block. `options`, and a Name Resolution Block's `records`, are lists made by `items`."""
    built: bytes = _BODIES[order][block_type].build(body)
    length = (12 + len(built)).to_bytes(4, order)
    return block_type.to_bytes(4, order) + length + built + length  # as `block_layout` has it, in half the time


def items(*pairs: Item) -> list[dict[str, object]]:
    """Return options or records as `build_block` takes them, with the zero that ends them."""
    return [{"code": code, "value": value} for code, value in (*pairs, (0, b""))]
