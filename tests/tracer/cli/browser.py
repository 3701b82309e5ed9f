"""What a browser does with `--web`, without one: it gets the page, and opens the websocket that the page names."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.tracer.cli.live import Running
from tests.tracer.cli.terminal import shown_text

aiohttp = pytest.importorskip("aiohttp", reason="needs textual-serve (extra web)")
SECONDS = 100.0
"""A hang, not a figure: the screen reads its capture at a low priority."""


def url_of(running: Running) -> str:
    """The URL that a command has said."""
    found: list[str] = []

    def said() -> bool:
        found[:] = re.findall(r"^--web: (http://\S+)$", "\n".join(running.said()), re.MULTILINE)
        return bool(found)

    running.wait_for(said)
    return found[0]


class Tab:
    """One page, and what its terminal got."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.raw = socket, b""
        self.said: list[str] = []
        """What came for the page itself."""

    async def wait_for(self, words: str) -> None:
        """Read until these words were written."""
        async with asyncio.timeout(SECONDS):
            while words not in shown_text(self.raw):
                message = await self.socket.receive()
                if message.type is aiohttp.WSMsgType.TEXT:
                    self.said.append(message.data)
                    continue
                assert message.type is aiohttp.WSMsgType.BINARY, f"{message} before {words!r}: {shown_text(self.raw)}"
                self.raw += message.data

    async def type(self, text: str) -> None:
        """Press keys."""
        await self.socket.send_json(["stdin", text])

    def kill(self) -> None:
        """Go as a browser that is killed: without farewell."""
        connection = self.socket._response.connection
        assert connection is not None
        assert connection.transport is not None
        connection.transport.abort()

    async def closed(self) -> None:
        """Wait until the other side has closed it."""
        async with asyncio.timeout(SECONDS):
            while (await self.socket.receive()).type is aiohttp.WSMsgType.BINARY:
                pass
        assert self.socket.closed


@asynccontextmanager
async def tab(session: aiohttp.ClientSession, url: str) -> AsyncIterator[Tab]:
    """Open a page."""
    async with session.get(url) as answer:
        assert answer.status == 200
        (where,) = re.findall(r'data-session-websocket-url="([^"]+)"', await answer.text())
    async with session.ws_connect(f"{where}?width=120&height=30", origin=url[: url.index("/", 8)]) as socket:
        yield Tab(socket)
