"""What a training over several processes may ask for, and how its slots are given out."""

from dataclasses import dataclass, field

import pytest

from nasmesh import memory, training_config
from nasmesh.errors import Invalid
from nasmesh.jobs.room import OVERTAKEN, Claim, Memory, Room
from nasmesh.v1 import training_pb2 as pb


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"distribution": pb.Distribution(processes=-1)}, "config.distribution.processes"),
        ({"distribution": pb.Distribution(processes=65)}, "config.distribution.processes"),
        ({"distribution": pb.Distribution(processes=3), "batch_size": 64}, "config.distribution.processes"),
        (
            {"distribution": pb.Distribution(processes=4), "batch_size": 24, "accumulate_batches": 4},
            "config.distribution.processes",
        ),
        (
            {
                "distribution": pb.Distribution(processes=2),
                "compute": pb.ComputePolicy(compile=pb.COMPILE_MODE_ALWAYS),
            },
            "config.compute.compile",
        ),
        ({"distribution": pb.Distribution(processes=1, across_hosts=True)}, "config.distribution.across_hosts"),
        ({"distribution": pb.Distribution(across_hosts=True)}, "config.distribution.across_hosts"),
    ],
)
def test_distribution_when_it_cannot_be_then_is_refused_by_its_field(config, field):
    with pytest.raises(Invalid) as caught:
        training_config.check(pb.TrainConfig(steps=1, **config))
    assert [violation.field for violation in caught.value.violations] == [field]


def test_distribution_when_the_batch_divides_then_is_accepted():
    distribution = pb.Distribution(processes=4)
    training_config.check(pb.TrainConfig(steps=1, batch_size=64, accumulate_batches=2, distribution=distribution))
    distribution.across_hosts = True
    training_config.check(pb.TrainConfig(steps=1, batch_size=64, accumulate_batches=2, distribution=distribution))


def test_memory_when_several_processes_train_then_counts_those_that_this_server_runs():
    data, network = memory.Data(64, 1, 1000), memory.Network(1000, 2000)

    def predicted(**distribution):
        config = pb.TrainConfig(steps=1, batch_size=60, distribution=pb.Distribution(**distribution))
        return memory.predict(network, training_config.complete(config), data)

    one = predicted(processes=3, across_hosts=True)
    assert one <= predicted()
    assert predicted(processes=3) == 3 * one


@dataclass(eq=False)
class _Job:
    claim: Claim = field(default_factory=Claim)


def test_room_when_a_wide_job_waits_then_a_few_go_before_it_and_then_none():
    room = Room(Memory(), slots=2)
    wide, running = _Job(Claim(slots=2)), _Job()
    room.take(running.claim)
    begun = 0
    while (job := room.next([wide, _Job()])) is not None:
        assert job is not wide
        room.take(job.claim)
        room.give_back(job.claim)
        begun += 1
    assert begun == OVERTAKEN
    room.give_back(running.claim)
    assert room.next([wide, _Job()]) is wide
    room.take(wide.claim)
    assert room.next([_Job()]) is None
