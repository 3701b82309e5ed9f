"""A user's own schemas: a folder of .proto files, or a descriptor set that protoc wrote.

In: a path. Out: FileDescriptorProtos. Whatever is wrong with them is a PodwireError of one line.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError

from protos.errors import PodwireError


def compile_folder(path: str, schemas: str) -> list[FileDescriptorProto]:
    """Compile every .proto below `path`, which is their import root; what they import may come from `schemas` too.

    Raises PodwireError: no such folder, nothing in it, grpcio-tools missing, or what protoc says first.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise PodwireError(f"{path}: no such folder of .proto files")
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.proto"))
    if not names:
        raise PodwireError(f"{path}: holds no .proto file")
    tools = importlib.util.find_spec("grpc_tools")
    if tools is None or tools.origin is None:
        raise PodwireError(f"{path}: compiling .proto files needs grpcio-tools (pip install 'podwire[proto]')")
    with tempfile.TemporaryDirectory(prefix="podwire-proto-") as temporary:
        target = os.path.join(temporary, "set.binpb")
        # In a process of its own: protoc writes its reasons to descriptor 2, not to sys.stderr.
        roots = (f"-I{folder}", f"-I{Path(tools.origin).parent / '_proto'}", f"-I{schemas}")
        command = [sys.executable, "-m", "grpc_tools.protoc", *roots, "--include_imports"]
        command += [f"--descriptor_set_out={target}", *names]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            reasons = [line for line in done.stderr.splitlines() if line.strip() and " warning: " not in line]
            reason = reasons[0].strip().removeprefix(f"{folder}/") if reasons else f"exit status {done.returncode}"
            raise PodwireError(f"{path}: protoc refuses it: {reason}")
        return read_descriptor_set(target)


def read_descriptor_set(path: str) -> list[FileDescriptorProto]:
    """Read a serialised FileDescriptorSet. Raises PodwireError: not readable, or not one."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise PodwireError(f"{path}: {error.strerror}") from error
    try:
        files = list(FileDescriptorSet.FromString(data).file)
    except DecodeError:
        files = []
    if not files or not all(file.name for file in files):
        raise PodwireError(f"{path}: is no descriptor set (protoc --include_imports --descriptor_set_out=F makes one)")
    return files
