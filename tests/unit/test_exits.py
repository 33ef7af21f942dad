"""How our programs end where nobody reads what they say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_MAIN = """
import sys
from nasmesh.exits import guarded_command

def main():
    sys.stdout.write("line\\n" * {lines})
    return 0

sys.exit(guarded_command(main, as_json=False))
"""


def ended(code: str, home: Path, *, read: bool) -> tuple[int, str]:
    """Run a program whose output is a pipe, which is read to its end or by nobody; its exit code and errors."""
    reading, writing = os.pipe()
    if not read:
        os.close(reading)
    environment = {**os.environ, "NASMESH_HOME": str(home)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True, env=environment
    ) as child:
        os.close(writing)
        if read:
            with os.fdopen(reading, "rb") as pipe:
                pipe.read()
        _, errors = child.communicate(timeout=120)
        return child.returncode, errors


@pytest.mark.parametrize("lines", [1, 100_000], ids=["at its end", "in its midst"])
def test_a_program_whose_reader_has_gone_ends_without_a_word(lines: int, tmp_path: Path) -> None:
    assert ended(_MAIN.format(lines=lines), tmp_path, read=False) == (1, "")
    assert not (tmp_path / "logs").exists()


def test_a_program_that_is_read_ends_well(tmp_path: Path) -> None:
    assert ended(_MAIN.format(lines=100_000), tmp_path, read=True) == (0, "")


def test_another_broken_pipe_is_unexpected(tmp_path: Path) -> None:
    code = """
import sys
from nasmesh.exits import guarded_command

def main():
    raise BrokenPipeError("a server's")

sys.exit(guarded_command(main, as_json=False))
"""
    returned, errors = ended(code, tmp_path, read=True)
    assert returned == 1
    assert "something unexpected happened" in errors
