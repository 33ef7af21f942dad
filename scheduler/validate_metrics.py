"""Checks that evaluation will produce what a search optimises and bounds, and what a search by table cannot have."""

import math
import re
from collections.abc import Iterable, Iterator

from nasmesh import metrics
from nasmesh.v1 import search_pb2 as pb

_CLASS_METRIC = re.compile(r"class_(\d+)_accuracy")

Fault = tuple[str, str]


def objective_faults(spec: pb.SearchSpec, classes: int | None) -> Iterator[Fault]:
    """Yield what is wrong with the objectives; `classes`: 0 for regression, None where nothing is known of the data."""
    if not spec.objectives:
        yield "objectives", "name at least one metric to optimise, for example accuracy"
    elif spec.HasField("final") and metrics.is_proxy(metrics.first_scored(spec).metric, spec.evaluate):
        yield "objectives", "final networks are trained and compared by a score: add an objective that is no proxy"
    seen = set()
    for index, objective in enumerate(spec.objectives):
        field = f"objectives[{index}]"
        if metrics.is_proxy(objective.metric, spec.evaluate):
            yield from _proxy_faults(spec, objective.metric, f"{field}.metric")
        else:
            yield from _metric_faults(spec, objective.metric, f"{field}.metric", classes)
        if objective.goal not in (pb.GOAL_MAXIMIZE, pb.GOAL_MINIMIZE):
            yield f"{field}.goal", "say GOAL_MAXIMIZE or GOAL_MINIMIZE"
        if objective.metric in seen:
            yield f"{field}.metric", f"{objective.metric} is named twice"
        seen.add(objective.metric)


def _proxy_faults(spec: pb.SearchSpec, metric: str, field: str) -> Iterator[Fault]:
    """Yield why no training will measure a zero-cost proxy."""
    if spec.evaluate.table:
        yield field, f"{metric} is measured by training, and {spec.evaluate.table} holds finished ones; leave it out"
    elif metric not in map(metrics.proxy, spec.instrumentation.proxies):
        asked = f"instrumentation.proxies: [ZERO_COST_PROXY_{metric.upper()}]"
        yield field, f"{metric} is not measured unless the specification says {asked}"


def _metric_faults(spec: pb.SearchSpec, metric: str, field: str, classes: int | None) -> Iterator[Fault]:
    """Yield why evaluation will not produce a metric; `classes`: 0 for regression, None where nothing is known."""
    if metric in spec.evaluate.metrics:
        return  # the evaluate server knows it, or says that it does not
    if metric in metrics.PROXIES:
        yield field, f"{metric} is a zero-cost proxy, which an objective may name and a bound may not"
    elif not metrics.is_known(metric):
        yield field, f"evaluation does not produce {metric[:80]!r}; did you mean {metrics.suggest(metric)}?"
    elif missing := metrics.lacks(metric, spec.evaluate):
        yield field, f"{metric} is not measured unless the specification says evaluate.{missing}"
    elif classes == 0 and (metric in metrics.CLASSIFICATION or _CLASS_METRIC.fullmatch(metric)):
        yield (
            field,
            f"{spec.data.dataset} has numbers to predict and no classes; use one of {_list(metrics.REGRESSION)}",
        )
    elif classes and metric in metrics.REGRESSION:
        yield field, f"{spec.data.dataset} has classes; use one of {_list(metrics.CLASSIFICATION)}"
    elif classes and (found := _CLASS_METRIC.fullmatch(metric)) and int(found[1]) >= classes:
        yield field, f"{spec.data.dataset} has {classes} classes, numbered from 0"


def _list(known: Iterable[str]) -> str:
    return ", ".join(known)


def constraint_faults(spec: pb.SearchSpec, classes: int | None) -> Iterator[Fault]:
    """Yield what is wrong with the constraints; `classes` as for the objectives."""
    bounds: dict[str, tuple[float, float]] = {}
    for index, constraint in enumerate(spec.constraints):
        field = f"constraints[{index}]"
        yield from _metric_faults(spec, constraint.metric, f"{field}.metric", classes)
        if not constraint.HasField("max") and not constraint.HasField("min"):
            yield field, "set max, min or both"
        given = [value for name in ("max", "min") if constraint.HasField(name) for value in [getattr(constraint, name)]]
        if not all(map(math.isfinite, given)):
            yield field, "bounds must be finite numbers"
            continue
        low, high = bounds.get(constraint.metric, (-math.inf, math.inf))
        low = max(low, constraint.min) if constraint.HasField("min") else low
        high = min(high, constraint.max) if constraint.HasField("max") else high
        bounds[constraint.metric] = (low, high)
        if low > high:
            yield field, f"no {constraint.metric} is at least {low:g} and at most {high:g}"


def further_faults(spec: pb.SearchSpec, classes: int | None) -> Iterator[Fault]:
    """Yield which metrics asked for by name are not for the data's task: every network would be trained, then fail."""
    if classes is None:
        return
    own, what = metrics.FURTHER_OF_NUMBERS, f"{spec.data.dataset} has numbers to predict and no classes"
    if classes:
        own, what = metrics.FURTHER_OF_CLASSES, f"{spec.data.dataset} has classes"
    asked = [("evaluate", spec.evaluate.metrics)]
    asked += [("final.evaluate", spec.final.evaluate.metrics)] if spec.HasField("final") else []
    for field, names in asked:
        for index, name in enumerate(names):
            if name in metrics.FURTHER and name not in own:
                yield f"{field}.metrics[{index}]", f"{name} is of the other task: {what}; use some of {_list(own)}"


def table_faults(spec: pb.SearchSpec) -> Iterator[Fault]:
    """Yield what a search by table cannot have: its networks have been trained, in another way than it could say."""
    table, final = spec.evaluate.table, spec.final
    if not table:
        if final.evaluate.table:
            yield "final.evaluate.table", "a table answers for the whole search; set evaluate.table"
        return
    asked = {
        "train": bool(spec.train.ListFields()),
        "judging": bool(spec.judging),
        "early_stopping": spec.HasField("early_stopping"),
        "instrumentation": bool(spec.instrumentation.ListFields()),
        "transfer.inherit_weights": spec.transfer.inherit_weights,
        "final.train": bool(final.train.ListFields()),
        "final.scale_up": final.HasField("scale_up"),
        "final.evaluate.table": final.evaluate.table not in ("", table),
    }
    if final.repeats > 1:
        yield (
            "final.repeats",
            f"{table} answers the same each time, which would look like trainings without any spread; leave it out, or "
            "set evaluate.table_seed: -1 for the mean of its trainings",
        )
    yield from (
        (field, f"{table} holds finished trainings, nothing is trained; leave it out")
        for field, is_set in asked.items()
        if is_set
    )
