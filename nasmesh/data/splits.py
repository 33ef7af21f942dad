"""Divides samples into train, validation and test: stratified by class, a function of labels and seed alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Division:
    """Sample indices of each split, ascending; disjoint, and together all samples."""

    train: Indices
    validation: Indices
    test: Indices


@dataclass(frozen=True, slots=True)
class Shares:
    """What part of the non-test samples validates, and what part of all tests where `own_test` is 0."""

    validation: float
    test: float
    own_test: int


def divide(labels: Indices, shares: Shares, *, seed: int) -> Division:
    """Return the division of `labels` [N]; the last `own_test` samples are the test split where there are any.

    A test split that is drawn here depends on the seed; one that the data set defines never does.
    """
    everything = np.arange(len(labels), dtype=np.int64)
    if shares.own_test:
        rest, test = everything[: -shares.own_test], everything[-shares.own_test :]
    else:
        rest, test = _take(everything, labels, shares.test, np.random.default_rng([seed, 1]))
    train, validation = _take(rest, labels, shares.validation, np.random.default_rng([seed, 2]))
    return Division(train=train, validation=validation, test=test)


def _take(pool: Indices, labels: Indices, share: float, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Return (kept, taken): of each class round(share * count) samples are taken, at least 1, at most all but 1."""
    taken = []
    for label in np.unique(labels[pool]):
        members = rng.permutation(pool[labels[pool] == label])
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        taken.append(members[:count])
    chosen = np.sort(np.concatenate(taken))
    return np.setdiff1d(pool, chosen, assume_unique=True), chosen
