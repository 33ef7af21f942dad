"""The compiled form runs only where it was made from exactly the present sources, and only where it is asked for."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler import compiled
from scheduler.engine import Engine


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the sources, of which nothing is compiled."""
    for package in ("nasmesh", "scheduler"):
        shutil.copytree(compiled.ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def ask(root: Path, expression: str) -> str:
    command = [sys.executable, "-c", f"from scheduler import compiled; print({expression})"]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def test_folder_when_any_source_differs_then_its_build_is_not_used(copy: Path) -> None:
    built = Path(ask(copy, "compiled.folder()"))
    assert ask(copy, "compiled.use()") == "False"
    built.mkdir(parents=True)
    assert ask(copy, "compiled.is_built()") == "False", "a build that was cut short"
    (built / compiled.COMPLETE).touch()
    assert ask(copy, "compiled.use()") == "True"
    for source in ("scheduler/machine/tasks.py", "nasmesh/limits.py"):
        path = copy / source
        before = path.read_bytes()
        path.write_bytes(before + b"#")
        assert ask(copy, "compiled.use()") == "False", source
        path.write_bytes(before)
        assert ask(copy, "compiled.use()") == "True"
    (copy / "scheduler" / "machine" / "another.py").write_text("")
    assert ask(copy, "compiled.use()") == "False"


def test_use_when_the_sources_are_imported_then_refused() -> None:
    assert Engine.__module__ in sys.modules
    with pytest.raises(RuntimeError, match="imported already"):
        compiled.use()


def test_main_when_nothing_is_compiled_then_says_what_to_do(copy: Path) -> None:
    command = [sys.executable, "-m", "scheduler.compiled", "scheduler.admin", "--help"]
    done = subprocess.run(command, cwd=copy, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "make compile" in done.stderr


def test_modules_then_each_is_a_source() -> None:
    assert len(set(compiled.MODULES)) == len(compiled.MODULES)
    for name in compiled.MODULES:
        assert (compiled.ROOT / (name.replace(".", "/") + ".py")).is_file(), name
