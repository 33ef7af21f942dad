"""The vocabulary of metric names: what evaluation, admission and training produce, with unit and natural goal."""

import difflib
import re
from dataclasses import dataclass
from enum import Enum

from nasmesh.v1 import evaluation_pb2, search_pb2, training_pb2

_CLASS_ACCURACY = re.compile(r"class_(0|[1-9][0-9]{0,4})_accuracy")
# What stands before a metric's name, since a block has statistics of its weights beside those of what it computes.
_TAP_PREFIX = {training_pb2.TAP_WEIGHT: "weight_", training_pb2.TAP_GRADIENT: "gradient_"}
_THROUGHPUT = re.compile(r"throughput_b([1-9][0-9]{0,4})")


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


ALWAYS: dict[str, Metric] = dict(
    (
        _metric("loss", "", Goal.MINIMIZE, "mean cross-entropy in nats; for regression, squared error in deviations"),
        _metric("latency_p50", "ms", Goal.MINIMIZE, "median time of one forward pass at batch 1"),
        _metric("latency_p99", "ms", Goal.MINIMIZE, "99th percentile of the time of one forward pass at batch 1"),
        _metric("parameters", "count", Goal.MINIMIZE, "trainable numbers in the network", static=True),
        _metric("macs", "count", Goal.MINIMIZE, "multiply-accumulates of one forward pass at batch 1", static=True),
        _metric("size_bytes", "bytes", Goal.MINIMIZE, "size of the trained network's object", static=True),
    )
)
"""What evaluation produces of every network (latency unless that is turned off)."""

CLASSIFICATION: dict[str, Metric] = dict(
    (
        _metric("accuracy", "ratio", Goal.MAXIMIZE, "share of samples whose highest logit is the label"),
        _metric("accuracy_low", "ratio", Goal.MAXIMIZE, "lower end of the accuracy's confidence interval"),
        _metric("accuracy_high", "ratio", Goal.MAXIMIZE, "upper end of the accuracy's confidence interval"),
        _metric(
            "top5_accuracy", "ratio", Goal.MAXIMIZE, "share of samples with the label among the five highest logits"
        ),
        _metric("ece", "ratio", Goal.MINIMIZE, "expected calibration error: distance of confidence and accuracy"),
    )
)
"""What evaluation produces besides where classes are told apart, with "class_{i}_accuracy"."""

REGRESSION: dict[str, Metric] = dict(
    (
        _metric("mse", "", Goal.MINIMIZE, "mean squared error in the targets' units"),
        _metric("rmse", "", Goal.MINIMIZE, "root of the mean squared error in the targets' units"),
        _metric("mae", "", Goal.MINIMIZE, "mean absolute error in the targets' units"),
        _metric("r2", "ratio", Goal.MAXIMIZE, "share of the targets' variance that is explained"),
    )
)
"""What evaluation produces besides where numbers are predicted."""

ON_REQUEST: dict[str, Metric] = dict(
    (
        _metric("peak_memory_bytes", "bytes", Goal.MINIMIZE, "most memory of the network and one forward pass"),
        _metric("int8_accuracy", "ratio", Goal.MAXIMIZE, "accuracy of the 8-bit copy"),
        _metric("int8_rmse", "", Goal.MINIMIZE, "root mean squared error of the 8-bit copy"),
        _metric("int8_size_bytes", "bytes", Goal.MINIMIZE, "size of the 8-bit copy"),
        _metric("int8_latency_p50", "ms", Goal.MINIMIZE, "median time of a forward pass of the 8-bit copy at batch 1"),
    )
)
"""What evaluation produces where its configuration asks for it, with "throughput_b{size}"."""

