"""Bundles for people and programs: which is a sandbox's and which a container's, and what lay in them.

In: a bundle. Out: a JSON object, lines. What is secret in its files is masked unless it is asked for.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from dissectors.json_value import JSONValue, parse_json
from dissectors.masking_json import mask_json
from tracer.capture.bundle import Bundle, BundleFile
from tracer.output.escape import escape
from tracer.output.units import size

_TYPES = ("io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType")
_SANDBOXES = ("io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID")
"""Annotations of the specification, of containerd's CRI and of CRI-O."""
SPECIFICATION = "config.json"


def masked(file: BundleFile) -> BundleFile:
    """Return a file with what is secret in it masked, if it is JSON."""
    if file.content[:64].lstrip()[:1] not in (b"{", b"["):
        return file
    content = bytearray(file.content)
    mask_json(content, 0, len(content))
    return file._replace(content=bytes(content))


def document(file: BundleFile) -> JSONValue:
    """Return the JSON in a file; None if it is none."""
    try:
        return parse_json(file.content)
    except ValueError:
        return None


def role(specification: JSONValue) -> tuple[str, str]:
    """Return `sandbox` or `container` and the id of the sandbox, as an OCI specification's annotations say it; empty if
    they do not."""
    annotations = specification.get("annotations") if isinstance(specification, dict) else None
    if not isinstance(annotations, dict):
        return "", ""
    kinds = [annotations[name] for name in _TYPES if isinstance(annotations.get(name), str)]
    ids = [annotations[name] for name in _SANDBOXES if isinstance(annotations.get(name), str)]
    return str(kinds[0]) if kinds else "", str(ids[0]) if ids else ""


def _read(bundle: Bundle, show_secrets: bool) -> tuple[list[tuple[BundleFile, JSONValue]], str, str]:
    """Its files as they are shown, each with the JSON in it; and its role."""
    files = [(file, document(file)) for file in (each if show_secrets else masked(each) for each in bundle.files)]
    return files, *role(next((found for file, found in files if file.name == SPECIFICATION), None))


def bundle_object(bundle: Bundle, *, show_secrets: bool) -> dict[str, Any]:
    """The object of a bundle, as docs/json.md has it."""
    files, kind, sandbox = _read(bundle, show_secrets)
    shown: dict[str, Any] = {"path": bundle.path}
    if kind:
        shown["role"] = kind
    if sandbox:
        shown["sandbox"] = sandbox
    shown["files"] = [_file_object(*each) for each in files]
    return shown


def _file_object(file: BundleFile, found: JSONValue) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": file.name, "kind": file.kind}
    if file.size:
        shown["size"] = file.size
    if file.note:
        shown["note"] = file.note
    if file.content:
        text = _text(file.content)
        if isinstance(found, dict | list):
            shown["json"] = found
        elif text is not None:
            shown["text"] = text
        else:
            shown["base64"] = base64.b64encode(file.content).decode()
    return shown


def bundle_lines(bundle: Bundle, *, show_secrets: bool) -> list[str]:
    """The lines of a bundle below the call that named it, escaped."""
    files, kind, sandbox = _read(bundle, show_secrets)
    of = f" of {kind} {escape(bundle.id)}" if kind else ""
    inside = f" in sandbox {escape(sandbox)}" if sandbox and sandbox != bundle.id else ""
    lines = [f"    bundle {escape(bundle.path)}{of}{inside}"]
    for file, found in files:
        what = size(file.size) if file.kind == "file" else file.kind
        arrow = " → " if file.kind == "link" else ": "
        lines.append(f"        {file.name}: {what}{arrow + escape(file.note) if file.note else ''}")
        if file.content:
            shown = json.dumps(found, indent=2, ensure_ascii=False) if found is not None else _text(file.content)
            lines += [f"            {escape(line)}" for line in (shown or file.content[:64].hex(" ", 4)).splitlines()]
    return lines


def _text(content: bytes) -> str | None:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None
