"""What another process of a training runs: the same updates as the first, on its own part of every batch.

It reports nothing, stores nothing and reads no checkpoint: the first process tells it where the training stands.
"""

from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Unavailable
from nasmesh.jobs.context import Cancelled, JobContext
from nasmesh.model.engine.checkpoint import load_checkpoint
from nasmesh.settings import read_settings
from nasmesh.store.base import ObjectStore
from nasmesh.store.open import open_store
from nasmesh.v1 import train_service_pb2 as pb
from train_svc import compute, device_loss, instruments_once, job, snapshot, together
from train_svc.group import RANK_LOST, STEP_S, Group, Meeting, MemberLost
from train_svc.step import Update
from train_svc.training import Training, assemble

_LET_GO_S = 1.0
"""How long after the others left this process may learn that it was let go."""

warm = job.warm


def run(request: bytes, context: JobContext) -> bytes:
    """Take part as the request's gang says until the first process needs it no more; the result is empty.

    Raises Unavailable (RANK_LOST) where another process is gone, and what assembling the training raises.
    """
    start = pb.StartTrainingRequest.FromString(request)
    store = open_store(read_settings().store)
    try:
        with device_loss.told_apart():
            take_part(start, context, store, SystemClock())
    except MemberLost as error:
        if context.wait(_LET_GO_S):
            raise Cancelled from error
        raise Unavailable(RANK_LOST, f"another process of the training is gone: {error}") from error
    return b""


def take_part(start: pb.StartTrainingRequest, context: JobContext, store: ObjectStore, clock: Clock) -> None:
    """Join the others, make the updates with them, and wait to be let go."""
    gang = start.gang
    device = compute.best_device()
    meeting = Meeting.go_to(gang.rendezvous)
    meeting.arrive(gang.rank)
    group = Group(meeting, rank=gang.rank, size=gang.size, nccl=compute.one_each(device, gang.size))
    try:
        begun = load_checkpoint(group.tell(None, device))
        training = assemble(start, store, clock, resumed=begun)
        snapshot.restore(training, begun)
        instruments_once.begin(training, start.instrumentation, clock)
        together.share(training.module, group)
        training.team = group
        training.module.train()
        try:
            _updates(training, start.until_step, context)
        finally:
            training.feed.close()
        # The connections stay until the first process has what it needs.
        context.wait(STEP_S)
    finally:
        group.close()


def _updates(training: Training, until_step: int, context: JobContext) -> None:
    update, length = Update(training), training.length
    end = min(until_step or length.total_steps, length.total_steps)
    while training.step < end:
        epoch, first = divmod(training.step, length.steps_per_epoch)
        draws = training.feed.draw(epoch)
        for number in range(first, min(length.steps_per_epoch, end - epoch * length.steps_per_epoch)):
            if context.cancelled:
                raise Cancelled
            update.run(draws, number)
