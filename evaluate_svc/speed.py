"""How fast a network runs: latency at batch 1 and throughput at larger batches, on processors of its own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evaluate_svc.latency import Latency, repeated, throughput
from evaluate_svc.measured import measurement
from evaluate_svc.pinning import pinned
from nasmesh import metrics
from nasmesh.clock import Clock
from nasmesh.v1 import evaluation_pb2, measurement_pb2

Batch = NDArray[np.float32]
Forward = Callable[[Batch], Batch]


@dataclass(frozen=True, slots=True)
class Speed:
    """What was timed, on which processors (none: wherever the system put it); throughput by batch size, with runs."""

    processors: tuple[int, ...]
    latency: Latency | None = None
    repeats: list[Latency] = field(default_factory=list)
    throughput: dict[int, tuple[float, int]] = field(default_factory=dict)

    def measurements(self) -> Iterator[measurement_pb2.Measurement]:
        """Yield every number."""
        if self.latency is not None:
            yield measurement("latency_p50", self.latency.p50_ms)
            yield measurement("latency_p99", self.latency.p99_ms)
        for size, (rate, _) in self.throughput.items():
            yield measurement(metrics.throughput(size), rate)


def measure(
    open_forward: Callable[[], Forward], samples: Batch, config: evaluation_pb2.EvaluateConfig, clock: Clock
) -> Speed:
    """Time what the configuration asks for; `samples` [B, ...] are repeated to fill a batch.

    The network is opened anew while this thread is pinned, so that the engine's own threads are pinned with it.
    """
    if not config.latency and not config.throughput_batch_sizes:
        return Speed(())
    with pinned(config.threads) as processors:
        forward = open_forward()
        whole: Latency | None = None
        repeats: list[Latency] = []
        if config.latency:
            one = samples[:1]
            whole, repeats = repeated(lambda: forward(one), config.latency_runs, clock)
        rates = {}
        for size in config.throughput_batch_sizes:
            batch = np.ascontiguousarray(np.resize(samples, (size, *samples.shape[1:])))
            rates[size] = throughput(lambda batch=batch: forward(batch), size, clock)  # type: ignore[misc]
        return Speed(processors, whole, repeats, rates)
