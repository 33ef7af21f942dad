"""How soon a search found what it found: the networks that were better than all before them, with what it had cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from clients.cli.display.view import score
from nasmesh.v1 import measurement_pb2, search_pb2
from nasmesh.v1.search_pb2 import Search, Trial


@dataclass(frozen=True, slots=True)
class Step:
    """A trial that beat all that had ended before it: its value, and what had been spent by its end.

    `wall_time_s` counts from the search's creation; `device_time_s` and `trials` are those of all trials ended by then.
    """

    trial: str
    value: float
    wall_time_s: float
    device_time_s: float
    trials: int


def reached(search: Search, trials: Sequence[Trial]) -> list[Step]:
    """Return the steps of the search phase by the first objective, in the order of time; the last is the best."""
    if not search.spec.objectives:
        return []
    objective = search.spec.objectives[0]
    sign = 1 if objective.goal == search_pb2.GOAL_MAXIMIZE else -1
    ended = [trial for trial in trials if trial.HasField("end_time") and not trial.final]
    ended.sort(key=lambda trial: (trial.end_time.ToNanoseconds(), trial.number))
    steps: list[Step] = []
    spent_s = 0.0
    for count, trial in enumerate(ended, start=1):
        spent_s += trial.device_time_s
        if trial.outcome != search_pb2.TRIAL_OUTCOME_SUCCEEDED:
            continue
        value = score(trial, objective.metric, measurement_pb2.SPLIT_VALIDATION)
        value = score(trial, objective.metric) if value is None else value
        if value is None or (steps and sign * value <= sign * steps[-1].value):
            continue
        wall_s = (trial.end_time.ToNanoseconds() - search.create_time.ToNanoseconds()) / 1e9
        steps.append(Step(trial.name, value, wall_s, spent_s, count))
    return steps


def step_json(step: Step) -> dict[str, object]:
    """Return a step as report.json has it."""
    return {
        "trial": step.trial,
        "value": step.value,
        "wallTimeS": round(step.wall_time_s, 3),
        "deviceTimeS": round(step.device_time_s, 3),
        "trials": step.trials,
    }
