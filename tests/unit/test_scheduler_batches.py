"""What waits for an agent is sent together, within the size of a message, and no cancel overtakes its lease."""

import random
from collections import deque

from nasmesh import limits
from nasmesh.v1 import dispatch_service_pb2 as pb
from scheduler.batches import BATCH_BYTES, gather


def token(number: int) -> pb.AttemptToken:
    return pb.AttemptToken(task=f"s-{number}", attempt=1, epoch=1)


def lease(number: int, size: int = 0) -> pb.WorkResponse:
    return pb.WorkResponse(lease=pb.Lease(token=token(number), search="s" * size))


def reply(number: int) -> pb.WorkResponse:
    return pb.WorkResponse(outcome_reply=pb.OutcomeReply(token=token(number)))


def cancel(number: int) -> pb.WorkResponse:
    return pb.WorkResponse(cancel=pb.CancelAttempt(token=token(number)))


def beat() -> pb.WorkResponse:
    return pb.WorkResponse(heartbeat_reply=pb.HeartbeatReply(extended=[token(1)]))


def gathered(*messages: pb.WorkResponse) -> list[pb.WorkResponse]:
    waiting, sent = deque(messages), []
    while waiting:
        sent.append(pb.WorkResponse.FromString(gather(waiting)))
    return sent


def singles(messages: list[pb.WorkResponse]) -> list[pb.WorkResponse]:
    """Return messages as an agent works them off: within a batch answers, cancels, leases."""
    found = []
    for message in messages:
        if message.HasField("batch"):
            found += [pb.WorkResponse(outcome_reply=one) for one in message.batch.outcome_replies]
            found += [pb.WorkResponse(cancel=one) for one in message.batch.cancels]
            found += [pb.WorkResponse(lease=one) for one in message.batch.leases]
        else:
            found.append(message)
    return found


def test_one_message_alone_stays_as_it_is() -> None:
    for message in (lease(1), reply(1), cancel(1), beat(), lease(1, 200_000)):
        assert gathered(message) == [message]


def test_answer_and_lease_become_one_batch() -> None:
    sent = gathered(reply(1), lease(2), reply(3))
    assert len(sent) == 1
    assert singles(sent) == [reply(1), reply(3), lease(2)]


def test_heartbeat_replies_go_alone_and_in_their_place() -> None:
    sent = gathered(beat(), reply(1), lease(2), beat(), lease(3))
    assert [message.WhichOneof("kind") for message in sent] == ["heartbeat_reply", "batch", "heartbeat_reply", "lease"]


def test_a_cancel_never_overtakes_a_lease() -> None:
    sent = gathered(reply(1), cancel(5), lease(2), cancel(2), lease(3))
    assert singles(sent) == [reply(1), cancel(5), lease(2), cancel(2), lease(3)]
    assert len(sent) == 2


def test_a_batch_stays_well_within_a_message() -> None:
    sent = gathered(*(lease(number, 300_000) for number in range(40)))
    assert singles(sent) == [lease(number, 300_000) for number in range(40)]
    assert len(sent) < 10
    assert all(message.ByteSize() <= BATCH_BYTES + limits.KIB for message in sent)


def test_a_lease_larger_than_a_batch_goes_all_the_same() -> None:
    large = lease(2, 3_000_000)
    sent = gathered(reply(1), large, lease(3))
    assert singles(sent) == [reply(1), large, lease(3)]
    assert all(message.ByteSize() < limits.MESSAGE_BYTES for message in sent)


def test_whatever_waits_arrives_once_and_each_task_in_its_order() -> None:
    draw = random.Random(7)
    for _ in range(300):
        messages = [draw.choice((lease, reply, cancel))(draw.randrange(4)) for _ in range(draw.randrange(1, 30))]
        arrived = singles(gathered(*messages))
        assert sorted(map(str, arrived)) == sorted(map(str, messages))
        for number in range(4):
            of_task = [m for m in messages if m in (lease(number), cancel(number))]
            assert [m for m in arrived if m in (lease(number), cancel(number))] == of_task
