"""Puts messages that wait for one agent into one: a message costs more to send than what is in it."""

from collections import deque

from nasmesh import limits
from nasmesh.v1 import dispatch_service_pb2 as pb
from scheduler.fields import sized, tag

# Half of what a message may have: leases of large searches are counted before they are added.
BATCH_BYTES = limits.MESSAGE_BYTES // 2

_CANCEL = tag(pb.WorkBatch.CANCELS_FIELD_NUMBER)
_LEASE = tag(pb.WorkBatch.LEASES_FIELD_NUMBER)
_BATCH = tag(pb.WorkResponse.BATCH_FIELD_NUMBER)
# The first byte of an encoded message tells what it is; in a batch the same bytes follow another one.
_BATCHED = {
    tag(pb.WorkResponse.OUTCOME_REPLY_FIELD_NUMBER)[0]: tag(pb.WorkBatch.OUTCOME_REPLIES_FIELD_NUMBER),
    tag(pb.WorkResponse.CANCEL_FIELD_NUMBER)[0]: _CANCEL,
    tag(pb.WorkResponse.LEASE_FIELD_NUMBER)[0]: _LEASE,
}


def gather(messages: deque[pb.WorkResponse]) -> bytes:
    """Take the next message to send off a queue that is not empty: the first, or a batch of it and those that follow.

    Returns it encoded. Answers to outcomes may overtake leases, which no agent can tell. A cancel never overtakes a
    lease: it may be the same attempt's.
    """
    first = messages.popleft().SerializeToString()
    kind = _BATCHED.get(first[0])
    if not messages or kind is None:
        return first
    parts = [kind, first[1:]]
    leased = kind is _LEASE
    room = BATCH_BYTES - len(first)
    while messages:
        encoded = messages[0].SerializeToString()
        kind = _BATCHED.get(encoded[0])
        room -= len(encoded)
        if kind is None or room < 0 or (leased and kind is _CANCEL):
            break
        messages.popleft()
        parts += (kind, encoded[1:])
        leased = leased or kind is _LEASE
    return _BATCH + sized(b"".join(parts)) if len(parts) > 2 else first
