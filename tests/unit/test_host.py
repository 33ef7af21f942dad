"""How processes of jobs share a machine."""

import os
import subprocess
import sys

import pytest

from nasmesh.host import cpu_count, thread_environment


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
