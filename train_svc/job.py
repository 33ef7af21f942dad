"""What the warm child of a train server runs: a StartTrainingRequest in, a TrainResult out."""

import contextlib

from nasmesh.clock import Clock, SystemClock
from nasmesh.data.info import REGRESSION
from nasmesh.host import cpu_model
from nasmesh.jobs.bounds import bounded
from nasmesh.jobs.context import JobContext
from nasmesh.jobs.outbox import Outbox
from nasmesh.settings import home, read_settings
from nasmesh.store.base import ObjectStore
from nasmesh.store.open import open_store
from nasmesh.telemetry import tracing
from nasmesh.training_rules import processes_here
from nasmesh.v1 import measurement_pb2, object_pb2, training_pb2
from nasmesh.v1 import train_service_pb2 as pb
from train_svc import device_loss, instruments_once, member, snapshot
from train_svc.compute import describe
from train_svc.compute import warm as warm  # the child asks this module for it
from train_svc.cutting import cut_to_time
from train_svc.distributed import Company, Crew, train_together
from train_svc.fit import Fit
from train_svc.gang import Gang, train_in_gang
from train_svc.memory import Meter
from train_svc.memory import weigh as weigh  # likewise
from train_svc.publish import Published, engine_versions, publish
from train_svc.training import Training, assemble
from train_svc.upload import Upload, last_checkpoint, work_of
from train_svc.writer import Write

_crew = Crew()
"""Other processes that trainings of this one have needed; they end with it."""


def run(request: bytes, context: JobContext) -> bytes:
    """Train as asked and return the serialised TrainResult, empty where another server leads; errors are `train`'s."""
    start = pb.StartTrainingRequest.FromString(request)
    if start.gang.rank:
        return member.run(request, context)
    if context.checkpoint is not None:  # an earlier try ran out of memory
        start.resume_from.CopyFrom(context.checkpoint)
    store = open_store(read_settings().store)
    processes = processes_here(start.config)
    with device_loss.told_apart(), Meter(context, processes=processes) as meter, _part_of(context, processes):
        result = train(start, context, store, SystemClock())
    result.peak_memory_bytes, result.predicted_memory_bytes = meter.peak_bytes, context.foretold.predicted
    return result.SerializeToString(deterministic=True)


def train(start: pb.StartTrainingRequest, context: JobContext, store: ObjectStore, clock: Clock) -> pb.TrainResult:
    """Train to the end and return references to checkpoint and published model, with all that was read.

    Raises Invalid (TRAIN_CONFIG_INVALID, NETWORK_DIVERGED, CHECKPOINT_MISMATCH, EXPORT_DISAGREES), Rejected, NotFound,
    Unavailable (STORE_DOWN, RANK_LOST), and Cancelled after a checkpoint.
    """
    if processes_here(start.config) > 1:

        def attempt(asked: pb.StartTrainingRequest, company: Company) -> pb.TrainResult:
            return _train(asked, context, store, clock, company)

        return train_together(start, _crew, attempt, context, clock)
    _crew.close()  # others need the memory more than the next of several processes needs them warm
    if start.HasField("gang"):
        return train_in_gang(start, lambda gang: _train(start, context, store, clock, gang), context, clock)
    return _train(start, context, store, clock, None)


def _part_of(context: JobContext, processes: int) -> contextlib.AbstractContextManager[None]:
    """Bound this process to its part of what the job may hold; what is alone is bounded already."""
    return bounded(context.memory_bytes // processes if processes > 1 else 0)


def _train(
    start: pb.StartTrainingRequest,
    context: JobContext,
    store: ObjectStore,
    clock: Clock,
    company: Company | Gang | None,
) -> pb.TrainResult:
    begin = clock.monotonic()
    outbox = Outbox(home() / "uploads", clock=clock)
    upload = Upload(store, outbox, work_of(start), context, clock)
    resumed = last_checkpoint(start, store, outbox)
    training = assemble(start, store, clock, resumed=resumed)
    if resumed is not None:
        snapshot.restore(training, resumed)
    elif training.config.max_time_s:
        cut_to_time(training, clock, begin=begin)
    context.raise_if_cancelled()
    instruments_once.begin(training, start.instrumentation, clock)
    if company is not None:
        company.join(training)
    earlier_s = training.elapsed_s

    def prepare(elapsed_s: float, progress: pb.TrainProgress, last: bool) -> Write:
        taken = snapshot.take(training, elapsed_s=elapsed_s)

        def write() -> object_pb2.ObjectRef | None:
            content = taken.to_bytes()
            if company is None:
                return upload.put(content, progress, keep=True) if last else upload.put_or_keep(content)
            company.check()
            ref = upload.put(content, progress, keep=True) if last else upload.put_or_keep(content)
            company.stored = ref or company.stored
            return ref

        return write

    with tracing.span_within("train", {"first_step": training.step}) as span:
        fit = Fit(training, context, clock, prepare, until_step=start.until_step)
        checkpoint, progress = fit.run()
        span.set(steps=training.step, device=describe(training.device))
    if company is not None:
        company.leave()  # the rest is for this process alone
    measurements = _measurements(
        training, start.instrumentation
    )  # before publishing, which may put averaged weights in place
    published = publish(training)
    model = upload.put(published.content, progress, keep=False)
    upload.done()
    return pb.TrainResult(
        checkpoint=checkpoint,
        model=model,
        measurements=measurements,
        device_time_s=earlier_s + clock.monotonic() - begin,
        data_digest=training.splits.digest,
        environment=_environment(training, published),
        steps=training.step,
        inheritance=training.inherited,
    )


def _measurements(training: Training, plan: training_pb2.InstrumentationPlan) -> list[measurement_pb2.Measurement]:
    """Return loss and accuracy over the last complete epoch (or all there was), and the statistics by element."""
    window = training.last_epoch if training.last_epoch.samples else training.epoch
    whole = [
        measurement_pb2.Measurement(
            metric=metric, value=value, unit=unit, split=measurement_pb2.SPLIT_TRAIN, step=training.step
        )
        for metric, value, unit in (
            ("train_loss", window.mean_loss, ""),
            ("train_accuracy", window.accuracy, "ratio"),
        )
        if metric == "train_loss" or training.splits.info.task != REGRESSION
    ]
    return [
        *whole,
        *training.instruments.measurements(training.step),
        *instruments_once.measurements(training, plan),
    ]


def _environment(training: Training, published: Published) -> dict[str, str]:
    return {
        **engine_versions(),
        "device": describe(training.device),
        "cpu": cpu_model(),
        "threads": str(training.threads),
        "samples": str(training.feed.samples),
        "processes": str(training.team.size),
        "precision": training.choice.precision,
        "layout": training.choice.layout,
        "compiled": "true" if training.choice.compiled else "false",
        "export_max_abs_diff": f"{published.max_abs_diff:.3g}",
    }
