"""The page, its files, and a websocket for each screen: HTTP on one port, all of it below a token.

The terminal in the page, and what it says over the websocket, is textual-serve's. The page is our own: theirs loads a
font from the internet, which a node does not have. Who does not know the token gets nothing, whatever he asks for.
"""

from __future__ import annotations

import asyncio
import html
import json
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

import textual_serve
from aiohttp import WSCloseCode, WSMsgType, web

from tracer.output.escape import escape
from tracer.web.address import Site
from tracer.web.process import ScreenProcess, start_screen

_LOOK_S = 0.1
"""So often it is asked whether all is over."""
_HEARTBEAT_S = 15.0
"""A browser that does not answer for so long has gone, and its screen with it."""
_END_S = 5.0
"""All screens have so long to end."""
_MOST = 1000
"""Columns or rows that a browser may ask for."""
_MOST_BYTES = 1 << 20
"""Of one message of a browser: what is pasted."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the URL has the token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self'; img-src data:; "
    "connect-src ws://{host}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True, eq=False)
class Pages:
    """What is served. `command` says, for each new page, what makes its screen."""

    site: Site
    command: Callable[[], Sequence[str]]
    say: Callable[[str], None]
    _open: set[Any] = field(default_factory=set)
    """Websockets."""

    def application(self) -> web.Application:
        """What aiohttp runs."""
        guard = partial(self._guard)  # aiohttp marks it, which a method does not take
        application = web.Application(middlewares=[web.middleware(guard)])
        # The token is a part like any other to the routes: how long they take to find theirs says nothing about it.
        application.router.add_get("/{token}/", self._page)
        application.router.add_get("/{token}/ws", self._screen)
        application.router.add_get("/{token}/static/{name:.+}", self._file)
        application.on_response_prepare.append(_add_headers)
        application.on_shutdown.append(self._close)
        return application

    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in who knows the token, from a page of ours or from no page at all."""
        token = request.path.split("/")[1]
        if not self.site.known(request.host):
            raise web.HTTPForbidden(text="not by this name\n")
        if not secrets.compare_digest(_bytes(token), _bytes(self.site.token)):
            raise web.HTTPNotFound(text="nothing here\n")
        if request.headers.get("Origin", f"http://{request.host}") != f"http://{request.host}":
            raise web.HTTPForbidden(text="not from another page\n")
        return await handler(request)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        page = Template(Path(__file__).with_name("page.html").read_text("utf-8"))
        where = f"ws://{request.host}/{self.site.token}/ws"
        text = page.substitute(websocket=html.escape(where), node=html.escape(socket.gethostname()))
        headers = {"Content-Security-Policy": _POLICY.format(host=request.host)}
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path = _STATIC.get(request.match_info["name"])
        if path is None:
            raise web.HTTPNotFound(text="nothing here\n")
        return web.FileResponse(path)

    async def _screen(self, request: web.Request) -> web.StreamResponse:
        """One browser's screen, from its connection to its end, whichever of the two comes first."""
        websocket = web.WebSocketResponse(heartbeat=_HEARTBEAT_S, max_msg_size=_MOST_BYTES)
        await websocket.prepare(request)
        self._open.add(websocket)
        try:
            columns, rows = (_count(request.query.get(name, "")) for name in ("width", "height"))
            screen = await start_screen(self.command(), columns or 80, rows or 24)
            with screen.stderr:
                showing = asyncio.create_task(self._show(screen, websocket))
                try:
                    async for message in websocket:
                        if message.type is WSMsgType.TEXT:
                            await _pass_on(message.data, screen, websocket)
                finally:
                    await screen.end()
                    showing.cancel()
                    await asyncio.gather(showing, return_exceptions=True)
                    for line in screen.said()[-1:]:
                        self.say(f"--web: a screen ended: {line}")
        finally:
            self._open.discard(websocket)
        return websocket

    async def _show(self, screen: ScreenProcess, websocket: web.WebSocketResponse) -> None:
        with suppress(ConnectionError):  # the browser has gone, which who reads it learns too
            async for output in screen.output():
                await websocket.send_bytes(output)
            await screen.process.wait()
            if said := screen.said():
                await websocket.send_bytes("".join(f"{escape(line)}\r\n" for line in said).encode())
            await websocket.close()

    async def _close(self, _: web.Application) -> None:
        """All pages are told that it is over."""
        await asyncio.gather(*(each.close(code=WSCloseCode.GOING_AWAY) for each in [*self._open]))


async def _pass_on(text: str, screen: ScreenProcess, websocket: web.WebSocketResponse) -> None:
    """Do what the page's terminal says; what it never says is passed over."""
    try:
        message = json.loads(text)
    except ValueError:
        return
    match message:
        case ["stdin", str(typed)]:
            await screen.type(typed)
        case ["resize", {"width": int(width), "height": int(height)}] if 0 < width <= _MOST and 0 < height <= _MOST:
            await screen.tell("resize", width=width, height=height)
        case ["focus" | "blur" as what]:
            await screen.tell(what)
        case ["ping", str(when)]:
            await websocket.send_json(["pong", when])


async def serve(pages: Pages, over: Callable[[], bool]) -> None:
    """Serve until it is over; the port is free then, and each screen has ended."""
    log = logging.Logger("web")  # of its own: no line of it names a URL
    log.addHandler(_Said(pages.say))
    runner = web.AppRunner(pages.application(), access_log=None, logger=log, shutdown_timeout=_END_S)
    await runner.setup()
    try:
        await web.SockSite(runner, pages.site.listener).start()
        while not over():
            await asyncio.sleep(_LOOK_S)
    finally:
        await runner.cleanup()


class _Said(logging.Handler):
    """What aiohttp has to say goes where we speak, as one line."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._say(f"--web: {record.getMessage()}" + (f": {type(error).__name__}: {error}" if error else ""))


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _static_files() -> dict[str, Path]:
    """What a page needs, by its name below `static/`: textual-serve's files, and our script."""
    folder = Path(textual_serve.__file__).parent / "static"
    theirs = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {**theirs, "page.js": Path(__file__).with_name("page.js")}


_STATIC = _static_files()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _count(text: str) -> int:
    return min(int(text), _MOST) if text.isascii() and text.isdecimal() and len(text) < 6 else 0
