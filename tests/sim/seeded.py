"""The test of the tests: sixteen bugs that each break one promise, and the tier that must see each (T14).

A bug is planted by replacing functions of the real program while a block runs, so that it follows the code as long as
the names stay; a name that is gone is an error, never a bug that is silently not there.

    python -m tests.sim.seeded --bug 3          plant one and show what catches it
    python -m tests.sim.seeded --all --write    all sixteen; rewrites docs/seeded-bugs.md
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.sim import bugs
from tests.sim.lives import live

MOST_SEEDS = 2000
ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "seeded-bugs.md"
_PLANTED = "tests.sim.planting"


@dataclass(frozen=True, slots=True)
class Bug:
    """One bug: what it does, how it is planted, and who must catch it: lives by seed, or tests by their names."""

    number: int
    what: str
    plant: Callable[[bugs.Patch], None]
    tier: str = "T1"
    tests: tuple[str, ...] = ()
    first_seed: int = 0


BUGS: tuple[Bug, ...] = (
    Bug(1, "reply before commit", bugs.reply_before_commit),
    Bug(2, "synchronous=NORMAL", bugs.synchronous_normal, "T3", ("tests/sim/test_power_cuts.py",)),
    Bug(3, "drop the attempt check", bugs.no_attempt_check),
    Bug(4, "compare attempts with >= on string form", bugs.attempts_as_text),
    Bug(5, "lease by wall clock", bugs.lease_by_wall_clock),
    Bug(6, "expire leases at once after restart", bugs.leases_expire_at_restart),
    Bug(7, "stop before commit", bugs.stop_before_commit),
    Bug(8, "forget fsync of the spool", bugs.spool_without_fsync),
    Bug(9, "rename before write ends", bugs.rename_before_write),
    Bug(10, "same request id runs twice", bugs.request_runs_twice),
    Bug(11, "pointer before blob", bugs.pointer_before_blob),
    Bug(12, "no digest check on read", bugs.no_digest_check),
    Bug(13, "count a loss by restart as failure", bugs.restart_counts),
    Bug(14, "cancel racing with finish revives a task", bugs.cancelled_task_revives),
    Bug(15, "retry Create with a new id", bugs.create_with_new_id, "contract", ("tests/unit/test_client_calls.py",)),
    Bug(16, "policy row missing, default allow", bugs.default_allow, "T11", ("tests/security/test_policy.py",)),
)


@dataclass(frozen=True, slots=True)
class Caught:
    """How a bug was caught: the seed or test that saw it first, how many were tried, and what it said."""

    bug: Bug
    by: str
    tried: int
    said: str
    seconds: float

    @property
    def command(self) -> str:
        return f"python -m tests.sim.seeded --bug {self.bug.number}"


@contextmanager
def planted(number: str) -> Iterator[None]:
    """Run a block with the bug of that number in the program; "" for none."""
    if not number:
        yield
        return
    with bugs.Patch() as patch:
        bug_of(int(number)).plant(patch)
        yield


def bug_of(number: int) -> Bug:
    return next(bug for bug in BUGS if bug.number == number)


def catch(bug: Bug) -> Caught:
    """Plant a bug and return how it is caught; raises AssertionError where nothing sees it."""
    began = time.perf_counter()
    by, tried, said = _by_tests(bug) if bug.tests else _by_lives(bug)
    return Caught(bug, by, tried, said, time.perf_counter() - began)


def _by_lives(bug: Bug) -> tuple[str, int, str]:
    with planted(str(bug.number)):
        for seed in range(MOST_SEEDS):
            try:
                live(seed)
            except Exception as error:  # noqa: BLE001 - whatever is noticed is noticed
                return f"seed {seed}", seed + 1, f"{type(error).__name__}: {str(error).splitlines()[0][:140]}"
    raise AssertionError(f"bug {bug.number} ({bug.what}) was seen by none of {MOST_SEEDS} seeds")


def _by_tests(bug: Bug) -> tuple[str, int, str]:
    """Run the tests in a process in which the bug is planted: some must fail there, and none may without it."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *bug.tests]
    environment = dict(os.environ)
    environment.pop("PYTEST_XDIST_WORKER", None)
    environment.pop("PYTEST_ADDOPTS", None)
    environment["COLUMNS"] = "400"
    found = _pytest([*command, "-p", _PLANTED, f"--plant={bug.number}"], environment)
    if found.returncode != 1:
        raise AssertionError(f"bug {bug.number} ({bug.what}) was not seen by {bug.tests}: {found.stdout[-500:]}")
    failed = next(line for line in found.stdout.splitlines() if line.startswith("FAILED"))
    name, _, said = failed.removeprefix("FAILED ").partition(" - ")
    return name, 1, said[:140]


def _pytest(command: Sequence[str], environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)


def rotation(turn: int, count: int = 4) -> list[Bug]:
    """Return the bugs whose turn it is."""
    return [BUGS[(turn * count + index) % len(BUGS)] for index in range(count)]


def table(found: Sequence[Caught]) -> str:
    """Return the page that says who caught what."""
    rows = []
    for caught in found:
        bug, said = caught.bug, caught.said.replace("|", "/")
        cells = (str(bug.number), bug.what, bug.tier, caught.by, said, f"`{caught.command}`")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([_HEAD, *rows, ""])


_HEAD = """# Seeded bugs

The test of the tests: each of these bugs is planted in the real program (`tests/sim/bugs.py` says how) and must be
caught. Four take their turn in every `make test`; `make seeded-bugs` plants all sixteen and writes this page.

| # | bug | tier | found by | what it said | command |
| --- | --- | --- | --- | --- | --- |"""


def main() -> int:
    """Plant and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.seeded")
    parser.add_argument("--bug", type=int, action="append", default=[], help="number of a bug; may repeat")
    parser.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument("--write", action="store_true", help="write docs/seeded-bugs.md")
    flags = parser.parse_args()
    found = []
    for bug in BUGS if flags.all else [bug_of(number) for number in flags.bug]:
        caught = catch(bug)
        print(f"bug {bug.number} ({bug.what}): {caught.by}, {caught.seconds:.1f} s: {caught.said}", flush=True)
        found.append(caught)
    print(f"T14: {len(found)} seeded bugs, all caught")
    if flags.write:
        TABLE.write_text(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
