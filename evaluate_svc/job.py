"""What the warm child of an evaluate server runs: the stored bytes in onnxruntime, so what is scored is what ships."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from evaluate_svc import latency
from evaluate_svc.scores import Scores
from nasmesh import evaluate_config, metrics
from nasmesh.clock import Clock, SystemClock
from nasmesh.data.load import Splits, load
from nasmesh.data.preprocessing import Preprocessing, from_metadata
from nasmesh.errors import Invalid, Rejected
from nasmesh.host import cpu_model
from nasmesh.jobs.context import JobContext
from nasmesh.model import runtime
from nasmesh.model.admission import Admitted, admit
from nasmesh.model.weights import has_weights
from nasmesh.settings import read_settings
from nasmesh.store.base import ObjectStore
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
    """Score a trained network on one split and measure its size and speed.

    Raises Invalid (EVALUATE_CONFIG_INVALID, OUTPUT_NOT_FINITE), Rejected, NotFound, Unavailable, Cancelled.
    """
    begin = clock.monotonic()
    evaluate_config.check(start.config)
    config = evaluate_config.complete(start.config)
    splits = load(start.data, store)
    content = store.get(start.model)
    admitted = admit(content, checkpoint=True)
    subject = _open(content, admitted, splits, config.threads)
    scores = _score(subject, splits, config, context, clock)
    found = list(_scored(scores, config.split)) + list(_static(admitted, content))
    if config.latency:
        sample = subject.preprocessing.apply(splits.samples.rows(rows_of(splits, config.split)[:1]))
        timed = latency.measure(lambda: subject.logits(sample), config.latency_runs, clock)
        found.append(_measurement("latency_p50", timed.p50_ms))
        found.append(_measurement("latency_p99", timed.p99_ms))
    return pb.EvaluateResult(
        measurements=found,
        device_time_s=clock.monotonic() - begin,
        data_digest=splits.digest,
        environment={
            "onnxruntime": runtime.VERSION,
            "onnx": onnx.__version__,
            "device": "cpu",
            "cpu": cpu_model(),
            "threads": str(config.threads),
        },
    )


@dataclass(frozen=True, slots=True)
class Subject:
    """A network ready to run."""

    session: runtime.InferenceSession
    preprocessing: Preprocessing

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits [B, classes] for input [B, C, H, W]; raises Rejected (NETWORK_NOT_RUNNABLE)."""
        name = self.session.get_inputs()[0].name
        try:
            output: NDArray[np.float32] = self.session.run(None, {name: batch})[0]
        except runtime.ENGINE_ERRORS as error:
            raise _not_runnable(error) from error
        return output


def _open(content: bytes, admitted: Admitted, splits: Splits, threads: int) -> Subject:
    """Return the network in onnxruntime; raises Rejected where it has no weights, cannot run, or fits no such data."""
    if not has_weights(admitted.model):
        raise Rejected("NETWORK_WEIGHTLESS", "model: the object has no weights; train it first", field="model")
    try:
        session = runtime.open_session(content, threads=threads)
    except runtime.ENGINE_ERRORS as error:
        raise _not_runnable(error) from error
    entries = {entry.key: entry.value for entry in admitted.model.metadata_props}
    subject = Subject(session, from_metadata(entries, channels=splits.samples.dims[0]))
    takes = session.get_inputs()[0].shape[1:]
    if takes != list(splits.info.sample_dims):
        message = f"model: it takes samples of {takes}, datasets/{splits.info.name} has {list(splits.info.sample_dims)}"
        raise Rejected("NETWORK_DATA_MISMATCH", message, field="model")
    gives = session.get_outputs()[0].shape[1:]
    if gives != [splits.info.classes]:
        message = f"model: it gives logits of {gives}, datasets/{splits.info.name} has {splits.info.classes} classes"
        raise Rejected("NETWORK_DATA_MISMATCH", message, field="model")
    return subject


def _not_runnable(error: Exception) -> Rejected:
    return Rejected("NETWORK_NOT_RUNNABLE", f"model: onnxruntime refuses it: {str(error)[:200]}", field="model")


def rows_of(splits: Splits, split: measurement_pb2.Split.ValueType) -> NDArray[np.int64]:
    """Return the sample indices of a split."""
    return {
        measurement_pb2.SPLIT_TRAIN: splits.train,
        measurement_pb2.SPLIT_VALIDATION: splits.validation,
        measurement_pb2.SPLIT_TEST: splits.test,
    }[split]


def _score(
    subject: Subject, splits: Splits, config: evaluation_pb2.EvaluateConfig, context: JobContext, clock: Clock
) -> Scores:
    """Return the scores over a whole split; raises Invalid (OUTPUT_NOT_FINITE) and Cancelled."""
    rows = rows_of(splits, config.split)
    scores = Scores(splits.info.classes)
    marked = clock.monotonic()
    for first in range(0, len(rows), config.batch_size):
        context.raise_if_cancelled()
        batch = rows[first : first + config.batch_size]
        logits = subject.logits(subject.preprocessing.apply(splits.samples.rows(batch)))
        if not np.isfinite(logits).all():
            raise Invalid("OUTPUT_NOT_FINITE", "model: its logits are not finite numbers", field="model")
        scores.add(logits, splits.labels[batch])
        if (now := clock.monotonic()) - marked >= MARK_INTERVAL_S:
            context.report(pb.EvaluateProgress(samples=scores.samples, total_samples=len(rows)))
            marked = now
    context.report(pb.EvaluateProgress(samples=scores.samples, total_samples=len(rows)))
    return scores


def _scored(scores: Scores, split: measurement_pb2.Split.ValueType) -> Iterator[measurement_pb2.Measurement]:
    yield _measurement("accuracy", scores.accuracy, split)
    yield _measurement("loss", scores.loss, split)
    yield _measurement("top5_accuracy", scores.top5_accuracy, split)
    for index, accuracy in scores.class_accuracies().items():
        yield _measurement(metrics.class_accuracy(index), accuracy, split)


def _static(admitted: Admitted, content: bytes) -> Iterator[measurement_pb2.Measurement]:
    yield _measurement("parameters", admitted.counts.parameters)
    yield _measurement("macs", admitted.counts.macs)
    yield _measurement("size_bytes", len(content))


def _measurement(
    metric: str, value: float, split: measurement_pb2.Split.ValueType = measurement_pb2.SPLIT_UNSPECIFIED
) -> measurement_pb2.Measurement:
    return measurement_pb2.Measurement(
        metric=metric, value=value, unit=metrics.describe(metric).unit, split=split, step=0
    )


def warm() -> None:
    """Pay for the first session before the first job: onnxruntime sets up its kernels with it."""
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "warm", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    session = runtime.open_session(model.SerializeToString())
    session.run(None, {"x": np.zeros(1, dtype=np.float32)})
