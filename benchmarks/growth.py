"""What a task costs the scheduler's process in a young search and in an old one, and what the journal's disk allows.

Everything but sockets: engine, desk, an SQLite journal with synchronous=FULL, 64 agents that end every lease at once.
A task is an attempt to generate, train or evaluate: proposal recorded, leased, sent, outcome checked and recorded with
its lineage, all durable. Windows of tasks at both sizes take turns, so that a busy machine slows both alike. Beside it,
the same bytes written by bare SQLite in transactions of the same sizes.
"""

import argparse
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.inside import Inside, Spent
from benchmarks.report import print_figures, print_table, spread
from scheduler import compiled
from scheduler.collecting import settle

YOUNG_TRIALS = 1_000
WEIGHED_TRIALS = 10_000
WINDOW_TASKS = 1_000
# A trial is a training and an evaluation, and a share of a question to the generator.
TASKS_PER_TRIAL = 2


@dataclass(slots=True)
class Costs:
    """Microseconds a task, one value for each window."""

    engine_us: list[float] = field(default_factory=list)
    journal_us: list[float] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    tasks: int = 0

    def add(self, spent: Spent) -> None:
        """Add a window."""
        self.engine_us.append(spent.engine_s / spent.tasks * 1e6)
        self.journal_us.append(spent.journal_s / spent.tasks * 1e6)
        self.step_s += spent.step_s
        self.tasks += spent.tasks


def grow(inside: Inside, trials: int) -> int:
    """Let a search get so many trials; returns the resident memory in bytes on the way, at WEIGHED_TRIALS."""
    weight = 0
    if trials > WEIGHED_TRIALS:
        inside.work(until_tasks=WEIGHED_TRIALS * TASKS_PER_TRIAL)
        weight = psutil.Process().memory_info().rss
        trials -= WEIGHED_TRIALS
    inside.work(until_tasks=trials * TASKS_PER_TRIAL)
    return weight


def bare(directory: Path, batches: Sequence[Sequence[bytes]]) -> float:
    """Return the seconds that SQLite alone takes for these rows, one durable transaction for each batch."""
    with closing(sqlite3.connect(directory / "bare.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE event (sequence INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        started = time.perf_counter()
        for batch in batches:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO event (body) VALUES (?)", [(body,) for body in batch])
            db.execute("COMMIT")
        return time.perf_counter() - started


def young(directory: Path, name: str) -> Inside:
    """Return a new journal with a search of YOUNG_TRIALS trials that goes on."""
    inside = Inside(directory / name)
    inside.create("search", trials=10 * YOUNG_TRIALS)
    grow(inside, YOUNG_TRIALS)
    return inside


def main() -> None:
    """Print a table, and one JSON object of figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="15,000 trials instead of 100,000; ends within 50 s")
    quick = parser.parse_args().quick
    old_trials, pairs = (15_000, 5) if quick else (100_000, 15)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        old = Inside(directory / "old.db")
        settle()
        old.create("search", trials=2 * old_trials)
        weight = grow(old, old_trials)
        costs = {"young": Costs(), "old": Costs()}
        bare_us: list[float] = []
        ratios: list[float] = []
        for pair in range(pairs):
            fresh = young(directory, f"young-{pair}.db")
            fresh.keeps_batches = True
            for name in ("young", "old") if pair % 2 else ("old", "young"):
                spent = (fresh if name == "young" else old).work(until_tasks=WINDOW_TASKS)
                costs[name].add(spent)
                if name == "young":
                    (directory / "bare.db").unlink(missing_ok=True)
                    bare_us.append(bare(directory, spent.batches) / spent.tasks * 1e6)
            ratios.append(costs["old"].engine_us[-1] / costs["young"].engine_us[-1])
            fresh.close()
        old.close()
    report(old_trials, weight, costs, ratios, bare_us)


def report(old_trials: int, weight: int, costs: dict[str, Costs], ratios: list[float], bare_us: list[float]) -> None:
    """Print what was found."""
    sizes = {"young": YOUNG_TRIALS, "old": old_trials}
    rows: list[Sequence[object]] = []
    figures: dict[str, float] = {"old_trials": old_trials}
    for name, cost in costs.items():
        engine, journal, step = spread(cost.engine_us), spread(cost.journal_us), spread(cost.step_s)
        whole = spread([a + b for a, b in zip(cost.engine_us, cost.journal_us, strict=True)])
        worst = sorted(cost.step_s)[int(len(cost.step_s) * 0.99)] * 1e3
        rows.append((f"{sizes[name]:,} trials", engine, journal, f"{1e6 / whole.median:,.0f}", f"{worst:.1f}"))
        figures[f"{name}_engine_us_per_task"] = engine.median
        figures[f"{name}_journal_us_per_task"] = journal.median
        figures[f"{name}_tasks_per_s"] = 1e6 / whole.median
        figures[f"{name}_step_p50_ms"] = step.median * 1e3
        figures[f"{name}_step_p99_ms"] = worst
    limit, ratio = spread(bare_us), spread(ratios)
    rows.append(("bare SQLite, the same bytes", "", limit, f"{1e6 / limit.median:,.0f}", ""))
    figures["bare_sqlite_us_per_task"] = limit.median
    figures["growth_ratio"] = ratio.median
    figures["rss_mb_at_10000_trials"] = weight / 1e6
    header = ("", "engine us/task", "journal us/task", "tasks/s one after the other", "step p99 ms")
    print(f"an engine that is {'compiled' if compiled.in_use() else 'not compiled (python -m scheduler.compiled ...)'}")
    print_table(f"cost of a task, median of {len(ratios)} windows of {WINDOW_TASKS} tasks [quartiles]", header, rows)
    print(f"  {old_trials:,} trials cost {ratio} times as much as {YOUNG_TRIALS:,}")
    print(f"  resident at {WEIGHED_TRIALS:,} trials, agents and benchmark included: {weight / 1e6:.0f} MB")
    print_figures(figures)


if __name__ == "__main__":
    main()
