"""Which trained network of a search is its best, as far as the search has come. Pure."""

from collections.abc import Iterable

from nasmesh.v1 import measurement_pb2
from nasmesh.v1.search_pb2 import GOAL_MINIMIZE, Search, Trial, TrialOutcome

SUCCEEDED = TrialOutcome.TRIAL_OUTCOME_SUCCEEDED
_PARTLY = frozenset(
    {
        TrialOutcome.TRIAL_OUTCOME_UNSPECIFIED,
        TrialOutcome.TRIAL_OUTCOME_STOPPED,
        TrialOutcome.TRIAL_OUTCOME_LOST,
    }
)


def best_trial(search: Search, trials: Iterable[Trial]) -> Trial | None:
    """Return the first scored final trial; before there is one, the best of the search by its first objective.

    Where no trial was trained to its end, the best of those that were scored at a rung, which the search names once its
    phase has ended; None where none was.
    """
    seen = {trial.name: trial for trial in trials}
    for name in (*search.final_trials, search.best_trial):
        trial = seen.get(name)
        if trial is not None and (trial.outcome == SUCCEEDED or is_at_a_rung(trial)):
            return trial
    return best_at_a_rung(search, seen.values())


def best_at_a_rung(search: Search, trials: Iterable[Trial]) -> Trial | None:
    """Return the best of the trials that were scored at a rung, ended or not; None where none was.

    One that violates a constraint or failed of its own fault is none of them. Among equals, who was trained longest.
    """
    if not search.spec.objectives:
        return None
    objective = search.spec.objectives[0]
    sign = 1.0 if objective.goal == GOAL_MINIMIZE else -1.0
    found = [
        (sign * value, -trial.steps, trial.number, trial)
        for trial in trials
        if is_at_a_rung(trial)
        and _is_feasible(search, trial)
        and (value := _measured(trial, objective.metric)) is not None
    ]
    return min(found, key=lambda row: row[:3])[3] if found else None


def is_at_a_rung(trial: Trial) -> bool:
    """Say whether a trial has a model that was scored at a rung, and no whole training."""
    return bool(trial.rungs) and bool(trial.model.key) and not trial.final and trial.outcome in _PARTLY


def _is_feasible(search: Search, trial: Trial) -> bool:
    """Say whether what was measured of a trial is within the search's bounds."""
    for bound in search.spec.constraints:
        value = _measured(trial, bound.metric)
        too_much = bound.HasField("max") and value is not None and value > bound.max
        if too_much or (bound.HasField("min") and value is not None and value < bound.min):
            return False
    return True


def _measured(trial: Trial, metric: str) -> float | None:
    """Return the latest value of a metric that what is trained was scored with, not one seen while training."""
    splits = (measurement_pb2.SPLIT_UNSPECIFIED, trial.evaluate.split)
    for item in reversed(trial.measurements):
        if item.metric == metric and not item.element and item.split in splits:
            return item.value
    return None
