"""What the first process of a training over several does so that the others take part."""

from train_svc import snapshot, together
from train_svc.group import Group
from train_svc.meeting import Meeting
from train_svc.training import Training


def lead(training: Training, meeting: Meeting, size: int, *, nccl: bool) -> Group:
    """Begin with all that have come: tell them where the training stands, and share its layers and updates with them.

    Raises MemberLost.
    """
    meeting.begin()
    group = Group(meeting, rank=0, size=size, nccl=nccl)
    group.tell(snapshot.take(training, elapsed_s=training.elapsed_s).to_bytes(), training.device)
    together.share(training.module, group)
    training.team = group
    return group
