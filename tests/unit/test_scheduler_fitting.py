"""A final training is cut to the time that it may take, by what its source took; never lengthened."""

import pytest

from nasmesh.errors import Invalid
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import search_pb2 as pb
from scheduler.machine.fitting import fit
from scheduler.validate import complete_spec
from tests.builders import scheduling as make
from tests.builders.scheduler_play import Play, spec


def trial(*, seconds: float = 0.0, macs: int = 1000, **train: object) -> pb.Trial:
    made = pb.Trial(device_time_s=seconds, network=pb.Network(macs=macs))
    made.train.batch_size, made.train.data_fraction = 64, 1.0
    for name, value in train.items():
        setattr(made.train, name, value)
    return made


def fitted(limit: float, source: pb.Trial, final: pb.Trial) -> pb.Trial:
    asked = pb.SearchSpec()
    asked.final.max_train_time_s, asked.data.validation_fraction = limit, 0.1
    fit(final.train, final, source, asked)
    return final


def test_epochs_are_cut_by_time_samples_and_multiply_accumulates() -> None:
    source = trial(seconds=10.0, epochs=2.0, data_fraction=0.5)  # 10 s for one pass over the split
    final = fitted(200.0, source, trial(macs=4000, epochs=30.0))  # 40 s a pass
    assert final.train.epochs == pytest.approx(0.9 * 200 / 40)
    whole = fitted(200.0, source, trial(macs=4000, epochs=30.0, include_validation=True))
    assert whole.train.epochs == pytest.approx(0.9 * 200 / 40 * 0.9)


def test_steps_are_cut_by_samples() -> None:
    source = trial(seconds=10.0, steps=100, batch_size=32)
    final = fitted(20.0, source, trial(steps=10_000, batch_size=64))
    assert final.train.steps == int(0.9 * 20 / 10 * 100 * 32 / 64)


def test_what_fits_already_and_what_nothing_is_known_of_stays_as_asked() -> None:
    source = trial(seconds=10.0, epochs=2.0)
    assert fitted(1e6, source, trial(epochs=3.0)).train.epochs == 3.0
    assert fitted(0.0, source, trial(epochs=3.0)).train.epochs == 3.0
    assert fitted(1.0, trial(epochs=2.0), trial(epochs=3.0)).train.epochs == 3.0
    assert fitted(0.001, source, trial(epochs=3.0)).train.epochs == 1.0  # not less than a whole epoch
    assert fitted(0.001, source, trial(epochs=0.5)).train.epochs == 0.5


def test_the_machine_cuts_the_finals_of_a_search() -> None:
    asked = spec(max_trials=1, parallelism=1, final=True)
    asked.train.batch_size = asked.final.train.batch_size = 8
    asked.final.max_train_time_s = 3.0
    play = Play(asked)
    proposed = dispatch_pb.ProposedTrial(network=make.make_network("small"), train=asked.train)
    play.do("s-g1", generate=dispatch_pb.GenerateResult(trials=[proposed]))
    play.score(1, 0.5)  # 10 steps in 1.75 s
    play.do("s-final", generate=dispatch_pb.GenerateResult(trials=[{"network": make.make_network("big")}]))
    assert play.run.trials[1].train.steps == int(0.9 * 3.0 / 1.75 * 10)


@pytest.mark.parametrize("limit", [-1.0, float("inf"), float("nan")])
def test_a_time_that_is_none_is_refused(limit: float) -> None:
    asked = make.make_spec(final=True)
    asked.final.max_train_time_s = limit
    with pytest.raises(Invalid, match=r"final\.max_train_time_s"):
        complete_spec(asked, [make.make_generator()])


def test_budgets_of_two_kinds_cannot_be_compared() -> None:
    asked = make.make_spec(final=True)
    asked.final.train.epochs = 2.0
    asked.final.max_train_time_s = 5.0
    with pytest.raises(Invalid, match="both in epochs or both in steps"):
        complete_spec(asked, [make.make_generator()])
