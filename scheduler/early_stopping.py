"""A search's rule of early stopping: checking it, filling its defaults in, and where its rungs stand. Pure."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from nasmesh.v1 import search_pb2 as pb
from nasmesh.v1 import training_pb2

REDUCTION = 3
MEDIAN_RUNGS = 8
MEDIAN_FIRST = 0.1
MEDIAN_TRIALS = 5
_RUNGS = 100
_HALVINGS = 20
_REDUCTION = 100
_TRIALS = 100_000
_BATCH = 64
_NEAR = 1e-9


class Round(NamedTuple):
    """Trials that are compared with each other (0: all there are), and the shares of a training at which they are."""

    trials: int
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A complete rule. `rounds` come in turn; `reduction` is 0 for the median rule, which waits for nobody.

    `synchronous`: a rung is decided when everybody of its round is there.
    """

    rounds: tuple[Round, ...]
    reduction: int
    synchronous: bool
    min_trials: int
    samples: int

    def round_of(self, number: int) -> int:
        """Return the round of a trial by its number, from 0."""
        sizes = [part.trials for part in self.rounds]
        cycle, place = divmod(number - 1, sum(sizes)) if sizes[0] else (0, 0)
        return cycle * len(sizes) + (bisect_right(list(accumulate(sizes)), place) if sizes[0] else 0)

    def last_of(self, number: int) -> int:
        """Return the number of the last trial of a round; 0: it has no last one."""
        cycle, place = divmod(number, len(self.rounds))
        sizes = [part.trials for part in self.rounds]
        return cycle * sum(sizes) + sum(sizes[: place + 1])

    def until_step(self, number: int, index: int, train: training_pb2.TrainConfig) -> int:
        """Return the update at which a trial of a round reaches a rung; 0: there is none, it is trained to its end."""
        total = total_steps(train, self.samples)
        step = 0
        for share in self.rounds[number % len(self.rounds)].shares[: index + 1]:
            step = max(step + 1, round(share * total))
        reached = index < len(self.rounds[number % len(self.rounds)].shares) and step < total
        return step if reached else 0


