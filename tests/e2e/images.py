"""An OCI image layout made of this machine's static busybox, so that a runtime without a registry has images to run.

In: the path of busybox. Out: a tar that `ctr images import` takes. It knows nothing of who runs the images.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

PAUSE_IMAGE = "podwire.test/pause:1"
BUSYBOX_IMAGE = "podwire.test/busybox:1"
BUSYBOX = Path("/bin/busybox")

LINKS = ("cat", "dd", "echo", "env", "false", "head", "id", "kill", "ls", "ps", "sh", "sleep", "tail", "true", "yes")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_image_layout(target: Path, busybox: Path = BUSYBOX) -> None:
    """Write an OCI layout (image-spec v1.0) with PAUSE_IMAGE and BUSYBOX_IMAGE as one tar file."""
    layer = _layer(busybox.read_bytes())
    blobs: dict[str, bytes] = {}

    def blob(media_type: str, data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    manifests = []
    for name, command in ((PAUSE_IMAGE, ["/bin/sleep", "100000"]), (BUSYBOX_IMAGE, ["/bin/sh"])):
        config = {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": command, "Labels": {"podwire.test": name}},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob("application/vnd.oci.image.config.v1+json", json.dumps(config).encode()),
            "layers": [blob("application/vnd.oci.image.layer.v1.tar", layer)],
        }
        entry = blob("application/vnd.oci.image.manifest.v1+json", json.dumps(manifest).encode())
        manifests.append(entry | {"annotations": {"io.containerd.image.name": name}})
    blobs["oci-layout"] = json.dumps({"imageLayoutVersion": "1.0.0"}).encode()
    blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    with tarfile.open(target, "w") as tar:
        for name, data in blobs.items():
            _add_file(tar, name, data, 0o644)


def _layer(busybox: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("bin", "etc", "proc", "sys", "dev", "tmp"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        _add_file(tar, "bin/busybox", busybox, 0o755)
        for link in LINKS:
            info = tarfile.TarInfo(f"bin/{link}")
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(info)
        _add_file(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n", 0o644)
        _add_file(tar, "etc/group", b"root:x:0:\n", 0o644)
    return buffer.getvalue()


def _add_file(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))
