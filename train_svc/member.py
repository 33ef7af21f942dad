"""What another process of a training runs: the same updates as the first, on its own part of every batch.

It reports nothing, stores nothing and reads no checkpoint: the first process tells it where the training stands.
"""

from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Unavailable
from nasmesh.jobs.context import Cancelled, JobContext
from nasmesh.model.admission import admit
from nasmesh.model.engine.checkpoint import Checkpoint, load_checkpoint
from nasmesh.settings import parse_address, read_settings
from nasmesh.store.base import ObjectStore
from nasmesh.store.open import open_store
from nasmesh.training_rules import processes_here
from nasmesh.v1 import train_service_pb2 as pb
from train_svc import compute, device_loss, instruments_once, snapshot, together
from train_svc.compute import warm as warm  # the child asks this module for it
from train_svc.group import RANK_LOST, Group
from train_svc.meeting import LOOPBACK, Meeting, MemberLost
from train_svc.memory import Meter
from train_svc.step import Update
from train_svc.training import Training, assemble

_LET_GO_S = 1.0
"""How long after the others left this process may learn that it was let go."""
_OVER_S = 0.05


def run(request: bytes, context: JobContext) -> bytes:
    """Take part as the request's gang says until the first process needs it no more; the result is empty.

    Raises Unavailable (RANK_LOST) where another process is gone, and what assembling the training raises.
    """
    start = pb.StartTrainingRequest.FromString(request)
    store = open_store(read_settings().store)
    with device_loss.told_apart(), Meter(context, processes=processes_here(start.config)):
        take_part(start, context, store, SystemClock())
    return b""


def take_part(start: pb.StartTrainingRequest, context: JobContext, store: ObjectStore, clock: Clock) -> None:
    """Meet the others, make the updates with them, and stay until the first process says that it is over."""
    rank = start.gang.rank
    address = LOOPBACK
    if start.config.distribution.across_hosts:
        address = parse_address(read_settings().gang_listen, field="NASMESH_GANG_LISTEN")[0]
    meeting = Meeting.come(start.training_id, start.gang.rendezvous, rank, clock, context.wait, address=address)
    try:
        _share(start, context, store, clock, meeting)
    except MemberLost as error:
        if _is_over(meeting):
            return
        if context.wait(_LET_GO_S):
            raise Cancelled from error
        raise Unavailable(RANK_LOST, f"another process of the training is gone: {error}") from error
    finally:
        meeting.leave(rank)


def _share(
    start: pb.StartTrainingRequest, context: JobContext, store: ObjectStore, clock: Clock, meeting: Meeting
) -> None:
    gang, across = start.gang, start.config.distribution.across_hosts
    device = compute.best_device()
    nccl = not across and compute.one_each(device, gang.size)
    group = Group(meeting, rank=gang.rank, size=gang.size, nccl=nccl)
    try:
        begun = _checkpoint(group.tell(None, device))
        training = assemble(start, store, clock, resumed=begun)
        _check_data(training, begun)
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
        while not meeting.over and not context.wait(_OVER_S):
            pass
    finally:
        group.close()


def _checkpoint(content: bytes) -> Checkpoint:
    """Return where the training stands; what comes by a network that nobody guards is admitted like any bytes."""
    admit(content, checkpoint=True)
    return load_checkpoint(content)


def _check_data(training: Training, begun: Checkpoint) -> None:
    if begun.scalars["data_digest"] != training.splits.digest:
        message = "data: this server has other samples under this name than the one that leads the training"
        raise Unavailable("DATASET_DIFFERS", message, field="data")


def _is_over(meeting: Meeting) -> bool:
    try:
        return meeting.over
    except MemberLost:
        return False


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
