"""Headers: from any link layer to a TCP segment, or to the reason why there is none."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracer.capture.files import ACK, CLIENT, PSH, SERVER, ethernet, tcp
from tracer.capture.link import Segment, segment

IP = tcp(7, b"payload", PSH | ACK, acknowledgement=9)
KEY = CLIENT + SERVER + struct.pack(">HH", 50_000, 8080)
EXPECTED = Segment(KEY, 7, 9, PSH | ACK, b"payload", 0)

CLIENT6, SERVER6 = bytes(15) + b"\1", bytes(15) + b"\2"
EXPECTED6 = EXPECTED._replace(key=CLIENT6 + SERVER6 + KEY[8:])
COOKED = struct.pack(">HHH8s", 0, 1, 6, bytes(8))
COOKED2 = struct.pack(">HIHBB8s", 0, 1, 1, 0, 6, bytes(8))


def ipv6(following: int = 6, before: bytes = b"", after: bytes = IP[20:]) -> bytes:
    head = struct.pack(">IHBB", 6 << 28, len(before) + len(after), following, 64)
    return head + CLIENT6 + SERVER6 + before + after


@pytest.mark.parametrize(
    ("link_type", "data"),
    [
        (1, ethernet(IP)),
        (1, ethernet(IP + bytes(6))),  # padded to the least frame
        (1, ethernet(IP, tags=b"\x81\0\0\x05")),
        (1, ethernet(IP, tags=b"\x88\xa8\0\x05\x81\0\0\x06")),
        (101, IP),
        (228, IP),
        (0, b"\2\0\0\0" + IP),
        (0, b"\0\0\0\2" + IP),
        (108, b"\0\0\0\2" + IP),
        (113, COOKED + b"\x08\0" + IP),
        (113, COOKED + b"\x81\0\0\x05\x08\0" + IP),
        (276, b"\x08\0" + COOKED2 + IP),
        (276, b"\x81\0" + COOKED2 + b"\0\5\x08\0" + IP),
    ],
)
def test_ipv4_is_found_behind_every_link_layer(link_type: int, data: bytes) -> None:
    assert segment(link_type, data) == EXPECTED


@pytest.mark.parametrize(
    ("link_type", "data"),
    [
        (1, ethernet(ipv6(), 0x86DD)),
        (101, ipv6()),
        (229, ipv6()),
        (0, b"\x1e\0\0\0" + ipv6()),
        (108, b"\0\0\0\x18" + ipv6()),
        (113, COOKED + b"\x86\xdd" + ipv6()),
        (276, b"\x86\xdd" + COOKED2 + ipv6()),
        (101, ipv6(0, b"\6\0" + bytes(6))),
        (101, ipv6(0, b"\x3c\1" + bytes(14) + b"\x33\0" + bytes(6) + b"\6\4" + bytes(22))),
    ],
)
def test_ipv6_is_found_behind_every_link_layer_and_its_extensions(link_type: int, data: bytes) -> None:
    assert segment(link_type, data) == EXPECTED6


def test_options_of_ipv4_and_tcp_are_passed_over() -> None:
    options = bytearray(IP)
    options[0], options[3], options[32] = 0x46, len(IP) + 4 + 8, 0x70
    data = bytes(options[:20]) + b"\1\1\1\1" + bytes(options[20:40]) + bytes(8) + IP[40:]
    assert segment(101, data) == EXPECTED


def test_what_a_snap_length_left_out_is_counted() -> None:
    assert segment(101, IP[:-3]) == EXPECTED._replace(payload=b"payl", missing=3)


def test_a_total_length_of_zero_means_all_of_the_packet() -> None:
    assert segment(101, IP[:2] + bytes(2) + IP[4:]) == EXPECTED


def changed(at: int, value: bytes) -> bytes:
    return IP[:at] + value + IP[at + len(value) :]


@pytest.mark.parametrize(
    ("link_type", "data", "reason"),
    [
        (1, ethernet(b"", 0x0806), "not IP"),
        (101, b"\x00" * 60, "not IP"),
        (0, b"\xff\0\0\0" + IP, "not IP"),
        (101, changed(9, b"\x11"), "not TCP"),
        (101, changed(6, b"\x20\0"), "IPv4 fragment"),
        (101, changed(6, b"\0\1"), "IPv4 fragment"),
        (101, ipv6(44, b"\6\0" + bytes(6)), "IPv6 fragment"),
        (101, ipv6(17), "not TCP"),
        (101, IP[:30], "cut short"),
        (101, ipv6()[:50], "cut short"),
        (101, ipv6(0)[:41], "cut short"),
        (1, b"short", "cut short"),
        (101, changed(0, b"\x42"), "malformed IPv4 header"),
        (1, ethernet(IP, 0x86DD), "malformed IPv6 header"),
        (101, changed(32, b"\x40"), "malformed TCP header"),
        (101, changed(32, b"\xf0"), "malformed TCP header"),
        (147, IP, "link type 147"),
    ],
)
def test_what_is_no_segment_is_named(link_type: int, data: bytes, reason: str) -> None:
    assert segment(link_type, data) == reason


@given(st.sampled_from([0, 1, 101, 108, 113, 228, 229, 276, 999]), st.binary(max_size=120))
@settings(max_examples=200)
def test_garbage_never_raises(link_type: int, data: bytes) -> None:
    assert isinstance(segment(link_type, data), Segment | str)


@pytest.mark.parametrize("data", [ethernet(IP, tags=b"\x81\0\0\x05"), ethernet(ipv6(0, b"\6\0" + bytes(6)), 0x86DD)])
def test_a_packet_cut_at_any_byte_never_raises(data: bytes) -> None:
    for cut in range(len(data)):
        found = segment(1, data[:cut])
        assert isinstance(found, str) or len(found.payload) + found.missing == 7


LINKS = {
    "ethernet": (1, lambda l2, _six: l2.Ether()),
    "vlan": (1, lambda l2, _six: l2.Ether() / l2.Dot1Q(vlan=5)),
    "two vlans": (1, lambda l2, _six: l2.Ether() / l2.Dot1AD(vlan=5) / l2.Dot1Q(vlan=6)),
    "loopback": (0, lambda l2, six: l2.Loopback(type=30 if six else 2)),
    "cooked": (113, lambda l2, six: l2.CookedLinux(proto=0x86DD if six else 0x0800)),
    "cooked 2": (276, lambda l2, six: l2.CookedLinuxV2(proto=0x86DD if six else 0x0800)),
    "raw": (101, None),
}


@pytest.mark.parametrize("link", LINKS)
@given(
    st.binary(max_size=60), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF), st.integers(0, 255),
    st.booleans(), st.integers(0, 3),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_scapy_builds_what_is_read(
    link: str, payload: bytes, sequence: int, acknowledgement: int, flags: int, six: bool, options: int
) -> None:
    layers = pytest.importorskip("scapy.layers.inet", reason="scapy is not installed")
    l2 = pytest.importorskip("scapy.layers.l2")
    inet6 = pytest.importorskip("scapy.layers.inet6")
    link_type, head = LINKS[link]
    ip = inet6.IPv6(src="::1", dst="::2") if six else layers.IP(src="198.18.0.1", dst="198.18.0.2")
    tcp_options = [("NOP", None)] * 4 * options
    tcp_layer = layers.TCP(
        sport=50_000, dport=8080, seq=sequence, ack=acknowledgement, flags=flags, options=tcp_options
    )
    packet = ip / tcp_layer / payload
    found = segment(link_type, bytes(packet if head is None else head(l2, six) / packet))
    assert found == Segment(EXPECTED6.key if six else KEY, sequence, acknowledgement, flags, payload, 0)
