import math

import pytest
import torch

from nasmesh import training_config
from nasmesh.v1 import training_pb2 as pb
from train_svc.schedule import Length, learning_rate, training_length

LENGTH = Length(steps_per_epoch=10, total_steps=100)


def _rates(length=LENGTH, *, base=0.4, **schedule):
    config = training_config.complete(
        pb.TrainConfig(
            steps=length.total_steps,
            optimizer=pb.OptimizerConfig(learning_rate=base),
            schedule=pb.ScheduleConfig(**schedule),
        )
    )
    return [learning_rate(config, length, step) for step in range(length.total_steps)]


def test_constant_when_warmed_up_then_rises_linearly_to_the_base():
    rates = _rates(warmup_steps=4)
    assert rates[:5] == pytest.approx([0.08, 0.16, 0.24, 0.32, 0.4])
    assert set(rates[4:]) == {0.4}


def test_exponential_when_two_epochs_pass_then_decays_once():
    rates = _rates(kind=pb.SCHEDULE_KIND_EXPONENTIAL, decay=0.5, decay_epochs=2)
    assert rates == pytest.approx([0.4 * 0.5 ** (step // 20) for step in range(100)])


def test_exponential_when_the_period_is_a_fraction_then_no_step_is_missed():
    rates = _rates(kind=pb.SCHEDULE_KIND_EXPONENTIAL, decay=0.9, decay_epochs=0.3)
    assert rates == pytest.approx([0.4 * 0.9 ** (step // 3) for step in range(100)])


def test_cosine_when_one_period_then_is_the_closed_form():
    rates = _rates(kind=pb.SCHEDULE_KIND_COSINE, min_learning_rate=0.1, warmup_steps=20)
    expected = [0.1 + 0.15 * (1 + math.cos(math.pi * step / 80)) for step in range(80)]
    assert rates[20:] == pytest.approx(expected)


def test_cosine_when_restarted_then_each_period_is_longer():
    # Periods of 2, 4 and 8 epochs: SGDR restarts at updates 20 and 60.
    rates = _rates(kind=pb.SCHEDULE_KIND_COSINE, period_epochs=2, period_factor=2)
    expected = []
    for step in range(100):
        start, period = (0, 20) if step < 20 else (20, 40) if step < 60 else (60, 80)
        expected.append(0.2 * (1 + math.cos(math.pi * (step - start) / period)))
    assert rates == pytest.approx(expected)
    assert (rates[20], rates[60]) == pytest.approx((0.4, 0.4))


def test_cosine_when_periods_are_equal_then_repeats():
    rates = _rates(kind=pb.SCHEDULE_KIND_COSINE, period_epochs=1, period_factor=1)
    assert rates[:10] == pytest.approx(rates[30:40])


def test_step_when_milestones_pass_then_multiplies_at_each():
    rates = _rates(kind=pb.SCHEDULE_KIND_STEP, milestones=[3, 4.5, 9], step_factor=0.5)
    assert rates == pytest.approx([0.4 * 0.5 ** ((step >= 30) + (step >= 45) + (step >= 90)) for step in range(100)])


@pytest.mark.parametrize(("share", "total"), [(0.3, 100), (0.45, 37), (0.3, 5), (0.1, 3), (0.5, 1)])
def test_one_cycle_when_run_then_is_torchs(share, total):
    rates = _rates(Length(10, total), kind=pb.SCHEDULE_KIND_ONE_CYCLE, rise_share=share)
    if total == 1:  # torch divides by zero here
        assert rates[0] <= 0.4
        return
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total, pct_start=share, cycle_momentum=False)
    expected = []
    for _ in range(total):
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        if len(expected) < total:
            theirs.step()
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    "schedule",
    [
        {"kind": pb.SCHEDULE_KIND_COSINE},
        {"kind": pb.SCHEDULE_KIND_ONE_CYCLE},
        {"kind": pb.SCHEDULE_KIND_EXPONENTIAL, "decay": 0.5, "decay_epochs": 0.5},
        {"kind": pb.SCHEDULE_KIND_STEP, "milestones": [0.5, 2.5]},
    ],
)
def test_by_epoch_when_set_then_every_update_has_the_rate_of_its_epochs_first(schedule):
    by_step, by_epoch = _rates(**schedule), _rates(**schedule, by_epoch=True)
    assert by_epoch == [by_step[step - step % 10] for step in range(100)]


def test_by_epoch_when_warmed_up_within_an_epoch_then_it_begins_at_the_base():
    rates = _rates(kind=pb.SCHEDULE_KIND_COSINE, warmup_steps=14, by_epoch=True)
    assert rates[14:20] == [0.4] * 6
    assert len(set(rates[20:30])) == 1
    assert rates[20] < 0.4


@pytest.mark.parametrize(
    ("budget", "samples", "batch", "expected"),
    [
        ({"epochs": 3}, 100, 32, Length(3, 9)),
        ({"epochs": 0.5}, 100, 10, Length(10, 5)),
        ({"epochs": 0.001}, 100, 10, Length(10, 1)),
        ({"steps": 7}, 100, 32, Length(3, 7)),
        ({"epochs": 2}, 5, 5, Length(1, 2)),
    ],
)
def test_training_length_when_given_a_budget_then_counts_whole_batches(budget, samples, batch, expected):
    assert training_length(pb.TrainConfig(**budget), samples=samples, batch_size=batch) == expected
