"""The journal in PostgreSQL beside SQLite: batches a second alone, tasks a second of the whole control plane.

`python -m benchmarks.journals [--quick]`. Both wait for the disk at every commit (fsync, synchronous=FULL), on the same
disk; PostgreSQL is on this machine, over loopback. The whole path is that of benchmarks.control_plane.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.control_plane import AGENTS, EVENT_BYTES, Ours, Part, interleaved
from benchmarks.report import print_figures, print_table
from scheduler.journal.base import Batch, Journal
from scheduler.journal.places import journal_at
from tests.builders.postgres_server import absent, server

# Events in a batch: one alone, and as many as a busy scheduler puts together.
SIZES = (1, 8, 64)
# PostgreSQL's rate over SQLite's that the whole path is to reach: beside it a batch costs a round trip.
TARGET = 0.5


def batches(journal: Journal, size: int) -> Callable[[float], float]:
    """Return what appends batches of some events for some seconds, and tells how many a second."""
    events = (bytes(EVENT_BYTES),) * size

    def rate(seconds: float) -> float:
        following = 1 + max((number for number, _ in journal.events(0)), default=0)
        count, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < seconds:
            journal.append(Batch(following, events))
            following += size
            count += 1
        return count / took

    return rate


def main() -> None:
    """Print a table, and one JSON object of figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter and fewer rounds; ends within 50 s")
    flags = parser.parse_args()
    rounds, seconds = (3, 1.0) if flags.quick else (7, 4.0)
    reason = absent()
    if reason:
        print(f"left out: {reason}")
        print_figures({})
        return
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        root = Path(directory)
        postgres = stack.enter_context(server(root / "server", durable=True))
        parts: dict[str, Part] = {}
        for size in SIZES:
            for kind, url in (
                ("sqlite", f"sqlite:{root / f'alone-{size}.db'}"),
                ("postgres", postgres.create(f"alone_{size}")),
            ):
                journal = stack.enter_context(contextlib.closing(journal_at(url)))
                journal.open()
                parts[f"{kind}_{size}"] = Part(f"{kind} alone, batches of {size}", batches(journal, size))
        whole = {
            "sqlite": Ours(stack, root / "sqlite"),
            "postgres": Ours(stack, root / "postgres", "--journal", postgres.create("whole")),
        }
        for kind, ours in whole.items():
            parts[f"{kind}_tasks"] = Part(f"whole path over {kind}, tasks", ours.rate)
        rates = interleaved(parts, rounds=rounds, seconds=seconds)
    rows = [(part.label, rates[name]) for name, part in parts.items()]
    print_table(f"per second, {AGENTS} agents, median of {rounds} [quartiles]", ("what", "per second"), rows)
    figures = {f"{name}_per_s": rate.median for name, rate in rates.items()}
    for what in (*map(str, SIZES), "tasks"):
        figures[f"postgres_to_sqlite_{what}"] = rates[f"postgres_{what}"].median / rates[f"sqlite_{what}"].median
    ratio = figures["postgres_to_sqlite_tasks"]
    print_table("PostgreSQL over SQLite", ("what", "ratio", "to reach"), [("tasks a second", f"{ratio:.3g}", TARGET)])
    print_figures(figures)


if __name__ == "__main__":
    main()
