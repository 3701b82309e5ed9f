"""`podwire trace`: get between, record, decode, print. Prints each call as it ends, like tcpdump its packets."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, TextIO

from protos.errors import PodwireError
from protos.hops import HOPS
from tracer.cli.copy_out import CopyOut, Stage
from tracer.cli.decode import (
    Correlated,
    add_output_options,
    load_registry,
    make_filter,
    make_printer,
    positive,
    say_errors,
)
from tracer.cli.talk import confirmed, say
from tracer.cli.web import add_web_option, serve_trace, take_port

if TYPE_CHECKING:  # heavy: imported by run
    from tracer.calls import Update
    from tracer.capture.ring import Ring
    from tracer.capture.room import Floor
    from tracer.live import Live, Say
    from tracer.pipeline import Decoder
    from tracer.relay.targets import Target
    from tracer.reopen import Old

SPOOL = (8, 32)
"""A trace without a file of its own keeps the last so many files of so many MiB each, while it runs."""
_LAG_NS = 200_000_000
"""What has passed may take so long to be in the file: a call is not called unanswered before."""
_STDOUT_S = 1.0
"""At the end, `-w -` has so long to be read out."""

DESCRIPTION = """
Put a relay between the sockets' clients and servers, record what passes, and show the calls: on a terminal on the
screen (? shows its keys; --text prints lines instead), elsewhere as a line each as it ends. Ctrl-C gives every path
back and finishes the file; connections that are open then go on through the relay, unrecorded, until they end
(`draining`). Exit status: 0; 1 if the capture is not complete; 2 for a mistake, with one line that says which.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command, with tcpdump's and dumpcap's letters where they fit."""
    parser = subparsers.add_parser("trace", help="trace this machine's runtime sockets, live", description=DESCRIPTION)
    parser.add_argument("-w", metavar="FILE", help="write the capture (pcapng) there; - is stdout")
    parser.add_argument("-P", action="store_true", help="with -w -: print calls too, on stderr")
    parser.add_argument("-c", metavar="N", type=positive, default=0, help="stop after N packets")
    parser.add_argument("--calls", metavar="N", type=positive, default=0, help="stop after N calls have ended")
    parser.add_argument(
        "-a",
        metavar="duration:S|filesize:KB|files:N",
        type=_stop,
        action="append",
        default=[],
        help="stop after so many seconds, so many kB (of 1000 bytes) of capture, or so many files of -b",
    )
    parser.add_argument(
        "-b",
        metavar="duration:S|filesize:KB|files:N",
        type=_stop,
        action="append",
        default=[],
        help="write a row of files (FILE_00001_YYYYMMDDHHMMSS ...), each of which is read alone: the next one after "
        "so many seconds or kB; keep so many, the oldest go",
    )
    parser.add_argument(
        "--spool",
        metavar="FILESxMIB",
        type=_spool,
        default=SPOOL,
        help="without -w, or with -w -: keep so many files of so many MiB while it runs (8x32)",
    )
    parser.add_argument(
        "--min-free",
        metavar="SIZE|PERCENT",
        type=_floor,
        help="pause while the capture's disk has less free: 2G, 500M, 10%%, 0 (default for the spool, -b and --detach: "
        "15%%, or 5%% more than the kubelet wants; for -w FILE: 64M or 1%%, whichever is less)",
    )
    parser.add_argument(
        "--socket",
        metavar="HOP=PATH",
        action="append",
        default=[],
        help="trace this socket (hops cri, events, nri, other), folder of shims' sockets (task), or folder of VMs or a "
        "socket (agent) instead of the usual ones",
    )
    parser.add_argument("--hop", action="append", choices=HOPS, help="sockets of this hop alone (may be repeated)")
    parser.add_argument(
        "--no-bundle",
        action="store_true",
        help="do not read the folders of containers that calls name into the capture",
    )
    parser.add_argument(
        "-i", metavar="IFACE", default="", help="AF_VSOCK too (QEMU's guests), from a vsockmon interface"
    )
    parser.add_argument(
        "--journal",
        nargs="?",
        const="",
        metavar="FILE",
        help="record the lines of containerd's, CRI-O's, kubelet's and Kata's logs too, from journalctl; from FILE, a "
        "folder of journald's, or a file that grows: journalctl -o export, or their own logs; - is stdin",
    )
    parser.add_argument("--existing", action="store_true", help="trace shims and VMs that run already, too")
    parser.add_argument(
        "--reopen",
        metavar="NAME",
        help="end the connection that this client (a name or pid: kubelet) had before, so that it dials again and is "
        "seen; asks before",
    )
    parser.add_argument("--yes", action="store_true", help="with --reopen: do not ask")
    parser.add_argument("--force", action="store_true", help="exchange a socket although SELinux refuses its label")
    parser.add_argument(
        "--detach", action="store_true", help="go on recording in the background (podwire status, attach, stop)"
    )
    add_output_options(parser)
    add_web_option(parser)


def _stop(text: str) -> tuple[str, float]:
    kind, _, value = text.partition(":")
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if kind not in ("duration", "filesize", "files") or not 0 < number < 1e12 or (kind == "files" and number % 1):
        raise argparse.ArgumentTypeError(f"{text} is not duration:SECONDS, filesize:KB or files:N")
    return kind, number


def _floor(text: str) -> Floor:
    from tracer.capture.room import parse

    try:
        return parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a size (2G, 500M) or a percentage (10%)") from None


def _spool(text: str) -> tuple[int, int]:
    files, _, size = text.partition("x")
    if not (files.isdecimal() and size.isdecimal() and 2 <= int(files) <= 1000 and 1 <= int(size) <= 1 << 20):
        raise argparse.ArgumentTypeError(f"{text} is not FILESxMIB, with two files at least")
    return int(files), int(size)


def make_ring(args: argparse.Namespace, capture: str) -> Ring | None:
    """Return the row of files that the options ask for, None for one file. Raises PodwireError."""
    from tracer.capture.ring import Ring, stamp

    rotate, stops = dict(args.b), dict(args.a)
    if args.w in (None, "-"):
        if rotate:
            raise PodwireError("-b needs -w FILE")
        files, size = args.spool
        return Ring(capture, bytes=size << 20, files=files, since=stamp())
    if not rotate:
        if "files" in stops:
            raise PodwireError("-a files:N needs -b")
        return None
    if not rotate.keys() & {"duration", "filesize"}:
        raise PodwireError("-b files:N needs -b duration:S or -b filesize:KB")
    size = int(rotate.get("filesize", 0) * 1000)
    keep, most = int(rotate.get("files", 0)), int(stops.get("files", 0))
    return Ring(capture, rotate.get("duration", 0.0), size, keep, most, stamp())


def run(
    args: argparse.Namespace,
    say: Say = say,
    through: Stage | None = None,
    tick: Callable[[Live, int], None] | None = None,
) -> int:
    """Trace until told to stop; returns the exit status. What it says goes to `say`, what `-w -` writes goes `through`,
    and `tick` is called twice a second at least, with how many bytes were overwritten before they could go that way."""
    from tracer import discover
    from tracer.capture.journal_source import journal_trouble, open_source
    from tracer.capture.room import FOREGROUND, Limits, background
    from tracer.cli.attach import wants_screen
    from tracer.live import Live, Options, spool_folder
    from tracer.pipeline import Decoder

    if args.detach:
        _check_detach(args)
    if args.web is not None and (args.w == "-" or args.P or args.calls or args.detach):
        raise PodwireError("--web shows the screen: it does not go with -w -, -P, --calls and --detach")
    site = take_port(args)
    registry = load_registry(args)
    filter = make_filter(args, registry)
    targets = discover.find_targets(args.socket, existing=args.existing, hops=args.hop or HOPS)
    targets = discover.check_access(targets)
    if not args.force:
        targets, left_out = discover.without_those_a_pod_would_kill(targets)
        for target in left_out:
            say(
                f"{target.hop} {target.folder}: not traced: this is a pod, whose end would take the relay and then the "
                "containers with it (hostPID and the host's cgroup namespace let it leave the pod; --force overrides)"
            )
    old = _to_reopen(targets, args.reopen, yes=args.yes) if args.reopen else []
    stops = dict(args.a)
    named = args.w not in (None, "-")
    capture = os.path.abspath(args.w) if named else f"{spool_folder()}/trace-{os.getpid()}.pcapng"
    ring = make_ring(args, capture)
    most = int(stops.get("filesize", 0) * 1000)
    floor = args.min_free or (FOREGROUND if ring is None else background())
    limits, bundles = Limits(args.c, most, floor), not args.no_bundle
    logs = None if args.journal is None else open_source(args.journal)
    options = Options(targets, limits, stops.get("duration", 0.0), args.force, ring, args.i, bundles, logs)
    out = None if args.w == "-" and not args.P else (sys.stderr if args.w == "-" else sys.stdout)
    screen = args.web is None and args.w != "-" and not args.detach and not args.calls and wants_screen(args)
    said: list[str] = []

    def tell(text: str) -> None:
        said.append(text)
        say(text)

    live = Live(options, capture, tell, {})
    for target in targets:
        path = discover.target_path(target)
        if target.name:
            live.older[path] = discover.older_connections(path)
    for each in old:
        live.when_taken[each.path] = functools.partial(_reopen, each)
    if args.i:
        tell(f"agent {args.i}: tracing AF_VSOCK")
    if logs is not None:
        tell(f"log {logs.name}: following what the runtimes write")
        if not args.journal and (trouble := journal_trouble()):
            tell(f"log {logs.name}: {trouble}")
    for line in _folders(targets):
        tell(line)
    detached = False
    if named:
        say(f"{args.w} will hold environment, credentials and command lines (podwire redact masks them in a copy)")
    try:
        live.start()
        with closing(live):
            if args.detach and live.detach():
                detached = True
                say(_how_to_go_on(live.session, capture))
                return 0
            copy = None
            if site is not None:
                serve_trace(args, site, live)
            elif screen:
                if _show(args, live, said, capture, bounded=not named or bool(args.b)):
                    detached = True
                    say(_how_to_go_on(live.session, capture))
                    return 0
            else:
                copy = CopyOut(ring, sys.stdout.fileno(), through) if args.w == "-" and ring is not None else None
                wanted = None if filter is None else filter.wants
                shown = None if out is None else Shown(make_printer(args, out, registry, wanted), out, args.calls)
                _follow(live, Decoder(), shown, copy, tick)
                say_errors(filter)
        if copy is not None:
            lost = copy.finish(_STDOUT_S)
            if lost:
                say(f"stdout was not read to the end: {lost} bytes of the capture are lost")
    finally:
        if not named and not detached and ring is not None:
            for _, path in ring.list():
                with suppress(FileNotFoundError):  # another trace that started meanwhile may have removed it
                    os.unlink(path)
    return _ended(live, say)


def _ended(live: Live, say: Say) -> int:
    """Say what is left of a trace; return its exit status. Raises PodwireError."""
    from tracer.sessions import draining_text

    if live.vanished:
        raise PodwireError(f"{live.vanished}: the folder was removed, nothing is left to trace")
    if live.draining:
        say(draining_text(live.draining))
    return 1 if live.failed else 0


def _show(args: argparse.Namespace, live: Live, said: list[str], capture: str, *, bounded: bool) -> bool:
    """Show a trace on the screen until that is left; whether it goes on in the background."""
    from tracer.cli.attach import session_lines_now
    from tracer.cli.open import show
    from tracer.tui.session import LiveSession

    behind = LiveSession(live, said, session_lines_now, bounded=bounded)
    try:
        how = show(args, capture, behind)
    finally:
        live.say = say
        for line in behind.said_meanwhile():
            say(line)
    return how == "detach" and live.detach()


def _to_reopen(targets: list[Target], name: str, *, yes: bool) -> list[Old]:
    """Ask whether this client's old connections shall be ended. Raises PodwireError if not, or if they may not be."""
    from tracer import reopen
    from tracer.output.units import counted

    old = reopen.find(targets, name)
    for each in old:
        what = f"{counted(len(each.sockets), 'connection')} of {each.client.label}, pid {each.client.pid}"
        say(f"--reopen ends {what}, to {each.hop} {each.path}; what is in flight there fails, and cannot be seen")
    if not (yes or confirmed("end them now?", "--reopen")):
        raise PodwireError("nothing was ended, and nothing is traced")
    return old


