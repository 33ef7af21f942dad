"""Shared by benchmarks: interleaved timing, medians with spread, a readable table, the JSON object of the last line."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nasmesh.host import cpu_count

# Load average of a processor beyond which others must be at work: a benchmark alone seldom has more runnable threads.
_BUSY = 1.5


@dataclass(frozen=True, slots=True)
class Spread:
    """A sample's median and its quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return "median [lower quartile .. upper quartile]"."""
        return f"{self.median:.4g} [{self.low:.4g} .. {self.high:.4g}]"


def spread(values: Sequence[float]) -> Spread:
    """Return the median and quartiles of at least two values."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high)


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p90, p99 and the largest of some times, in milliseconds."""
    ordered = sorted(seconds)
    at = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    found = {name: 1000 * ordered[int(share * (len(ordered) - 1))] for name, share in at.items()}
    return {**found, "max": 1000 * ordered[-1]}


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one call took, in seconds: on the wall, and of all processor threads of this process together."""

    wall_s: float
    cpu_s: float


def interleave(contenders: Mapping[str, Callable[[], object]], *, seconds: float) -> dict[str, list[Timing]]:
    """Return the times of every call, the contenders taking turns so that a busy machine slows all alike.

    Each is called once beforehand, unmeasured. The order turns round each time: who is first after a pause is slower.
    """
    for call in contenders.values():
        call()
    times: dict[str, list[Timing]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds
    order = list(contenders)
    while time.perf_counter() < end or len(times[order[0]]) < 4:
        for name in order:
            start, spent = time.perf_counter(), time.process_time()
            contenders[name]()
            times[name].append(Timing(time.perf_counter() - start, time.process_time() - spent))
        order.reverse()
    return times


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table whose columns are as wide as their widest cell."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    print(title)
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_figures(figures: Mapping[str, float | int | str | bool]) -> None:
    """Print the figures as one JSON object, which must be the last line; before it, whether the machine was busy."""
    load, processors = os.getloadavg()[0], cpu_count()
    if load > _BUSY * processors:
        print(f"busy machine: load {load:.1f} on {processors} processors; ratios hold within this run, times do not")
    rounded = {name: round(value, 6) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps(rounded))
    sys.stdout.flush()
