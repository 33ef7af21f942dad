"""How processes of jobs share a machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nasmesh import host
from nasmesh.host import cpu_count, granted_cpus, thread_environment


@pytest.mark.parametrize("slots", [1, 2, 1024])
def test_slots_share_the_processors(slots: int) -> None:
    threads = int(thread_environment(slots)["OMP_NUM_THREADS"])
    assert threads >= 1
    assert threads * slots <= max(slots, cpu_count())


def test_the_library_that_torch_computes_with_waits_shortly() -> None:
    environment = {**os.environ, **thread_environment(1), "OMP_DISPLAY_ENV": "VERBOSE"}
    told = subprocess.run(
        [sys.executable, "-c", "import torch; torch.zeros(2)"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stderr
    assert "PASSIVE" in told, told
    if "GOMP_SPINCOUNT" in told:  # GNU's library
        assert "GOMP_SPINCOUNT = '1000'" in told, told


@pytest.mark.parametrize(
    ("files", "granted"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "9900000 100000"}, 64),
        ({"cpu.max": "200000"}, 64),
        ({"cpu.max": "nonsense here"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000"}, 64),
    ],
    ids=str,
)
def test_threads_follow_the_quota_of_a_container(
    files: dict[str, str], granted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(host, "cpu_count", lambda: 64)
    places = (tmp_path / "cpu.max", tmp_path / "cpu" / "cpu.cfs_quota_us")
    assert granted_cpus(places) == granted
