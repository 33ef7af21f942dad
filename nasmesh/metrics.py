"""The vocabulary of metric names: what evaluation, admission and training produce, with unit and natural goal."""

import difflib
import re
from dataclasses import dataclass
from enum import Enum

_CLASS_ACCURACY = re.compile(r"class_(0|[1-9][0-9]{0,4})_accuracy")


class Goal(Enum):
    """Which way is better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric name. `static`: known from the network alone, before it is trained."""

    name: str
    unit: str
    goal: Goal
    static: bool
    description: str


def _metric(name: str, unit: str, goal: Goal, description: str, *, static: bool = False) -> tuple[str, Metric]:
    return name, Metric(name, unit, goal, static, description)


METRICS: dict[str, Metric] = dict(
    (
        _metric("accuracy", "ratio", Goal.MAXIMIZE, "share of samples whose highest logit is the label"),
        _metric(
            "top5_accuracy", "ratio", Goal.MAXIMIZE, "share of samples with the label among the five highest logits"
        ),
        _metric("loss", "", Goal.MINIMIZE, "mean cross-entropy in nats"),
        _metric("latency_p50", "ms", Goal.MINIMIZE, "median time of one forward pass at batch 1"),
        _metric("latency_p99", "ms", Goal.MINIMIZE, "99th percentile of the time of one forward pass at batch 1"),
        _metric("parameters", "count", Goal.MINIMIZE, "trainable numbers in the network", static=True),
        _metric("macs", "count", Goal.MINIMIZE, "multiply-accumulates of one forward pass at batch 1", static=True),
        _metric("size_bytes", "bytes", Goal.MINIMIZE, "size of the trained network's object", static=True),
    )
)
"""What an objective or a constraint may name, with "class_{i}_accuracy" besides."""

TRAINING_METRICS: dict[str, Metric] = dict(
    (
        _metric("train_loss", "", Goal.MINIMIZE, "mean loss over the last training window"),
        _metric("train_accuracy", "ratio", Goal.MAXIMIZE, "accuracy over the last training window"),
        _metric("mean", "", Goal.MAXIMIZE, "mean of an element's activation"),
        _metric("variance", "", Goal.MAXIMIZE, "variance of an element's activation"),
        _metric("mean_square", "", Goal.MAXIMIZE, "mean of the squares of an element's activation"),
        _metric("value", "", Goal.MAXIMIZE, "a trainable scalar, such as the scale of a skip"),
    )
)
"""What training reports; a generator may read these, an objective may not."""


def is_known(metric: str) -> bool:
    """Say whether evaluation or admission produces this metric, so that an objective or constraint may name it."""
    return metric in METRICS or _CLASS_ACCURACY.fullmatch(metric) is not None


def is_reported(metric: str) -> bool:
    """Say whether anything in the mesh produces this metric."""
    return is_known(metric) or metric in TRAINING_METRICS


def class_accuracy(index: int) -> str:
    """Return the metric name of one class's accuracy (recall)."""
    return f"class_{index}_accuracy"


def describe(metric: str) -> Metric:
    """Return a known metric; raises KeyError for others (ask is_known or is_reported first)."""
    if _CLASS_ACCURACY.fullmatch(metric):
        return Metric(metric, "ratio", Goal.MAXIMIZE, False, "share of the class's samples that are recognised")
    return METRICS[metric] if metric in METRICS else TRAINING_METRICS[metric]


def suggest(name: str) -> str:
    """Return the known metric nearest to a wrong name, for error messages."""
    return difflib.get_close_matches(name.lower(), [*METRICS, class_accuracy(0)], n=1, cutoff=0.0)[0]
