"""What evaluation computes from outputs: intervals, calibration, confusion, deviations, metrics asked for by name."""

import dataclasses
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from evaluate_svc import further, intervals, scoring
from evaluate_svc.deviations import Deviations
from evaluate_svc.pinning import pinned
from evaluate_svc.report import Findings, report
from evaluate_svc.scores import Scores
from evaluate_svc.speed import Speed
from nasmesh import evaluate_config, metrics
from nasmesh.data import catalog
from nasmesh.data.info import REGRESSION, TABLE
from nasmesh.data.load import Splits
from nasmesh.data.preprocessing import Preprocessing
from nasmesh.data.source import ArraySource
from nasmesh.errors import Invalid
from nasmesh.v1 import evaluation_pb2


@pytest.mark.parametrize(("hits", "samples"), [(0, 1), (1, 1), (0, 40), (40, 40), (81, 100), (9_000, 10_000), (1, 7)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_wilson_interval_equals_scipys(hits: int, samples: int, confidence: float) -> None:
    low, high = intervals.wilson(hits, samples, confidence)
    expected = stats.binomtest(hits, samples).proportion_ci(confidence, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= hits / samples <= high <= 1


def test_wilson_interval_when_drawn_often_then_covers_the_truth_as_often_as_it_says() -> None:
    """Over true shares from one half to one; at a single one the steps of whole hits push it up and down."""
    draw = np.random.default_rng(11)
    truths = draw.uniform(0.5, 1, size=6000)
    covered = []
    for truth, hits in zip(truths, draw.binomial(143, truths), strict=True):
        low, high = intervals.wilson(int(hits), 143, 0.95)
        covered.append(low <= truth <= high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)


def test_interval_of_a_mean_equals_the_normal_approximation() -> None:
    values = np.random.default_rng(3).normal(2, 5, size=500)
    low, high = intervals.of_mean(values.mean(), values.var(), len(values), 0.9)
    assert (low, high) == pytest.approx(stats.norm.interval(0.9, values.mean(), values.std() / math.sqrt(500)))
    assert intervals.of_mean(1.0, 0.0, 1, 0.9) == (-math.inf, math.inf)


def _logits(classes: int = 4, samples: int = 500) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(7)
    labels = draw.integers(0, classes, samples)
    logits = draw.normal(size=(samples, classes)) * 2
    logits[np.arange(samples), labels] += 1.5
    return logits.astype(np.float32), labels


def _scores(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> Scores:
    scores = Scores(logits.shape[1], bins)
    for first in range(0, len(labels), 64):
        scores.add(logits[first : first + 64], labels[first : first + 64])
    return scores


@pytest.mark.parametrize("bins", [1, 2, 15, 100])
def test_calibration_error_equals_its_definition(bins: int) -> None:
    logits, labels = _logits()
    exact = np.exp(logits.astype(np.float64))
    confidence = (exact / exact.sum(1, keepdims=True)).max(1)
    right = logits.argmax(1) == labels
    expected = 0.0
    for index in range(bins):
        inside = (confidence > index / bins) & (confidence <= (index + 1) / bins)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    scores = _scores(logits, labels, bins)
    assert scores.ece == pytest.approx(expected, rel=1e-9)
    assert sum(one.samples for one in scores.calibration()) == len(labels)


def test_calibration_error_when_certain_and_right_then_zero_and_when_wrong_then_one() -> None:
    certain = np.eye(3, dtype=np.float32) * 1000
    assert _scores(certain, np.arange(3)).ece == 0
    assert _scores(certain, np.array([1, 2, 0])).ece == 1


def test_confusion_and_classes_equal_scikit_learns() -> None:
    logits, labels = _logits()
    answers, scores = logits.argmax(1), _scores(logits, labels)
    assert scores.confusion.tolist() == reference.confusion_matrix(labels, answers).tolist()
    precision, recall, f1, support = reference.precision_recall_fscore_support(labels, answers)
    found = scores.by_class()
    assert [one.precision for one in found] == pytest.approx(precision)
    assert [one.recall for one in found] == pytest.approx(recall)
    assert [one.f1 for one in found] == pytest.approx(f1)
    assert [one.samples for one in found] == support.tolist()


def _regression(samples: int = 300, targets: int = 2) -> tuple[Splits, np.ndarray]:
    """A table with numbers to predict, and what a network would say of it."""
    draw = np.random.default_rng(5)
    mean, std = np.array([1000.0, -3.0])[:targets], np.array([50.0, 0.25])[:targets]
    wanted = draw.normal(size=(samples, targets)).astype(np.float32)
    info = dataclasses.replace(
        catalog.describe("datasets/digits"),
        name="made-up",
        kind=TABLE,
        task=REGRESSION,
        classes=0,
        targets=targets,
        target_mean=tuple(mean),
        target_std=tuple(std),
    )
    rows = np.arange(samples)
    splits = Splits(
        samples=ArraySource(draw.normal(size=(samples, 3)).astype(np.float32)),
        labels=np.zeros(0, dtype=np.int64),
        targets=wanted,
        train=rows[:100],
        validation=rows[100:],
        test=rows[:0],
        digest="0" * 64,
        info=info,
    )
    predicted = wanted + draw.normal(size=wanted.shape).astype(np.float32) * np.float32(0.3)
    return splits, predicted


def _score(splits: Splits, predicted: np.ndarray, **config: object) -> scoring.Scored:
    full = evaluate_config.complete(evaluation_pb2.EvaluateConfig(batch_size=37, **config))  # type: ignore[arg-type]
    rows = iter(np.array_split(predicted[splits.validation], range(37, len(splits.validation), 37)))
    return scoring.score(lambda _: next(rows), Preprocessing(), splits, full, lambda _, __: None)


def test_regression_metrics_equal_scikit_learns_in_the_targets_units() -> None:
    splits, predicted = _regression()
    asked = ["max_error", "median_absolute_error", "explained_variance", "mape"]
    scored = _score(splits, predicted, metrics=asked)
    mean, std = np.asarray(splits.info.target_mean), np.asarray(splits.info.target_std)
    wanted = splits.targets[splits.validation].astype(np.float64) * std + mean
    found = predicted[splits.validation].astype(np.float64) * std + mean
    values = {m.metric: m.value for m in scored.measurements(evaluate_config.complete(evaluation_pb2.EvaluateConfig()))}
    assert values["mse"] == pytest.approx(reference.mean_squared_error(wanted, found))
    assert values["rmse"] == pytest.approx(math.sqrt(reference.mean_squared_error(wanted, found)))
    assert values["mae"] == pytest.approx(reference.mean_absolute_error(wanted, found))
    assert values["r2"] == pytest.approx(reference.r2_score(wanted, found))
    assert values["median_absolute_error"] == pytest.approx(reference.median_absolute_error(wanted, found))
    assert values["explained_variance"] == pytest.approx(reference.explained_variance_score(wanted, found))
    assert values["max_error"] == pytest.approx(np.abs(wanted - found).max())
    assert values["loss"] == pytest.approx(((splits.targets - predicted)[splits.validation] ** 2).mean(), rel=1e-5)
    assert set(values) == {"loss", *metrics.REGRESSION, *asked}


def test_regression_when_a_target_does_not_vary_then_explains_nothing_of_it() -> None:
    found = Deviations(np.zeros(1), np.ones(1))
    found.add(np.zeros((4, 1), dtype=np.float32), np.zeros((4, 1), dtype=np.float32))
    assert (found.r2, found.mse) == (0, 0)


def test_regression_report_has_every_target_with_intervals() -> None:
    splits, predicted = _regression()
    config = evaluate_config.complete(evaluation_pb2.EvaluateConfig())
    scored = _score(splits, predicted)
    told = json.loads(report(config, splits, Findings(scored, Speed(()), None, None, {"device": "cpu"})))
    assert told["task"] == "regression"
    assert len(told["targets"]) == 2
    for target in told["targets"]:
        assert target["mse"]["low"] < target["mse"]["value"] < target["mse"]["high"]
        assert target["mae"]["low"] < target["mae"]["value"] < target["mae"]["high"]


@pytest.mark.parametrize("classes", [2, 4])
def test_further_metrics_equal_scikit_learns(classes: int) -> None:
    logits, labels = _logits(classes)
    answers = logits.argmax(1)
    names = ["balanced_accuracy", "macro_f1", "weighted_f1", "macro_precision", "cohen_kappa", "matthews", "brier"]
    found = further.compute([*names, "roc_auc"], logits, labels, regression=False)
    assert found["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(labels, answers))
    assert found["macro_f1"] == pytest.approx(reference.f1_score(labels, answers, average="macro"))
    assert found["matthews"] == pytest.approx(reference.matthews_corrcoef(labels, answers))
    assert 0 < found["brier"] < 2
    assert 0.5 < found["roc_auc"] <= 1
    for name in found:
        assert metrics.describe(name).name == name


def test_further_metric_when_it_is_of_the_other_task_or_unknown_then_refused() -> None:
    logits, labels = _logits()
    with pytest.raises(Invalid) as caught:
        further.compute(["max_error"], logits, labels, regression=False)
    assert caught.value.reason == "METRIC_NOT_FOR_TASK"
    with pytest.raises(Invalid) as caught:
        further.check(["brier", "accuracies"])
    assert caught.value.violations[0].field == "config.metrics[1]"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with metrics of its own, found as an installed one is: by its dist-info folder."""
    (tmp_path / "own_metrics.py").write_text(
        "def mean_logit(outputs, wanted):\n    return outputs.mean()\n"
        "def broken(outputs, wanted):\n    return 1 / 0\n"
        "def endless(outputs, wanted):\n    return float('inf')\n"
    )
    folder = tmp_path / "own_metrics-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: own-metrics\nVersion: 1.0\n")
    lines = [f"{name} = own_metrics:{name}" for name in ("mean_logit", "broken", "endless")]
    (folder / "entry_points.txt").write_text("[nasmesh.metrics]\n" + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_metrics", raising=False)


@pytest.mark.usefixtures("installed")
def test_own_metric_when_its_package_is_installed_then_computed_and_its_faults_are_named() -> None:
    logits, labels = _logits()
    further.check(["mean_logit", "brier"])
    assert further.compute(["mean_logit"], logits, labels, regression=False)["mean_logit"] == logits.mean()
    for name, why in (("broken", "ZeroDivisionError"), ("endless", "inf")):
        with pytest.raises(Invalid) as caught:
            further.compute([name], logits, labels, regression=False)
        assert caught.value.reason == "METRIC_FAILED"
        assert why in caught.value.message


def test_pinned_when_another_timing_holds_a_processor_then_gets_another_or_none() -> None:
    everything = os.sched_getaffinity(0)
    with pinned(1) as first:
        assert len(first) == 1
        assert os.sched_getaffinity(0) == set(first)
        # This thread may only use the one it holds, so a second timing within it finds none.
        with pinned(1) as second:
            assert second == ()
            assert os.sched_getaffinity(0) == set(first)
    assert os.sched_getaffinity(0) == everything
    with pinned(len(everything) + 1) as none:
        assert none == ()
    with pinned(1) as again:
        assert again == first


def test_evaluate_config_when_merged_then_lists_are_replaced_and_the_rest_is_kept() -> None:
    base = evaluation_pb2.EvaluateConfig(throughput_batch_sizes=[1, 8], metrics=["brier"], confidence=0.9, memory=True)
    merged = evaluate_config.merge(base, evaluation_pb2.EvaluateConfig(throughput_batch_sizes=[4], memory=False))
    assert list(merged.throughput_batch_sizes) == [4]
    assert (list(merged.metrics), merged.confidence, merged.memory) == (["brier"], 0.9, False)
    assert list(base.throughput_batch_sizes) == [1, 8]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"confidence": 0.5}, "confidence"),
        ({"confidence": math.nan}, "confidence"),
        ({"calibration_bins": 0}, "calibration_bins"),
        ({"engine": 7}, "engine"),
        ({"quantization": 9}, "quantization"),
        ({"throughput_batch_sizes": [0]}, "throughput_batch_sizes[0]"),
        ({"throughput_batch_sizes": [2, 2]}, "throughput_batch_sizes[1]"),
        ({"throughput_batch_sizes": range(1, 19)}, "throughput_batch_sizes"),
        ({"metrics": ["Brier"]}, "metrics[0]"),
        ({"metrics": ["brier", "brier"]}, "metrics[1]"),
        ({"table": "digits-cell"}, "table"),
        ({"table_seed": 1}, "table_seed"),
        ({"table": "tables/a", "table_seed": -2}, "table_seed"),
        ({"table": "tables/a", "memory": True}, "memory"),
        ({"table": "tables/a", "engine": 2}, "engine"),
        ({"table": "tables/a", "quantization": 2}, "quantization"),
        ({"table": "tables/a", "metrics": ["brier"]}, "metrics"),
        ({"table": "tables/a", "throughput_batch_sizes": [1]}, "throughput_batch_sizes"),
    ],
)
def test_evaluate_config_when_a_field_is_wrong_then_it_is_named(fields: dict[str, object], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        evaluate_config.check(evaluation_pb2.EvaluateConfig(**fields), "evaluate")  # type: ignore[arg-type]
    assert [violation.field for violation in caught.value.violations] == [f"evaluate.{field}"]
