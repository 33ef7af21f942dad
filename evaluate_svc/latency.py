"""How long one forward pass takes at batch 1."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nasmesh.clock import Clock

WARM_UP_RUNS = 10


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of timed runs, in milliseconds."""

    p50_ms: float
    p99_ms: float


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
    return Latency(float(p50), float(p99))
