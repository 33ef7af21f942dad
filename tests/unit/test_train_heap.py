"""What a training's process is told of its heap: left out where the operator says it, or where it could do harm."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nasmesh.jobs import bounds
from train_svc.heap import heap_environment

HUGE = "glibc.malloc.hugetlb=1"


def page(directory: Path, text: str) -> Path:
    file = directory / "hpage_pmd_size"
    file.write_text(text)
    return file


def test_what_the_operator_has_set_stays(tmp_path: Path) -> None:
    huge = page(tmp_path, "2097152\n")
    assert heap_environment({}, huge)["GLIBC_TUNABLES"] == HUGE
    given = {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.check=0"}
    added = heap_environment(given, huge)
    assert "MALLOC_ARENA_MAX" not in added
    assert added["GLIBC_TUNABLES"] == f"glibc.malloc.check=0:{HUGE}"
    assert "GLIBC_TUNABLES" not in heap_environment({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, huge)


@pytest.mark.parametrize("size", ["536870912\n", "33554432\n", "nonsense", None], ids=str)
def test_pages_that_are_too_large_or_that_nobody_knows_are_not_asked_for(size: str | None, tmp_path: Path) -> None:
    huge = tmp_path / "absent" if size is None else page(tmp_path, size)
    assert "GLIBC_TUNABLES" not in heap_environment({}, huge)


def test_a_process_starts_with_it_and_the_library_has_nothing_to_say(tmp_path: Path) -> None:
    added = heap_environment({}, page(tmp_path, "2097152\n"))
    program = "import ctypes; kept = [bytes(size) for size in (100, 1 << 16, 1 << 24, 1 << 26)]; print(len(kept))"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **added}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")


def test_memory_is_given_back_where_the_c_library_cannot_be_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        """A C library without malloc_trim: musl, or macOS's."""

    def other(_name: object) -> Other:
        return Other()

    monkeypatch.setattr(ctypes, "CDLL", other)
    bounds.give_back()
