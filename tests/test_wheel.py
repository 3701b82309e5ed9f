"""The wheel carries what it needs: installed into an empty environment, it works from any other folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.e2e.killing import HOLDER, WORKER, RelayProcesses
from tests.e2e.traffic import Traffic
from tests.tracer.relay.harness import eventually

ROOT = Path(__file__).resolve().parents[1]

pytest.importorskip("build", reason="needs build")
pytest.importorskip("hatchling", reason="needs hatchling")
pytest.importorskip("grpc_tools", reason="needs grpcio-tools")

VARIABLES = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
DEPENDENCIES = ("google", "construct", "h2", "hpack", "hyperframe")
"""The import names of what the wheel depends on."""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=VARIABLES, capture_output=True, text=True, check=False)
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
    """The interpreter of an environment that holds the wheel."""
    return environment(wheel, tmp_path_factory.mktemp("venv"))


def environment(wheel: Path, home: Path) -> Path:
    """Make one there that holds the wheel, and of this one the wheel's dependencies alone; return its interpreter."""
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
    assert {"dissectors/wireshark/ttrpc.lua", "tracer/tui/app.tcss"} <= names
    assert {"tracer/web/page.html", "tracer/web/page.js"} <= names
    assert {f"{room}/py.typed" for room in ("tracer", "dissectors", "protos")} <= names
    assert not [name for name in names if name.endswith("_pb2.py")]
    assert not [name for name in names if name.startswith(("tests/", "captures/")) or name == "protos/generate.py"]


def test_its_manual_page_is_where_man_looks(python: Path, tmp_path: Path) -> None:
    folder = python.parents[1] / "share" / "man"
    assert (folder / "man1" / "podwire.1").read_text().startswith('.\\" Made by')
    if shutil.which("man") is None:
        pytest.skip("needs man")
    shown = run("man", "-M", folder, "podwire", cwd=tmp_path)
    assert "podwire stuck" in shown


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


def test_r3_a_draining_relay_needs_nothing_of_an_environment_that_was_removed(wheel: Path, tmp_path: Path) -> None:
    home, errors = tmp_path / "venv", tmp_path / "errors"
    podwire = environment(wheel, home).parent / "podwire"
    folder = Path(tempfile.mkdtemp(prefix="pw-"))  # a socket's path is short
    try:
        (folder / "s").mkdir()
        with Traffic(folder) as traffic, errors.open("wb") as stderr:
            command = [podwire, "trace", "-w", tmp_path / "x.pcapng", f"--socket=cri={traffic.grpc}"]
            command += [f"--socket=events={traffic.ttrpc}", f"--socket=task={folder}/s"]
            trace = subprocess.Popen(command, cwd="/", env=VARIABLES, stdout=subprocess.DEVNULL, stderr=stderr)
            try:
                sockets = (traffic.grpc, traffic.ttrpc)
                assert eventually(lambda: all(f"{path}: tracing" in errors.read_text() for path in sockets), 10)
                with RelayProcesses.of(trace.pid) as relay:
                    try:
                        removed_while_draining(trace, traffic, relay, home)
                    finally:
                        relay.kill_all()
                assert "draining" in errors.read_text()
            finally:
                trace.kill()
                trace.wait()
    finally:
        shutil.rmtree(folder)


def removed_while_draining(trace: subprocess.Popen[bytes], traffic: Traffic, relay: RelayProcesses, home: Path) -> None:
    traffic.start()
    trace.send_signal(signal.SIGINT)
    assert trace.wait(10) == 0
    shutil.rmtree(home)
    relay.kill(WORKER, lambda kills: kills >= 20, most=20)
    relay.kill(HOLDER, lambda kills: kills >= 5, most=5)
    assert relay.all()
    traffic.stop().check()
    assert eventually(lambda: not relay.all(), 10)