FURTHER_OF_CLASSES: dict[str, Metric] = dict(
    (
        _metric("balanced_accuracy", "ratio", Goal.MAXIMIZE, "mean of the classes' recalls"),
        _metric("macro_precision", "ratio", Goal.MAXIMIZE, "mean of the classes' precisions"),
        _metric("macro_f1", "ratio", Goal.MAXIMIZE, "mean of the classes' F1 scores"),
        _metric("weighted_f1", "ratio", Goal.MAXIMIZE, "mean of the classes' F1 scores, weighed by their samples"),
        _metric("cohen_kappa", "", Goal.MAXIMIZE, "agreement beyond chance (Cohen 1960)"),
        _metric("matthews", "", Goal.MAXIMIZE, "Matthews correlation coefficient"),
        _metric("brier", "", Goal.MINIMIZE, "mean squared distance of probabilities from the label's (Brier 1950)"),
        _metric("roc_auc", "ratio", Goal.MAXIMIZE, "area under the ROC curve, the mean of each class against the rest"),
    )
)
FURTHER_OF_NUMBERS: dict[str, Metric] = dict(
    (
        _metric("median_absolute_error", "", Goal.MINIMIZE, "median absolute error in the targets' units"),
        _metric("max_error", "", Goal.MINIMIZE, "largest absolute error in the targets' units"),
        _metric("explained_variance", "ratio", Goal.MAXIMIZE, "explained variance, a constant offset forgiven"),
        _metric("mape", "ratio", Goal.MINIMIZE, "mean absolute error relative to the targets"),
    )
)
FURTHER: dict[str, Metric] = {**FURTHER_OF_CLASSES, **FURTHER_OF_NUMBERS}
"""What evaluation produces where EvaluateConfig.metrics names it; a server may have more (entry points)."""

METRICS: dict[str, Metric] = {**ALWAYS, **CLASSIFICATION, **REGRESSION, **ON_REQUEST, **FURTHER}
"""What an objective or a constraint may name, with "class_{i}_accuracy" and "throughput_b{size}" besides."""

PROXIES: dict[str, Metric] = dict(
    (
        _metric("synflow", "", Goal.MAXIMIZE, "synaptic flow of the untrained network (Tanaka et al. 2020)"),
        _metric("naswot", "", Goal.MAXIMIZE, "how differently its activations tell samples (Mellor et al. 2021)"),
        _metric("jacobian_covariance", "", Goal.MAXIMIZE, "how independent its input Jacobians are (2020)"),
        _metric("grad_norm", "", Goal.MAXIMIZE, "norm of the untrained network's gradients of one batch"),
        _metric("snip", "", Goal.MAXIMIZE, "connection sensitivity of the untrained network (Lee et al. 2019)"),
    )
)
"""What training measures of the untrained network where its instrumentation asks for it; objectives may name them."""

TRAINING_METRICS: dict[str, Metric] = dict(
    (
        _metric("train_loss", "", Goal.MINIMIZE, "mean loss over the last training window"),
        _metric("train_accuracy", "ratio", Goal.MAXIMIZE, "accuracy over the last training window"),
        _metric("mean", "", Goal.MAXIMIZE, "mean of an element's activation"),
        _metric("variance", "", Goal.MAXIMIZE, "variance of an element's activation"),
        _metric("mean_square", "", Goal.MAXIMIZE, "mean of the squares of an element's activation"),
        _metric("value", "", Goal.MAXIMIZE, "a trainable scalar, such as the scale of a skip"),
        _metric("sparsity", "ratio", Goal.MINIMIZE, "share of an element's values that are zero"),
        _metric("norm", "", Goal.MINIMIZE, "Euclidean norm of an element's values"),
        *(
            _metric(f"{tap}_{name}", unit, Goal.MINIMIZE, f"{what} of an element's {tap}s")
            for tap in ("weight", "gradient")
            for name, unit, what in (
                ("mean", "", "mean"),
                ("variance", "", "variance"),
                ("mean_square", "", "mean of the squares"),
                ("sparsity", "ratio", "share of zeros"),
                ("norm", "", "Euclidean norm"),
            )
        ),
        _metric("train_memory_bytes", "bytes", Goal.MINIMIZE, "most memory of a training; its bound is the server's"),
        _metric("evaluate_memory_bytes", "bytes", Goal.MINIMIZE, "memory of an evaluation; its bound is the server's"),
        _metric("forward_ms", "ms", Goal.MINIMIZE, "time of an element's forward pass of one batch"),
        _metric("activation_bytes", "bytes", Goal.MINIMIZE, "memory of what an element puts out for one batch"),
        *PROXIES.items(),
    )
)
"""What training reports; a generator may read these, an objective only the proxies among them."""


