import numpy as np
import pytest
import torch

from evaluate_svc.latency import WARM_UP_RUNS, measure
from evaluate_svc.scores import Scores
from nasmesh.clock import ManualClock


def _scored(classes=10, samples=200, batch=33):
    draw = np.random.default_rng(4)
    logits = draw.normal(size=(samples, classes)).astype(np.float32) * 3
    labels = draw.integers(0, classes, samples)
    scores = Scores(classes)
    for first in range(0, samples, batch):
        scores.add(logits[first : first + batch], labels[first : first + batch])
    return scores, logits, labels


def test_scores_when_added_in_batches_then_equal_the_whole():
    scores, logits, labels = _scored()
    order = (-logits).argsort(1)
    assert scores.accuracy == (order[:, 0] == labels).mean()
    assert scores.top5_accuracy == (order[:, :5] == labels[:, None]).any(1).mean()
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels))
    assert scores.loss == pytest.approx(float(expected), rel=1e-9)
    for label, accuracy in scores.class_accuracies().items():
        assert accuracy == (order[labels == label, 0] == label).mean()


def test_scores_when_logits_are_huge_then_the_loss_stays_finite():
    scores = Scores(2)
    scores.add(np.array([[3e38, -3e38], [3e38, 0]], dtype=np.float32), np.array([0, 0]))
    assert scores.loss == 0
    scores.add(np.array([[1e4, -1e4]], dtype=np.float32), np.array([1]))
    assert scores.loss == pytest.approx(2e4 / 3)


def test_scores_when_a_class_does_not_occur_then_it_has_no_accuracy():
    scores = Scores(3)
    scores.add(np.eye(3, dtype=np.float32)[[0, 1]], np.array([0, 2]))
    assert scores.class_accuracies() == {0: 1.0, 2: 0.0}
    assert scores.top5_accuracy == 1.0


def test_latency_when_measured_then_leaves_out_the_warm_up():
    clock = ManualClock()
    times = iter([9.0] * WARM_UP_RUNS + [0.001 * run for run in range(1, 101)])
    result = measure(lambda: clock.advance(next(times)), 100, clock)
    assert result.p50_ms == pytest.approx(50.5)
    assert result.p99_ms == pytest.approx(99.01)
