"""What training does not change, measured before it: times, memory and sizes of a network with made-up weights."""

from collections.abc import Iterator

import numpy as np
import onnx

from evaluate_svc import footprint, speed
from evaluate_svc.measured import environment, measurement
from evaluate_svc.subject import Batch, open_engine, open_plain
from nasmesh import evaluate_config
from nasmesh.clock import Clock
from nasmesh.model.admission import Admitted, admit
from nasmesh.model.encode import to_bytes
from nasmesh.model.initializers import data_inputs, init_rules, parameters
from nasmesh.model.quantization import quantize
from nasmesh.model.weights import has_weights, with_weights
from nasmesh.store.base import ObjectStore
from nasmesh.v1 import evaluate_service_pb2 as pb
from nasmesh.v1 import evaluation_pb2, measurement_pb2

# Of the order that trained weights have: with tiny numbers, which processors handle slowly, times would be others.
_DEVIATION = 0.05


def measure(start: pb.StartEvaluationRequest, store: ObjectStore, clock: Clock) -> pb.EvaluateResult:
    """Return times, memory and sizes as the configuration asks for; no data are read and nothing is scored.

    Raises Rejected, NotFound, Unavailable, Invalid (ENGINE_ABSENT).
    """
    begin = clock.monotonic()
    config = evaluate_config.complete(start.config)
    admitted = admit(store.get(start.model), checkpoint=True)
    content = _weighted(admitted)
    model = onnx.ModelProto.FromString(content)
    samples = _samples(admitted, max(config.throughput_batch_sizes, default=1))
    engine, versions = open_engine(content, model, config)

    def reopened() -> speed.Forward:
        return engine.outputs if config.threads == 1 else open_engine(content, model, config)[0].outputs

    timed = speed.measure(reopened, samples, config, clock)
    found = [
        measurement("parameters", admitted.counts.parameters),
        measurement("macs", admitted.counts.macs),
        measurement("size_bytes", admitted.counts.size_bytes),
        *timed.measurements(),
    ]
    if config.memory:
        on_device = engine.peak_device_bytes(samples[:1])
        peak = footprint.peak_bytes(content, config) if on_device is None else on_device
        found.append(measurement("peak_memory_bytes", peak))
    if config.quantization != evaluation_pb2.QUANTIZATION_NONE:
        found.extend(_of_copy(content, samples, config, clock))
    return pb.EvaluateResult(
        measurements=found,
        device_time_s=clock.monotonic() - begin,
        environment=environment(engine.device, versions, config, timed.processors),
    )


def _weighted(admitted: Admitted) -> bytes:
    """Return the network with weights: its own, or made-up ones that are always the same."""
    if has_weights(admitted.model):
        return admitted.content
    draw = np.random.default_rng(0)
    rules = init_rules(admitted.model)
    values = {
        name: np.ones(dims, dtype=np.float32)
        if rules[name].kind == "ones"
        else draw.normal(0, _DEVIATION, dims).astype(np.float32)
        for name, dims in parameters(admitted.model).items()
    }
    return to_bytes(with_weights(admitted.model, values))


def _samples(admitted: Admitted, count: int) -> Batch:
    """Return inputs of the network's shape; what they say does not matter to times."""
    dims = admitted.dims[data_inputs(admitted.model)[0]][1:]
    return np.random.default_rng(1).normal(size=(count, *dims)).astype(np.float32)


def _of_copy(
    content: bytes, samples: Batch, config: evaluation_pb2.EvaluateConfig, clock: Clock
) -> Iterator[measurement_pb2.Measurement]:
    """Yield size and time of the 8-bit copy; its accuracy is another once it is trained."""
    copy = quantize(content, config.quantization, [samples])
    yield measurement("int8_size_bytes", len(copy))
    plain = evaluation_pb2.EvaluateConfig()
    plain.CopyFrom(config)
    del plain.throughput_batch_sizes[:]
    timed = speed.measure(lambda: open_plain(copy, threads=config.threads).outputs, samples[:1], plain, clock)
    if timed.latency is not None:
        yield measurement("int8_latency_p50", timed.latency.p50_ms)
