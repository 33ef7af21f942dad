import os
import shutil
import subprocess
from pathlib import Path

import pytest

from nasmesh.data import fashion_mnist

SCRIPT = Path(__file__).parents[2] / "scripts" / "fetch_fashion_mnist.sh"


def _fetch(**environment):
    return subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True, env={**os.environ, **environment})


@pytest.mark.skipif(fashion_mnist._SYSTEM.exists(), reason="the system package provides the files")
def test_fetch_when_apt_is_missing_then_says_what_to_do(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "sha256sum"):
        (tools / name).symlink_to(shutil.which(name))
    done = _fetch(PATH=str(tools), NASMESH_DATA=str(tmp_path / "data"))
    assert done.returncode == 1
    assert "apt-get is missing" in done.stderr
    assert "fashion-mnist" in done.stderr


def test_fetch_when_the_files_are_there_then_does_nothing():
    try:
        folder = fashion_mnist.find()
    except Exception as error:  # noqa: BLE001 - whatever is missing, there is nothing to test
        pytest.skip(str(error))
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    done = _fetch(NASMESH_DATA=str(folder.parent.absolute()))
    assert done.returncode == 0, done.stderr
    assert "already" in done.stdout
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
