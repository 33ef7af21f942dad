"""Numbers as they are counted, and as a scrape reads them. Counting needs no library; only scraping does."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class Sample(NamedTuple):
    """One value of a metric of the catalogue; `labels` in the catalogue's order."""

    metric: str
    value: float
    labels: tuple[str, ...] = ()


class Distribution(NamedTuple):
    """One histogram of the catalogue: upper bounds, counts up to each and above the last, sum of values."""

    metric: str
    bounds: Sequence[float]
    counts: Sequence[int]
    total: float
    labels: tuple[str, ...] = ()


Reading = Sample | Distribution


class Histogram:
    """Values counted by size. One writer, or a lock around it."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Count up to each bound, and above the last."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def reading(self, metric: str, labels: tuple[str, ...] = ()) -> Distribution:
        """Return what was counted."""
        return Distribution(metric, self.bounds, tuple(self.counts), self.total, labels)


def by_reason(metric: str, counts: Iterable[tuple[str, int]]) -> Iterator[Sample]:
    """Yield a sample for each reason."""
    for reason, count in counts:
        yield Sample(metric, count, (reason,))
