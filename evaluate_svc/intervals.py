"""Confidence intervals of what a split's samples say about all samples."""

import math
from statistics import NormalDist
from typing import NamedTuple


class Interval(NamedTuple):
    """Both ends of a confidence interval."""

    low: float
    high: float


def wilson(hits: int, samples: int, confidence: float) -> Interval:
    """Return Wilson's score interval (1927) of a share: it stays within 0..1 and holds for few samples and near 1.

    Without samples nothing is known: 0 to 1.
    """
    if samples == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, z2 = hits / samples, z * z
    middle = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    reach = z / (1 + z2 / samples) * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples * samples))
    # At 0 and at 1 the formula gives just that, but for rounding.
    return Interval(
        0.0 if hits == 0 else max(0.0, middle - reach), 1.0 if hits == samples else min(1.0, middle + reach)
    )


def of_mean(mean: float, variance: float, samples: int, confidence: float) -> Interval:
    """Return the interval of a mean by the normal approximation; `variance` is that of the samples."""
    if samples < 2:
        return Interval(-math.inf, math.inf)
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(max(variance, 0.0) / samples)
    return Interval(mean - reach, mean + reach)
