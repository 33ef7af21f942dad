"""Data sets larger than memory: what adding, fetching and reading them in random order hold in memory, and how fast.

Each step runs in a process of its own on two data sets of random images, the second four times as large as the first:
what a step's memory grows by must not grow with the data. Reading is compared with indexing an array of the same
samples in memory, in turns within one process, with a warm page cache.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.report import print_figures, print_table
from nasmesh.clock import SystemClock
from nasmesh.limits import MIB

SIDE = 64
BATCH = 128
ROW_BYTES = 3 * SIDE * SIDE
GROWTH = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="64 and 256 MiB instead of 1 and 4 GiB")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        step, folder = options.child
        print(json.dumps(STEPS[step](Path(folder))))
        return
    small = 64 if options.quick else 1024
    with tempfile.TemporaryDirectory(prefix="nasmesh-data-") as scratch:
        found = {size: measure(Path(scratch) / str(size), size) for size in (small, small * GROWTH)}
    show(found)


def measure(
    folder: Path, size_mib: int, steps: Iterable[str] = ("add", "fetch", "read", "pair")
) -> dict[str, dict[str, Any]]:
    """Return what each step took on a data set of a size."""
    write_source(folder, size_mib)
    found = {}
    for step in steps:
        command = [sys.executable, "-m", "benchmarks.data_stream", "--child", step, str(folder)]
        found[step] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def write_source(folder: Path, size_mib: int) -> None:
    """Write samples and labels as .npy files, piece by piece."""
    count = size_mib * MIB // ROW_BYTES
    source = folder / "source"
    source.mkdir(parents=True)
    rng = np.random.default_rng(1)
    samples = np.lib.format.open_memmap(source / "x.npy", mode="w+", dtype=np.uint8, shape=(count, 3, SIDE, SIDE))
    for first in range(0, count, 1024):
        here = samples[first : first + 1024]
        here[:] = rng.integers(0, 256, here.shape, dtype=np.uint8)
    samples.flush()
    np.save(source / "y.npy", np.arange(count) % 10)


def add(folder: Path) -> dict[str, float]:
    """Read the files, cut them into shards, store them."""
    from nasmesh.data.adding.add import add as add_files
    from nasmesh.data.adding.options import Options
    from nasmesh.store.keys import ObjectKind

    store = _store(folder)
    begin, clock = _rss(), SystemClock()
    start = clock.monotonic()
    _, ref = add_files(
        folder / "source", Options(), lambda content: store.put(ObjectKind.DATASET, content, extension="bin")
    )
    seconds = clock.monotonic() - start
    (folder / "manifest").write_bytes(ref.SerializeToString())
    return _told(begin, seconds)


def fetch(folder: Path) -> dict[str, float]:
    """Bring the objects into the local cache."""
    begin, clock = _rss(), SystemClock()
    start = clock.monotonic()
    _open(folder)
    return _told(begin, clock.monotonic() - start)


def read(folder: Path) -> dict[str, float]:
    """Read batches in random order: every sample about once."""
    source = _open(folder)
    begin, clock = _rss(), SystemClock()
    order = np.random.default_rng(2).permutation(len(source))
    start = clock.monotonic()
    checked = 0
    for first in range(0, len(order), BATCH):
        checked += int(source.rows(order[first : first + BATCH])[0, 0, 0, 0])
    return _told(begin, clock.monotonic() - start)


def pair(folder: Path) -> dict[str, float]:
    """Read batches from the file and from an array of the first 64 MiB, in turns."""
    source, clock = _open(folder), SystemClock()
    count = min(len(source), 64 * MIB // ROW_BYTES)
    array = source.rows(np.arange(count))
    rng = np.random.default_rng(3)
    ratios = []
    for _ in range(15):
        order = rng.permutation(count)
        seconds = []
        for rows in (source.rows, array.__getitem__):
            start = clock.monotonic()
            for first in range(0, count, BATCH):
                rows(order[first : first + BATCH])
            seconds.append(clock.monotonic() - start)
        ratios.append(seconds[0] / seconds[1])
    return {"ratio": median(ratios)}


STEPS = {"add": add, "fetch": fetch, "read": read, "pair": pair}


def show(found: dict[int, dict[str, dict[str, Any]]]) -> None:
    """Print the table and the figures."""
    rows, figures = [], {}
    for size, steps in found.items():
        for step in ("add", "fetch", "read"):
            told = steps[step]
            rate = size / told["seconds"]
            rows.append((f"{size} MiB", step, f"{told['grown_mib']:.0f} MiB", f"{rate:.0f} MiB/s"))
            figures[f"{step}_memory_mib_at_{size}_mib"] = round(told["grown_mib"], 1)
            figures[f"{step}_mib_per_s_at_{size}_mib"] = round(rate, 1)
    print_table("data larger than memory", ("data set", "step", "memory it grew by at most", "speed"), rows)
    small, large = found
    for step in ("add", "fetch", "read"):
        grown = found[large][step]["grown_mib"] - found[small][step]["grown_mib"]
        figures[f"{step}_memory_per_data"] = round(grown / (large - small), 4)
    figures["random_read_time_vs_memory"] = round(found[small]["pair"]["ratio"], 2)
    print_figures(figures)


def _open(folder: Path) -> Any:
    from nasmesh.data import cache
    from nasmesh.data.resolve import added
    from nasmesh.v1 import object_pb2

    ref = object_pb2.ObjectRef.FromString((folder / "manifest").read_bytes())
    store = _store(folder)
    return cache.open_cached(added(ref, store), ref.sha256, store, memory_bytes=0).samples


def _store(folder: Path) -> Any:
    import os

    from nasmesh.store.directory import DirectoryStore

    os.environ["NASMESH_HOME"] = str(folder / "home")
    return DirectoryStore(folder / "objects")


def _rss() -> int:
    """Return the resident memory now, and begin a new peak where the system lets us."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _told(begin: int, seconds: float) -> dict[str, float]:
    return {"grown_mib": (_status("VmHWM") - begin) / 1024, "seconds": seconds}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
