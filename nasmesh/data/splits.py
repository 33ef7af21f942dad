"""Divides samples into train, validation and test: a function of strata, groups and seed alone; and takes views."""

from dataclasses import dataclass

import numpy as np

from nasmesh.data.samples import Groups, Labels, Targets
from nasmesh.data.source import Indices
from nasmesh.errors import Invalid
from nasmesh.v1 import dataset_pb2 as pb

_TENTHS = 10


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


def divide(strata: Indices, shares: Shares, *, seed: int, groups: Groups | None = None) -> Division:
    """Return the division of samples by their strata [N]; the last `own_test` are the test split where there are any.

    With `groups` [N] no group is in two splits, and strata do not count. A test split that is drawn here depends on the
    seed; one that the data set defines never does. Raises Invalid (DATASET_GROUPS_TOO_FEW, DATASET_GROUP_SHARED).
    """
    everything = np.arange(len(strata), dtype=np.int64)

    def take(pool: Indices, share: float, purpose: int) -> tuple[Indices, Indices]:
        rng = np.random.default_rng([seed, purpose])
        return _take(pool, strata, share, rng) if groups is None else _take_groups(pool, groups, share, rng)

    if shares.own_test:
        rest, test = everything[: -shares.own_test], everything[-shares.own_test :]
        if groups is not None:
            _check_apart(groups[rest], groups[test])
    else:
        rest, test = take(everything, shares.test, 1)
    train, validation = take(rest, shares.validation, 2)
    return Division(train=train, validation=validation, test=test)


def strata_of(labels: Labels, targets: Targets) -> Indices:
    """Return what samples are stratified by: their labels, or which tenth of the first target they are in."""
    if len(labels) or not len(targets):
        return labels
    # Fewer than ten samples in each would leave none to take from.
    parts = max(1, min(_TENTHS, len(targets) // _TENTHS))
    borders = np.quantile(targets[:, 0], np.linspace(0, 1, parts + 1)[1:-1])
    return np.searchsorted(borders, targets[:, 0], side="right").astype(np.int64)


def take_view(division: Division, strata: Indices, view: pb.DataView, *, seed: int) -> Division:
    """Return the part of a division that a view leaves; fractions and bounds never touch the test split.

    A fraction takes a prefix of one seeded order in which every stratum is spread evenly: smaller views are inside
    larger ones, and nearly stratified. Classes that the view does not name have strata below 0.
    """
    train, validation, test = (part[strata[part] >= 0] for part in (division.train, division.validation, division.test))
    share = view.fraction if view.HasField("fraction") else 1.0
    total = len(train) + len(validation)
    if view.max_samples:
        share = min(share, view.max_samples / max(total, 1))
    if share < 1:
        train = _prefix(train, strata, share, np.random.default_rng([seed, 3]))
        most = view.max_samples - len(train) if view.max_samples else len(validation)
        validation = _prefix(validation, strata, share, np.random.default_rng([seed, 4]))[: max(most, 1)]
    return Division(np.sort(train), np.sort(validation), test)


def _prefix(pool: Indices, strata: Indices, share: float, rng: np.random.Generator) -> Indices:
    """Return the first round(share * n), at least 1, of a seeded order that spreads every stratum evenly."""
    shuffled = rng.permutation(pool)
    by_stratum = np.argsort(strata[shuffled], kind="stable")
    ordered = shuffled[by_stratum]
    _, starts, counts = np.unique(strata[ordered], return_index=True, return_counts=True)
    place = np.arange(len(ordered)) - np.repeat(starts, counts)
    # The k-th of n in a stratum stands at (k + 1/2) / n of the whole; ties in the order of strata.
    order = np.argsort((place + 0.5) / np.repeat(counts, counts), kind="stable")
    kept: Indices = ordered[order][: max(1, round(share * len(pool)))]
    return kept


def _take(pool: Indices, strata: Indices, share: float, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Return (kept, taken): of each stratum round(share * count) are taken, at least 1, at most all but 1."""
    taken = []
    order = np.argsort(strata[pool], kind="stable")
    borders = np.flatnonzero(np.diff(strata[pool][order])) + 1
    for stratum in np.split(pool[order], borders):
        members = rng.permutation(stratum)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        taken.append(members[:count])
    chosen = np.sort(np.concatenate(taken))
    return np.setdiff1d(pool, chosen, assume_unique=True), chosen


def _take_groups(pool: Indices, groups: Groups, share: float, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Return (kept, taken): whole groups in a seeded order until the share is reached, at least one, never all."""
    names, counts = np.unique(groups[pool], return_counts=True)
    if len(names) < 2:
        raise Invalid(
            "DATASET_GROUPS_TOO_FEW",
            f"data.division: {len(names)} group is left to divide; each split needs one of its own,"
            " so add more groups or divide STRATIFIED",
            field="data.division",
        )
    order = rng.permutation(len(names))
    reached = np.cumsum(counts[order])
    # As many groups as come nearest to the share, seen from below; what is left keeps at least one.
    count = int(np.searchsorted(reached, share * len(pool), side="right"))
    chosen = names[order[: min(max(count, 1), len(names) - 1)]]
    inside = np.isin(groups[pool], chosen)
    return pool[~inside], pool[inside]


def _check_apart(rest: Groups, test: Groups) -> None:
    shared = np.intersect1d(rest, test)
    if len(shared):
        raise Invalid(
            "DATASET_GROUP_SHARED",
            f"data.division: {len(shared)} groups, the first is {shared[0]}, are in the data set's own test split and"
            " outside it; divide STRATIFIED, or add the data set with other groups",
            field="data.division",
        )
