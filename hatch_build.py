"""Build hook: compile `protos/schemas/` into the one descriptor set that the registry loads, and put it in the wheel.

It is written into the source tree, where an editable install finds it, and carried by the wheel as an artifact. The
manual page is made too; the wheel carries it to the `share/man` of where it is installed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuiltFilesHook(BuildHookInterface):
    """hatchling's custom hook; runs for wheels, editable ones too. The sdist carries the .proto files alone."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write protos/descriptors.binpb and the manual page. Raises RuntimeError if protoc refuses a schema; its
        reasons are on stderr."""
        if self.target_name != "wheel":
            return
        from grpc_tools import protoc

        schemas = Path(self.root, "protos", "schemas")
        target = Path(self.root, "protos", "descriptors.binpb")
        names = sorted(path.relative_to(schemas).as_posix() for path in schemas.rglob("*.proto"))
        if protoc.main(["protoc", f"-I{schemas}", f"--descriptor_set_out={target}", *names]):
            raise RuntimeError(f"protoc refused the schemas in {schemas}")
        build_data["artifacts"].append("protos/descriptors.binpb")

        page = Path(self.root, "build", "podwire.1")
        page.parent.mkdir(exist_ok=True)
        words = [sys.executable, "-m", "tracer.cli.manual"]
        page.write_bytes(subprocess.run(words, cwd=self.root, stdout=subprocess.PIPE, check=True).stdout)
        build_data["shared_data"][str(page)] = "share/man/man1/podwire.1"
