"""`podwire doctor`: what is here, what can be traced, what cannot and why; `--mend` gives back what a crash left."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # heavy: imported by run
    from tracer.relay.targets import Target
    from tracer.sessions import Session

SIGNS = {"ok": "✓", "no": "✗", "note": "·"}

DESCRIPTION = """
Say which runtime sockets are here, which of them can be traced, and what runs or was left behind. Changes nothing
without --mend. Exit status: 0 if something can be traced and nothing is left to mend, else 1.
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    state: str
    """ok, no, or note (neither good nor bad)."""
    about: str
    text: str


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("doctor", help="say what can be traced here", description=DESCRIPTION)
    parser.add_argument("--mend", action="store_true", help="give back the paths that a crashed podwire left")
    parser.add_argument("--json", action="store_true", help="one JSON object a line: state, about, text")
    parser.add_argument(
        "--socket", metavar="HOP=PATH", action="append", default=[], help="look at this socket or folder as well"
    )


def run(args: argparse.Namespace) -> int:
    """Print the report; returns the exit status."""
    from tracer.output.escape import escape

    findings = []
    for finding in _all(args.socket, mend_now=args.mend):
        findings.append(finding)
        if args.json:
            print(json.dumps(asdict(finding)), flush=True)
        else:
            print(escape(f"{SIGNS[finding.state]} {finding.about}: {finding.text}"), flush=True)
    traceable = any(
        finding.state == "ok" and finding.about.split()[0] in ("cri", "events", "nri", "other") for finding in findings
    )
    to_mend = any(finding.about == "left behind" and finding.state == "no" for finding in findings)
    return 0 if traceable and not to_mend else 1


def _all(named: list[str], *, mend_now: bool) -> Iterator[Finding]:
    yield from _sessions(mend_now=mend_now)
    yield from _spools(mend_now=mend_now)
    yield from _sockets(named)
    yield Finding(
        "note",
        "the one risk",
        "if worker and holder of a relay are killed in the same instant, the connections they carry are lost, and "
        "containerd removes the containers of a shim whose connection is lost; either one alone, Ctrl-C, a closed "
        "terminal, killing podwire trace, upgrading and uninstalling are safe",
    )


def _sessions(*, mend_now: bool) -> Iterator[Finding]:
    """Running traces, draining ones, and what crashed ones left (E9)."""
    from tracer import sessions
    from tracer.output.units import counted

    for session in sessions.read_sessions():
        held = session.held
        about = f"podwire {session.pid}"
        paths = ", ".join(socket.path for socket in held.sockets.values()) or "no socket"
        if session.state == sessions.DEAD:
            yield from _dead(session, paths, mend_now=mend_now)
            continue
        if session.state == sessions.DRAINING:
            number = counted(len(session.connections), "connection")
            yield Finding("note", about, f"draining: forwards {number} until the end of each")
        else:
            text = f"traces {paths} into {session.capture} (podwire stop {session.pid} ends it)"
            yield Finding("note", about, text)
        for trouble in session.troubles:
            yield Finding("no", about, trouble)


def _dead(session: Session, paths: str, *, mend_now: bool) -> Iterator[Finding]:
    from tracer.relay.held import locked, runtime_folder
    from tracer.sessions import lost_with, mend_dead

    name = f"podwire {session.pid}"
    lost = lost_with(session.held)
    if lost:
        yield Finding("no", f"lost with {name}", lost)
    if not mend_now:
        yield Finding("no", "left behind", f"{name} died holding {paths}: podwire doctor --mend gives it back")
        return
    with locked(runtime_folder()):
        done = mend_dead(session.held)
    for path, left in done:
        yield Finding("ok", "mended", f"{path} of {name}: {left.value}")
    yield Finding("ok", "mended", f"what {name} left in {runtime_folder()}")


def _spools(*, mend_now: bool) -> Iterator[Finding]:
    """Captures without a name that nobody will read any more; the next trace would remove them too."""
    from tracer import spool
    from tracer.relay.held import locked, make_runtime_folder, runtime_folder

    if not mend_now:
        for path in spool.forgotten():
            text = f"{path}: the capture of a trace that has ended; the next podwire trace removes it"
            yield Finding("note", "spool", text)
        return
    make_runtime_folder(runtime_folder())
    with locked(runtime_folder()):
        removed = spool.remove_forgotten()
    for path in removed:
        yield Finding("ok", "removed", f"{path}, the capture of a trace that has ended")


