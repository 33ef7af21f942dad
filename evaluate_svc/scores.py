"""What logits are worth: accuracy, loss, top five, and each class by itself."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(slots=True)
class Scores:
    """Running sums over samples; `hits` and `counts` are per class."""

    classes: int
    samples: int = 0
    loss_sum: float = 0.0
    top5_hits: int = 0
    hits: NDArray[np.int64] = field(init=False)
    counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        """Start at nothing."""
        self.hits = np.zeros(self.classes, dtype=np.int64)
        self.counts = np.zeros(self.classes, dtype=np.int64)

    def add(self, logits: Logits, labels: Labels) -> None:
        """Add a batch: logits [B, classes], labels [B]. Among equal logits the lowest class counts as the answer."""
        exact = logits.astype(np.float64)
        shifted = exact - exact.max(axis=1, keepdims=True)
        chosen = np.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]
        self.loss_sum += float((np.log(np.exp(shifted).sum(axis=1)) - chosen).sum())
        right = logits.argmax(axis=1) == labels
        self.hits += np.bincount(labels[right], minlength=self.classes)
        self.counts += np.bincount(labels, minlength=self.classes)
        self.top5_hits += int(((shifted > chosen[:, None]).sum(axis=1) < 5).sum())
        self.samples += len(labels)

    @property
    def accuracy(self) -> float:
        """Share of samples whose highest logit is the label."""
        return int(self.hits.sum()) / self.samples

    @property
    def top5_accuracy(self) -> float:
        """Share of samples with fewer than five logits above the label's."""
        return self.top5_hits / self.samples

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return self.loss_sum / self.samples

    def class_accuracies(self) -> dict[int, float]:
        """Return the share recognised of every class that occurred."""
        return {i: int(self.hits[i]) / int(self.counts[i]) for i in range(self.classes) if self.counts[i]}
