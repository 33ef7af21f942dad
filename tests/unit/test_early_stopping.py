"""Rules of early stopping: where rungs stand, what validation says, who is better; each against what its paper says."""

import itertools

import pytest

from nasmesh.clock import seeded_random
from nasmesh.v1 import search_pb2 as pb
from nasmesh.v1 import training_pb2
from scheduler.early_stopping import Round, plan_of, stopping_faults, total_steps
from scheduler.ladder import Ladder, ladder_of, ordinal
from tests.builders.scheduler_play import spec


def complete(kind: str, steps: int = 90, samples: int = 1000, **settings: object) -> pb.SearchSpec:
    result = spec()
    result.train.steps = steps
    rule = result.early_stopping
    getattr(rule, kind).SetInParent()
    for name, value in settings.items():
        setattr(rule if name in ("first_rung", "by_pareto_rank") else getattr(rule, kind), name, value)
    assert list(stopping_faults(result, samples)) == []
    return result


def faults(change: dict[str, object], kind: str = "asynchronous_halving", steps: int = 90) -> list[tuple[str, str]]:
    result = spec()
    result.train.steps = steps
    rule = result.early_stopping
    getattr(rule, kind).SetInParent()
    for name, value in change.items():
        setattr(rule if name == "first_rung" else getattr(rule, kind), name, value)
    return list(stopping_faults(result, 1000))


def test_rungs_of_hyperband_when_reduction_is_three_then_its_brackets_are_those_of_the_paper() -> None:
    # Li et al. 2018, section 3, with R = 9 and reduction 3: 9 trials from a ninth, 5 from a third, 3 at once.
    plan = plan_of(complete("hyperband").early_stopping)
    assert [part.trials for part in plan.rounds] == [9, 5, 3]
    assert [len(part.shares) for part in plan.rounds] == [2, 1, 0]
    assert plan.rounds[0].shares == pytest.approx((1 / 9, 1 / 3))
    assert plan.rounds[1].shares == pytest.approx((1 / 3,))
    rounds = [plan.round_of(number) for number in range(1, 20)]
    assert rounds == [0] * 9 + [1] * 5 + [2] * 3 + [3] * 2
    assert [plan.last_of(number) for number in range(4)] == [9, 14, 17, 26]


def test_rungs_of_the_median_rule_when_complete_then_at_equal_distances() -> None:
    plan = plan_of(complete("median").early_stopping)
    assert plan.rounds == (Round(0, plan.rounds[0].shares),)
    assert plan.rounds[0].shares == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])


