"""Whose line of a log it is: the ids and names of pods and containers that a message has, and whose records have them.

containerd and CRI-O write ids, kubelet `pod="namespace/name"` and uids, both `PodSandboxMetadata{Name:…}`. A line that
names several pods, as the answer to a list does, is no pod's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from tracer.logs import Logged
from tracer.story.place import Container, Pod

_ID = re.compile(rb"(?<!sha256:)(?<![0-9a-z])[0-9a-f]{64}(?![0-9a-z])")
_UID = re.compile(rb"(?<![0-9a-z])[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?![0-9a-z])")
_GIVEN_UID = re.compile(rb"\bpodUID=\\*\"?([^\"\\,\s]+)")
"""Those of static pods, and of pods that no kubelet made, have another form."""
_NAME = re.compile(rb"\bpods?=\[?\\*\"?([a-z0-9][\w.\-]*/[\w.\-]+)")
_OBJECT = re.compile(rb'"pods?":\[?\{"name":"([^"]+)","namespace":"([^"]+)"\}')
"""kubelet's `pod=`, where it writes JSON."""
_METADATA = re.compile(
    rb"(?:\b|\\u0026)PodSandboxMetadata\{Name:([^,{}]+),Uid:([^,{}]+),Namespace:([^,{}]+),"
    rb'|\bname:\\*"([^"\\]+)\\*" +uid:\\*"([^"\\]+)\\*" +namespace:\\*"([^"\\]+)'
)
"""As containerd 1 and 2 write CRI's message: name, uid, namespace."""

Key = tuple[object, ...]
"""Namespace, name, uid and attempt of a pod."""


class Mentions(NamedTuple):
    """What a message names, in its order."""

    ids: list[str]
    """Of sandboxes and containers, and of whatever else has 64 hexadecimal digits and is no image's digest."""
    uids: list[str]
    names: list[str]
    """`namespace/name`."""

    def any(self) -> bool:
        """Whether it names anything."""
        return bool(self.ids or self.uids or self.names)


def mentions(message: bytes) -> Mentions:
    """Return what a message names."""
    uids, names = _UID.findall(message) + _GIVEN_UID.findall(message), _NAME.findall(message)
    names += [namespace + b"/" + name for name, namespace in _OBJECT.findall(message)]
    for found in _METADATA.finditer(message):
        name, uid, namespace = found.groups()[:3] if found[1] else found.groups()[3:]
        uids.append(uid)
        names.append(namespace + b"/" + name)
    return Mentions(
        *([each.decode("utf-8", "replace") for each in found] for found in (_ID.findall(message), uids, names))
    )


class Finder:
    """Looks up what is named, in the tables of a correlator."""

    def __init__(self, pods: Mapping[str, Pod], containers: Mapping[str, Container], named: Mapping[Key, Pod]) -> None:
        self._pods, self._containers, self._named = pods, containers, named
        self._keys = 0
        """So many of `named` are in the tables below."""
        self._by_uid: dict[object, Key] = {}
        self._by_name: dict[object, Key] = {}

    def place(self, line: Logged) -> None:
        """Say of a line whose it is, as far as that is known by now."""
        found = mentions(line.message)
        containers = [self._containers[each] for each in found.ids if each in self._containers]
        pods = [pod for each in containers if (pod := each.pod) is not None]
        pods += [self._pods[each] for each in found.ids if each in self._pods]
        if not pods and not containers and (found.uids or found.names):
            self._look()
            keys = [self._by_uid[each] for each in found.uids if each in self._by_uid]
            keys = keys or [self._by_name[each] for each in found.names if each in self._by_name]
            pods = [self._named[key] for key in keys]
        own = {id(each): each for each in containers if not each.is_sandbox()}
        if len({id(pod) for pod in pods}) == 1:
            line.pod = pods[0]
        elif pods:
            return
        if len(own) == 1:
            (line.container,) = own.values()

    def _look(self) -> None:
        """Take note of the names that have come; of two pods of one name the newer one is meant."""
        for key in islice(self._named, self._keys, None):
            namespace, name, uid, _ = key
            self._by_uid[uid] = key
            self._by_name[f"{namespace}/{name}"] = key
        self._keys = len(self._named)