def _sockets(named: list[str]) -> Iterator[Finding]:
    from protos.errors import PodwireError
    from tracer import discover

    try:
        targets = discover.find_targets(named, existing=False)
    except PodwireError as error:
        yield Finding("no", "sockets", str(error))
        return
    vms = [each for each in targets if each.hop == "agent" and not each.name]
    for target in [each for each in targets if each not in vms]:
        about = f"{target.hop} {discover.target_path(target)}"
        try:
            discover.check_access([target._replace(required=True)])
        except PodwireError as error:
            yield Finding("no", about, str(error).removeprefix(f"{about}: "))
            continue
        if target.name:
            yield from _main_socket(about, discover.target_path(target))
        else:
            yield _folder(about, target.folder, len(discover.sockets_in(target)))
    if vms:
        yield _vms(vms)
    yield from _vsock()
    yield from _journal()


def _folder(about: str, folder: str, count: int) -> Finding:
    if not os.path.isdir(folder):
        return Finding("ok", about, "is not there yet; traced as soon as it comes (with the first pod)")
    running = f"; {count} run now, which only --existing traces" if count else ""
    return Finding("ok", about, f"shims can be traced as they start{running}")


def _vms(targets: list[Target]) -> Finding:
    from protos.errors import PodwireError
    from tracer import discover
    from tracer.relay.targets import Target

    places = discover.vm_places(targets)
    if not places:
        wanted = sorted({discover.above_vms(each.folder) for each in targets})
        return Finding("note", f"agent {', '.join(wanted)}", "no VM of Kata's has run here; traced as they come")
    about = f"agent {', '.join(places)}"
    try:
        discover.check_access([Target("agent", place, "", existing=False, required=True) for place in places])
    except PodwireError as error:
        return Finding("no", about, str(error).partition(": ")[2])
    count = sum(len(discover.sockets_in(each)) for each in targets)
    running = f"; {count} run now, which only --existing traces" if count else ""
    return Finding("ok", about, f"VMs with hybrid vsock can be traced as they start{running}")


def _vsock() -> Iterator[Finding]:
    """AF_VSOCK has no path to exchange: it is seen on a vsockmon interface."""
    from tracer.capture import monitor

    names = monitor.interfaces()
    if not names:
        yield Finding(
            "note", "agent AF_VSOCK", f"QEMU's guests are seen by trace -i vsockmon0, after: {monitor.HOW_TO_MAKE}"
        )
    for name in names:
        if monitor.is_up(name):
            yield Finding("ok", f"agent {name}", f"AF_VSOCK can be traced: trace -i {name}")
        else:
            yield Finding("note", f"agent {name}", f"is down: ip link set {name} up, then trace -i {name}")


def _journal() -> Iterator[Finding]:
    """The runtimes' own words, which a trace can record beside their calls."""
    from protos.errors import PodwireError
    from tracer.capture.journal_source import journal_trouble, open_source

    try:
        open_source("")
    except PodwireError:
        yield Finding("note", "log the journal", "no journalctl here: trace --journal FILE records one that is a file")
        return
    trouble = journal_trouble()
    yield Finding("note" if trouble else "ok", "log the journal", trouble or "can be recorded too: trace --journal")


def _main_socket(about: str, path: str) -> Iterator[Finding]:
    from tracer import discover, processes
    from tracer.relay import mounts, sockdiag
    from tracer.relay.exchange import answers

    status = os.stat(path)
    listener = sockdiag.find_listener(status.st_ino, status.st_dev)
    if listener is None and not answers(path):
        yield Finding("no", about, "nobody listens on it: its server has ended or is not up yet")
        return
    holder = processes.holders({listener.inode}).get(listener.inode) if listener is not None else None
    server = processes.describe(holder) if holder else None
    who = f"{server.label}, pid {server.pid}" if server is not None else "a server that this user cannot see"
    if listener is not None and os.geteuid() != 0 and listener.uid not in (-1, os.geteuid()):
        yield Finding("no", about, f"{who}, runs as uid {listener.uid}: run podwire as that user, or as root")
        return
    older = discover.older_connections(path)
    text = f"{who}; can be traced"
    if older.count:
        text += f" ({older.count} connections are open now and would not be seen)"
    yield Finding("ok", about, text)
    for client in older.clients:
        yield Finding("note", about, f"connected: {client.label}, pid {client.pid}: {discover.how_to_reopen(client)}")
    mounted = {each.pid for each in mounts.mounted_files() if each and mounts.names_file(each, path, status.st_dev)}
    for pid in sorted(mounted):
        yield Finding(
            "note", about, f"mounted in {discover.container_name(pid)}: what goes through that mount bypasses a trace"
        )
