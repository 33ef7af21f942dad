"""A final training may take so long: its server is told, and nobody else's training can be cut."""

import pytest

from nasmesh.errors import Invalid
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import search_pb2 as pb
from scheduler.validate import complete_spec
from tests.builders import scheduling as make
from tests.builders.scheduler_play import Play, spec


def refused(asked: pb.SearchSpec, what: str) -> None:
    with pytest.raises(Invalid, match=what):
        complete_spec(asked, [make.make_generator()])


def test_the_machine_tells_the_servers_of_finals_and_of_no_others() -> None:
    asked = spec(max_trials=1, parallelism=1, final=True)
    asked.final.max_train_time_s = 3.0
    play = Play(asked)
    proposed = dispatch_pb.ProposedTrial(network=make.make_network("small"), train=asked.train)
    play.do("s-g1", generate=dispatch_pb.GenerateResult(trials=[proposed]))
    play.score(1, 0.5)
    play.do("s-final", generate=dispatch_pb.GenerateResult(trials=[{"network": make.make_network("big")}]))
    assert [trial.train.max_time_s for trial in play.run.trials] == [0.0, 3.0]


@pytest.mark.parametrize("limit", [-1.0, float("inf"), float("nan")])
def test_a_time_that_is_none_is_refused(limit: float) -> None:
    asked = make.make_spec(final=True)
    asked.final.max_train_time_s = limit
    refused(asked, r"final\.max_train_time_s")


@pytest.mark.parametrize("part", ["train", "final.train"])
def test_only_the_final_phase_sets_it(part: str) -> None:
    asked = make.make_spec(final=True)
    config = asked.train if part == "train" else asked.final.train
    config.max_time_s = 5.0
    refused(asked, rf"{part}\.max_time_s: .*set final\.max_train_time_s")


def test_several_processes_have_no_common_time() -> None:
    asked = make.make_spec(final=True)
    asked.final.max_train_time_s = 5.0
    asked.final.train.distribution.processes = 2
    refused(asked, "one process only")
