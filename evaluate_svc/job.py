"""What the warm child of an evaluate server runs: the stored bytes in onnxruntime, so what is scored is what ships."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from evaluate_svc import footprint, lookup, scoring, speed, untrained
from evaluate_svc.measured import environment, measurement
from evaluate_svc.quantized import Copy, score_copy
from evaluate_svc.report import Findings, report
from evaluate_svc.scoring import rows_of
from evaluate_svc.subject import Subject, open_engine, open_subject
from nasmesh import evaluate_config
from nasmesh.clock import Clock, SystemClock
from nasmesh.data.load import Splits, load
from nasmesh.jobs.context import JobContext
from nasmesh.model import runtime
from nasmesh.model.admission import Admitted, admit
from nasmesh.settings import read_settings
from nasmesh.store.base import ObjectStore
from nasmesh.store.keys import ObjectKind
from nasmesh.store.open import open_store
from nasmesh.v1 import evaluate_service_pb2 as pb
from nasmesh.v1 import evaluation_pb2, measurement_pb2

MARK_INTERVAL_S = 0.25


def run(request: bytes, context: JobContext) -> bytes:
    """Score as asked and return the serialised EvaluateResult; errors are those of `evaluate`."""
    start = pb.StartEvaluationRequest.FromString(request)
    store = open_store(read_settings().store)
    return evaluate(start, context, store, SystemClock()).SerializeToString(deterministic=True)


def evaluate(
    start: pb.StartEvaluationRequest, context: JobContext, store: ObjectStore, clock: Clock
) -> pb.EvaluateResult:
    """Score a trained network on one split, or two, and measure its size and speed; or what was asked for instead.

    Raises Invalid (EVALUATE_CONFIG_INVALID, OUTPUT_NOT_FINITE, METRIC_NOT_FOR_TASK, METRIC_FAILED, ENGINE_ABSENT),
    Rejected, NotFound, Unavailable, Cancelled.
    """
    evaluate_config.check(start.config)
    if start.config.table:
        return lookup.look_up(start, store)
    if start.untrained:
        return untrained.measure(start, store, clock)
    begin = clock.monotonic()
    config = evaluate_config.complete(start.config)
    splits = load(start.data, store)
    content = store.get(start.model)
    admitted = admit(content, checkpoint=True)
    subject = open_subject(content, admitted, splits, config)
    marks = _Marks(context, clock)
    scored = scoring.score(subject.outputs, subject.preprocessing, splits, config, marks.tick)
    # How far it is was told to the end above; from here on only whether to stop is asked again.
    unmarked = _stop_only(context)
    besides = _score_besides(subject, splits, config, unmarked)
    timed = _time(subject, content, admitted, splits, config, clock)
    peak = _peak_bytes(subject, content, splits, config) if config.memory else None
    copy = None
    if _wants_copy(config):
        copy = score_copy(content, subject.preprocessing, splits, config, clock, unmarked)
    found = [*besides, *scored.measurements(config), *_static(admitted, content), *timed.measurements()]
    if peak is not None:
        found.append(measurement("peak_memory_bytes", peak))
    if copy is not None:
        found.extend(copy.measurements(config))
    made = environment(subject.engine.device, subject.versions, config, timed.processors)
    made["samples"] = str(scored.samples)
    written = report(config, splits, Findings(scored, timed, peak, copy.entry() if copy else None, made))
    return pb.EvaluateResult(
        measurements=found,
        device_time_s=clock.monotonic() - begin,
        data_digest=splits.digest,
        environment=made,
        report=store.put(ObjectKind.REPORT, written, extension="json"),
        quantized=_put_copy(copy, store),
    )


class _Marks:
    """Tells how far the scoring is, now and then, and stops it when the job is cancelled."""

    def __init__(self, context: JobContext, clock: Clock) -> None:
        self._context = context
        self._clock = clock
        self._marked = clock.monotonic()

    def tick(self, done: int, total: int) -> None:
        """Report where it is time to, and at the end; raises Cancelled."""
        self._context.raise_if_cancelled()
        now = self._clock.monotonic()
        if done == total or now - self._marked >= MARK_INTERVAL_S:
            self._context.report(pb.EvaluateProgress(samples=done, total_samples=total))
            self._marked = now


def _stop_only(context: JobContext) -> Callable[[int, int], None]:
    return lambda _done, _total: context.raise_if_cancelled()


def _score_besides(
    subject: Subject,
    splits: Splits,
    config: evaluation_pb2.EvaluateConfig,
    tick: Callable[[int, int], None],
) -> list[measurement_pb2.Measurement]:
    """Return the scores of the whole network on the further split; none where there is no such split."""
    if not config.further_split:
        return []
    there = evaluation_pb2.EvaluateConfig()
    there.CopyFrom(config)
    there.split = config.further_split
    return [*scoring.score(subject.outputs, subject.preprocessing, splits, there, tick).whole(there)]


def _time(
    subject: Subject,
    content: bytes,
    admitted: Admitted,
    splits: Splits,
    config: evaluation_pb2.EvaluateConfig,
    clock: Clock,
) -> speed.Speed:
    def reopened() -> speed.Forward:
        # One thread is the caller's own, which is pinned already: what is open will do.
        return subject.outputs if config.threads == 1 else open_engine(content, admitted.model, config)[0].outputs

    return speed.measure(reopened, _some(subject, splits, config, config.throughput_batch_sizes), config, clock)


def _some(subject: Subject, splits: Splits, config: evaluation_pb2.EvaluateConfig, sizes: Any = ()) -> NDArray[Any]:
    """Return input samples of the split: as many as the largest of `sizes`, at least one, at most there are."""
    rows = rows_of(splits, config.split)[: max(sizes, default=1)]
    return scoring.inputs(splits, rows, subject.preprocessing)


def _peak_bytes(subject: Subject, content: bytes, splits: Splits, config: evaluation_pb2.EvaluateConfig) -> int:
    on_device = subject.engine.peak_device_bytes(_some(subject, splits, config))
    return footprint.peak_bytes(content, config) if on_device is None else on_device


def _wants_copy(config: evaluation_pb2.EvaluateConfig) -> bool:
    return config.quantization != evaluation_pb2.QUANTIZATION_NONE


def _put_copy(copy: Copy | None, store: ObjectStore) -> Any:
    return None if copy is None else store.put(ObjectKind.CHECKPOINT, copy.content)


def _static(admitted: Admitted, content: bytes) -> list[Any]:
    return [
        measurement("parameters", admitted.counts.parameters),
        measurement("macs", admitted.counts.macs),
        measurement("size_bytes", len(content)),
    ]


def warm() -> None:
    """Pay for the first session before the first job: onnxruntime sets up its kernels with it."""
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "warm", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    session = runtime.open_session(model.SerializeToString())
    session.run(None, {"x": np.zeros(1, dtype=np.float32)})
