"""Puts messages that wait for one agent into one: a message costs more to send than what is in it."""

from collections import deque

from nasmesh import limits
from nasmesh.v1 import dispatch_service_pb2 as pb

# Half of what a message may have: leases of large searches are counted before they are added.
BATCH_BYTES = limits.MESSAGE_BYTES // 2


def gather(messages: deque[pb.WorkResponse]) -> pb.WorkResponse:
    """Take the next message to send off a queue that is not empty: the first, or a batch of it and those that follow.

    Answers to outcomes may overtake leases, which no agent can tell. A cancel never overtakes a lease: it may be the
    same attempt's.
    """
    first = messages.popleft()
    if not messages or not _fits(first) or not _fits(messages[0]):
        return first
    whole = pb.WorkResponse()
    batch = whole.batch
    _add(batch, first)
    room = BATCH_BYTES - first.ByteSize()
    while messages and _fits(messages[0]):
        if messages[0].HasField("cancel") and batch.leases:
            break
        room -= messages[0].ByteSize()
        if room < 0:
            break
        _add(batch, messages.popleft())
    return whole


def _fits(message: pb.WorkResponse) -> bool:
    return message.HasField("outcome_reply") or message.HasField("lease") or message.HasField("cancel")


def _add(batch: pb.WorkBatch, message: pb.WorkResponse) -> None:
    if message.HasField("outcome_reply"):
        batch.outcome_replies.append(message.outcome_reply)
    elif message.HasField("lease"):
        batch.leases.append(message.lease)
    else:
        batch.cancels.append(message.cancel)
