"""Measurements as the contract has them, with the unit that the vocabulary gives a metric."""

from nasmesh import metrics
from nasmesh.v1 import measurement_pb2


def measurement(
    metric: str, value: float, split: measurement_pb2.Split.ValueType = measurement_pb2.SPLIT_UNSPECIFIED
) -> measurement_pb2.Measurement:
    """Return one named number of the whole network; a metric that an installed package brought has no unit."""
    unit = metrics.describe(metric).unit if metrics.is_known(metric) else ""
    return measurement_pb2.Measurement(metric=metric, value=value, unit=unit, split=split, step=0)
