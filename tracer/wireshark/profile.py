"""What makes Wireshark speak a container runtime's language: as files of a profile, and as options of a command line.

In: nothing but where our dissector and schemas lie. Out: texts. Where Wireshark keeps its files is `folders`' matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import dissectors
import protos
from tracer.capture.packets import HOP_PORTS

NAME: Final = "podwire"
LUA: Final = Path(dissectors.__file__).parent / "wireshark" / "ttrpc.lua"
SCHEMAS: Final = Path(protos.__file__).parent / "schemas"
PLUGIN: Final = "podwire_ttrpc.lua"
"""The dissector's name among the user's plug-ins."""

GRPC_FAILED: Final = '(http2.header.name == "grpc-status" && !(http2.header.value == "0"))'
_HEADERS_AND_MESSAGES = "http2.type == 1 || grpc"

_PREFERENCES: Final = (
    ("nameres.network_name", "TRUE"),  # the endpoints' names are in the capture …
    ("nameres.use_external_name_resolver", "FALSE"),  # … and nowhere else
    ("tcp.reassemble_out_of_order", "TRUE"),
)

_COLUMNS: Final = (
    ("No.", "%m"),
    ("Time", "%t"),
    ("Source", "%s"),
    ("Destination", "%d"),
    ("Protocol", "%p"),
    ("Method", "%Cus:ttrpc.method || http2.headers.path:0:R"),
    ("Status", "%Cus:ttrpc.status:0:R"),
    ("Took", "%Cus:ttrpc.time:0:R"),
    ("Info", "%i"),
)

COLOURS: Final = (  # name, filter, background, foreground: the first that matches wins
    ("Not ttrpc", "ttrpc.unsound || ttrpc.broken", (65535, 40000, 40000), (0, 0, 0)),
    ("Bytes missing", "tcp.analysis.lost_segment || frame.drop_count", (65535, 50000, 30000), (0, 0, 0)),
    ("Failed", f"ttrpc.status != 0 || {GRPC_FAILED}", (65535, 55000, 55000), (40000, 0, 0)),
    ("Carried over", 'frame.comment contains "podwire: carried over"', (60000, 60000, 60000), (30000, 30000, 30000)),
    ("NRI", "ttrpc.nri.channel", (62000, 58000, 65535), (0, 0, 0)),
    ("Event", 'ttrpc.method == "Forward"', (65535, 65535, 56000), (0, 0, 0)),
    ("ttrpc", "ttrpc", (58000, 65535, 58000), (0, 0, 0)),
    ("gRPC", _HEADERS_AND_MESSAGES, (58000, 62000, 65535), (0, 0, 0)),
)

BUTTONS: Final = (  # label, filter, what it is for
    ("Calls", f"ttrpc || {_HEADERS_AND_MESSAGES}", "without handshakes, acknowledgements, PING"),
    ("Failed", f"ttrpc.status != 0 || {GRPC_FAILED}", "answers that are not OK"),
    ("Slow", "ttrpc.time > 1", "ttrpc, answered after more than a second"),
    ("Unanswered", "ttrpc.type == 1 && !ttrpc.response_in", "requests without an answer"),
    ("Events", 'ttrpc.method == "Forward"', "what shims tell containerd"),
    ("Missing", "tcp.analysis.lost_segment || frame.drop_count", "gaps in the capture"),
)


def files() -> dict[str, str]:
    """Return the files of the profile, name to text."""
    return {
        "preferences": _preferences(),
        "protobuf_search_paths": f'"{_quoted(str(SCHEMAS))}","TRUE"\n',
        "decode_as_entries": "".join(f"decode_as_entry: tcp.port,{port},(none),ttrpc\n" for port in _ttrpc_ports()),
        "heuristic_protos": "smpp_tcp,0\n",  # it takes many a call for its own
        "colorfilters": "".join(
            f"@{name}@{rule}@[{_colour(back)}][{_colour(front)}]\n" for name, rule, back, front in COLOURS
        ),
        "dfilter_buttons": "".join(
            f'"TRUE","{label}","{_quoted(rule)}","{purpose}"\n' for label, rule, purpose in BUTTONS
        ),
    }


def options() -> list[str]:
    """Return the options that do the same for one run of tshark or Wireshark: dissector, schemas, preferences."""
    found = ["-X", f"lua_script:{LUA}", "-o", f'uat:protobuf_search_paths:"{_quoted(str(SCHEMAS))}","TRUE"']
    for name, value in _PREFERENCES:
        found += ["-o", f"{name}:{value}"]
    return [*found, "--disable-heuristic", "smpp_tcp"]


def _ttrpc_ports() -> list[int]:
    return [port for hop, port in HOP_PORTS.items() if hop != "cri"]


def _preferences() -> str:
    columns = ",\n".join(f'\t"{title}", "{form}"' for title, form in _COLUMNS)
    lines = [f"{name}: {value}" for name, value in _PREFERENCES]
    return "\n".join([*lines, "gui.column.format:", columns, ""])


def _quoted(text: str) -> str:
    """What stands between quotes in Wireshark's tables."""
    return text.replace("\\", "\\x5c").replace('"', "\\x22")


def _colour(parts: tuple[int, int, int]) -> str:
    return ",".join(map(str, parts))