def _reopen(old: Old) -> None:
    """End connections whose path is ours by now: who dials again comes through us."""
    from tracer import reopen

    about = f"{old.hop} {old.path}: {old.client.label}, pid {old.client.pid}"
    try:
        ended = reopen.end(old)
    except OSError as error:
        say(f"{about}: not reopened: {error.strerror}")
        return
    if ended == len(old.sockets):
        say(f"{about}: old connection ended; its next one is seen")
    else:
        say(f"{about}: {ended} of {len(old.sockets)} old connections ended; the others had ended by themselves")


def _check_detach(args: argparse.Namespace) -> None:
    """Refuse what needs somebody who looks on."""
    if args.w == "-" or args.P or args.calls:
        raise PodwireError("--detach records in the background: it does not go with -w -, -P and --calls")
    if args.w is not None and not args.b:
        raise PodwireError("--detach -w FILE needs -b, or the file would grow without end")


def _how_to_go_on(session: int, capture: str) -> str:
    """What a trace says when it lets go."""
    return (
        f"podwire {session} goes on recording into {capture}: "
        f"podwire attach {session} follows it, podwire stop {session} ends it"
    )


class Shown:
    """Prints a live trace's updates, up to so many ended calls (0: all)."""

    def __init__(self, printer: Correlated, out: TextIO, most_calls: int) -> None:
        self._printer, self._out, self._most = printer, out, most_calls
        self.any_call = False

    @property
    def done(self) -> bool:
        """As many calls have ended as were asked for."""
        return self._printer.shown == self._most > 0

    def show(self, updates: list[Update]) -> None:
        """Print what changed."""
        for update in updates:
            if self.done:
                return
            self._printer.update(update)
            self.any_call = self.any_call or update.kind == "opened"
        self._out.flush()

    def learn(self, updates: list[Update]) -> None:
        """Take what was before: pods and containers are named in it."""
        for update in updates:
            self._printer.learn(update)

    def tick(self) -> None:
        """Time passes without anything changing."""
        if not self.done:
            self._printer.tick(time.time_ns() - _LAG_NS)
            self._out.flush()

    def finish(self, decoder: Decoder) -> None:
        """The capture is complete."""
        self.show(decoder.finish())
        if not self.done:
            self._printer.finish(decoder.now_ns)
        self._out.flush()


