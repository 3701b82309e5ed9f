"""Write the .proto files of `protos/schemas/` from the interface facts: `python -m protos.generate`.

A developer's tool, not in the wheel. In: the family files of `tests/facts/`. Out: one .proto a file of the facts, under
its own path, and one a package of what only older versions define (`legacy/<package>.proto`). The files of `BY_HAND`
are left alone. It refuses to know what the APIs mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FAMILIES = (
    "cri-v1",
    "cri-v1alpha2",
    "containerd-task",
    "containerd-services",
    "runc-options",
    "kata-agent",
    "nri",
    "ttrpc",
)

# Each defines names that another file defines too, or needs descriptor.proto, which tshark's parser refuses.
LEFT_OUT = frozenset(
    {
        "github.com/gogo/protobuf/gogoproto/gogo.proto",
        "types/fieldpath.proto",
        "hypervisor/hypervisor.proto",
        "runtimeoptions.proto",
    }
)
BY_HAND = {
    "google/protobuf/any.proto": ("Any",),
    "google/protobuf/duration.proto": ("Duration",),
    "google/protobuf/empty.proto": ("Empty",),
    "google/protobuf/field_mask.proto": ("FieldMask",),
    "google/protobuf/struct.proto": ("Struct", "Value", "ListValue", "NullValue"),
    "google/protobuf/timestamp.proto": ("Timestamp",),
    "google/protobuf/wrappers.proto": (),
    "google/rpc/error_details.proto": (),
}
"""Files that are written by hand, each with what legacy files may import it for."""

Facts = dict[str, Any]


def load_facts(folder: Path) -> dict[str, Facts]:
    """Return the files to write, by path: those of the facts and the legacy ones, all in the facts' own layout."""
    files: dict[str, Facts] = {}
    legacy: dict[str, Facts] = {}
    for family in FAMILIES:
        facts = json.loads((folder / f"{family}.json").read_text(encoding="utf-8"))
        removed = removed_methods(facts)
        for path, file in facts["files"].items():
            if path not in LEFT_OUT:
                for service, item in file.get("services", {}).items():
                    item["methods"] += removed.get(service, [])
                files[path] = file | {"imports": [name for name in file["imports"] if name not in LEFT_OUT]}
        for kind, named in facts.get("legacy", {}).items():
            for full_name, item in named.items():
                # The legacy types are all top-level: what stands before the last dot is their package.
                package = full_name.rpartition(".")[0]
                file = legacy.setdefault(package, {"package": package, "syntax": "proto3"})
                file.setdefault(kind, {})[full_name] = item
    home = {name: path for path, file in files.items() for name in _types_of(file)}
    home |= {f"google.protobuf.{name}": path for path, names in BY_HAND.items() for name in names}
    for file in legacy.values():
        own = set(_types_of(file))
        file["imports"] = sorted({home[name] for name in _references(file) if name not in own})
    home |= {name: f"legacy/{package}.proto" for package, file in legacy.items() for name in _types_of(file)}
    for file in files.values():
        needed = {home[name] for name in _references(file) if home.get(name, "").startswith("legacy/")}
        file["imports"] = [*file["imports"], *sorted(needed)]
    return files | {f"legacy/{package}.proto": file for package, file in legacy.items()}


def removed_methods(facts: Facts) -> dict[str, list[Facts]]:
    """Return, by service, the methods that older versions had and the newest has not: old agents are still called."""
    now = {
        (service, method["name"])
        for file in facts["files"].values()
        for service, item in file.get("services", {}).items()
        for method in item["methods"]
    }
    removed: dict[str, list[Facts]] = {}
    for change in (change for step in facts.get("differences", ()) for change in step.get("changed", ())):
        method = change.get("removed", {})
        if "service" in change and method and (change["service"], method["name"]) not in now:
            removed.setdefault(change["service"], []).append(method)
    return removed


def _types_of(file: Facts) -> Iterator[str]:
    yield from file.get("messages", {})
    yield from file.get("enums", {})


def _references(file: Facts) -> Iterator[str]:
    for message in file.get("messages", {}).values():
        for field in message["fields"]:
            yield from (field[key] for key in ("type_name", "value_type_name") if key in field)
    for service in file.get("services", {}).values():
        for method in service["methods"]:
            yield from (method["input"], method["output"])


