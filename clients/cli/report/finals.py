"""What the final phase found: for each network the mean and the spread of its trainings with several seeds."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clients.cli.display.view import format_metric, score
from nasmesh import metrics
from nasmesh.v1 import dataset_pb2, measurement_pb2, search_pb2
from nasmesh.v1.search_pb2 import Search, Trial

_STATIC = frozenset({"parameters", "macs", "size_bytes"})


@dataclass(frozen=True, slots=True)
class Final:
    """The final trainings of one network: which metric on the test split, by which trials, from which search trial."""

    source: str
    network: str
    metric: str
    trials: Sequence[Trial]

    @property
    def values(self) -> list[float]:
        """The scores, in the order of the trials."""
        found = (score(trial, self.metric, measurement_pb2.SPLIT_TEST) for trial in self.trials)
        return [value for value in found if value is not None]

    @property
    def mean(self) -> float:
        """Mean of the scores."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds; None for a single training."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        """Return the result as people read it."""
        if self.deviation is None:
            return f"{format_metric(self.metric, self.mean)} (one seed)"
        spread = format_metric(self.metric, self.deviation)
        return f"{format_metric(self.metric, self.mean)} ± {spread} (mean ± s.d. of {len(self.values)} seeds)"


def headline(search: Search, dataset: dataset_pb2.Dataset | None = None) -> str:
    """Return the metric that says how good a network of a search is: accuracy, or for regression what is optimised."""
    spec = search.spec
    measured = [
        item.metric
        for item in spec.objectives
        if item.metric not in _STATIC and not metrics.is_proxy(item.metric, spec.evaluate)
    ]
    regression = dataset is not None and dataset.task == dataset_pb2.LEARNING_TASK_REGRESSION
    if regression or (measured and measured[0] in ("mse", "rmse", "mae", "r2")):
        return next((name for name in measured if not name.startswith(("latency_", "throughput_"))), "rmse")
    return "accuracy"


def finals(trials: Iterable[Trial], metric: str) -> list[Final]:
    """Return the final networks that were scored, in the order of their sources' numbers."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        scored = trial.final and trial.outcome == search_pb2.TRIAL_OUTCOME_SUCCEEDED
        if scored and score(trial, metric, measurement_pb2.SPLIT_TEST) is not None:
            groups.setdefault(trial.parents[0] if trial.parents else "", []).append(trial)
    return [Final(source, group[0].network.name, metric, group) for source, group in groups.items()]


def chosen_by(search: Search, best: Trial) -> str | None:
    """Return by what the best of several final trainings was chosen, as "its validation accuracy".

    None in a search of before there was a choice: there the score on the test split chose.
    """
    if search.spec.final.choice == search_pb2.FINAL_CHOICE_UNSPECIFIED:
        return None
    metric = metrics.first_scored(search.spec).metric
    further = best.evaluate.further_split
    found = {item.split for item in best.measurements if item.metric == metric and not item.element}
    if further and further in found:
        return f"its {measurement_pb2.Split.Name(further).removeprefix('SPLIT_').lower()} {metric}"
    if further and measurement_pb2.SPLIT_UNSPECIFIED in found:
        return f"its {metric}"
    return "its place in the search"


def final_json(final: Final) -> dict[str, object]:
    """Return what report.json says of one final network."""
    return {
        "source": final.source,
        "network": final.network,
        "metric": final.metric,
        "split": "test",
        "trials": [trial.name for trial in final.trials],
        "seeds": [trial.train.seed for trial in final.trials],
        "values": final.values,
        "mean": final.mean,
        "standardDeviation": final.deviation,
    }
