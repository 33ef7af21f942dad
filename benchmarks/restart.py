"""How long a scheduler takes from its start until it serves, with a long search in its journal.

The journal is written by the real engine, tasks that are leased included, and left as a kill leaves it; then
`python -m scheduler` is started on it as a person starts it. Beside it: the same start on an empty journal, and the
time in which bare SQLite reads the rows that a start reads.
"""

import argparse
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.growth import grow
from benchmarks.inside import Inside
from benchmarks.processes import Program
from benchmarks.report import print_figures, print_table, spread
from scheduler.collecting import settle


def build(path: Path, trials: int) -> tuple[int, int]:
    """Write a journal with so many trials; returns how many it has, and how many events."""
    inside = Inside(path)
    settle()
    inside.create("search", trials=2 * trials)
    grow(inside, trials)
    state = inside.engine.state
    counts = len(state.searches["search"].trials), state.sequence
    inside.close()
    return counts


def start(directory: Path, journal: Path) -> tuple[float, float]:
    """Start a scheduler and kill it; returns the seconds until it served, and its resident memory in megabytes."""
    began = time.perf_counter()
    with Program("scheduler", directory, "--journal", f"sqlite:{journal}", "--store", "memory:") as program:
        seconds = time.perf_counter() - began
        weight = program.resident_bytes() / 1e6
        program.kill()
    return seconds, weight


def read(journal: Path) -> tuple[float, int]:
    """Return the seconds in which bare SQLite reads the snapshot and the events after it, and how many those are."""
    began = time.perf_counter()
    # Read-only: who closes a journal last folds its write-ahead log in, which the next scheduler would miss.
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        at = db.execute("SELECT sequence FROM snapshot_at").fetchone()[0]
        sum(1 for _ in db.execute("SELECT key, body, crc FROM snapshot ORDER BY key"))
        events = sum(1 for _ in db.execute("SELECT sequence, body, crc FROM event WHERE sequence > ?", (at,)))
    return time.perf_counter() - began, events


def main() -> None:
    """Print a table, and one JSON object of figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="15,000 trials instead of 100,000; ends within 50 s")
    quick = parser.parse_args().quick
    wanted, count = (15_000, 4) if quick else (100_000, 10)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        journal, empty = directory / "long.db", directory / "empty.db"
        trials, events = build(journal, wanted)
        start(directory, empty)  # the files of the program are in the page cache from now on
        long: list[tuple[float, float]] = []
        short: list[tuple[float, float]] = []
        bare: list[float] = []
        for _ in range(count):
            short.append(start(directory, empty))
            seconds, replayed = read(journal)
            bare.append(seconds)
            long.append(start(directory, journal))
        size = journal.stat().st_size / 1e6
    report(trials, events, replayed, size, (long, short, bare))


def report(
    trials: int,
    events: int,
    replayed: int,
    size_mb: float,
    times: tuple[list[tuple[float, float]], list[tuple[float, float]], list[float]],
) -> None:
    """Print what was found."""
    long, short, bare = times
    whole, fresh, limit = spread([s for s, _ in long]), spread([s for s, _ in short]), spread(bare)
    weight, light = spread([w for _, w in long]), spread([w for _, w in short])
    rows: list[Sequence[object]] = [
        (f"{trials:,} trials in the journal", whole, weight),
        ("empty journal", fresh, light),
        ("bare SQLite reads the same rows", limit, ""),
    ]
    title = (
        f"from start to serving, median of {len(long)} [quartiles]; {events:,} events, {replayed:,} of them replayed,"
    )
    print_table(f"{title} {size_mb:.0f} MB", ("", "seconds", "resident MB"), rows)
    print_figures(
        {
            "restart_trials": trials,
            "restart_events": events,
            "restart_replayed_events": replayed,
            "restart_s": whole.median,
            "restart_empty_s": fresh.median,
            "restart_bare_read_s": limit.median,
            "restart_rss_mb": weight.median,
            "restart_empty_rss_mb": light.median,
            "restart_journal_mb": size_mb,
        }
    )


if __name__ == "__main__":
    main()
