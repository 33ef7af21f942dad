"""Facts that are put together from bytes are, byte for byte, what protobuf makes of them."""

import pytest

from nasmesh.clock import seeded_random
from nasmesh.v1 import dispatch_service_pb2 as pb
from scheduler.facts import AttemptLeased, Booted, Change, Event, OutcomeReported
from scheduler.journal import codec
from scheduler.journal.encoding import EventEncoder

TIMES = [(0, 0.0), (1, 0.5), (1_700_000_000_000_000, 0.0), (1_700_000_000_000_000, 123456.789), (-5, 1e9)]


def outcome(size: int) -> pb.AttemptOutcome:
    result = pb.AttemptOutcome(token=pb.AttemptToken(task="s-t1-train", attempt=1, epoch=2))
    result.generate.state = bytes(size)
    result.generate.note = "note"
    return result


def changes(sizes: list[int]) -> list[Change]:
    found: list[Change] = [Booted(3), AttemptLeased("", "agents/a"), AttemptLeased("s-g1", "")]
    for size in sizes:
        found.append(AttemptLeased("t" * size, "agents/" + "a" * size))
        found.append(AttemptLeased("s-t1-train", "agents/a", ("agents/" + "b" * size, "agents/c")))
        found.append(OutcomeReported(outcome(size), bytes(16)))
        found.append(OutcomeReported(outcome(size), b"", outcome(size).SerializeToString()))
    found.append(OutcomeReported(pb.AttemptOutcome(), b""))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_encoder_when_facts_come_in_any_order_then_the_same_bytes_as_protobufs(seed: int) -> None:
    rng = seeded_random(seed)
    encoder = EventEncoder()
    sizes = [1, 100, 127, 128, 129, 16383, 16384, 70_000, rng.randrange(1, 300), rng.randrange(1, 3_000_000)]
    facts = changes(sizes)
    for _ in range(3):
        rng.shuffle(facts)
        for time_us, uptime_s in TIMES:
            for change in facts:
                event = Event(time_us, uptime_s, change)
                body = encoder.encode(event)
                assert body == codec.encode_event(event), f"seed {seed}: {type(change)}"
    event = Event(7, 1.5, OutcomeReported(outcome(300), b"d" * 16))
    assert codec.decode_event(1, encoder.encode(event)) == event