def proto_text(file: Facts) -> str:
    """Return one file of the facts as .proto text. Type names carry a leading dot: no scope rule can misread them."""
    lines = [
        "// Made by protos/generate.py from tests/facts/; edit those.",
        f'syntax = "{file["syntax"]}";',
        "",
        f"package {file['package']};",
        "",
        *(f'import "{name}";' for name in file["imports"]),
    ]
    for full_name, service in file.get("services", {}).items():
        lines += ["", f"service {_last(full_name)} {{", *(_method(method) for method in service["methods"]), "}"]
    for full_name in _types_of(file):
        if full_name.rpartition(".")[0] == file["package"]:
            lines += ["", *_type(file, full_name, "")]
    return "\n".join(lines) + "\n"


def _last(full_name: str) -> str:
    return full_name.rpartition(".")[2]


def _method(method: Facts) -> str:
    asks = ("stream " if method["client_streaming"] else "") + "." + method["input"]
    answers = ("stream " if method["server_streaming"] else "") + "." + method["output"]
    return f"  rpc {method['name']}({asks}) returns ({answers});"


def _type(file: Facts, full_name: str, indent: str) -> list[str]:
    if full_name in file.get("enums", {}):
        # proto3 wants the zero first, and there are values below it.
        values = sorted(file["enums"][full_name]["values"].items(), key=lambda item: (item[1] != 0, item[1]))
        body = [f"{indent}  {name} = {number};" for name, number in values]
        return [f"{indent}enum {_last(full_name)} {{", *body, f"{indent}}}"]
    message = file["messages"][full_name]
    lines = [f"{indent}message {_last(full_name)} {{"]
    for first, last in message.get("reserved_ranges", ()):
        lines.append(f"{indent}  reserved {first};" if first == last else f"{indent}  reserved {first} to {last};")
    lines += [f'{indent}  reserved "{name}";' for name in message.get("reserved_names", ())]
    for name in _types_of(file):
        if name.rpartition(".")[0] == full_name:
            lines += _type(file, name, indent + "  ")
    oneof = ""
    for field in _oneofs_together(message["fields"]):
        if field.get("oneof", "") != oneof:
            lines += [f"{indent}  }}"] if oneof else []
            oneof = field.get("oneof", "")
            lines += [f"{indent}  oneof {oneof} {{"] if oneof else []
        lines.append(f"{indent}  {'  ' if oneof else ''}{_field(field)}")
    lines += [f"{indent}  }}"] if oneof else []
    return [*lines, f"{indent}}}"]


def _oneofs_together(fields: list[Facts]) -> list[Facts]:
    """The fields with the members of each oneof behind its first: numbers of others may lie between theirs."""
    firsts = {name: at for at, field in reversed([*enumerate(fields)]) if (name := field.get("oneof"))}
    return [fields[at] for at in sorted(range(len(fields)), key=lambda at: firsts.get(fields[at].get("oneof"), at))]


def _field(field: Facts) -> str:
    kind, label = field["type"], ""
    if kind == "map":
        value = "." + field["value_type_name"] if "value_type_name" in field else field["value"]
        kind = f"map<{field['key']}, {value}>"
    else:
        kind = "." + field["type_name"] if "type_name" in field else kind
        label = "repeated " if field["label"] == "repeated" else ""
        label = "optional " if field.get("proto3_optional") else label
    deprecated = " [deprecated = true]" if field.get("deprecated") else ""
    return f"{label}{kind} {field['name']} = {field['number']}{deprecated};"


def generate(facts: Path) -> dict[str, str]:
    """Return the text of every generated .proto, by its path below `schemas/`."""
    return {path: proto_text(file) for path, file in load_facts(facts).items()}


def main() -> None:
    """Write what `generate` returns; take away generated files that it no longer returns."""
    root = Path(__file__).resolve().parent.parent
    schemas = root / "protos" / "schemas"
    texts = generate(root / "tests" / "facts")
    for path in schemas.rglob("*.proto"):
        name = path.relative_to(schemas).as_posix()
        if name not in texts and name not in BY_HAND:
            path.unlink()
    for name, text in texts.items():
        target = schemas / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    print(f"{len(texts)} files written to {schemas}")


if __name__ == "__main__":
    main()
