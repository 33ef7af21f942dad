"""How soon a search found what it found."""

import pytest

from clients.cli.report.reached import reached
from nasmesh.v1 import measurement_pb2, search_pb2

SUCCEEDED, INFEASIBLE = search_pb2.TRIAL_OUTCOME_SUCCEEDED, search_pb2.TRIAL_OUTCOME_INFEASIBLE


def _search(goal: int = search_pb2.GOAL_MAXIMIZE) -> search_pb2.Search:
    search = search_pb2.Search(name="searches/s")
    search.spec.objectives.add(metric="accuracy", goal=search_pb2.Goal.ValueType(goal))
    search.create_time.FromSeconds(1000)
    return search


def _trial(number: int, end_s: int, value: float, *, outcome: int = SUCCEEDED, final: bool = False) -> search_pb2.Trial:
    trial = search_pb2.Trial(
        name=f"searches/s/trials/{number}",
        number=number,
        final=final,
        outcome=search_pb2.TrialOutcome.ValueType(outcome),
        device_time_s=10.0,
    )
    split = measurement_pb2.SPLIT_TEST if final else measurement_pb2.SPLIT_VALIDATION
    trial.measurements.add(metric="accuracy", value=value, split=split)
    if end_s:
        trial.end_time.FromSeconds(1000 + end_s)
    return trial


TRIALS = [
    _trial(1, 40, 0.7),
    _trial(2, 20, 0.5),
    _trial(3, 30, 0.9, outcome=INFEASIBLE),
    _trial(4, 50, 0.7),
    _trial(5, 90, 0.8),
    _trial(6, 0, 0.99, outcome=0),
    _trial(7, 95, 0.95, final=True),
]


def test_reached_when_trials_end_in_another_order_then_told_by_time_with_all_that_was_spent() -> None:
    steps = reached(_search(), TRIALS)
    assert [(step.trial.rpartition("/")[2], step.value) for step in steps] == [("2", 0.5), ("1", 0.7), ("5", 0.8)]
    assert [(step.wall_time_s, step.device_time_s, step.trials) for step in steps] == [
        (20, 10, 1),
        (40, 30, 3),
        (90, 50, 5),
    ]


@pytest.mark.parametrize(("trials", "values"), [([], []), (TRIALS[:2], [0.5]), (TRIALS[4:], [0.8])])
def test_reached_when_smaller_is_better_then_only_smaller_values_count(
    trials: list[search_pb2.Trial], values: list[float]
) -> None:
    assert [step.value for step in reached(_search(search_pb2.GOAL_MINIMIZE), trials)] == values
