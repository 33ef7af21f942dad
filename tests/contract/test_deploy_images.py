"""What the stages of deploy/Dockerfile install: the scheduler's in an empty environment, all by their closure."""

import json
import os
import re
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nasmesh.client.patience import Patience, call_patiently
from nasmesh.errors import Unavailable
from tests.builders.deployments import DEPLOY, ROOT

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
HEAVY = {"torch", "onnx", "onnxruntime", "numpy", "scikit-learn"}


def stages() -> dict[str, str]:
    return dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL))


def extras(stage: str) -> set[str]:
    (found,) = re.findall(r"\[([a-z0-9,]+)\]\"$", stages()[stage], re.MULTILINE)
    return set(found.split(","))


def closure(wanted: set[str]) -> set[str]:
    """Return what nasmesh with these extras needs, directly or not, by what is installed here."""
    found: set[str] = set()
    waiting = [("nasmesh", frozenset(wanted))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, more = waiting.pop()
        if (name, more) in seen:
            continue
        seen.add((name, more))
        found.add(name)
        try:
            texts = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, texts):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in more | {""}):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


@pytest.mark.parametrize(
    ("stage", "without", "holds"),
    [
        ("scheduler", HEAVY, {"grpcio", "psycopg", "psycopg-binary", "minio", "uvloop", "typer"}),
        ("deployer", HEAVY, {"kubernetes", "grpcio", "minio"}),
        ("generate", {"torch", "onnxruntime", "psycopg"}, {"onnx", "numpy", "minio", "jsonschema"}),
        ("evaluate", {"torch", "psycopg"}, {"onnx", "onnxruntime", "minio", "scikit-learn"}),
        ("train", {"psycopg"}, {"torch", "onnx", "onnxruntime", "minio", "scikit-learn"}),
        ("train-cuda", {"psycopg"}, {"torch", "onnx", "onnxruntime", "minio", "scikit-learn"}),
    ],
)
def test_stage_installs_what_its_program_needs_and_no_torch_but_train(
    stage: str, without: set[str], holds: set[str]
) -> None:
    needed = closure(extras(stage))
    assert holds <= needed
    assert not without & needed


def test_builder_gets_what_the_wheel_is_made_of_and_nothing_else() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {
        word for line in re.findall(r"^COPY ([^-].*)$", stages()["wheel"], re.MULTILINE) for word in line.split()[:-1]
    }
    assert let_in == copied
    assert all((ROOT / name).exists() for name in let_in)
    packages = {
        name.split(".")[0] for name in metadata.packages_distributions() if (ROOT / name / "__init__.py").exists()
    }
    assert packages <= let_in


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The wheel as the first stage builds it: from what the builder gets alone."""
    source = tmp_path / "source"
    source.mkdir()
    names = re.findall(r"^!(.*)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", *names]
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    archive = tmp_path / "source.tar"
    with tarfile.open(archive, "w") as tar:
        for name in filter(None, files):
            if (ROOT / name).exists():
                tar.add(ROOT / name, name)
    with tarfile.open(archive) as tar:
        tar.extractall(source, filter="data")
    (command,) = re.findall(r"^RUN pip (wheel .*) \.$", stages()["wheel"], re.MULTILINE)
    words = command.replace("--no-cache-dir ", "").replace("/wheel", str(tmp_path / "wheel")).split()
    run(sys.executable, "-m", "pip", *words, "--no-build-isolation", ".", where=source)
    (made,) = (tmp_path / "wheel").glob("*.whl")
    return made


def run(*command: str, where: Path, timeout_s: float = 600.0) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NASMESH_", "PYTHON"))}
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.timeout(900)
def test_schedulers_image_when_made_then_it_serves_without_torch(wheel: Path, tmp_path: Path) -> None:
    made = tmp_path / "image"
    run(sys.executable, "-m", "venv", "--without-pip", str(made), where=tmp_path)
    wanted = f"{wheel}[{','.join(sorted(extras('scheduler')))}]"
    constraints = str(ROOT / "constraints.txt")
    python = str(made / "bin" / "python")
    pip = (sys.executable, "-m", "pip", "--python", python)  # an environment of its own needs none
    run(*pip, "install", "--quiet", "--no-compile", "--constraint", constraints, wanted, where=tmp_path)
    listed = json.loads(run(*pip, "list", "--format", "json", where=tmp_path))
    assert not HEAVY & {package["name"].lower() for package in listed}
    nasmesh = str(made / "bin" / "nasmesh")
    assert "--standby" in run(nasmesh, "serve", "scheduler", "--help", where=tmp_path)
    port_file = tmp_path / "port"
    environment = {"PATH": "/usr/bin:/bin", "NASMESH_HOME": str(tmp_path / "home")}
    command = [nasmesh, "serve", "scheduler", "--listen=127.0.0.1:0", f"--port-file={port_file}"]
    with (tmp_path / "log").open("wb") as log:
        program = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:

        def address() -> str:
            if not port_file.exists():
                assert program.poll() is None, (tmp_path / "log").read_text()
                raise Unavailable("NOT_YET", "no address yet")
            return port_file.read_text().strip()

        where = call_patiently(address, Patience(60.0))
        assert "SERVING" in run(nasmesh, "health", where, where=tmp_path)
    finally:
        program.terminate()
        assert program.wait(30) == 0
