"""The wheel carries what it needs: installed into an empty environment, it works from any other folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytest.importorskip("build", reason="needs build")
pytest.importorskip("hatchling", reason="needs hatchling")
pytest.importorskip("grpc_tools", reason="needs grpcio-tools")

DEPENDENCIES = ("google", "construct", "h2", "hpack", "hyperframe")
"""The import names of what the wheel depends on."""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy without anything that was built before: that cannot help it."""
    tree = tmp_path_factory.mktemp("tree")
    for room in ("tracer", "dissectors", "protos"):
        shutil.copytree(ROOT / room, tree / room, ignore=shutil.ignore_patterns("__pycache__", "*.binpb"))
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "CHANGELOG.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, tree / name)
    dist = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", dist, tree, cwd=tree)
    (built,) = dist.glob("podwire-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel, and of this one the wheel's dependencies alone."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    run(sys.executable, "-m", "pip", "--quiet", "--python", home, "install", "--no-deps", "--no-index", wheel, cwd=home)
    for name in DEPENDENCIES:
        (site / name).symlink_to(Path(sysconfig.get_path("purelib")) / name)
    return home / "bin" / "python"


def test_the_wheel_holds_schemas_and_descriptors_and_no_generated_code(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    schemas = {path.relative_to(ROOT).as_posix() for path in (ROOT / "protos" / "schemas").rglob("*.proto")}
    assert schemas <= names
    assert "protos/descriptors.binpb" in names
    assert {f"{room}/py.typed" for room in ("tracer", "dissectors", "protos")} <= names
    assert not [name for name in names if name.endswith("_pb2.py")]
    assert not [name for name in names if name.startswith(("tests/", "captures/")) or name == "protos/generate.py"]


def test_the_registry_loads_from_another_folder(python: Path, tmp_path: Path) -> None:
    script = (
        "import protos.registry as r; registry = r.Registry.bundled(); "
        "print(registry.method('runtime.v1.RuntimeService', 'RunPodSandbox').input_type, r.__file__)"
    )
    name, file = run(python, "-c", script, cwd=tmp_path).split()
    assert name == "runtime.v1.RunPodSandboxRequest"
    assert Path(file).is_relative_to(python.parents[1])


def test_payloads_are_rendered_from_another_folder(python: Path, tmp_path: Path) -> None:
    script = (
        "from dissectors.render import Renderer; from protos.registry import Registry; "
        "print(Renderer(Registry.bundled()).to_json('runtime.v1.VersionRequest', b'\\n\\x02v1'))"
    )
    assert run(python, "-c", script, cwd=tmp_path) == "{'version': 'v1'}\n"


def test_the_command_tells_its_version(python: Path, wheel: Path, tmp_path: Path) -> None:
    version = wheel.name.split("-")[1]
    assert run(python.parent / "podwire", "--version", cwd=tmp_path).split()[-1] == version
