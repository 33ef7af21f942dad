"""Runs a network over a split and says what its outputs are worth."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluate_svc import further, intervals
from evaluate_svc.deviations import Deviations
from evaluate_svc.measured import measurement
from evaluate_svc.scores import Scores
from nasmesh import metrics
from nasmesh.data.info import REGRESSION
from nasmesh.data.load import Splits
from nasmesh.data.preprocessing import Preprocessing
from nasmesh.errors import Invalid
from nasmesh.v1 import evaluation_pb2, measurement_pb2

Batch = NDArray[np.float32]
Forward = Callable[[Batch], Batch]


@dataclass(frozen=True, slots=True)
class Scored:
    """A split scored: classes told apart, or numbers predicted; `further` are the metrics asked for by name."""

    scores: Scores | None
    deviations: Deviations | None
    further: dict[str, float]

    @property
    def samples(self) -> int:
        """Samples scored."""
        return (self.scores or self._deviations).samples

    @property
    def _deviations(self) -> Deviations:
        assert self.deviations is not None
        return self.deviations

    def headline(self) -> tuple[str, float]:
        """Return the one number that says the most: accuracy, or the root of the mean squared error."""
        if self.scores is not None:
            return "accuracy", self.scores.accuracy
        return "rmse", self._deviations.rmse

    def measurements(self, config: evaluation_pb2.EvaluateConfig) -> Iterator[measurement_pb2.Measurement]:
        """Yield every number, on the split it was measured on."""
        yield from self.whole(config)
        if self.scores is not None:
            for index, accuracy in self.scores.class_accuracies().items():
                yield measurement(metrics.class_accuracy(index), accuracy, config.split)

    def whole(self, config: evaluation_pb2.EvaluateConfig) -> Iterator[measurement_pb2.Measurement]:
        """Yield the numbers that tell of all samples together."""
        for metric, value in (*self._named(config), *self.further.items()):
            yield measurement(metric, value, config.split)

    def _named(self, config: evaluation_pb2.EvaluateConfig) -> Iterator[tuple[str, float]]:
        if self.scores is None:
            found = self._deviations
            yield from (("loss", found.loss), ("mse", found.mse), ("rmse", found.rmse))
            yield from (("mae", found.mae), ("r2", found.r2))
            return
        scores = self.scores
        interval = intervals.wilson(scores.hits, scores.samples, config.confidence)
        yield from (("accuracy", scores.accuracy), ("accuracy_low", interval.low), ("accuracy_high", interval.high))
        yield from (("loss", scores.loss), ("top5_accuracy", scores.top5_accuracy), ("ece", scores.ece))


def rows_of(splits: Splits, split: measurement_pb2.Split.ValueType) -> NDArray[np.int64]:
    """Return the sample indices of a split."""
    return {
        measurement_pb2.SPLIT_TRAIN: splits.train,
        measurement_pb2.SPLIT_VALIDATION: splits.validation,
        measurement_pb2.SPLIT_TEST: splits.test,
    }[split]


def inputs(splits: Splits, rows: NDArray[np.int64], preprocessing: Preprocessing) -> Batch:
    """Return a network's input for some samples."""
    return preprocessing.apply(splits.samples.rows(rows))


def score(
    forward: Forward,
    preprocessing: Preprocessing,
    splits: Splits,
    config: evaluation_pb2.EvaluateConfig,
    tick: Callable[[int, int], None],
) -> Scored:
    """Return the scores over a whole split; `tick` is told of samples done and in all before each batch and at the end.

    Raises Invalid (OUTPUT_NOT_FINITE, METRIC_NOT_FOR_TASK, METRIC_FAILED), and whatever `tick` raises.
    """
    rows = rows_of(splits, config.split)
    info = splits.info
    regression = info.task == REGRESSION
    scores = None if regression else Scores(info.classes, config.calibration_bins)
    deviations = Deviations(np.asarray(info.target_mean), np.asarray(info.target_std)) if regression else None
    kept: list[Batch] = []
    for first in range(0, len(rows), config.batch_size):
        tick(first, len(rows))
        batch = rows[first : first + config.batch_size]
        found = forward(inputs(splits, batch, preprocessing))
        if not np.isfinite(found).all():
            raise Invalid("OUTPUT_NOT_FINITE", "model: its outputs are not finite numbers", field="model")
        if scores is not None:
            scores.add(found, splits.labels[batch])
        if deviations is not None:
            deviations.add(found, splits.targets[batch])
        if config.metrics:
            kept.append(found)
    tick(len(rows), len(rows))
    extra: dict[str, float] = {}
    if config.metrics:
        extra = further.compute(config.metrics, *_pairs(np.concatenate(kept), splits, rows), regression=regression)
    return Scored(scores, deviations, extra)


def _pairs(found: Batch, splits: Splits, rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return outputs with what was wanted: logits with labels, or numbers in the targets' own units."""
    info = splits.info
    if info.task != REGRESSION:
        return found, splits.labels[rows]
    mean, std = np.asarray(info.target_mean), np.asarray(info.target_std)
    return found.astype(np.float64) * std + mean, splits.targets[rows].astype(np.float64) * std + mean