def is_learned(metric: str) -> bool:
    """Say whether training longer changes a metric's value: not so for times, sizes and counts."""
    if _THROUGHPUT.fullmatch(metric):
        return False
    return metric not in METRICS or METRICS[metric].unit not in ("ms", "bytes", "count")


def is_static(metric: str) -> bool:
    """Say whether a metric is known from the network alone."""
    return metric in METRICS and METRICS[metric].static


def is_known(metric: str) -> bool:
    """Say whether evaluation or admission can produce this metric, so that an objective or constraint may name it."""
    return metric in METRICS or any(form.fullmatch(metric) for form in (_CLASS_ACCURACY, _THROUGHPUT))


def is_proxy(metric: str, evaluate: evaluation_pb2.EvaluateConfig) -> bool:
    """Say whether a metric is a zero-cost proxy that training measures, and evaluation was not asked for the name."""
    return metric in PROXIES and metric not in evaluate.metrics


def first_scored(spec: search_pb2.SearchSpec) -> search_pb2.Objective:
    """Return the first objective that evaluation measures: by it final networks are compared. The first if none is."""
    scored = (objective for objective in spec.objectives if not is_proxy(objective.metric, spec.evaluate))
    return next(scored, spec.objectives[0])


def lacks(metric: str, evaluate: evaluation_pb2.EvaluateConfig) -> str:
    """Return the field of an evaluate configuration that must be set for a known metric, empty where none must."""
    found = _THROUGHPUT.fullmatch(metric)
    if found and int(found[1]) not in evaluate.throughput_batch_sizes:
        return f"throughput_batch_sizes: [{found[1]}]"
    if metric == "peak_memory_bytes" and not evaluate.memory:
        return "memory: true"
    none = (evaluation_pb2.QUANTIZATION_UNSPECIFIED, evaluation_pb2.QUANTIZATION_NONE)
    if metric.startswith("int8_") and evaluate.quantization in none:
        return "quantization: QUANTIZATION_STATIC"
    if metric.startswith(("latency_", "int8_latency_")) and evaluate.HasField("latency") and not evaluate.latency:
        return "latency: true"
    return f"metrics: [{metric}]" if metric in FURTHER and metric not in evaluate.metrics else ""


def is_reported(metric: str) -> bool:
    """Say whether anything in the mesh produces this metric."""
    return is_known(metric) or metric in TRAINING_METRICS


def throughput(batch_size: int) -> str:
    """Return the metric name of the throughput at a batch size."""
    return f"throughput_b{batch_size}"


def class_accuracy(index: int) -> str:
    """Return the metric name of one class's accuracy (recall)."""
    return f"class_{index}_accuracy"


def reading(tap: training_pb2.Tap.ValueType, statistic: training_pb2.Statistic.ValueType) -> str:
    """Return the metric name of a statistic read at a tap."""
    return _TAP_PREFIX.get(tap, "") + training_pb2.Statistic.Name(statistic).removeprefix("STATISTIC_").lower()


def proxy(kind: training_pb2.ZeroCostProxy.ValueType) -> str:
    """Return the metric name of a zero-cost proxy."""
    return training_pb2.ZeroCostProxy.Name(kind).removeprefix("ZERO_COST_PROXY_").lower()


def describe(metric: str) -> Metric:
    """Return a known metric; raises KeyError for others (ask is_known or is_reported first)."""
    if _CLASS_ACCURACY.fullmatch(metric):
        return Metric(metric, "ratio", Goal.MAXIMIZE, False, "share of the class's samples that are recognised")
    if _THROUGHPUT.fullmatch(metric):
        return Metric(metric, "samples/s", Goal.MAXIMIZE, False, "samples a second at this batch size")
    return METRICS[metric] if metric in METRICS else TRAINING_METRICS[metric]


def suggest(name: str) -> str:
    """Return the known metric nearest to a wrong name, for error messages."""
    return difflib.get_close_matches(name.lower(), [*METRICS, class_accuracy(0)], n=1, cutoff=0.0)[0]
