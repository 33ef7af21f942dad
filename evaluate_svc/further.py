"""Metrics that are computed when they are asked for by name: scikit-learn's, and those of installed packages.

A package adds one by an entry point of the group "nasmesh.metrics": a function of (outputs, wanted), two arrays, to one
number. Classification gives it logits float32 [N, classes] and labels int64 [N]; regression gives predicted and wanted
numbers float64 [N, targets] in the targets' own units.
"""

import functools
import math
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasmesh import metrics
from nasmesh.errors import FieldViolation, Invalid

GROUP = "nasmesh.metrics"
Numbers = NDArray[Any]
Metric = Callable[[Numbers, Numbers], float]


def names_known() -> set[str]:
    """Return the metrics that this server computes by name."""
    return {*metrics.FURTHER, *(entry.name for entry in _entries())}


def check(names: Sequence[str], field: str = "config.metrics") -> None:
    """Raise Invalid (METRIC_UNKNOWN) with every name that this server cannot compute."""
    known = names_known()
    found = [
        FieldViolation(
            f"{field}[{index}]", f"{field}[{index}]: this server has no metric {name}; it has {_list(known)}"
        )
        for index, name in enumerate(names)
        if name not in known
    ]
    if found:
        raise Invalid("METRIC_UNKNOWN", found[0].description, violations=found)


def compute(names: Sequence[str], outputs: Numbers, wanted: Numbers, *, regression: bool) -> dict[str, float]:
    """Return the value of each metric; raises Invalid (METRIC_UNKNOWN, METRIC_NOT_FOR_TASK, METRIC_FAILED)."""
    return {name: _compute(name, outputs, wanted, regression=regression) for name in names}


def _compute(name: str, outputs: Numbers, wanted: Numbers, *, regression: bool) -> float:
    try:
        value = float(_function(name, regression=regression)(outputs, wanted))
    except Invalid:
        raise
    except Exception as error:  # somebody else's function
        raise _failed(name, f"{type(error).__name__}: {str(error)[:200]}") from error
    if not math.isfinite(value):
        raise _failed(name, f"it gave {value}")
    return value


def _function(name: str, *, regression: bool) -> Metric:
    if name in metrics.FURTHER:
        table = _deviation_metrics() if regression else _class_metrics()
        if name not in table:
            task = "regression" if regression else "classification"
            message = f"config.metrics: {name} is not defined for {task}; there are {_list(set(table))}"
            raise Invalid("METRIC_NOT_FOR_TASK", message, field="config.metrics")
        return table[name]
    check([name])
    loaded: Metric = next(entry for entry in _entries() if entry.name == name).load()
    return loaded


def _entries() -> tuple[metadata.EntryPoint, ...]:
    return tuple(metadata.entry_points(group=GROUP))


@functools.cache
def _class_metrics() -> dict[str, Metric]:
    from sklearn import metrics as measured  # loaded only where it is asked for: it takes a second

    def answers(score: Callable[..., float], **options: object) -> Metric:
        return lambda logits, labels: score(labels, logits.argmax(axis=1), **options)

    return {
        "balanced_accuracy": answers(measured.balanced_accuracy_score),
        "macro_precision": answers(measured.precision_score, average="macro", zero_division=0.0),
        "macro_f1": answers(measured.f1_score, average="macro", zero_division=0.0),
        "weighted_f1": answers(measured.f1_score, average="weighted", zero_division=0.0),
        "cohen_kappa": answers(measured.cohen_kappa_score),
        "matthews": answers(measured.matthews_corrcoef),
        "brier": _brier,
        "roc_auc": _roc_auc,
    }


@functools.cache
def _deviation_metrics() -> dict[str, Metric]:
    from sklearn import metrics as measured

    def of(score: Callable[..., float], **options: object) -> Metric:
        return lambda predicted, wanted: score(wanted, predicted, **options)

    return {
        "median_absolute_error": of(measured.median_absolute_error),
        "max_error": lambda predicted, wanted: float(np.abs(predicted - wanted).max()),
        "explained_variance": of(measured.explained_variance_score),
        "mape": of(measured.mean_absolute_percentage_error),
    }


def _softmax(logits: Numbers) -> Numbers:
    exact = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(exact / exact.sum(axis=1, keepdims=True))


def _brier(logits: Numbers, labels: Numbers) -> float:
    """Mean squared distance of the predicted probabilities from the label's (Brier 1950), 0 to 2."""
    off = _softmax(logits)
    off[np.arange(len(labels)), labels] -= 1
    return float((off**2).sum(axis=1).mean())


def _roc_auc(logits: Numbers, labels: Numbers) -> float:
    """Area under the ROC curve: of class 1 where there are two, else the mean of each class against the rest."""
    from sklearn.metrics import roc_auc_score

    probabilities = _softmax(logits)
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    classes = list(range(probabilities.shape[1]))
    return float(roc_auc_score(labels, probabilities, multi_class="ovr", labels=classes))


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _failed(name: str, why: str) -> Invalid:
    message = f"config.metrics: {name} cannot be computed: {why}"
    return Invalid("METRIC_FAILED", message, field="config.metrics")
