"""T18, `make mutants`: changes the machine, the journal, admission and the policy table one place at a time, and looks
whether any test notices. Survivors are listed; those of explained.txt are no loss, the others may be 5 % at most.

    python -m tests.mutation.run --module scheduler/machine/tasks.py
    python -m tests.mutation.run --sample 200
"""

import argparse
import importlib
import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import spec_from_loader
from pathlib import Path

from nasmesh.clock import derive_seed, seeded_random
from tests.mutation.mutants import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
EXPLAINED = Path(__file__).parent / "explained.txt"
MOST_UNEXPLAINED = 0.05
_TIMEOUT_S = 300
_SURVIVED, _KILLED = 0, 1


@dataclass(frozen=True, slots=True)
class Group:
    """Modules that the same tests are for. `lives`: simulated lives to live; `cuts`: power cuts to look at."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    lives: int = 0
    cuts: int = 0
    ready: tuple[str, ...] = ("grpc", "jsonschema", "structlog", "pytest")


_UNIT = "tests/unit/test_scheduler_"
GROUPS: dict[str, Group] = {
    "machine": Group(
        ("scheduler/machine/*.py",),
        (
            *(
                f"{_UNIT}{part}.py"
                for part in ("machine", "misfits", "slips", "final", "reuse", "waiting", "updates", "engine", "cold")
            ),
            "tests/contract/test_upgrade.py",
            # Slow, and last: only what the others let pass comes so far.
            "tests/contract/test_lifecycle.py",
            "tests/contract/test_scheduler_watch.py",
            "tests/contract/test_scheduler_service.py",
            "tests/contract/test_equal_searches.py",
            "tests/contract/test_dispatch.py",
            f"{_UNIT}shares.py",
            f"{_UNIT}wishes.py",
        ),
        lives=150,
    ),
    "journal": Group(
        ("scheduler/journal/*.py",),
        (
            "tests/contract/test_journal.py",
            "tests/unit/test_journal_parts.py",
            "tests/unit/test_journal_reading.py",
            "tests/unit/test_journal_opening.py",
            f"{_UNIT}encoding.py",
            f"{_UNIT}cold.py",
            f"{_UNIT}engine.py",
            "tests/contract/test_upgrade.py",
            "tests/contract/test_admin.py",
            "tests/contract/test_bad_journals.py",
            "tests/contract/test_journal_answers.py",
            "tests/contract/test_journal_upgrades.py",
            "tests/contract/test_admin_copies.py",
            "tests/contract/test_postgres_journals.py",
            "tests/contract/test_migration.py",
        ),
        lives=60,
        cuts=60,
    ),
    "admission": Group(
        ("nasmesh/model/admission.py",),
        (
            "tests/unit/test_model_admission.py",
            "tests/unit/test_model_admission_edges.py",
            "tests/unit/test_model_hostile.py",
            "tests/fuzz/test_hostile_files.py",
        ),
        ready=("grpc", "onnx", "numpy", "pytest", "structlog"),
    ),
    "policy": Group(("nasmesh/rpc/policy.py",), ("tests/security/test_policy.py",)),
}


@dataclass(slots=True)
class Report:
    """What became of the mutants."""

    tried: int = 0
    survivors: list[Mutant] = field(default_factory=list)

    def unexplained(self) -> list[Mutant]:
        known = {line.partition(" # ")[0].strip() for line in EXPLAINED.read_text().splitlines()}
        return [mutant for mutant in self.survivors if mutant.where not in known]


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from changed source."""

    def __init__(self, name: str, source: str) -> None:
        self._name = name
        self._source = source

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:  # noqa: ARG002
        return spec_from_loader(name, self) if name == self._name else None

    def exec_module(self, module: object) -> None:
        exec(compile(self._source, self._name, "exec"), module.__dict__)


def is_killed(mutant: Mutant, group: Group) -> bool:
    """Say whether the tests notice a mutant, in a process of its own that has read the libraries already."""
    child = os.fork()
    if child == 0:
        os._exit(_try(mutant, group))
    until = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status) != _SURVIVED
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)  # it hangs: that is noticed too
    os.waitpid(child, 0)
    return True


def _try(mutant: Mutant, group: Group) -> int:
    """Run the tests against a mutant; only ever called in a child."""
    os.setpgid(0, 0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    name = mutant.path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    sys.meta_path.insert(0, _Changed(name, mutant.source))
    try:
        return _SURVIVED if _holds(group) else _KILLED
    except BaseException:  # noqa: BLE001 - whatever it does, it was noticed
        return _KILLED


def _holds(group: Group) -> bool:
    import pytest

    if group.lives:
        from tests.sim.lives import live_all

        if live_all(range(group.lives), most_failures=1).failed:
            return False
    if group.cuts:
        from tests.sim import power_cuts

        if power_cuts.run(group.cuts).lost:
            return False
    arguments = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--timeout=60", *group.tests]
    return pytest.main(arguments) == 0


def run(chosen: Sequence[tuple[Mutant, Group]]) -> Report:
    """Try mutants one after the other."""
    report = Report()
    for group in {group: None for _, group in chosen}:
        unchanged = next(mutant for mutant, other in chosen if other is group)
        source = (ROOT / unchanged.path).read_text()
        if is_killed(Mutant(unchanged.path, 0, "unchanged", source), group):
            raise SystemExit(f"the tests of {group.modules} fail without any change")
    for mutant, group in chosen:
        report.tried += 1
        if not is_killed(mutant, group):
            report.survivors.append(mutant)
            print(f"survived: {mutant.path}:{mutant.line}: {mutant.where}", flush=True)
    return report


def choose(module: str, group: str, sample: int) -> list[tuple[Mutant, Group]]:
    """Return the mutants that a call asks for: of one module, of one group, of all, or so many of them by chance."""
    found: list[tuple[Mutant, Group]] = []
    for name, rules in GROUPS.items():
        if group in ("", name):
            paths = sorted(path for pattern in rules.modules for path in ROOT.glob(pattern))
            for path in paths:
                place = str(path.relative_to(ROOT))
                if module in ("", place):
                    found.extend((mutant, rules) for mutant in mutants(place, path.read_text()))
    rng = seeded_random(derive_seed(1, "mutants"))
    return found if not sample or sample >= len(found) else rng.sample(found, sample)


def main() -> int:
    """Run and return the exit code: 1 where too many survive that nobody has explained."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.run")
    parser.add_argument("--module", default="", help="one file only")
    parser.add_argument("--group", default="", choices=["", *GROUPS], help="one group of files only")
    parser.add_argument("--sample", type=int, default=0, help="so many mutants by chance [0: all]")
    flags = parser.parse_args()
    began = time.perf_counter()
    chosen = choose(flags.module, flags.group, flags.sample)
    for library in {library for _, group in chosen for library in group.ready}:
        importlib.import_module(library)
    report = run(chosen)
    left = report.unexplained()
    share = len(left) / max(1, report.tried)
    print(
        f"T18: {report.tried} mutants, {len(report.survivors)} survived, {len(left)} of them unexplained"
        f" ({share:.1%}), {time.perf_counter() - began:.0f} s"
    )
    return 1 if share > MOST_UNEXPLAINED else 0


if __name__ == "__main__":
    sys.exit(main())
