"""T8a: a coverage-guided fuzzer on raw bytes, in a process of its own: a minute a change, ten with `--long`."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
A_CHANGE_S, LONG_S = 60, 600
LEAST_RUNS_A_SECOND = 100
SEED = 8


@pytest.mark.skipif(
    find_spec("atheris") is None and os.environ.get("CI") != "true", reason="atheris has no wheel for this platform"
)
@pytest.mark.timeout(LONG_S + 120)
def test_raw_bytes_get_a_verdict_or_a_refusal(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    seconds = LONG_S if request.config.getoption("--long") else A_CHANGE_S
    flags = [f"-max_total_time={seconds}", f"-seed={SEED}", "-timeout=5", "-rss_limit_mb=1024", "-max_len=8192"]
    flags += [f"-artifact_prefix={tmp_path}/found-", "-print_final_stats=1"]
    # By way of a shell that forks: a process that is started by exec alone inherits the largest size of this one, which
    # has torch in it by now, and the fuzzer would take that for its own.
    shell = ["/bin/sh", "-c", '"$0" "$@"; exit $?']
    command = [*shell, sys.executable, "-m", "tests.fuzz.raw_bytes", str(tmp_path / "corpus"), *flags]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=seconds + 100, check=False
    )
    found = {path.name: path.read_bytes()[:2000].hex() for path in tmp_path.glob("found-*")}
    assert done.returncode == 0, f"{found}\n{done.stderr[-4000:]}"
    runs = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    assert runs is not None, done.stderr[-2000:]
    print(f"T8a: {runs[1]} runs in {seconds} s, {covered[-1] if covered else 0} edges covered")  # noqa: T201
    assert int(runs[1]) >= LEAST_RUNS_A_SECOND * seconds
    # Bytes that never came past the parser would cover a handful of edges.
    assert int(covered[-1]) > 300
