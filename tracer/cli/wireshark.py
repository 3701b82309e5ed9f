"""`podwire wireshark`: open a capture in Wireshark with all that it needs, or install that for good."""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from protos.errors import PodwireError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "wireshark",
        help="open a capture in Wireshark, ready; install what it needs",
        description="Open FILE in Wireshark with podwire's dissector and schemas. `install` puts them into a Wireshark "
        "profile named podwire, `uninstall` takes them away; a file of such a name is ./install.",
    )
    parser.add_argument("what", metavar="FILE|install|uninstall", nargs="?", help="a capture, or what to do")
    parser.add_argument(
        "--print", dest="show", action="store_true", help="say the tshark command line that does the same"
    )


def run(args: argparse.Namespace) -> int:
    """Do it. Returns 0; does not return if Wireshark starts. Raises PodwireError."""
    from tracer.wireshark import profile
    from tracer.wireshark.folders import find_folders, find_program
    from tracer.wireshark.install import install, is_installed, uninstall

    if args.show:
        command = ["tshark", *profile.options(), "-r", args.what or "FILE"]
        print(shlex.join(command))
        return 0
    if args.what is None:
        raise PodwireError("wireshark needs a capture file, install or uninstall")
    if args.what == "install":
        folders = find_folders()
        for path in install(folders):
            print(path)
        told = [f"podwire: choose the profile `{profile.NAME}` in Wireshark, or start it with -C {profile.NAME}"]
        if not folders.extcap_is_searched:
            told.append(
                "podwire: this Wireshark has no personal folder of capture programs. To have `podwire` among its "
                f"interfaces, copy {folders.extcap}/podwire to {folders.global_extcap or 'its extcap folder'} as root, "
                f"or start it with WIRESHARK_EXTCAP_DIR={shlex.quote(str(folders.extcap))} (then it has no others; "
                "Wireshark ignores that as root)"
            )
        print("\n".join(told), file=sys.stderr)
        return 0
    if args.what == "uninstall":
        gone = uninstall(find_folders())
        for path in gone:
            print(path)
        if not gone:
            print("podwire: nothing was installed", file=sys.stderr)
        return 0
    if not os.access(args.what, os.R_OK):
        raise PodwireError(f"{args.what}: cannot be read")
    program = find_program("wireshark")
    how = ["-C", profile.NAME] if is_installed(find_folders()) else profile.options()
    os.execv(program, [program, *how, "-r", args.what])
