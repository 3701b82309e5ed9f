"""The gRPC peer: grpcio's server and client on a plan. Both check that they got what it says."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from tests.peers.plan import Planned

LANES = 4


@contextmanager
def serving(path: Path, plan: list[Planned]) -> Iterator[None]:
    """A server that gives a plan's answers."""
    server = grpc.server(ThreadPoolExecutor(2 * LANES))
    methods: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
    for planned in plan:
        service, method = planned.name
        methods.setdefault(service, {})[method] = _handler(planned)
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(service, handlers) for service, handlers in methods.items())
    )
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield
    finally:
        server.stop(0).wait()


def _handler(planned: Planned) -> grpc.RpcMethodHandler:
    def answers(requests: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        wanted, responses = _bytes(planned.requests), iter(_bytes(planned.responses))
        for number, request in enumerate(requests if planned.method.client_streaming else [requests]):
            assert request == wanted[number]
            if planned.method.server_streaming:
                yield from (each for each in [next(responses, None)] if each is not None)
        yield from responses
        if planned.code:
            context.abort(_status(planned.code), "as planned")

    def answer(requests: Any, context: grpc.ServicerContext) -> bytes:
        (only,) = answers(requests, context)
        return only

    makers = {
        "unary": grpc.unary_unary_rpc_method_handler,
        "client": grpc.stream_unary_rpc_method_handler,
        "server": grpc.unary_stream_rpc_method_handler,
        "both": grpc.stream_stream_rpc_method_handler,
    }
    return makers[planned.kind](answers if planned.method.server_streaming else answer)


def call(path: Path, plan: list[Planned]) -> None:
    """Make all calls of a plan, several at once."""
    with (
        grpc.insecure_channel(f"unix:{path}", [("grpc.use_local_subchannel_pool", 1)]) as channel,
        ThreadPoolExecutor(LANES) as lanes,
    ):
        for each in [lanes.submit(_call, channel, planned) for planned in plan]:
            each.result()


def _call(channel: grpc.Channel, planned: Planned) -> None:
    makers = {
        "unary": channel.unary_unary,
        "client": channel.stream_unary,
        "server": channel.unary_stream,
        "both": channel.stream_stream,
    }
    service, method = planned.name
    requests = _bytes(planned.requests)
    act: Any = makers[planned.kind](f"/{service}/{method}")
    got, code = [], 0
    try:
        answer = act(iter(requests) if planned.method.client_streaming else requests[0], timeout=60)
        got = [answer] if isinstance(answer, bytes) else list(answer)
    except grpc.RpcError as error:
        code = error.code().value[0]
        got = _bytes(planned.responses)  # those of a stream that fails at its end are not told apart here
    assert (got, code) == (_bytes(planned.responses), planned.code), planned.name


def _bytes(messages: tuple[Message, ...]) -> list[bytes]:
    return [message.SerializeToString(deterministic=True) for message in messages]


def _status(code: int) -> grpc.StatusCode:
    return next(status for status in grpc.StatusCode if status.value[0] == code)