def _follow(
    live: Live, decoder: Decoder, shown: Shown | None, copy: CopyOut | None, tick: Callable[[Live, int], None] | None
) -> None:
    """Read the capture as it grows, and show what it tells, until it is complete."""
    from tracer.live import HINT_S

    hint_at = time.monotonic() + HINT_S
    for batch in live.packets():
        if copy is not None:
            copy.copy()
        if tick is not None:
            tick(live, 0 if copy is None else copy.lost)
        if shown is None:
            continue
        for item in batch:
            shown.show(decoder.feed(item))
        shown.tick()
        if shown.done:
            live.leave()
        if shown.any_call:
            hint_at = float("inf")
        elif time.monotonic() > hint_at:
            hint_at = float("inf")
            say("no call yet: `crictl pods`, or any other client of these sockets, makes one")
    if shown is not None:
        shown.finish(decoder)


def _folders(targets: list[Target]) -> Iterator[str]:
    """What a trace says of folders of sockets at its start: a line a folder of shims, and one for all VMs if there is a
    folder of theirs."""
    from tracer import discover

    for target in targets:
        if target.hop == "task":
            yield f"task {target.folder}: {_as_they_start('shims', [target])}"
    vms = [each for each in targets if each.hop == "agent" and not each.name]
    places = discover.vm_places(vms) or [each.folder for each in vms if each.required]
    if places:
        yield f"agent {', '.join(places)}: {_as_they_start('VMs', vms)}"


def _as_they_start(what: str, targets: list[Target]) -> str:
    from tracer import discover

    here = sum(len(discover.sockets_in(each)) for each in targets)
    if not here or targets[0].existing:
        return f"tracing {what} as they start" + (f", and the {here} that run" if here else "")
    return f"tracing {what} as they start; {here} that ran before are left alone (--existing takes them too)"
