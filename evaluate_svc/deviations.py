"""What predicted numbers are worth: squared and absolute errors and the share of variance explained, in own units."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclass(slots=True)
class Deviations:
    """Running sums over samples, of each target; `mean` and `std` turn standardised numbers into the targets' units."""

    mean: Numbers
    std: Numbers
    samples: int = 0
    loss_sum: float = 0.0
    _sums: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        """Start at nothing."""
        # Rows: absolute error, squared error, fourth power, target, squared target (the last two standardised: their
        # variance is then a difference of numbers near 1, whatever the targets' units).
        self._sums = np.zeros((5, len(self.mean)))

    def add(self, predicted: NDArray[np.float32], targets: NDArray[np.float32]) -> None:
        """Add a batch of standardised numbers, both [B, targets]."""
        wanted = targets.astype(np.float64)
        errors = predicted.astype(np.float64) - wanted
        squares = errors**2
        self.loss_sum += float(squares.mean(axis=1).sum())
        rows = (np.abs(errors) * self.std, squares * self.std**2, (squares * self.std**2) ** 2, wanted, wanted**2)
        self._sums += np.stack([row.sum(axis=0) for row in rows])
        self.samples += len(targets)

    @property
    def loss(self) -> float:
        """Mean squared error in units of the targets' standard deviation, over samples and targets."""
        return self.loss_sum / self.samples

    @property
    def mae_by_target(self) -> Numbers:
        """Mean absolute error of each target."""
        return np.asarray(self._sums[0] / self.samples)

    @property
    def mse_by_target(self) -> Numbers:
        """Mean squared error of each target."""
        return np.asarray(self._sums[1] / self.samples)

    @property
    def mse_variance_by_target(self) -> Numbers:
        """Variance of the samples' squared errors."""
        return np.asarray(np.maximum(0.0, self._sums[2] / self.samples - self.mse_by_target**2))

    @property
    def r2_by_target(self) -> Numbers:
        """Share of each target's variance in the split that is explained; 0 for a target that does not vary."""
        means = self._sums[3] / self.samples
        variances = (self._sums[4] / self.samples - means**2) * self.std**2
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(variances > 0, 1 - self.mse_by_target / variances, 0.0))

    @property
    def mae(self) -> float:
        """Mean absolute error, the mean over targets."""
        return float(self.mae_by_target.mean())

    @property
    def mse(self) -> float:
        """Mean squared error, the mean over targets."""
        return float(self.mse_by_target.mean())

    @property
    def rmse(self) -> float:
        """Root of the mean squared error over samples and targets."""
        return float(np.sqrt(self.mse))

    @property
    def r2(self) -> float:
        """Coefficient of determination, the mean over targets."""
        return float(self.r2_by_target.mean())
