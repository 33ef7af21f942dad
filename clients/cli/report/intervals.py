"""The confidence intervals of a trial's scores, measured or in its evaluation's report."""

import math
from collections.abc import Mapping

from nasmesh.v1.search_pb2 import Trial


def interval(trial: Trial, metric: str, evaluation: Mapping[str, object]) -> tuple[float | None, float | None]:
    """Return the ends of a score's confidence interval, (None, None) where none was measured."""
    ends = measured_ends(trial, metric, besides=False)
    if ends != (None, None):
        return ends
    targets = evaluation.get("targets")
    # What is predicted is one number: its entry says what the whole's does, and the interval too.
    of_target = targets[0] if isinstance(targets, list) and len(targets) == 1 else {}
    if metric == "rmse" and isinstance(of_target.get("mse"), dict) and "low" in of_target["mse"]:
        return math.sqrt(max(0.0, of_target["mse"]["low"])), math.sqrt(of_target["mse"]["high"])
    found = of_target.get(metric, evaluation.get(metric))
    if isinstance(found, dict) and {"low", "high"} <= found.keys():
        return float(found["low"]), float(found["high"])
    return None, None


def measured_ends(trial: Trial, metric: str, *, besides: bool) -> tuple[float | None, float | None]:
    """Return the measured ends of a score's interval: on the further split, or on what the trial is scored on."""
    further = trial.evaluate.further_split
    here = {
        item.metric: item.value
        for item in trial.measurements
        if not item.element and (bool(further) and item.split == further) is besides
    }
    low, high = here.get(f"{metric}_low"), here.get(f"{metric}_high")
    return (None, None) if low is None or high is None else (low, high)