def total_steps(train: training_pb2.TrainConfig, samples: int) -> int:
    """Return about how many updates a training has, as its train server counts them; `samples` are for epochs."""
    if train.WhichOneof("budget") == "steps":
        return train.steps
    share = train.data_fraction if train.HasField("data_fraction") else 1.0
    per_epoch = max(1, round(share * samples) // max(1, train.batch_size or _BATCH))
    return max(1, round(train.epochs * per_epoch))


def plan_of(rule: pb.EarlyStopping) -> Plan:
    """Return the plan of a complete rule."""
    kind = rule.WhichOneof("rule")
    first = rule.first_rung
    if kind == "median":
        more = rule.median.rungs
        shares = tuple(first + (1 - first) * place / (more + 1) for place in range(more + 1))
        return Plan((Round(0, shares),), 0, False, rule.median.min_trials, rule.train_samples)
    reduction = _reduction(rule)
    shares = _halving_shares(first, reduction)
    if kind == "hyperband":
        most = len(shares)
        rounds = tuple(
            Round(math.ceil((most + 1) / (left + 1) * reduction**left), shares[most - left :])
            for left in range(most, -1, -1)
        )
    else:
        rounds = (Round(rule.successive_halving.trials if kind == "successive_halving" else 0, shares),)
    return Plan(rounds, reduction, kind != "asynchronous_halving", 0, rule.train_samples)


def stopping_faults(full: pb.SearchSpec, samples: int) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a rule, as field and fault, and fill its defaults in.

    `samples`: of the training split; 0: not known, since the data is at fault.
    """
    if not full.HasField("early_stopping"):
        return
    rule, field = full.early_stopping, "early_stopping"
    if rule.WhichOneof("rule") is None:
        yield field, "set median, successive_halving, asynchronous_halving or hyperband, or leave it out"
        return
    if rule.train_samples not in (0, samples) and samples:  # its own, in a specification that comes back, is fine
        yield (
            "early_stopping.train_samples",
            f"is {samples} for this data, not {rule.train_samples}: the scheduler fills it in; leave it out",
        )
    _fill(rule, samples)
    faults = [*_count_faults(rule)] or [*_share_faults(rule)]
    yield from faults
    if not faults and samples:
        yield from _length_faults(rule, full.train)


def _fill(rule: pb.EarlyStopping, samples: int) -> None:
    rule.train_samples = samples
    if rule.HasField("median"):
        rule.median.rungs = rule.median.rungs if rule.median.HasField("rungs") else MEDIAN_RUNGS
        rule.median.min_trials = rule.median.min_trials if rule.median.HasField("min_trials") else MEDIAN_TRIALS
        first = MEDIAN_FIRST
    else:
        halving = _halving(rule)
        halving.reduction = halving.reduction if halving.HasField("reduction") else REDUCTION
        first = 1 / max(1, halving.reduction) ** 2
    rule.first_rung = rule.first_rung if rule.HasField("first_rung") else first


def _share_faults(rule: pb.EarlyStopping) -> Iterator[tuple[str, str]]:
    if not 0 < rule.first_rung < 1:
        yield "early_stopping.first_rung", f"must be above 0 and below 1, not {rule.first_rung:g}"
    elif not rule.HasField("median") and len(_halving_shares(rule.first_rung, _reduction(rule))) > _HALVINGS:
        yield "early_stopping.first_rung", f"{rule.first_rung:g} makes more than {_HALVINGS} rungs; raise it"
    elif rule.HasField("hyperband") and plan_of(rule).rounds[0].trials > _TRIALS:
        yield "early_stopping.first_rung", f"its first round would have more than {_TRIALS} trials; raise it"


def _count_faults(rule: pb.EarlyStopping) -> Iterator[tuple[str, str]]:
    if rule.HasField("median"):
        if not 0 <= rule.median.rungs < _RUNGS:
            yield "early_stopping.median.rungs", f"must be 0 to {_RUNGS - 1}, not {rule.median.rungs}"
        if not 1 <= rule.median.min_trials <= _TRIALS:
            yield "early_stopping.median.min_trials", f"must be 1 to {_TRIALS}, not {rule.median.min_trials}"
        return
    kind, reduction = rule.WhichOneof("rule"), _reduction(rule)
    if not 2 <= reduction <= _REDUCTION:
        yield f"early_stopping.{kind}.reduction", f"must be 2 to {_REDUCTION}, not {reduction}"
        return
    trials = rule.successive_halving.trials
    if rule.HasField("successive_halving") and not reduction <= trials <= _TRIALS:
        most = f"must be {reduction} (the reduction) to {_TRIALS}, not {trials}"
        yield "early_stopping.successive_halving.trials", most


def _length_faults(rule: pb.EarlyStopping, train: training_pb2.TrainConfig) -> Iterator[tuple[str, str]]:
    """Refuse a training with fewer updates than rungs: some of them would not be there."""
    total = total_steps(train, rule.train_samples)
    shares = max((part.shares for part in plan_of(rule).rounds), key=len)
    steps = [round(share * total) for share in shares]
    if any(step < 1 or step >= total for step in steps) or len(set(steps)) < len(steps):
        told = ", ".join(f"{share:.3g}" for share in shares[:8])
        yield (
            "early_stopping.first_rung",
            f"a training of {total} updates has none to stop at for each of {told} of its length; train longer, "
            "or set fewer rungs",
        )


def _halving_shares(first: float, reduction: int) -> tuple[float, ...]:
    shares: list[float] = []
    share = first
    while share < 1 - _NEAR and len(shares) <= _HALVINGS:  # one too many is refused, and a share of 0 ends too
        shares.append(share)
        share *= reduction
    return tuple(shares)


def _halving(
    rule: pb.EarlyStopping,
) -> pb.SuccessiveHalving | pb.AsynchronousHalving | pb.Hyperband:
    if rule.HasField("hyperband"):
        return rule.hyperband
    return rule.successive_halving if rule.HasField("successive_halving") else rule.asynchronous_halving


def _reduction(rule: pb.EarlyStopping) -> int:
    return _halving(rule).reduction
