"""A program that serves takes as many open files as it may have."""

import subprocess
import sys

SCRIPT = """
import resource
from nasmesh.rpc.open_files import raise_open_files
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
assert raise_open_files() == hard
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
"""


def test_limit_when_lower_than_it_may_be_then_raised() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)
