"""A plan: calls with random messages, made by the protobuf package from what protoc makes of the schemas.

None of podwire's code reads or writes a message here, so that what comes out of it can be held against these.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from grpc_tools import protoc

from tests.dissectors.messages import random_message

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "protos" / "schemas"
SHAPES = Path(__file__).parent / "protos"
"""Calls of every shape, a user's own schema."""
CODES = (0, 0, 0, 0, 2, 5, 9, 12)
INSIDE_ANY = ("containerd.events.TaskExit", "runtime.v1.PodSandboxMetadata", "containerd.types.Envelope")
LONGEST_STREAM = 6


@dataclass(frozen=True, slots=True)
class Planned:
    """One call, as it is to go over the wire."""

    method: MethodDescriptor
    code: int
    requests: tuple[Message, ...]
    responses: tuple[Message, ...]

    @property
    def name(self) -> tuple[str, str]:
        return self.method.containing_service.full_name, self.method.name

    @property
    def kind(self) -> str:
        asks, answers = self.method.client_streaming, self.method.server_streaming
        return {(0, 0): "unary", (1, 0): "client", (0, 1): "server", (1, 1): "both"}[asks, answers]

    def line(self) -> str:
        """As the peers of other languages read it."""
        return " ".join((*self.name, self.kind, str(self.code), _hex(self.requests), _hex(self.responses)))

    def shown(self, side: str) -> list[tuple[int, Any]]:
        """Length and JSON of each message of a side, as the protobuf package has it."""
        return [
            (message.ByteSize(), as_json(message))
            for message in (self.requests if side == "request" else self.responses)
        ]


def _hex(messages: tuple[Message, ...]) -> str:
    return ",".join(message.SerializeToString(deterministic=True).hex() or "-" for message in messages) or "."


@cache
def pool() -> DescriptorPool:
    """All schemas, compiled by protoc, in a pool of their own."""
    made = DescriptorPool()
    for folder in (SCHEMAS, SHAPES):
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.proto"))]
        target = ROOT / "build" / "peers" / f"{folder.name}.binpb"
        target.parent.mkdir(parents=True, exist_ok=True)
        assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={target}", *names]) == 0
        files = {file.name: file for file in FileDescriptorSet.FromString(target.read_bytes()).file}
        while files:  # protoc has them in the order in which they can be added
            made.Add(files.pop(next(iter(files))))
    return made


def message_class(name: str) -> type[Message]:
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))


def as_json(message: Message) -> Any:
    shown = MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=pool())
    return shown if isinstance(shown, dict) else {"value": shown}  # a Timestamp and the like are no objects there


def make_plan(services: list[str], rng: random.Random) -> list[Planned]:
    """Return a call of each method of the services, in any order."""
    plan = [_planned(method, rng) for service in services for method in _methods(service)]
    rng.shuffle(plan)
    return plan


def _methods(service: str) -> Iterator[MethodDescriptor]:
    yield from pool().FindServiceByName(service).methods


def _planned(method: MethodDescriptor, rng: random.Random) -> Planned:
    code = rng.choice(CODES)
    asked = rng.randint(0, LONGEST_STREAM) if method.client_streaming else 1
    answered = rng.randint(0, LONGEST_STREAM) if method.server_streaming else int(code == 0)
    return Planned(
        method,
        code,
        tuple(_message(method.input_type.full_name, rng) for _ in range(asked)),
        tuple(_message(method.output_type.full_name, rng) for _ in range(answered)),
    )


def _message(name: str, rng: random.Random, depth: int = 0) -> Message:
    def fill_any(packed: Any) -> None:
        inside = rng.choice(INSIDE_ANY[: 3 if depth < 3 else 2])
        packed.type_url = inside
        packed.value = _message(inside, rng, depth + 1).SerializeToString(deterministic=True)

    return random_message(message_class(name), rng.getrandbits(32), fill_any)
