"""The 8-bit copy of a network, scored beside it on the same samples in the same way."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluate_svc import scoring, speed
from evaluate_svc.measured import measurement
from evaluate_svc.report import latency_entry
from evaluate_svc.subject import open_plain
from nasmesh.clock import Clock
from nasmesh.data.load import Splits
from nasmesh.data.preprocessing import Preprocessing
from nasmesh.model.quantization import quantize
from nasmesh.v1 import evaluation_pb2, measurement_pb2

# Samples of the train split whose activations set the ranges; more change them little.
CALIBRATION_SAMPLES = 512
_CALIBRATION_BATCH = 64


@dataclass(frozen=True, slots=True)
class Copy:
    """The copy's bytes, and what was measured of it."""

    content: bytes
    method: str
    scored: scoring.Scored
    timed: speed.Speed

    def measurements(self, config: evaluation_pb2.EvaluateConfig) -> Iterator[measurement_pb2.Measurement]:
        """Yield every number."""
        metric, value = self.scored.headline()
        yield measurement(f"int8_{metric}", value, config.split)
        yield measurement("int8_size_bytes", len(self.content))
        if self.timed.latency is not None:
            yield measurement("int8_latency_p50", self.timed.latency.p50_ms)

    def entry(self) -> dict[str, Any]:
        """Return what the report says of it."""
        metric, value = self.scored.headline()
        timed = {} if self.timed.latency is None else {"latency": latency_entry(self.timed.latency)}
        return {"method": self.method, "size_bytes": len(self.content), metric: value, **timed}


def score_copy(
    content: bytes,
    preprocessing: Preprocessing,
    splits: Splits,
    config: evaluation_pb2.EvaluateConfig,
    clock: Clock,
    tick: Callable[[int, int], None],
) -> Copy:
    """Make the copy and measure it on the processor; raises Rejected (NETWORK_NOT_QUANTIZABLE), and as scoring does.

    `tick` as for scoring.
    """
    copy = quantize(content, config.quantization, _calibration(splits, preprocessing))
    engine = open_plain(copy, threads=config.threads)
    plain = evaluation_pb2.EvaluateConfig()
    plain.CopyFrom(config)
    del plain.metrics[:]
    del plain.throughput_batch_sizes[:]
    scored = scoring.score(engine.outputs, preprocessing, splits, plain, tick)
    one = scoring.inputs(splits, scoring.rows_of(splits, config.split)[:1], preprocessing)
    timed = speed.measure(lambda: open_plain(copy, threads=config.threads).outputs, one, plain, clock)
    method = evaluation_pb2.Quantization.Name(config.quantization).removeprefix("QUANTIZATION_").lower()
    return Copy(copy, method, scored, timed)


def _calibration(splits: Splits, preprocessing: Preprocessing) -> Iterator[NDArray[np.float32]]:
    """Yield batches of training samples, evenly drawn from the split."""
    count = min(CALIBRATION_SAMPLES, len(splits.train))
    rows = splits.train[np.linspace(0, len(splits.train) - 1, count).astype(np.int64)]
    for first in range(0, count, _CALIBRATION_BATCH):
        yield scoring.inputs(splits, rows[first : first + _CALIBRATION_BATCH], preprocessing)
