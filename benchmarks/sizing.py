"""What a search leaves in the object store and in the journal, and what the programs hold, by the trial.

`python -m benchmarks.sizing [--quick]`. A real NAC search on digits (`examples/digits.yaml`) through the four programs
on this machine; objects are counted where they were put, by kind, when the search has ended. Sizes of networks decide:
each weight is four bytes in a checkpoint.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.report import print_figures, print_table
from nasmesh.store.keys import ObjectKind
from nasmesh.v1 import search_pb2
from tests.e2e.mesh import MODULES, Mesh

SEARCH = "examples/digits.yaml"
QUICK = ("--set", "budget.maxIterations=3", "--set", "train.epochs=1", "--set", "final.train.epochs=2")
KINDS = {kind.value for kind in ObjectKind}
_TIME_S = 900.0


class Stored(NamedTuple):
    """How many objects of a kind, and their bytes."""

    number: int
    size_bytes: int


def stored(objects: Path) -> dict[str, Stored]:
    """Return what a directory store holds, by kind."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for path in objects.rglob("*"):
        kind = path.relative_to(objects).parts[0]
        if path.is_file() and kind in KINDS:
            counts[kind] += 1
            sizes[kind] += path.stat().st_size
    return {kind: Stored(counts[kind], sizes[kind]) for kind in sorted(counts)}


def journal_bytes(home: Path) -> int:
    """Return the size of the journal's files."""
    return sum(path.stat().st_size for path in home.glob("journal.db*"))


def resident_bytes(mesh: Mesh, name: str) -> int:
    """Return the memory of a program and of the children in which its jobs run, shared pages counted once each."""
    family = [psutil.Process(mesh.pid(name)), *mesh.children(name)]
    return sum(process.memory_full_info().pss for process in family)


def main() -> None:
    """Print a table, and one JSON object of figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a shorter search")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as directory, Mesh(Path(directory) / "home") as mesh:
        journal_before = journal_bytes(mesh.home)
        arguments = ("search", "create", "-f", SEARCH, "--id", "sized", "--wait", *(QUICK if quick else ()))
        done = mesh.nasmesh(*arguments, timeout_s=_TIME_S)
        if done.code:
            raise SystemExit(done.stderr)
        with mesh.client() as client:
            trials = sum(1 for _ in client.list_trials("sized"))
            search = client.get_search("sized")
        held = {name: resident_bytes(mesh, name) for name in MODULES}
        cpu_s = sum(psutil.Process(mesh.pid("scheduler")).cpu_times()[:2])
        found = stored(mesh.home / "objects")
        journal = journal_bytes(mesh.home) - journal_before
    rows = [(kind, f"{number / trials:.1f}", f"{size / trials / 1000:,.0f}") for kind, (number, size) in found.items()]
    rows.append(("journal", "", f"{journal / trials / 1000:,.0f}"))
    print_table(f"{trials} trials, by the trial", ("what", "objects put", "kB put"), rows)
    held_rows = [(name, f"{size / 2**20:,.0f}") for name, size in held.items()]
    print_table("memory held", ("program with its jobs", "MiB"), held_rows)
    print_figures(
        {
            "trials": trials,
            "final": search.state == search_pb2.SEARCH_STATE_SUCCEEDED,
            "objects_a_trial": sum(number for number, _ in found.values()) / trials,
            "object_bytes_a_trial": sum(size for _, size in found.values()) / trials,
            "journal_bytes_a_trial": journal / trials,
            "scheduler_cpu_s": round(cpu_s, 2),
            **{f"{name}_mib": round(size / 2**20) for name, size in held.items()},
        }
    )


if __name__ == "__main__":
    main()