def test_updates_when_counted_then_as_the_train_server_counts_them() -> None:
    epochs = training_pb2.TrainConfig(epochs=2.5, batch_size=64, data_fraction=0.5)
    assert total_steps(epochs, 1437) == round(2.5 * (718 // 64))
    part = training_pb2.TrainConfig(epochs=1, batch_size=19, data_fraction=0.57)  # as a double a little less
    assert total_steps(part, 100) == 57 // 19
    assert total_steps(training_pb2.TrainConfig(steps=7), 0) == 7
    plan = plan_of(complete("asynchronous_halving").early_stopping)
    config = training_pb2.TrainConfig(steps=90)
    assert [plan.until_step(0, index, config) for index in range(3)] == [10, 30, 0]
    # A proposal that trains for fewer updates skips rungs that would stand at its end.
    assert [plan.until_step(0, index, training_pb2.TrainConfig(steps=2)) for index in range(2)] == [1, 0]


@pytest.mark.parametrize(
    ("kind", "change", "field"),
    [
        ("asynchronous_halving", {"reduction": 1}, "early_stopping.asynchronous_halving.reduction"),
        ("hyperband", {"reduction": 101}, "early_stopping.hyperband.reduction"),
        ("successive_halving", {"trials": 2}, "early_stopping.successive_halving.trials"),
        ("successive_halving", {}, "early_stopping.successive_halving.trials"),
        ("median", {"rungs": -1}, "early_stopping.median.rungs"),
        ("median", {"min_trials": 0}, "early_stopping.median.min_trials"),
        ("median", {"first_rung": 1.0}, "early_stopping.first_rung"),
        ("hyperband", {"first_rung": float("nan")}, "early_stopping.first_rung"),
        ("hyperband", {"first_rung": 1e-300}, "early_stopping.first_rung"),
        ("hyperband", {"first_rung": 1e-6}, "early_stopping.first_rung"),
        ("asynchronous_halving", {"first_rung": 0.001}, "early_stopping.first_rung"),
    ],
)
def test_rule_when_wrong_then_its_field_is_named(kind: str, change: dict[str, object], field: str) -> None:
    assert [name for name, _ in faults(change, kind)] == [field]


def test_rule_when_none_is_named_or_the_training_too_short_then_refused() -> None:
    nothing = spec()
    nothing.early_stopping.SetInParent()
    assert [name for name, _ in stopping_faults(nothing, 1000)] == ["early_stopping"]


def test_samples_when_somebody_gives_another_number_then_refused() -> None:
    back = complete("median")
    assert back.early_stopping.train_samples == 1000
    assert list(stopping_faults(back, 1000)) == []
    [(name, told)] = stopping_faults(back, 500)
    assert name == "early_stopping.train_samples"
    assert "is 500 for this data, not 1000" in told
    ((field, told),) = faults({}, steps=3)
    assert field == "early_stopping.first_rung"
    assert "a training of 3 updates" in told


def brute_fronts(keys: dict[int, tuple[float, ...]]) -> dict[int, int]:
    """Return Pareto ranks by peeling off what nobody dominates, again and again."""
    ranks: dict[int, int] = {}
    left = dict(keys)
    for rank in itertools.count():
        if not left:
            return ranks
        front = [
            n
            for n, mine in left.items()
            if not any(all(a <= b for a, b in zip(o, mine, strict=True)) and o != mine for o in left.values())
        ]
        for number in front:
            ranks[number] = rank
            del left[number]
    raise AssertionError


@pytest.mark.parametrize("seed", range(20))
def test_pareto_order_when_random_then_that_of_peeling_fronts(seed: int) -> None:
    rng = seeded_random(seed)
    result = complete("asynchronous_halving", by_pareto_rank=True)
    for metric in ("parameters", "loss")[: rng.randint(0, 2)]:
        result.objectives.add(metric=metric, goal=pb.GOAL_MINIMIZE)
    ladder = ladder_of(result)
    assert ladder is not None
    for number in range(1, 41):
        trial = pb.Trial(number=number, train=result.train)
        ladder.climb(number, 0)
        trial.rungs.add(values=[rng.randint(0, 6) for _ in result.objectives])
        ladder.arrive(trial)
    (place,) = ladder.standings
    keys = ladder.standings[place].keys
    ranks = brute_fronts(keys)
    assert ladder.order(place) == sorted(keys, key=lambda n: (ranks[n], keys[n][0], n)), f"seed {seed}"


def promotable(ladder: Ladder, trials: dict[int, pb.Trial]) -> list[tuple[int, int]]:
    """Return (rung, trial) that ASHA's get_job (Li et al. 2020, algorithm 2) may promote, from the values alone."""
    found = []
    for rung in (1, 0):
        there = {n: t.rungs[rung].values[0] for n, t in trials.items() if len(t.rungs) > rung}
        best = sorted(there, key=lambda n: (-there[n], n))[: len(there) // 3]
        found += [(rung, n) for n in best if n in ladder.held and len(trials[n].rungs) == rung + 1]
    return found


@pytest.mark.parametrize("seed", range(10))
def test_asha_when_trials_arrive_in_any_order_then_who_goes_on_is_whom_its_paper_promotes(seed: int) -> None:
    rng = seeded_random(seed)
    ladder = ladder_of(complete("asynchronous_halving"))
    assert ladder is not None
    trials: dict[int, pb.Trial] = {}
    climbing: list[int] = []
    promoted = 0
    for _ in range(400):
        if rng.random() < 0.5 or not climbing:
            number = len(trials) + 1
            trials[number] = pb.Trial(number=number)
            ladder.climb(number, 0)
            climbing.append(number)
        number = climbing.pop(rng.randrange(len(climbing)))
        trial = trials[number]
        if len(trial.rungs) == 2:
            trial.outcome = pb.TRIAL_OUTCOME_SUCCEEDED
            ladder.end(trial)
            continue
        trial.rungs.add(values=[rng.random()])
        ladder.arrive(trial)
        while (verdict := ladder.next_promoted(len(trials))) is not None:
            wanted = promotable(ladder, trials)
            assert verdict.number in [n for rung, n in wanted if rung == wanted[0][0]], f"seed {seed}"
            ladder.go_on(verdict.number)
            climbing.append(verdict.number)
            promoted += 1
        assert promotable(ladder, trials) == [], f"seed {seed}"
    assert promoted > 50


def test_ordinals_when_read_then_english() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 101, 111)] == (
        ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "101st", "111th"]
    )


def test_plan_when_nothing_has_checked_its_share_then_it_ends_all_the_same() -> None:
    rule = pb.EarlyStopping(asynchronous_halving=pb.AsynchronousHalving(reduction=2))
    assert len(plan_of(rule).rounds[0].shares) > 20, "more than validation lets through"
