"""What values mean, for people: the one table of which field is a size, a time, a signal, an exit status and so on.

In: descriptors of fields, values. Out: text that stands beside the exact value. Only text output has it; JSON keeps the
values alone. It refuses to know how messages are walked, which is `dissectors.render`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias, cast

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from dissectors.json_value import JSONValue
from dissectors.render_text import Bare
from tracer.output.codes import exit_reason, signal_name
from tracer.output.units import duration, quantity

MEANINGS: tuple[tuple[str, str], ...] = (
    (
        "plain",
        """
        io.containerd.cgroups.v1.MemoryStat.*pg_*
        io.containerd.cgroups.v1.MemoryStat.usage
        io.containerd.cgroups.v1.MemoryStat.swap
        io.containerd.cgroups.v1.MemoryStat.kernel*
        io.containerd.cgroups.v2.MemoryStat.pg*
        io.containerd.cgroups.v2.MemoryStat.thp_*
        io.containerd.cgroups.v2.MemoryStat.workingset_*
        io.containerd.cgroups.v2.*.psi
        *.failcnt
        """,
    ),
    (
        "bytes",
        """
        runtime.v1*.*ContainerResources.*_in_bytes
        runtime.v1*.HugepageLimit.limit
        runtime.v1*.*Usage.*_bytes
        runtime.v1*.Image.size
        io.containerd.cgroups.v1.MemoryStat.*
        io.containerd.cgroups.v1.MemoryEntry.*
        io.containerd.cgroups.v1.HugetlbStat.usage
        io.containerd.cgroups.v1.HugetlbStat.max
        io.containerd.cgroups.v2.MemoryStat.*
        io.containerd.cgroups.v2.HugeTlbStat.current
        io.containerd.cgroups.v2.HugeTlbStat.max
        io.containerd.cgroups.v2.IOEntry.*bytes
        io.containerd.cgroups.v*.NetworkStat.*x_bytes
        grpc.LinuxMemory.Limit
        grpc.LinuxMemory.Reservation
        grpc.LinuxMemory.Swap
        grpc.LinuxMemory.Kernel*
        grpc.LinuxHugepageLimit.Limit
        grpc.MemoryData.*
        grpc.MemoryStats.cache
        grpc.HugetlbStats.*
        grpc.NetworkStats.*x_bytes
        grpc.CopyFileRequest.file_size
        grpc.ResizeVolumeRequest.size
        grpc.GuestDetailsResponse.mem_block_size_bytes
        nri.*.LinuxMemory.limit
        nri.*.LinuxMemory.reservation
        nri.*.LinuxMemory.swap
        nri.*.LinuxMemory.kernel*
        nri.*.HugepageLimit.limit
        containerd.services.content.v1.Info.size
        containerd.services.content.v1.Status.total
        containerd.services.content.v1.Write*.total
        containerd.services.snapshots.v1.UsageResponse.size
        containerd.types.Descriptor.size
        runtime-spec.*memory.limit
        runtime-spec.*memory.reservation
        runtime-spec.*memory.swap
        runtime-spec.*memory.kernel*
        runtime-spec.*hugepageLimits.limit
        """,
    ),
    (
        "nanoseconds",
        """
        runtime.v1*.*CpuUsage.usage_core_nano_seconds
        runtime.v1.PsiData.Total
        io.containerd.cgroups.v1.CPUUsage.*
        io.containerd.cgroups.v1.Throttle.throttled_time
        grpc.CpuUsage.*
        grpc.ThrottlingData.throttled_time
        ttrpc.Request.timeout_nano
        """,
    ),
    (
        "microseconds",
        """
        runtime.v1*.LinuxContainerResources.cpu_period
        runtime.v1*.LinuxContainerResources.cpu_quota
        io.containerd.cgroups.v2.CPUStat.*_usec
        io.containerd.cgroups.v2.PSIData.total
        grpc.LinuxCPU.Quota
        grpc.LinuxCPU.Period
        grpc.LinuxCPU.Realtime*
        nri.*.LinuxCPU.quota
        nri.*.LinuxCPU.period
        nri.*.LinuxCPU.realtime_*
        runtime-spec.*cpu.quota
        runtime-spec.*cpu.period
        runtime-spec.*cpu.realtime*
        """,
    ),
    ("milliseconds", "nri.*.ConfigureRequest.*_timeout"),
    (
        "seconds",
        """
        runtime.v1*.*Request.timeout
        containerd.*.timeout_secs
        grpc.RemoveContainerRequest.timeout
        grpc.Hook.Timeout
        nri.*.Hook.timeout
        """,
    ),
    (
        "time",
        """
        runtime.v1*.timestamp
        runtime.v1*.*_at
        nri.*.Container.*_at
        """,
    ),
    ("time in seconds", "grpc.SetGuestDateTimeRequest.Sec"),
    ("cores", "runtime.v1*.*CpuUsage.usage_nano_cores"),
    ("signal", "*.KillRequest.signal grpc.SignalProcessRequest.signal"),
    (
        "exit",
        """
        runtime.v1*.exit_code
        nri.*.Container.exit_code
        containerd.*.exit_status
        grpc.WaitProcessResponse.status
        """,
    ),
    (
        "mode",
        """
        grpc.LinuxDevice.FileMode
        grpc.CopyFileRequest.*_mode
        nri.*.LinuxDevice.file_mode
        runtime-spec.*devices.fileMode
        """,
    ),
    (
        "limit",
        """
        grpc.POSIXRlimit.*t
        nri.*.POSIXRlimit.*t
        *.PidsStat*.limit
        """,
    ),
    ("events", "nri.*.ConfigureResponse.events"),
    (
        "together",
        """
        containerd.types.Mount.options
        grpc.Mount.options
        grpc.Storage.options
        grpc.LinuxCapabilities.*
        nri.*.Mount.options
        runtime.v1*.Capability.*_capabilities
        runtime-spec.*mounts.options
        runtime-spec.*capabilities.*
        """,
    ),
    (
        "namespaces",
        """
        grpc.Linux.Namespaces
        nri.*.namespaces
        runtime-spec.*linux.namespaces
        """,
    ),
    (
        "elsewhere",
        """
        runtime.v1*.ExecResponse.url
        runtime.v1*.AttachResponse.url
        runtime.v1*.PortForwardResponse.url
        """,
    ),
)
"""What the values of a field mean, then patterns of fields: `message.field`, or for JSON of the runtime specification
`runtime-spec.type.key.key`. The first that fits counts."""

ELSEWHERE = "the bytes of this stream go there, not through CRI"
_NO_LIMIT = (1 << 63) - (1 << 16)
"""The kernel rounds the highest number down to pages, which may be of 64 KiB."""
_GO_ZERO = -62_135_596_800
"""The first second of the year 1: what Go sends of a time that was never set."""
_SPEC = "types.containerd.io/opencontainers/runtime-spec/1/"
_KEPT = 4096

Explain: TypeAlias = Callable[[Any], str | None]
"""Takes a field's value, a list where it is repeated; returns the whole text that is shown for it, None for no more
than the value itself."""


class Meanings:
    """Explains fields. `utc`: as for the times of lines."""

    def __init__(self, *, utc: bool = False) -> None:
        self._break_down = time.gmtime if utc else time.localtime
        notes: dict[str, Callable[[int], str | None]] = {
            "bytes": lambda value: _limit(value) or quantity(value),
            "nanoseconds": lambda value: _length(value, 1),
            "microseconds": lambda value: "no limit" if value == -1 else _length(value, 1000),
            "milliseconds": lambda value: _length(value, 1_000_000),
            "seconds": lambda value: _length(value, 1_000_000_000),
            "time": lambda value: self._time(value) if value > 0 else None,
            "time in seconds": lambda value: self._time(value * 1_000_000_000),
            "cores": lambda value: f"{value / 1e9:.3f} cores",
            "signal": signal_name,
            "exit": exit_reason,
            "mode": lambda value: f"0{value:o}" if value > 0 else None,
            "limit": _limit,
        }
        self._kinds: dict[str, Explain] = {kind: _noted(note) for kind, note in notes.items()}
        self._kinds |= {"together": _together, "namespaces": _namespaces, "elsewhere": _elsewhere}
        self._paths: dict[str, Explain | None] = {}

    def field(self, field: FieldDescriptor) -> Explain | None:
        """How to show a field of a known message, or None for as it is."""
        message: Any = field.containing_type  # None is for extensions that belong to nothing
        kind = meaning_of(f"{message.full_name}.{field.name}")
        if kind == "events":
            return _noted(_event_names(message.file.enum_types_by_name["Event"]))
        return self._kinds.get(kind)

    def time(self, seconds: int, nanos: int) -> str | None:
        """A Timestamp as local time; None where that is the same as UTC."""
        if seconds == _GO_ZERO:
            return "not set"
        try:
            here = self._break_down(seconds).tm_gmtoff == 0
        except (OverflowError, ValueError, OSError):  # a year that the C library has no room for
            return None
        if here or (text := self._time(seconds * 1_000_000_000 + nanos)) is None:
            return None
        return f"{text} here"

    def document(self, type_url: str, value: JSONValue) -> JSONValue:
        """JSON of an Any with what is known of it explained."""
        if not type_url.startswith(_SPEC):
            return value
        return self._document("runtime-spec." + type_url.removeprefix(_SPEC), value)

    def embedded(self, value: JSONValue) -> JSONValue:
        """JSON of a string, as CRI's verbose answers have it, with the runtime's specification in it explained."""
        if isinstance(value, dict) and "runtimeSpec" in value:
            return value | {"runtimeSpec": self._document("runtime-spec.Spec", value["runtimeSpec"])}
        return value

    def _document(self, path: str, value: JSONValue) -> JSONValue:
        explain = self._path(path)
        if explain is not None and (text := explain(value)) is not None:
            return Bare(text)
        if isinstance(value, dict):
            return {key: self._document(f"{path}.{key}", item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._document(path, item) if isinstance(item, dict) else item for item in value]
        return value

    def _path(self, path: str) -> Explain | None:
        if path not in self._paths:
            if len(self._paths) >= _KEPT:  # keys come from the wire
                self._paths.clear()
            self._paths[path] = self._kinds.get(meaning_of(path))
        return self._paths[path]

    def _time(self, time_ns: int) -> str | None:
        seconds, rest = divmod(time_ns, 1_000_000_000)
        try:
            return f"{time.strftime('%Y-%m-%d %H:%M:%S', self._break_down(seconds))}.{rest // 1000:06d}"
        except (OverflowError, ValueError, OSError):  # as above
            return None


_PATTERNS = [(pattern.split("*"), kind) for kind, patterns in MEANINGS for pattern in patterns.split()]


@cache
def _patterns_of(package: str) -> list[tuple[list[str], str]]:
    """Those that can fit names whose first part is this: a few of the many."""
    return [(parts, kind) for parts, kind in _PATTERNS if parts[0].partition(".")[0] in (package, "")]


def meaning_of(name: str) -> str:
    """What the table says of a field; empty for nothing."""
    return next((kind for parts, kind in _patterns_of(name.partition(".")[0]) if _fits(name, parts)), "")


def _fits(name: str, parts: list[str]) -> bool:
    """Whether a name has these parts in this order, the first at its beginning and the last at its end. `fnmatch` would
    first compile each pattern, a tenth of what a short command takes."""
    if len(parts) == 1:
        return name == parts[0]
    first, *middle, last = parts
    if not name.startswith(first):
        return False
    at = len(first)
    for part in middle:
        found = name.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return name.endswith(last) and len(name) - len(last) >= at


def _noted(note: Callable[[int], str | None]) -> Explain:
    """Explain a number, one that a message of a single `value` wraps, or a list of numbers."""

    def one(value: Any) -> str | None:  # noqa: ANN401 # see Explain
        if isinstance(value, bool) or not isinstance(value, int):
            value = getattr(value, "value", None)
            if not isinstance(value, int):
                return None
        text = note(value)
        return str(value) if text is None else f"{value} ({text})"

    def explain(value: Any) -> str | None:  # noqa: ANN401 # see Explain
        if not isinstance(value, Sequence) or isinstance(value, str):
            return one(value)
        texts = [one(item) for item in value]
        return f"[{', '.join(cast('list[str]', texts))}]" if None not in texts else None

    return explain


def _length(value: int, unit_ns: int) -> str | None:
    return duration(value * unit_ns) if value > 0 else None


def _limit(value: int) -> str | None:
    return "no limit" if value >= _NO_LIMIT or value == -1 else None


def _together(values: Any) -> str | None:  # noqa: ANN401 # see Explain
    if not isinstance(values, Sequence) or isinstance(values, str):
        return None
    return ",".join(values) if all(isinstance(text, str) for text in values) else None


def _namespaces(values: Any) -> str | None:  # noqa: ANN401 # see Explain
    """`pid, ipc, network (/proc/7/ns/net)`"""
    names = []
    for value in values if isinstance(values, Sequence) else [None]:
        if isinstance(value, dict):
            kind, path = value.get("type"), value.get("path", "")
        else:
            kind = getattr(value, "type", "") or getattr(value, "Type", None)
            path = getattr(value, "path", "") or getattr(value, "Path", "")
        if not isinstance(kind, str) or not isinstance(path, str):
            return None
        names.append(f"{kind} ({path})" if path else kind)
    return ", ".join(names)


def _elsewhere(value: str) -> str:
    return f'"{value}" ({ELSEWHERE})'


def _event_names(events: EnumDescriptor) -> Callable[[int], str | None]:
    """NRI: an event's bit is its number less one; no bit at all asks for every event."""
    names = {value.number - 1: name for name, value in events.values_by_name.items()}

    def note(mask: int) -> str:
        found = [names.get(bit, f"bit {bit}") for bit in range(32) if mask >> bit & 1]
        return ", ".join(found) if found else "all"

    return note
