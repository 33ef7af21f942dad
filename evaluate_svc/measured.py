"""Measurements as the contract has them, with the unit that the vocabulary gives a metric; and where they were made."""

import os
from collections.abc import Mapping

from nasmesh import metrics
from nasmesh.host import cpu_count, cpu_model
from nasmesh.v1 import evaluation_pb2, measurement_pb2


def measurement(
    metric: str, value: float, split: measurement_pb2.Split.ValueType = measurement_pb2.SPLIT_UNSPECIFIED
) -> measurement_pb2.Measurement:
    """Return one named number of the whole network; a metric that an installed package brought has no unit."""
    unit = metrics.describe(metric).unit if metrics.is_known(metric) else ""
    return measurement_pb2.Measurement(metric=metric, value=value, unit=unit, split=split, step=0)


def environment(
    device: str, versions: Mapping[str, str], config: evaluation_pb2.EvaluateConfig, processors: tuple[int, ...]
) -> dict[str, str]:
    """Return the machine that measured; `processors` are those that timings were pinned to."""
    engine = evaluation_pb2.EvaluateEngine.Name(config.engine).removeprefix("EVALUATE_ENGINE_").lower()
    return {
        **versions,
        "engine": engine,
        "device": device,
        "cpu": cpu_model(),
        "processors": str(cpu_count()),
        "pinned": ",".join(map(str, processors)),
        "load_1m": f"{os.getloadavg()[0]:.1f}",
        "threads": str(config.threads),
    }
