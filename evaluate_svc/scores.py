"""What logits are worth: accuracy, loss, top five, each class by itself, and how far confidences can be believed."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


class ClassScore(NamedTuple):
    """One class that occurred: recall is its accuracy. Precision is 0 where nothing was taken for it."""

    label: int
    samples: int
    answers: int
    hits: int

    @property
    def recall(self) -> float:
        """Share of its samples that are recognised."""
        return self.hits / self.samples

    @property
    def precision(self) -> float:
        """Share of the answers naming it that are right."""
        return self.hits / self.answers if self.answers else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.hits / (self.samples + self.answers)


class Bin(NamedTuple):
    """Answers whose confidence lies above `low` and up to `high`: how many, how sure, how often right."""

    low: float
    high: float
    samples: int
    confidence: float
    accuracy: float


@dataclass(slots=True)
class Scores:
    """Running sums over samples. `confusion` counts samples by label (row) and answer (column)."""

    classes: int
    bins: int = 15
    samples: int = 0
    loss_sum: float = 0.0
    loss_square_sum: float = 0.0
    top5_hits: int = 0
    confusion: NDArray[np.int64] = field(init=False)
    _bin_sums: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        """Start at nothing."""
        self.confusion = np.zeros((self.classes, self.classes), dtype=np.int64)
        self._bin_sums = np.zeros((3, self.bins))  # samples, confidences, hits

    def add(self, logits: Logits, labels: Labels) -> None:
        """Add a batch: logits [B, classes], labels [B]. Among equal logits the lowest class counts as the answer."""
        exact = logits.astype(np.float64)
        shifted = exact - exact.max(axis=1, keepdims=True)
        chosen = np.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]
        totals = np.exp(shifted).sum(axis=1)
        losses = np.log(totals) - chosen
        self.loss_sum += float(losses.sum())
        self.loss_square_sum += float((losses * losses).sum())
        answers = logits.argmax(axis=1)
        cells = np.bincount(labels * self.classes + answers, minlength=self.classes**2)
        self.confusion += cells.reshape(self.classes, self.classes)
        self.top5_hits += int(((shifted > chosen[:, None]).sum(axis=1) < 5).sum())
        self._add_confidences(1 / totals, answers == labels)
        self.samples += len(labels)

    def _add_confidences(self, confidences: NDArray[np.float64], right: NDArray[np.bool_]) -> None:
        """Sort answers into bins of equal width, each with its upper edge (Guo et al. 2017, equation 3)."""
        places = np.clip(np.ceil(confidences * self.bins).astype(np.int64) - 1, 0, self.bins - 1)
        for row, weights in enumerate((None, confidences, right.astype(np.float64))):
            self._bin_sums[row] += np.bincount(places, weights=weights, minlength=self.bins)

    @property
    def hits(self) -> int:
        """Samples whose highest logit is the label."""
        return int(np.trace(self.confusion))

    @property
    def accuracy(self) -> float:
        """Share of samples whose highest logit is the label."""
        return self.hits / self.samples

    @property
    def top5_accuracy(self) -> float:
        """Share of samples with fewer than five logits above the label's."""
        return self.top5_hits / self.samples

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return self.loss_sum / self.samples

    @property
    def loss_variance(self) -> float:
        """Variance of the samples' cross-entropies."""
        return max(0.0, self.loss_square_sum / self.samples - self.loss**2)

    @property
    def ece(self) -> float:
        """Expected calibration error: mean distance of confidence and accuracy, bins weighed by their samples."""
        counts, confidences, right = self._bin_sums
        return float(np.abs(confidences - right).sum() / counts.sum())

    def calibration(self) -> list[Bin]:
        """Return the bins that answers fell into."""
        counts, confidences, right = self._bin_sums
        return [
            Bin(i / self.bins, (i + 1) / self.bins, int(counts[i]), confidences[i] / counts[i], right[i] / counts[i])
            for i in range(self.bins)
            if counts[i]
        ]

    def by_class(self) -> list[ClassScore]:
        """Return every class that occurred."""
        samples, answers = self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        return [
            ClassScore(i, int(samples[i]), int(answers[i]), int(self.confusion[i, i]))
            for i in range(self.classes)
            if samples[i]
        ]

    def class_accuracies(self) -> dict[int, float]:
        """Return the share recognised of every class that occurred."""
        return {found.label: found.recall for found in self.by_class()}
