"""A capture as the user's tshark reads it, driven by pyshark: calls in the form of `readings`.

In: the layers of a packet as tshark's JSON has them. Out: readings. The shape of a message's JSON (what repeats, what
is a map) comes from our schemas; each name, number and value is tshark's.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from dissectors.json_value import JSON_TYPE_URLS
from dissectors.well_known import duration_text, shortest_float, timestamp_text
from protos.errors import PodwireError
from protos.registry import Registry
from tracer.capture.packets import CARRIED_OVER
from tracer.wireshark import profile
from tracer.wireshark.readings import Dynamic, Key, Message, Reading, key_of

Tree = dict[str, Any]
_LAYERS = "frame ttrpc http2 grpc protobuf json tcp ip ipv6 pkt_comment"
_ENUM = re.compile(r" = (.*)\((-?\d+)\) \(enum\)$")
_WIDE = {"int64", "uint64"}
_WRAPPED = re.compile(r"google\.protobuf\.(Double|Float|Int64|UInt64|Int32|UInt32|Bool|String|Bytes)Value$")


def read(path: str, registry: Registry) -> dict[Key, Reading]:
    """Return all calls. Raises PodwireError if pyshark is not here, or tshark fails."""
    reader = _Reader(Bodies(registry))
    for layers in _packets(path):
        reader.packet(layers)
    return reader.calls


def _packets(path: str) -> Iterator[Tree]:
    try:
        import pyshark
        from pyshark.capture.capture import TSharkCrashException
    except ImportError:
        raise PodwireError("verify needs pyshark: pip install 'podwire[verify]'") from None
    options = [*profile.options(), "-o", "grpc.embedded_under_http2:TRUE", "-o", "nameres.network_name:FALSE"]
    capture = pyshark.FileCapture(
        path,
        keep_packets=False,
        use_json=True,
        display_filter="ttrpc || http2",
        custom_parameters=[*options, "-J", _LAYERS],
    )
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of the race below
    try:
        try:
            for packet in capture:
                found: Tree = {}
                for layer in packet.layers:
                    # The nested dicts as tshark gave them: pyshark's own access by attribute loses what repeats.
                    same = [layer, *layer.duplicate_layers]
                    found[layer.layer_name] = [each._all_fields for each in same]
                yield found
        finally:
            capture.close()
    except TSharkCrashException as error:
        # 255 is no status of tshark's. pyshark kills it at its end, which may reap it before asyncio looks for it.
        if "retcode: 255" not in str(error):
            raise PodwireError(f"tshark fails: {str(error).splitlines()[0]}") from error


class _Reader:
    def __init__(self, bodies: Bodies) -> None:
        self.calls: dict[Key, Reading] = {}
        self._reset: set[Key] = set()
        self._bodies = bodies

    def packet(self, layers: Tree) -> None:
        tcp = layers["tcp"][0]
        ip = (layers.get("ip") or layers.get("ipv6") or [{}])[0]
        source = f"{ip.get('ip.src', ip.get('ipv6.src'))}:{tcp['tcp.srcport']}"
        target = f"{ip.get('ip.dst', ip.get('ipv6.dst'))}:{tcp['tcp.dstport']}"
        comments = [text for each in layers.get("pkt_comment", []) for text in _list(each.get("frame.comment"))]
        if any(text.startswith(CARRIED_OVER) and "began_ns" not in text for text in comments):
            return  # made up, to bring a reader to the point: of these, the beginnings of open calls alone are calls
        channel = 0
        for layer in layers.get("ttrpc", []):
            if "ttrpc.nri.channel" in layer:
                channel = int(layer["ttrpc.nri.channel"])
            if "ttrpc.stream_id" in layer:
                self._ttrpc(layer, source, target, channel)
        for layer in layers.get("http2", []):
            streams = _list(layer.get("http2.stream"))
            if streams:
                self._http2(streams[0], layer, source, target)

    def _ttrpc(self, layer: Tree, source: str, target: str, channel: int) -> None:
        stream, kind = int(layer["ttrpc.stream_id"]), int(layer["ttrpc.type"])
        call = self.calls.setdefault(key_of(source, target, channel, stream), Reading())
        from_client = layer.get("ttrpc.from_client") == "1"
        if kind == 1:
            call.client = source
            call.service, call.method = layer.get("ttrpc.service", ""), layer.get("ttrpc.method", "")
        if kind == 2:
            call.status = int(layer["ttrpc.status"])
        flags = int(layer["ttrpc.flags"], 16)
        # What podwire counts as a message: of a stream, neither the Request that opens it for the client's data, nor
        # an answer that carries an error.
        no_message = flags & 4 or (kind == 1 and flags & 2) or (kind == 2 and call.status)
        if no_message and "ttrpc.payload" not in layer:
            return
        length = int(layer.get("ttrpc.payload_length", "0"))
        body = self._bodies.of(layer.get("protobuf"), last=True) if length else {}
        if body is None:
            body = base64.b64encode(_octets(layer.get("ttrpc.payload", ""))).decode()
        call.sides[not from_client].append(Message(length, body))

    def _http2(self, frame: Tree, layer: Tree, source: str, target: str) -> None:
        kind, stream = int(frame.get("http2.type", "-1")), int(frame.get("http2.streamid", "0"))
        if not stream:
            return
        key = key_of(source, target, 0, stream)
        if kind == 3:
            self._reset.add(key)
        if key in self._reset:
            return  # what was under way then counts no more
        if kind == 1 or kind == 9:
            headers = {
                each.get("http2.header.name"): each.get("http2.header.value")
                for each in _list(frame.get("http2.header"))
            }
            call = self.calls.setdefault(key, Reading())
            if ":path" in headers:
                call.client = source
                _, call.service, call.method = f"{headers[':path']}//".split("/")[:3]
            if "grpc-status" in headers:
                call.status = int(headers["grpc-status"])
        elif kind == 0 and key in self.calls:
            call = self.calls[key]
            bodies = iter(_list(layer.get("protobuf")))
            for message in _list(layer.get("grpc")):
                length = int(message.get("grpc.message_length", "0"))
                body = self._bodies.of(next(bodies, None)) if length else {}
                if body is None:
                    body = base64.b64encode(_octets(message.get("grpc.message_data", ""))).decode()
                call.sides[call.client != source].append(Message(length, body))


class Bodies:
    """tshark's Protobuf trees as JSON in podwire's form."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def of(self, tree: Dynamic, last: bool = False) -> Dynamic:
        """Return a payload's message; None if tshark knew no type for it. `last`: of several, that is the payload."""
        trees = _list(tree)
        if not trees:
            return None
        for label, message in trees[-1 if last else 0].items():
            if label.startswith("Message: ") and "UNKNOWN" not in label:
                return self._message(_list(message)[0])
        return None

    def _message(self, message: Tree, entry_of: Dynamic = None) -> Dynamic:
        """Return a message; `entry_of` is the map that it is an entry of: tshark has a name of its own for such."""
        name = message["protobuf.message.name"]
        try:
            descriptor = entry_of or self._registry.message_class(name).DESCRIPTOR
        except KeyError:
            return {"@error": f"no schema of podwire's has {name}"}
        known = descriptor.fields_by_number
        fields = [
            (known.get(int(each["protobuf.field.number"])), label, each)
            for label, same in message.items()
            if label.startswith("Field(")
            for each in _list(same)
        ]
        special = self._special(name, fields)
        if special is not None:
            return special[0]
        shown: Tree = {}
        for field, label, each in fields:
            if field is None:
                number = int(each["protobuf.field.number"])
                shown.setdefault("@unknown", []).append(number)
                continue
            title, values = each["protobuf.field.name"], self._values(field, label, each)
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                entry = self._message(_nested(each), field.message_type)
                shown.setdefault(title, {})[_map_key(entry.get("key", ""))] = entry.get("value", _empty(field))
            elif field.is_repeated:
                shown.setdefault(title, []).extend(values)
            else:
                shown[title] = values[-1]
        return shown

    def _special(self, name: str, fields: list[tuple[Any, str, Tree]]) -> tuple[Any] | None:
        """Return what stands for a well-known type, in a tuple; None for any other."""
        values = {
            each["protobuf.field.name"]: (field, label, each) for field, label, each in fields if field is not None
        }
        if name == "google.protobuf.Any":
            return (self._any(values),)
        if name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
            seconds, nanos = (
                int(self._values(*values[part])[0]) if part in values else 0 for part in ("seconds", "nanos")
            )
            text = (timestamp_text if name.endswith("Timestamp") else duration_text)(seconds, nanos)
            return (text,)
        if name == "google.protobuf.FieldMask":
            paths = [self._values(field, label, each)[0] for field, label, each in fields if field is not None]
            return (",".join(paths),)
        if _WRAPPED.match(name):
            if "value" in values:
                return (self._values(*values["value"])[0],)
            return (_default(self._registry.message_class(name).DESCRIPTOR.fields_by_name["value"]),)
        return None

    def _any(self, values: dict[str, tuple[Any, str, Tree]]) -> Dynamic:
        url = self._values(*values["type_url"])[0] if "type_url" in values else ""
        if not values:
            return {}
        shown: Tree = {"@type": url}
        tree = values["value"][2] if "value" in values else {}
        octets = _octets(tree.get("protobuf.field.value", ""))
        if url in JSON_TYPE_URLS or ("json" in tree and self._registry.resolve_any(url) is None):
            return {**shown, "value": json.loads(octets)}
        inside = self.of(tree.get("protobuf")) if octets else {}
        if inside is None:
            return {**shown, "value_base64": base64.b64encode(octets).decode()}
        return {**shown, **inside} if isinstance(inside, dict) else {**shown, "value": inside}

    def _values(self, field: Dynamic, label: str, each: Tree) -> list[Any]:
        if "protobuf.field.value.repeated" in each:  # packed
            tree = each["protobuf.field.value.repeated_tree"]
            return [_scalar(field, kind, one) for kind, all_ in tree.items() for one in _list(all_)]
        if field.message_type is not None:
            return [self._message(_nested(each)) if _nested(each) else {}]
        octets = _octets(each.get("protobuf.field.value", ""))
        if field.type == FieldDescriptor.TYPE_BYTES:
            return [base64.b64encode(octets).decode()]
        if field.type == FieldDescriptor.TYPE_STRING:
            return [octets.decode("utf-8", "backslashreplace")]
        if field.type == FieldDescriptor.TYPE_ENUM and (named := _ENUM.search(label)):
            return [named[1] if not named[1].startswith("<") else int(named[2])]
        ((kind, value),) = each["protobuf.field.value_tree"].items()
        return [_scalar(field, kind, value)]


def _scalar(field: Dynamic, kind: str, value: str) -> Dynamic:
    kind = kind.rpartition(".")[2]
    if kind in _WIDE:
        return value
    if kind == "bool":
        return value in ("1", "true", "True")
    if kind in ("float", "double"):
        return shortest_float(float(value)) if kind == "float" else float(value)
    if field.type == FieldDescriptor.TYPE_ENUM:
        named = field.enum_type.values_by_number.get(int(value))
        return named.name if named else int(value)
    return int(value)


def _map_key(value: Dynamic) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _default(field: Dynamic) -> Dynamic:
    """The value of a field that is not on the wire, where something has to be shown."""
    if field.message_type is not None:
        return {}
    if field.cpp_type in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64):
        return "0"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return ""
    if field.type == FieldDescriptor.TYPE_ENUM:
        return field.enum_type.values_by_number[0].name
    return field.default_value


def _empty(field: Dynamic) -> Dynamic:
    return _default(field.message_type.fields_by_name["value"])


def _nested(each: Tree) -> Tree:
    for label, message in each.items():
        if label.startswith("Message: "):
            found: Tree = _list(message)[0]
            return found
    return {}


def _octets(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _list(value: Dynamic) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
