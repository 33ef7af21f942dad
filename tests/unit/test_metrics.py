"""The vocabulary of metrics."""

import pytest

from nasmesh import metrics
from nasmesh.metrics import Goal
from nasmesh.v1 import training_pb2

PRODUCED = ["accuracy", "loss", "top5_accuracy", "parameters", "macs", "size_bytes", "latency_p50", "latency_p99"]


@pytest.mark.parametrize("name", [*PRODUCED, "class_0_accuracy", "class_9_accuracy", "class_12345_accuracy"])
def test_what_evaluation_produces_is_known(name: str) -> None:
    assert metrics.is_known(name)
    assert metrics.describe(name).name == name


@pytest.mark.parametrize(
    "name", ["", "Accuracy", "acc", "class_x_accuracy", "class_01_accuracy", "class__accuracy", "train_loss", "mean"]
)
def test_what_evaluation_does_not_produce_is_unknown(name: str) -> None:
    assert not metrics.is_known(name)


def test_training_reports_more_than_objectives_may_name() -> None:
    for name in ("train_loss", "train_accuracy", "mean", "variance", "mean_square", "value"):
        assert metrics.is_reported(name)
        assert metrics.describe(name).static is False


def test_every_statistic_of_the_contract_has_a_metric() -> None:
    statistics = [name.removeprefix("STATISTIC_").lower() for name in training_pb2.Statistic.keys()[1:]]
    assert statistics
    assert all(metrics.is_reported(name) for name in statistics)


def test_every_reading_and_every_zero_cost_proxy_of_the_contract_has_a_metric() -> None:
    taps = [tap for tap in training_pb2.Tap.values() if tap not in (0, training_pb2.TAP_EDGE_SCALE)]
    statistics = [one for one in training_pb2.Statistic.values() if one not in (0, training_pb2.STATISTIC_VALUE)]
    named = {metrics.reading(tap, statistic) for tap in taps for statistic in statistics}
    named |= {metrics.proxy(kind) for kind in training_pb2.ZeroCostProxy.values() if kind}
    assert {"norm", "weight_norm", "gradient_sparsity", "naswot", "grad_norm"} <= named
    assert all(metrics.is_reported(name) and not metrics.is_known(name) for name in named)


def test_static_metrics_are_those_of_the_untrained_network() -> None:
    assert {m.name for m in metrics.METRICS.values() if m.static} == {"parameters", "macs", "size_bytes"}


def test_goals_and_units() -> None:
    assert metrics.METRICS["accuracy"].goal is Goal.MAXIMIZE
    assert metrics.METRICS["loss"].goal is Goal.MINIMIZE
    assert metrics.METRICS["latency_p99"].unit == "ms"


def test_class_accuracy_builds_known_names() -> None:
    assert metrics.is_known(metrics.class_accuracy(7))


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("acuracy", "accuracy"), ("params", "parameters"), ("Latency_p95", "latency_p99"), ("", "loss")],
)
def test_suggest_names_something_known(wrong: str, meant: str) -> None:
    found = metrics.suggest(wrong)
    assert metrics.is_known(found)
    if wrong:
        assert found == meant or found.startswith(meant[:7])
