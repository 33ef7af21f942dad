"""How long one forward pass takes at batch 1, and how many samples a second go through at larger ones."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nasmesh.clock import Clock

WARM_UP_RUNS = 10
REPEATS = 3
_THROUGHPUT_RUNS = 5
_THROUGHPUT_S = 0.5


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of timed runs, in milliseconds."""

    p50_ms: float
    p99_ms: float
    least_ms: float
    runs: int


def measure(forward: Callable[[], object], runs: int, clock: Clock) -> Latency:
    """Return the percentiles over `runs` calls of `forward`, after ten that are not counted."""
    for _ in range(WARM_UP_RUNS):
        forward()
    seconds = np.empty(runs)
    for run in range(runs):
        begin = clock.monotonic()
        forward()
        seconds[run] = clock.monotonic() - begin
    p50, p99 = np.percentile(seconds * 1000, [50, 99])
    return Latency(float(p50), float(p99), float(seconds.min() * 1000), runs)


def repeated(forward: Callable[[], object], runs: int, clock: Clock) -> tuple[Latency, list[Latency]]:
    """Return the median repetition of REPEATS, percentile by percentile, and all of them: one burst spoils one only."""
    found = [measure(forward, runs, clock) for _ in range(REPEATS)]
    p50 = float(np.median([one.p50_ms for one in found]))
    p99 = float(np.median([one.p99_ms for one in found]))
    return Latency(p50, p99, min(one.least_ms for one in found), runs * REPEATS), found


def throughput(forward: Callable[[], object], batch_size: int, clock: Clock) -> tuple[float, int]:
    """Return samples a second by the median call of `forward`, and how many calls were timed: half a second's, or 5."""
    forward()
    seconds: list[float] = []
    end = clock.monotonic() + _THROUGHPUT_S
    while len(seconds) < _THROUGHPUT_RUNS or clock.monotonic() < end:
        begin = clock.monotonic()
        forward()
        seconds.append(clock.monotonic() - begin)
    # A clock's step is the least that a call can have taken.
    return batch_size / max(float(np.median(seconds)), 1e-9), len(seconds)
