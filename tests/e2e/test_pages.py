"""The commands of README and docs, run as they stand there, each page from top to bottom in a folder of its own."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.builders.s3_servers import minio_server
from tests.e2e.mesh import ROOT, Mesh

FENCE = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
# What is added so that a test has the time, or is left out: what a page begins but does not wait for.
SHORTER = {
    r"nasmesh search create .*examples/": "--check",
    r"nasmesh rehearse ": "--set budget.maxTrials=2",
    r"nasmesh search --data ": "--check",
}
ELSEWHERE = {
    r"nasmesh (up|serve)\b": "tests/e2e/test_up.py, tests/security/test_three_hosts.py",
    r"nasmesh top( --json.*)?$": "tests/contract/test_top.py",
    r"nasmesh table import|pip download": "tests/unit/test_tables.py",
    r"nasmesh search transfer": "tests/e2e/test_model_out.py",
    r"(make|rm|python|\.venv/bin/python)\b": "what is built and measured, not the command",
}
# Needs S3: one that gives keys, named by variables as docs/store.md says.
IN_S3 = r"nasmesh admin bucket "
PAGES = ("README.md", "docs/cli.md", "docs/data.md", "docs/training.md", "docs/observability.md", "docs/compiled.md")


def lines(page: str) -> list[str]:
    """Return the commands of a page without their comments, each once."""
    found = (line for block in FENCE.findall((ROOT / page).read_text()) for line in block.splitlines())
    plain = (line.partition("#")[0].strip() for line in found)
    return list(dict.fromkeys(line for line in plain if line))


def pictures(folder: Path) -> None:
    """Write pictures of two classes."""
    draw = np.random.default_rng(3)
    for name in ("finch", "wren"):
        (folder / name).mkdir(parents=True)
        for number in range(30):
            Image.fromarray(draw.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / name / f"{number}.png")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with what pages name: the examples, and pictures of one's own."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    pictures(tmp_path / "images")
    shutil.copytree(tmp_path / "images", tmp_path / "birds")
    return tmp_path


@pytest.fixture
def store(page: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables of an S3 store that runs, for a page that needs one."""
    if not any(re.match(IN_S3, line) for line in lines(page)):
        yield {}
        return
    with minio_server(tmp_path / "minio") as server:
        yield {"NASMESH_STORE": server.url("nets"), "NASMESH_STORE_CREDENTIALS": str(server.credentials)}


def run(line: str, place: Path, variables: dict[str, str]) -> None:
    extra = next((words for pattern, words in SHORTER.items() if re.match(pattern, line)), "")
    program = f'nasmesh() {{ "{sys.executable}" -m clients.cli.main "$@"; }}; {line} {extra}'
    environment = {**variables, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", program], cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{line} {extra}: {done.stderr}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_when_run_as_they_stand_on_a_page_then_they_work(
    page: str, mesh: Mesh, place: Path, store: dict[str, str]
) -> None:
    commands = lines(page)
    assert commands
    for line in commands:
        if not any(re.match(pattern, line) for pattern in ELSEWHERE):
            assert line.startswith("nasmesh "), f"{page}: {line} is run by no test"
            run(line, place, mesh.environment() | (store if re.match(IN_S3, line) else {}))
