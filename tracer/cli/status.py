"""`podwire status`: the sessions of this user: what they trace, what drains, what the capture lacks, who is alive."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # heavy: imported by run
    from tracer.relay.held import HeldSocket
    from tracer.sessions import Connection, Counters, Session


DESCRIPTION = """
List the sessions that trace, drain, or were killed. Changes nothing. Exit status: 0; 1 if a session is not as it should
be (a line that begins with ! says why).
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("status", help="list the sessions that run or drain", description=DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="one JSON object a session (docs/json.md)")


def run(args: argparse.Namespace) -> int:
    """Print each session. Returns 0, or 1 if something is amiss."""
    from tracer.output.escape import escape
    from tracer.sessions import read_sessions

    sessions = read_sessions()
    for session in sessions:
        if args.json:
            print(json.dumps(session_json(session)))
        else:
            print("\n".join(escape(line) for line in session_lines(session, time.time_ns())))
    if not sessions:
        print("podwire: no trace is running, and none drains", file=sys.stderr)
    return 1 if any(session.troubles for session in sessions) else 0


def session_lines(session: Session, now_ns: int) -> list[str]:
    """One session as lines: a heading, then a fact a line."""
    from tracer.output.units import duration

    held = session.held
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(held.since_ns / 1e9))
    lines = [f"podwire {session.pid}: {session.state}, since {began} ({duration(max(0, now_ns - held.since_ns))})"]
    lines += [f"  {about:<9} {text}" for about, text in _facts(session)]
    return lines + [f"! podwire {session.pid}: {trouble}" for trouble in session.troubles]


def _facts(session: Session) -> Iterator[tuple[str, str]]:
    from tracer.output.units import counted
    from tracer.sessions import sandbox_of

    open_now = Counter((each.hop, each.path) for each in session.connections)
    if session.state == "tracing":
        for hop, folder in session.held.folders:
            yield hop, f"{folder}: sockets as they appear"
        for socket in session.held.sockets.values():
            count = open_now[socket.hop, socket.path]
            yield socket.hop, f"{socket.path}: {counted(count, 'connection')}{_of(sandbox_of(socket.server))}"
    elif session.state == "dead":
        for socket in session.held.sockets.values():
            yield socket.hop, f"{socket.path}: held when it was killed"
    held_now = {(socket.hop, socket.path) for socket in session.held.sockets.values()}
    for connection in session.connections:
        if session.state == "draining" or (connection.hop, connection.path) not in held_now:
            yield "draining", connection_text(connection)
    counters = session.counters
    yield "capture", session.capture + (f": {_capture(session, counters)}" if counters else "")
    if counters is not None:
        yield "gaps", _gaps(counters)
        if counters.direct:
            yield "direct", f"{counted(counters.direct, 'connection')} went past the relay and were not seen"
        yield "relay", _relay(session, counters)


def connection_text(connection: Connection) -> str:
    """`task /run/containerd/s/4f… , sandbox 9f57c2b6405e1: connection 3, 1.2 kB sent, 400 B answered`."""
    from tracer.output.units import size

    name = f"{connection.hop or 'a socket'} {connection.path}".rstrip()
    moved = f"{size(connection.sent)} sent, {size(connection.answered)} answered"
    return f"{name}: connection {connection.number}{_of(connection.sandbox)}, {moved}"


def _of(sandbox: str) -> str:
    from tracer.output.units import short_id

    return f", sandbox {short_id(sandbox)}" if sandbox else ""


def _capture(session: Session, counters: Counters) -> str:
    from tracer.output.units import counted, size

    how_far = "being written" if session.recording else counters.recorder.name.lower()
    if session.recording and counters.paused_ns:
        how_far = f"paused since {time.strftime('%H:%M:%S', time.localtime(counters.paused_ns / 1e9))}"
    return f"{counted(counters.packets, 'packet')}, {size(counters.bytes)}, {how_far}"


def _gaps(counters: Counters) -> str:
    from tracer.output.units import counted, size

    parts = []
    if counters.lost_chunks:
        parts.append(
            f"{size(counters.lost_bytes)} in {counted(counters.lost_chunks, 'read')} found no room in the ring"
        )
    if counters.dropped_bytes:
        parts.append(f"{size(counters.dropped_bytes)} did not get onto the disk")
    if counters.dropped_connections:
        whole = counted(counters.dropped_connections, "connection")
        parts.append(f"{whole} came and went while the capture was paused")
    return "; ".join(parts) or "none"


def _relay(session: Session, counters: Counters) -> str:
    from tracer.output.units import counted

    parts = [f"{part.name} {part.pid}{'' if part.alive else ' (not there)'}" for part in session.parts]
    dead = [(counters.deaths, "worker"), (counters.recorder_deaths, "recorder")]
    deaths = ", ".join(counted(count, what) for count, what in dead if count)
    return ", ".join(parts) + (f"; deaths so far: {deaths}" if deaths else "")


def session_json(session: Session) -> dict[str, object]:
    """One session as docs/json.md has it."""
    from tracer.output import JSON_VERSION
    from tracer.output.units import Stamps

    held, counters = session.held, session.counters
    capture: dict[str, object] = {"path": session.capture, "recording": session.recording}
    more: dict[str, object] = {}
    if counters is not None:
        capture |= {"packets": counters.packets, "bytes": counters.bytes, "state": counters.recorder.name.lower()}
        capture["paused"] = session.recording and counters.paused_ns > 0
        more = {
            "gaps": {
                "lost_bytes": counters.lost_bytes,
                "lost_reads": counters.lost_chunks,
                "dropped_bytes": counters.dropped_bytes,
                "dropped_connections": counters.dropped_connections,
            },
            "direct_connections": counters.direct,
            "accepted_connections": counters.accepted,
            "worker_deaths": counters.deaths,
            "recorder_deaths": counters.recorder_deaths,
        }
    return {
        "v": JSON_VERSION,
        "kind": "session",
        "session": session.pid,
        "state": session.state,
        "since": Stamps().text(held.since_ns),
        "folders": [{"hop": hop, "path": folder} for hop, folder in held.folders],
        "sockets": [_socket_json(each) for each in held.sockets.values()],
        "connections": [_connection_json(each) for each in session.connections],
        "capture": capture,
        "processes": [{"name": part.name, "pid": part.pid, "alive": part.alive} for part in session.parts],
        **more,
        "troubles": session.troubles,
    }


def _socket_json(socket: HeldSocket) -> dict[str, object]:
    from tracer.sessions import sandbox_of

    about: dict[str, object] = {"hop": socket.hop, "path": socket.path, "server_pid": socket.server}
    sandbox = sandbox_of(socket.server)
    return about | ({"sandbox": sandbox} if sandbox else {})


def _connection_json(connection: Connection) -> dict[str, object]:
    about: dict[str, object] = {
        "connection": connection.number,
        "hop": connection.hop,
        "socket": connection.path,
        "client_pid": connection.client,
        "server_pid": connection.server,
        "request_bytes": connection.sent,
        "response_bytes": connection.answered,
    }
    return about | ({"sandbox": connection.sandbox} if connection.sandbox else {})
