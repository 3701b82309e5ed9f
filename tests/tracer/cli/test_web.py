"""`--web`: one trace, any number of pages; nothing without the token; nothing left at the end."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tracer.cli.browser import SECONDS, aiohttp, tab, url_of
from tests.tracer.cli.live import Running, Start, client, run
from tests.tracer.cli.sessions import eventually, gone, of_folder
from tests.tracer.tui.screen import POD
from tracer import processes
from tracer.web.address import listen, parse
from tracer.web.server import Pages, serve

Serve = Callable[..., Running]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serve]:
    """Starts a command."""
    running: list[Running] = []

    def start(*words: str) -> Running:
        running.append(Running(tmp_path, *words))
        return running[-1]

    yield start
    for each in running:
        each.close()


def commands() -> dict[int, bytes]:
    """The command line of each process there is."""
    found = {}
    for pid in processes.pids():
        try:
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:  # it has ended
            continue
    return found


def children_of(pid: int) -> set[int]:
    """All that this process started, and they."""
    parents = {}
    for each in processes.pids():
        try:
            stat = Path(f"/proc/{each}/stat").read_text()
        except OSError:  # it has ended
            continue
        parents[each] = int(stat.rpartition(")")[2].split()[1])
    found, more = set[int](), {pid}
    while more:
        more = {each for each, parent in parents.items() if parent in more}
        found |= more
    return found


def alive(pids: set[int]) -> set[int]:
    return pids & set(processes.pids())


def test_a_trace_is_seen_by_any_number_of_pages_and_outlives_them(folder: Path, server: Path, trace: Start) -> None:
    inode = server.stat().st_ino
    running = trace("--web", "0", "-w", f"{folder}/web.pcapng")
    url = url_of(running)
    port = int(url.split(":")[2].split("/")[0])
    relay = children_of(running.process.pid)

    async def look(call: Callable[..., object]) -> set[int]:
        async with aiohttp.ClientSession() as one, aiohttp.ClientSession() as other:
            async with tab(one, url) as first, tab(other, url) as second:
                await first.wait_for("in flight")
                await second.wait_for("in flight")
                await asyncio.to_thread(call, "Version", version="both")
                await first.wait_for("Version")
                await second.wait_for("Version")
                await first.type("q")  # that page's screen ends, and no more
                await first.closed()
                pending = await asyncio.to_thread(call, "Status", wait=False)
                await second.wait_for("1 in flight")
                pending.cancel()  # type: ignore[attr-defined] # of grpcio's future
                second.kill()
            await asyncio.to_thread(
                eventually, lambda: children_of(running.process.pid) <= relay, "their screens to end"
            )
            async with tab(one, url) as third:
                await third.wait_for("2/2 ")
                started = children_of(running.process.pid)
                token = url.rstrip("/").rpartition("/")[2].encode()
                assert not [line for line in commands().values() if token in line]
                assert b"attach" in b"\n".join(commands()[pid] for pid in alive(started))
                running.process.send_signal(signal.SIGINT)
                await third.closed()
                return started

    with client(server) as call:
        started = asyncio.run(look(call))
    assert running.process.wait(SECONDS) == 0
    assert server.stat().st_ino == inode
    assert not running.printed()
    eventually(lambda: not alive(started), "all that it started to end")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=SECONDS)


def test_while_its_relay_drains_the_port_is_free(folder: Path, server: Path, trace: Start) -> None:
    running = trace("--web", "0")
    port = int(url_of(running).split(":")[2].split("/")[0])
    with client(server) as call:
        call("Version", version="open")
        assert running.interrupt() == 0
        assert "draining: 1 connection" in "\n".join(running.said())
        (session,) = of_folder(folder)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    gone(session.pid)


def test_at_its_limit_a_trace_stays_to_be_looked_at(folder: Path, server: Path, trace: Start) -> None:
    running = trace("--web", "0", "-c", "1", "-w", f"{folder}/web.pcapng")
    url = url_of(running)
    with client(server) as call:
        call("Version", version="one")
    running.wait_for(lambda: "the trace has ended; its pages stay until Ctrl-C" in running.said())

    async def look() -> None:
        async with aiohttp.ClientSession() as session, tab(session, url) as page:
            await page.wait_for("in flight")

    asyncio.run(look())
    assert running.interrupt() == 0


def test_nobody_gets_in_without_the_token_or_by_another_name(serving: Serve) -> None:
    url = url_of(serving("open", "--web", "0", str(POD)))
    base, token = url[: url.index("/", 8)], url.rstrip("/").rpartition("/")[2]
    routes = ("", "ws", "static/js/textual.js", "static/css/xterm.css", "static/", "static/../server.py", "download/1")
    wrong = "x" * len(token)

    async def look() -> None:
        async with aiohttp.ClientSession() as session:

            async def status(url: str, **headers: str) -> int:
                async with session.get(url, headers=headers) as answer:
                    body = await answer.text()
                    assert token not in body or answer.status == 200
                    return answer.status

            for route in routes:
                for path in (route, f"{wrong}/{route}", f"{token[:-1]}/{route}", f"/{token}/{route}", f"%00/{route}"):
                    assert await status(f"{base}/{path}") == 404, path
            assert await status(url) == await status(f"{url}static/js/textual.js") == 200
            for route in routes:
                assert await status(url + route, Host="evil.example") == 403
                assert await status(url + route, Origin="http://evil.example") == 403
            for route in ("static/../server.py", "static/%2e%2e/server.py", "static//etc/passwd", "download/1"):
                assert await status(url + route) == 404
            with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
                await session.ws_connect(f"{base}/{wrong}/ws")
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await session.ws_connect(f"{url}ws", origin="http://evil.example")
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await session.ws_connect(f"{url}ws", headers={"Host": "evil.example"})

    asyncio.run(look())


def test_the_page_fetches_nothing_from_elsewhere(serving: Serve) -> None:
    url = url_of(serving("open", "--web", "0", str(POD)))

    async def look() -> None:
        async with aiohttp.ClientSession() as session:
            async with session.get(url) as answer:
                page, headers = await answer.text(), answer.headers
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert f"connect-src ws://{url.split('/')[2]};" in headers["Content-Security-Policy"]
            assert headers["Referrer-Policy"] == "no-referrer"
            wanted = re.findall(r'(?:src|href)="([^"]*)"|url\("([^"]*)"\)', page)
            names = {one or other for one, other in wanted} - {"", "data:,"}
            assert len(names) == 4
            for name in names:
                async with session.get(url + name) as answer:
                    assert answer.status == 200, name
                    assert "//" not in name

    asyncio.run(look())


def test_a_capture_is_opened_and_played(serving: Serve) -> None:
    opened = serving("open", "--web", "0", "-Y", "call.failed", str(POD))

    async def look(url: str, *words: str) -> None:
        async with aiohttp.ClientSession() as session, tab(session, url) as page:
            for each in words:
                await page.wait_for(each)
            await page.socket.send_str("no JSON")  # what no page sends is passed over
            await page.socket.send_json({"stdin": 1})
            await page.socket.send_json(["resize", {"width": 10**9, "height": 1}])
            await page.socket.send_json(["ping", "1"])
            await page.type("?")
            await page.wait_for("keys (esc: back)")
            assert page.said == ['["pong", "1"]']

    asyncio.run(look(url_of(opened), "of 104", "[filter call.failed]"))
    assert opened.interrupt() == 0
    played = serving("replay", "--speed", "1000", "--web", "0", str(POD))
    asyncio.run(look(url_of(played), "/104 "))
    played.process.send_signal(signal.SIGTERM)
    assert played.process.wait(SECONDS) == 0


def test_a_session_is_attached_to_and_goes_on(
    folder: Path, detach: Callable[..., int], server: Path, serving: Serve
) -> None:
    number = detach("-w", f"{folder}/web.pcapng", "-b", "filesize:100000")
    running = serving("attach", "--web", "0")
    url = url_of(running)

    async def look(call: Callable[..., object]) -> None:
        async with aiohttp.ClientSession() as session, tab(session, url) as page:
            await page.wait_for("in flight")
            await asyncio.to_thread(call, "Version", version="seen")
            await page.wait_for("Version")

    with client(server) as call:
        asyncio.run(look(call))
    assert running.interrupt() == 0
    assert f"podwire {number} goes on: podwire stop {number} ends it" in running.said()


def test_killed_it_takes_its_screens_along(serving: Serve) -> None:
    running = serving("open", "--web", "0", str(POD))
    url = url_of(running)
    started = set[int]()

    async def look() -> None:
        async with aiohttp.ClientSession() as session, tab(session, url) as page:
            await page.wait_for("1/104 ")
            started.update(children_of(running.process.pid))
            running.process.kill()
            running.process.wait()

    asyncio.run(look())
    assert started
    eventually(lambda: not alive(started), "its screens to end")


def test_why_a_screen_ends_is_said_here_and_in_the_page() -> None:
    said: list[str] = []
    site = listen(parse("0"))
    complaint = "import sys; sys.exit('no \\x1b[31m such thing')"
    over = asyncio.Event()

    async def look() -> None:
        pages = Pages(site, lambda: [sys.executable, "-c", complaint], said.append)
        serving = asyncio.create_task(serve(pages, over.is_set))
        async with aiohttp.ClientSession() as session, tab(session, site.url) as page:
            await page.wait_for("no \\x1b[31m such thing")
            await page.closed()
        over.set()
        await serving

    asyncio.run(look())
    assert said == ["--web: a screen ended: no \x1b[31m such thing"]  # `say` escapes it


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("trace", "--web", "0", "--text"), "--web shows the screen: it does not go with --text, --json and -v"),
        (("trace", "--web", "0", "-w", "-"), "--web shows the screen: it does not go with -w -, -P, --calls and"),
        (("attach", "--web", "0", "-v"), "--web shows the screen: it does not go with --text, --json and -v"),
        (("open", "--web", "127.0.0.1", str(POD)), "127.0.0.1 is not [ADDRESS:]PORT"),
        (("open", "--web", "192.0.2.1:0", str(POD)), "--web 192.0.2.1:0: Cannot assign requested address"),
        (("open", "--web", "0", "/nowhere"), "/nowhere: cannot be read: no such file or directory"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], why: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert why in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_without_textual_serve_it_is_said_what_to_install() -> None:
    without = "import sys; sys.modules['textual_serve'] = None; from tracer.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", without, "open", "--web", "0", str(POD)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    how = f"{sys.executable} -m pip install 'podwire[web]'"
    assert done.stderr == f"podwire: --web needs the package textual-serve: {how}\n"


def test_who_lets_other_machines_in_is_told_what_that_means(serving: Serve) -> None:
    running = serving("open", "--web", "0.0.0.0:0", str(POD))
    url_of(running)
    warning = "--web: other machines reach this page, and neither its URL nor the trace is encrypted on the way"
    assert warning in running.said()
